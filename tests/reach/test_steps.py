"""A worker's steps: those that are said while one trip is under way share the next one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import wait_until

from lastly._reach.steps import Steps


class Database:
    """Answers each step with its owner and claim; the first trip lasts until `gate` is open."""

    def __init__(self) -> None:
        self.trips: list[list[int]] = []
        self.began, self.gate = threading.Event(), threading.Event()
        self.wrong: Exception | None = None
        self.alone = threading.Lock()

    def ask(self, _sql: str, values: list[Any]) -> Any:
        import json

        assert self.alone.acquire(blocking=False), "two trips at a time on one connection"
        try:
            said = json.loads(values[1])
            self.trips.append([step["owner"] for step in said])
            self.began.set()
            assert self.gate.wait(60)
            if self.wrong is not None:
                raise self.wrong
            return [None if step["claim"] == 0 else {"state": "held", "of": step["owner"]} for step in said]
        finally:
            self.alone.release()


def said_while_one_is_under_way(database: Database, steps: Steps, slots: ThreadPoolExecutor) -> list[Any]:
    first = slots.submit(steps, {"owner": 9, "claim": 1})
    assert database.began.wait(60)
    rest = [slots.submit(steps, {"owner": owner, "claim": owner % 3}) for owner in (5, 3, 7, 1)]
    wait_until(lambda: len(steps._waiting) == 4, what="four slots wait")
    database.gate.set()
    return [first, *rest]


def test_what_is_said_during_a_trip_shares_the_next_one() -> None:
    database = Database()
    with ThreadPoolExecutor(5) as slots:
        found = said_while_one_is_under_way(database, Steps(database.ask, 15.0), slots)
        answers = [one.result(60) for one in found]
    assert database.trips == [[9], [1, 3, 5, 7]]  # in the order of the owners: none waits crosswise
    assert [answer and answer["of"] for answer in answers] == [9, 5, None, 7, 1]


def test_an_error_is_that_of_all_who_were_on_that_trip_and_of_nobody_later() -> None:
    database = Database()
    steps = Steps(database.ask, 15.0)
    database.wrong = ValueError("away")
    with ThreadPoolExecutor(5) as slots:
        for one in said_while_one_is_under_way(database, steps, slots):
            with pytest.raises(ValueError, match="away"):
                one.result(60)
    database.wrong = None
    assert steps({"owner": 2, "claim": 1}) == {"state": "held", "of": 2}
    assert database.trips[-1] == [2]
