"""A grace is divided: what a cleanup that hangs, or is slow, leaves to the others."""

from __future__ import annotations

import threading
import time

import pytest

from lastly import Scope
from lastly._scope import budget, closing
from lastly.errors import CleanupFailed, CleanupTimeout


@pytest.fixture
def ran():
    return []


@pytest.fixture
def hang():
    """A function that hangs until the test is over."""
    event = threading.Event()
    yield lambda: event.wait(30)
    event.set()


@pytest.mark.parametrize("count", [1, 5])
def test_hanging_cleanups_do_not_eat_the_time_of_older_ones(ran, hang, count, monkeypatch):
    """The time is counted, not measured: a hanging cleanup takes all that it gets, the others take none."""
    wait, spent, left = closing.await_job, [0.0], []

    def counted(job, limit):
        if job.cleanup.func is hang:
            spent.append(limit)
            wait(job, 0.0)
        left.append(limit)
        wait(job, 30)

    monkeypatch.setattr(budget, "monotonic", lambda: sum(spent))
    monkeypatch.setattr(closing, "await_job", counted)
    with pytest.raises(CleanupFailed) as caught:
        with Scope(grace=10) as scope:
            scope.defer(ran.append, "oldest")
            scope.defer(ran.append, "older")
            for _ in range(count):
                scope.defer(hang)
    assert ran == ["older", "oldest"]
    assert min(left) > 10 / (2 * (count + 2)) * 0.99  # at least its part of the half that is reserved
    assert sum(spent) + min(left) < 10.01
    assert len(caught.value.exceptions) == count
    assert all(isinstance(error, CleanupTimeout) for error in caught.value.exceptions)


def test_one_slow_cleanup_gets_more_than_its_part(ran):
    with Scope(grace=1) as scope:
        for number in range(9):
            scope.defer(ran.append, number)
        scope.defer(lambda: (time.sleep(0.3), ran.append("slow")))
    assert ran[0] == "slow"


def test_what_was_not_begun_is_named(ran):
    with pytest.raises(CleanupFailed) as caught:
        with Scope(grace=0) as scope:
            scope.defer(ran.append, 1).named("close the file")
    assert ran == []
    assert "close the file was not begun" in str(caught.value.exceptions[0])
    assert [entry.outcome for entry in scope.report()] == ["skipped"]
