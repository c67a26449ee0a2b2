"""Several jobs for one worker: urgent ones first, none waits behind one that hangs, none is lost with one that kills."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import PATIENCE, wait_until

from lastly._reaper import pool
from lastly._reaper.pool import Pool

Job = dict[str, Any]


def work(todo: Any, announce: Callable[[float], None], answers: pool.Answers) -> None:
    """What the job says: wait for a file, die, or just say who did it."""
    for place, job in todo:
        if "needs" in job:
            answers.send()
        for needed in job.get("needs", ()):
            wait_until(Path(needed).exists, what=needed)
        if job.get("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        answers.add(place, {"name": job["name"], "by": os.getpid(), "text": "x" * job.get("size", 0)})


class Reaper:
    """The part of the reaper's loop that a pool needs."""

    def __init__(self) -> None:
        self.answers: dict[str, Job] = {}
        self.order: list[str] = []
        self.epoll = select.epoll()
        self.workers: dict[int, pool.Worker] = {}
        self.pool = Pool(work, watch=self.watch, unwatch=self.unwatch, answer=self.answer, keep=set)

    def watch(self, fd: int, worker: pool.Worker) -> None:
        self.workers[fd] = worker
        self.epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        if self.workers.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def answer(self, job: Job, said: Job) -> None:
        assert job["name"] not in self.answers
        self.answers[job["name"]] = said
        self.order.append(job["name"])

    def submit(self, *names: str, urgent: bool = False, **more: Any) -> None:
        for name in names:
            self.pool.submit({"do": "settle", "name": name, **more}, urgent=urgent)

    def until(self, true: Callable[[], bool]) -> None:
        def turn() -> bool:
            for fd, _ in self.epoll.poll(0.01):
                if (worker := self.workers.get(fd)) is not None:
                    self.pool.heard(worker)
            self.pool.tick()
            return true()

        wait_until(turn, within=PATIENCE, what=f"answers: {sorted(self.answers)}")


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    made = Reaper()
    yield made
    for worker in list(made.pool.workers.values()):
        os.kill(worker.pid, signal.SIGKILL)
    made.pool.close()
    wait_until(lambda: pool.reap_zombies() is None and not pool._gone, what="no zombies")


def names(count: int, prefix: str = "job") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def test_all_are_answered_with_few_messages(reaper: Reaper) -> None:
    heard = []
    real = reaper.pool.heard
    reaper.pool.heard = lambda worker: (heard.append(worker), real(worker))[1]  # type: ignore[method-assign]
    reaper.submit(*names(1000))
    reaper.until(lambda: len(reaper.answers) == 1000)
    assert reaper.pool.busy == 0
    assert len(heard) < 200


def test_large_answers_fit_into_messages(reaper: Reaper) -> None:
    reaper.submit(*names(300), size=20_000)
    reaper.until(lambda: len(reaper.answers) == 300)
    assert all(len(said["text"]) == 20_000 for said in reaper.answers.values())


def test_urgent_ones_go_first(reaper: Reaper, tmp_path: Path) -> None:
    """Before all that waits, in their own order; and while workers are at the others, there is one for them."""
    gate = str(tmp_path / "gate")
    reaper.submit(*names(500), needs=[gate])
    reaper.pool.tick()
    reaper.submit("first", "second", urgent=True)
    reaper.until(lambda: {"first", "second"} <= reaper.answers.keys())
    assert reaper.order == ["first", "second"]
    Path(gate).touch()
    reaper.until(lambda: len(reaper.answers) == 502)


@pytest.mark.parametrize("place", [0, 3, 7])
def test_behind_one_that_hangs_the_others_are_done(reaper: Reaper, tmp_path: Path, place: int) -> None:
    """By another worker; and each once."""
    gate = str(tmp_path / "gate")
    for number, name in enumerate(names(64)):
        reaper.submit(name, **({"needs": [gate]} if number == place else {}))
    reaper.until(lambda: len(reaper.answers) == 63)
    assert f"job{place}" not in reaper.answers
    assert reaper.pool.busy == 1
    Path(gate).touch()
    reaper.until(lambda: len(reaper.answers) == 64)


@pytest.mark.parametrize("place", [0, 3, 7])
def test_with_one_that_kills_its_worker_no_other_is_lost(reaper: Reaper, place: int) -> None:
    for number, name in enumerate(names(64)):
        reaper.submit(name, dies=number == place)
    reaper.until(lambda: len(reaper.answers) == 64)
    lost = {name for name, said in reaper.answers.items() if said.get("state") == "lost"}
    assert lost == {f"job{place}"}
    assert reaper.pool.busy == 0


def test_a_worker_that_gets_on_is_not_taken_for_hung(reaper: Reaper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long all its jobs take together; one that is stuck in one of them is killed, and that one answered for."""
    monkeypatch.setattr(pool, "SILENCE", 0.5)
    gates = [str(tmp_path / name) for name in names(16, "gate")]
    for name, gate in zip(names(15), gates, strict=False):
        reaper.submit(name, needs=[gate])
    pids = set()
    for number in range(14):
        reaper.until(lambda: len(reaper.pool.workers) > 0)
        pids.update(worker.pid for worker in reaper.pool.workers.values())
        Path(gates[number]).touch()
        reaper.until(lambda number=number: not Path(gates[number]).exists() or reaper.pool.busy <= 15 - number)  # type: ignore[misc]
    reaper.until(lambda: len(reaper.answers) == 15)
    assert reaper.answers["job14"]["state"] == "lost"
    assert "hung" in reaper.answers["job14"]["why"]
