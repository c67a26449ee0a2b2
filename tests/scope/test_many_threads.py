"""Many threads, one scope: each cleanup that was accepted runs exactly once, or was detached.

They pass under the GIL and are meant for the build without it. What iterates over something shared takes one copy of it, in
one step: see CONTRIBUTING.md.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from harness import PATIENCE, Programs

import lastly
from lastly import Scope, ScopeClosed, actions

ROUNDS = 10 if getattr(sys, "_is_gil_enabled", lambda: True)() else 60
pytestmark = pytest.mark.filterwarnings("ignore:LASTLY_REAPER")


@pytest.fixture(autouse=True)
def often():
    """Under the GIL: have threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(count, function):
    """Call it in so many threads at once, with their numbers; an error of one comes out."""
    go, errors = threading.Barrier(count), []

    def work(number):
        go.wait()
        try:
            function(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


@pytest.mark.parametrize("grace", [None, 30])
def test_deferring_while_it_closes(grace):
    for _ in range(ROUNDS):
        scope, ran, accepted, detached = Scope("s", grace=grace), [], [], []

        def work(number, scope=scope, ran=ran, accepted=accepted, detached=detached):
            if number == 4:
                return scope.close()
            for each in range(200):
                try:
                    cleanup = scope.defer(ran.append, (number, each))
                except ScopeClosed:
                    break
                accepted.append((number, each))
                if each % 7 == 3 and cleanup.detach():
                    detached.append((number, each))
            return None

        together(5, work)
        assert Counter(ran) + Counter(detached) == Counter(accepted)


def test_one_handle_in_many_hands():
    for _ in range(ROUNDS):
        scope, ran, detached = Scope("s"), [], []
        handles = [scope.defer(ran.append, number) for number in range(50)]

        def work(number, scope=scope, handles=handles, detached=detached):
            for at, handle in enumerate(handles):
                if number % 3 == 0:
                    handle.run()
                elif number % 3 == 1 and handle.detach():
                    detached.append(at)
            if number % 3 == 2:
                scope.close()

        together(6, work)
        assert sorted(ran + detached) == list(range(50))


def test_many_close_at_once():
    for _ in range(ROUNDS):
        scope, ran = Scope("s"), []
        for number in range(30):
            scope.defer(ran.append, number)
        together(6, lambda _, scope=scope: scope.close())
        assert sorted(ran) == list(range(30))


def test_parallel_and_limits():
    for _ in range(ROUNDS):
        ran = []
        with Scope("s", grace=20) as scope:
            with scope.parallel() as pool:
                for number in range(20):
                    pool.defer(ran.append, number)
            together(4, lambda i: [scope.defer(ran.append, 100 * i + 100 + k).within(5) for k in range(10)])
        assert len(set(ran)) == len(ran) == 60


def test_reports_while_others_defer():
    """A report iterates over what other threads change."""
    for _ in range(ROUNDS):
        scope, end = Scope("s"), threading.Event()
        scope.defer(int)

        def work(number, scope=scope, end=end):
            if number:
                while not end.is_set():
                    scope.defer(int).detach()
                return
            for _ in range(50):
                lastly.report()
                repr(scope)
            end.set()

        together(4, work)
        scope.close()


def test_async_scopes_in_many_loops():
    async def main():
        ran = []

        async def undo(number):
            ran.append(number)

        async with lastly.AsyncScope("a") as scope:
            for number in range(20):
                scope.defer(undo, number)
            await asyncio.sleep(0)
        assert ran == list(range(19, -1, -1))

    for _ in range(3):
        together(4, lambda _: asyncio.run(main()))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_scopes_that_are_collected_while_others_are_made():
    def work(_):
        for _ in range(50):
            lost = Scope("lost")
            lost.defer(int)
            del lost
            with Scope("kept") as kept:
                kept.defer(int)

    for _ in range(3):
        together(4, work)
        gc.collect()


def test_durable_ones(monkeypatch, home, tmp_path: Path):
    monkeypatch.setenv("LASTLY_REAPER", "later")
    for round_ in range(3):
        scope = Scope("s")

        def work(number, scope=scope, round_=round_):
            for each in range(25):
                path = f"{tmp_path}/{round_}-{number}-{each}"
                handle = scope.defer(actions.remove, path)
                os.mkdir(path)
                if each % 5 == 4:
                    assert handle.detach()
                    os.rmdir(path)

        together(6, work)
        scope.close()
        assert os.listdir(tmp_path) == []


def test_the_end_comes_while_threads_defer(programs: Programs):
    code = """
    import lastly, threading
    began = threading.Semaphore(0)
    def work():
        try:
            while True:
                lastly.defer(int)
                began.release()
        except lastly.ScopeClosed:
            pass
    for _ in range(4): threading.Thread(target=work, daemon=True).start()
    for _ in range(100): began.acquire()
    """
    for _ in range(3):
        result = programs.run(code)
        assert (result.status, result.err) == (0, "")
