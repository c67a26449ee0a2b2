"""Deferring to a scope that closes: what its own cleanups defer, and what comes from outside."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lastly import AsyncScope, Scope, actions
from lastly._durable import own
from lastly._journal.replay import read
from lastly._scope.now import now
from lastly._scope.scope import GUESTS
from lastly.errors import ScopeClosed


@pytest.fixture
def ran():
    return []


@pytest.mark.parametrize("grace", [None, 60])
def test_a_thread_that_never_stops_deferring_keeps_no_scope_open(ran, grace):
    """Whenever one of its cleanups runs, it has deferred the next: the older ones would never have their turn."""
    scope = Scope("busy", grace=grace)
    go, deferred, refused = threading.Semaphore(0), threading.Semaphore(0), []

    def undo():
        if not refused:
            go.release()
            assert deferred.acquire(timeout=60)

    def work():
        while not refused:
            go.acquire()
            try:
                scope.defer(undo)
            except ScopeClosed as error:
                refused.append(str(error))
            deferred.release()

    scope.defer(ran.append, "old")
    scope.defer(undo)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    scope.close()
    thread.join()
    assert ran == ["old"]
    assert len(scope.report()) == 1 + 1 + 1 + GUESTS
    assert "'busy' is closing, and has taken 1,000 from others: test_" in refused[0]
    assert refused[0].endswith("undo was not deferred and will not run")


def test_nor_does_a_task(ran):
    async def main():
        async def work():
            while True:
                scope.defer(asyncio.sleep, 0)
                await asyncio.sleep(0)

        async with AsyncScope() as scope:
            scope.defer(ran.append, "old")
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
        with pytest.raises(ScopeClosed):
            await task

    asyncio.run(main())
    assert ran == ["old"]


def test_an_action_that_is_refused_is_not_owed(tmp_path, home, monkeypatch):
    """Who defers it has not made anything yet, and is told to make nothing."""
    monkeypatch.setenv("LASTLY_REAPER", "0")
    monkeypatch.setattr(own, "_journal", None)
    scope = Scope()
    deferred, holding, done = threading.Event(), threading.Event(), threading.Event()

    def hold():
        holding.set()
        assert done.wait(60)

    def work():
        scope.defer(hold)
        deferred.set()
        assert holding.wait(60)
        try:
            for _ in range(GUESTS):
                scope.defer(int)
            scope.defer(actions.remove, tmp_path)
        finally:
            done.set()

    with ThreadPoolExecutor(1) as pool, pytest.warns(RuntimeWarning, match="LASTLY_REAPER"):
        scope.defer(lambda: (futures.append(pool.submit(work)), deferred.wait(60)))
        futures = []
        scope.close()
    with pytest.raises(ScopeClosed, match="closing"):
        futures[0].result()
    journal = own.peek()
    assert journal is not None
    assert read(journal.path).pending() == []
    journal.close(unlink=True)
    assert tmp_path.is_dir()


def test_who_is_calling_is_asked_while_others_begin(monkeypatch):
    """The collector may run at any allocation, and another scope begin to close: no look may see it half."""

    class Begins:
        def __init__(self):
            self.me = self

        def __del__(self):
            closing[Scope()] = -1

    closing = {Scope(): -1 for _ in range(20)}
    monkeypatch.setattr(now, "closing", closing)
    before = gc.get_threshold()
    gc.freeze()  # all that the tests have made so far need not be looked at each time
    try:
        for allocations in range(1, 60):
            gc.set_threshold(100_000)
            gc.collect()
            Begins()
            gc.set_threshold(allocations)
            now.inside()
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def test_an_executors_jobs_may_defer_while_its_exit_waits_for_them(ran):
    with Scope() as scope:
        pool = scope.enter(ThreadPoolExecutor(4))
        futures = [pool.submit(scope.defer, ran.append, number) for number in range(3 * GUESTS)]
    assert sorted(ran) == [*range(3 * GUESTS)]
    assert all(future.exception() is None for future in futures)


@pytest.mark.parametrize("parallel", [False, True])
def test_a_cleanup_in_a_thread_of_its_own_defers_as_many_as_it_wants(ran, parallel):
    with Scope() as outer, Scope("inner", grace=60) as scope:
        target = scope.parallel() if parallel else scope

        def many(again):
            for number in range(2 * GUESTS):
                outer.defer(ran.append, number)
                target.defer(ran.append, number).within(None)
            if again:
                target.defer(many, False)

        target.defer(many, True)
    assert len(ran) == 8 * GUESTS


def test_a_cleanup_that_is_a_coroutine_defers_as_many_as_it_wants(ran):
    async def many():
        await asyncio.sleep(0)
        for number in range(2 * GUESTS):
            scope.defer(ran.append, number)

    scope = AsyncScope()

    async def main():
        async with scope:
            scope.defer(many)
            scope.defer(many)

    asyncio.run(main())
    assert len(ran) == 4 * GUESTS
