"""Closing where nothing can be run: at the recursion limit, or without memory. See process/test_recursion, too."""

from __future__ import annotations

import threading

import pytest

import lastly._scope.closing
import lastly._scope.parallel
from lastly import Scope
from lastly._scope.now import now
from lastly.errors import CleanupFailed


@pytest.fixture
def ran():
    return []


@pytest.mark.parametrize("error", [RecursionError, MemoryError, ImportError])
@pytest.mark.parametrize("broken", ["drain", "step", "drain_early"])
def test_a_scope_that_can_run_nothing_says_so_and_stays_open(ran, monkeypatch, error, broken):
    def fail(*_):
        raise error("nothing can be called here")

    scope = Scope("demo")
    if broken == "drain_early":
        scope.defer_early(ran.append, 1)
    else:
        scope.defer(ran.append, 1).within(60 if broken == "step" else None)
    with monkeypatch.context() as patch:
        patch.setattr(lastly._scope.closing, broken, fail)
        with pytest.raises(CleanupFailed) as caught:
            scope.close()
    assert [type(found) for found in caught.value.exceptions] == [error]
    assert (ran, scope.closed, len(scope), now.closing) == ([], False, 1, {})
    scope.close()
    assert (ran, scope.closed) == ([1], True)


def test_a_pool_that_can_start_nothing_says_so_and_stays_open(ran, monkeypatch):
    def fail(*_):
        raise MemoryError

    scope = Scope("demo")
    pool = scope.parallel()
    pool.defer(ran.append, 1)
    with monkeypatch.context() as patch:
        patch.setattr(lastly._scope.parallel, "bound", fail)
        with pytest.raises(CleanupFailed):
            pool.close()
    assert (ran, len(pool)) == ([], 1)
    scope.close()
    assert ran == [1]


def test_a_pools_jobs_are_waited_for_after_an_interrupt(ran, monkeypatch):
    """It comes between two waits, where no cleanup is in hand."""
    go = threading.Event()
    wait = lastly._scope.parallel._wait

    def interrupted(*args):
        monkeypatch.setattr(lastly._scope.parallel, "_wait", wait)
        go.set()
        raise KeyboardInterrupt

    def slow(number):
        go.wait(60)
        ran.append(number)

    monkeypatch.setattr(lastly._scope.parallel, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt), Scope() as scope, scope.parallel() as pool:
        for number in range(3):
            pool.defer(slow, number)
    assert sorted(ran) == [0, 1, 2]
    assert len(pool.report()) == 3


def test_alarms_between_cleanups_keep_none_from_running(ran, monkeypatch):
    """A handler's own exception may come where no cleanup is in hand; it is kept, and the loop goes on."""
    drain = lastly._scope.closing.drain
    alarms = [TimeoutError("one"), TimeoutError("two")]

    def late(*args):
        if alarms:
            raise alarms.pop(0)
        drain(*args)

    monkeypatch.setattr(lastly._scope.closing, "drain", late)
    with pytest.raises(CleanupFailed) as caught, Scope() as scope:
        scope.defer(ran.append, 1)
    assert ran == [1]
    assert [str(error) for error in caught.value.exceptions] == ["one"]
    assert scope.closed


@pytest.mark.parametrize("others", [0, 300])
@pytest.mark.parametrize("early", [False, True])
def test_interrupts_in_the_handling_of_an_interrupt_lose_nothing(ran, monkeypatch, others, early):
    """The first comes before a cleanup is begun; then more come, wherever something is called."""
    bound = lastly._scope.closing.bound

    def interrupted(*_):
        raise KeyboardInterrupt

    def once(*args):
        monkeypatch.setattr(lastly._scope.closing, "bound", bound)
        raise KeyboardInterrupt

    monkeypatch.setattr(lastly._scope.closing, "bound", once)
    monkeypatch.setattr(lastly._scope.closing, "put_back", interrupted)
    with pytest.raises(KeyboardInterrupt), Scope() as scope:
        for number in range(others):
            scope.defer(ran.append, number)
        if early:
            scope.defer_early(ran.append, "limited")
        else:
            scope.defer(ran.append, "limited").within(None)
    assert ran == ["limited", *reversed(range(others))]
