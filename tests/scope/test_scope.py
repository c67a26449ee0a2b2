"""Scope and Cleanup, inside one process."""

from __future__ import annotations

import contextvars
import functools
import gc
import sqlite3
import sys
import threading
import time
from datetime import timedelta

import pytest

import lastly
from lastly import Scope
from lastly._scope.now import now
from lastly.errors import CaughtInterrupt, CaughtSignal, CleanupFailed, CleanupTimeout, ScopeClosed


@pytest.fixture
def ran():
    return []


def boom(text="boom"):
    raise ValueError(text)


# -- order, once, all of them ----------------------------------------------------------------------------


def test_newest_first_with_arguments_and_duplicates(ran):
    def note(*args, **kwargs):
        ran.append((args, kwargs))

    with Scope() as scope:
        scope.defer(note, 1, key=2)
        scope.defer(note)
        scope.defer(note, 1, key=2)
        assert ran == []
    assert ran == [((1,), {"key": 2}), ((), {}), ((1,), {"key": 2})]


def test_keywords_may_have_any_name(ran):
    def note(**kwargs):
        ran.append(kwargs)

    with Scope() as scope:
        scope.defer(note, self=1, fn=2, args=3, kwargs=4)
    assert ran == [{"self": 1, "fn": 2, "args": 3, "kwargs": 4}]


def test_defer_is_a_decorator_and_leaves_something_callable(ran):
    with Scope() as scope:

        @scope.defer
        def last():
            ran.append("last")
            return 5

        assert last() == 5
    assert ran == ["last", "last"]


def test_every_cleanup_is_tried_and_all_errors_come_together(ran):
    with pytest.raises(CleanupFailed) as caught:
        with Scope("demo") as scope:
            scope.defer(boom, "first")
            scope.defer(ran.append, 1)
            scope.defer(boom, "second").named("the second")
            scope.defer(ran.append, 2)
    assert ran == [2, 1]
    assert [str(error) for error in caught.value.exceptions] == ["second", "first"]
    assert "2 cleanups of scope 'demo' failed" in str(caught.value)
    assert caught.value.exceptions[0].__notes__ == ["in cleanup the second of scope 'demo'"]


def test_two_that_fail_alike_are_two_notes() -> None:
    def bad() -> None:
        raise ValueError("bad")

    with pytest.raises(KeyError) as caught, Scope("demo") as scope:
        scope.defer(bad)
        scope.defer(bad)
        raise KeyError("body")
    assert len(caught.value.__notes__) == 2


def test_the_bodys_exception_goes_on_unchanged_with_a_note_per_failure():
    error = KeyError("body")
    with pytest.raises(KeyError) as caught:
        with Scope("demo") as scope:
            scope.defer(boom)
            scope.defer(boom, "other")
            raise error
    assert caught.value is error
    assert error.__notes__ == [
        "cleanup boom of scope 'demo' failed: ValueError: other",
        "cleanup boom of scope 'demo' failed: ValueError: boom",
    ]


def test_the_traceback_of_a_failure_begins_in_the_cleanup():
    with pytest.raises(CleanupFailed) as caught:
        with Scope() as scope:
            scope.defer(boom)
    assert caught.value.exceptions[0].__traceback__.tb_frame.f_code is boom.__code__


def test_popped_before_run_so_nothing_runs_twice(ran):
    with Scope() as scope:
        handle = scope.defer(lambda: ran.append(handle.run()))
        scope.defer(lambda: scope.close())
    assert ran == [None]


def test_deferring_while_closing_runs_next(ran):
    with Scope() as scope:
        scope.defer(ran.append, "oldest")

        @scope.defer
        def one():
            ran.append("one")
            scope.defer(ran.append, "two")

    assert ran == ["one", "two", "oldest"]


def test_more_cleanups_than_are_timed(ran):
    with pytest.raises(CleanupFailed):
        with Scope() as scope:
            for number in range(1000):
                scope.defer(ran.append, number)
                if number == 500:
                    scope.defer(boom)
                    scope.defer(ran.append, "limited").within(5)
    expected = [*range(1000)]
    expected[501:501] = ["limited"]
    assert ran == expected[::-1]
    assert scope.report().untimed + len(scope.report()) >= 1001


def test_a_closed_scope_refuses(ran):
    scope = Scope("demo")
    scope.close()
    with pytest.raises(ScopeClosed, match="demo.*append"):
        scope.defer(ran.append, 1)
    with pytest.raises(ScopeClosed):
        scope.defer_early(ran.append, 1)
    with pytest.raises(ScopeClosed):
        scope.enter(Scope())
    with pytest.raises(ScopeClosed):
        scope.parallel()
    with pytest.raises(ScopeClosed):
        with scope:
            pass
    assert len(scope) == 0
    scope.close()


def test_not_callable_is_a_type_error():
    scope = Scope()
    with pytest.raises(TypeError, match="callable"):
        scope.defer(5)
    with pytest.raises(TypeError):
        scope.defer()


# -- what is not an Exception ----------------------------------------------------------------------------


def test_sys_exit_in_a_cleanup_after_a_clean_body(ran):
    with pytest.raises(SystemExit) as caught:
        with Scope() as scope:
            scope.defer(ran.append, 1)
            scope.defer(sys.exit, 5)
            scope.defer(boom)
    assert (caught.value.code, ran) == (5, [1])
    assert any("cleanup boom" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(("code", "status"), [(0, 1), (None, 1), (3, 3), ("text", "text")])
def test_what_fails_under_sys_exit_is_told_at_once(capsys, code, status):
    with pytest.raises(SystemExit) as caught:
        with Scope() as scope:
            scope.defer(boom)
            sys.exit(code)
    assert caught.value.code == status
    assert capsys.readouterr().err.startswith("Exception in cleanup boom:\nTraceback")


def test_sys_exit_in_a_cleanup_does_not_mask_the_bodys_exception():
    with pytest.raises(ValueError, match="body"):
        with Scope() as scope:
            scope.defer(sys.exit, 5)
            raise ValueError("body")


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), CaughtSignal(15), CaughtInterrupt(2)])
def test_a_request_to_stop_that_came_in_a_cleanup_is_not_swallowed(stop, ran):
    def interrupted():
        raise stop

    with pytest.raises(type(stop)) as caught:
        with Scope() as scope:
            scope.defer(ran.append, 1)
            scope.defer(interrupted)
            raise ValueError("body")
    assert caught.value is stop
    assert isinstance(stop.__context__, ValueError)
    assert ran == [1]


def test_the_first_request_to_stop_stays():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(CaughtSignal):
        with Scope() as scope:
            scope.defer(interrupted)
            raise CaughtSignal(15)


# -- handles ---------------------------------------------------------------------------------------------


def test_detach_and_run_once(ran):
    with Scope() as scope:
        one = scope.defer(ran.append, 1)
        two = scope.defer(lambda: ran.append(2) or "result")
        assert one.pending
        assert one.detach() is True
        assert one.detach() is False
        assert two.run() == "result"
        assert two.run() is None
        assert two.detach() is False
        assert one.run() is None
    assert ran == [2]


def test_run_raises_what_the_function_raises():
    with Scope() as scope:
        handle = scope.defer(boom)
        with pytest.raises(ValueError):
            handle.run()


def test_names_and_repr():
    scope = Scope("demo")
    handle = scope.defer(functools.partial(boom, "x"))
    assert handle.name == "boom"
    assert repr(handle) == "<Cleanup boom pending>"
    assert handle.named("undo") is handle
    assert handle.name == "undo"
    assert repr(scope) == "<Scope 'demo' open: 1 pending, 0 run>"
    handle.detach()
    assert repr(handle) == "<Cleanup undo gone>"
    scope.close()
    assert repr(scope) == "<Scope 'demo' closed: 0 pending, 0 run>"
    assert not handle.durable


def test_a_partial_is_kept_as_it_is(ran):
    inner = functools.partial(ran.append, 1)
    with Scope() as scope:
        handle = scope.defer(inner)
        assert handle.func is inner
        again = scope.defer(handle)
        assert again.func is handle
    assert ran == [1, 1]


def test_detach_all(ran):
    scope = Scope()
    for number in range(3):
        scope.defer(ran.append, number)
    scope.defer_early(ran.append, 3)
    assert scope.detach_all() == 4
    scope.close()
    assert ran == []


def test_deferring_and_detaching_for_ever_does_not_grow():
    scope = Scope()
    scope.defer(boom)
    for _ in range(100_000):
        scope.defer(boom).detach()
    size = sys.getsizeof(scope._stack)
    assert scope.detach_all() == 1
    assert size <= 1000
    assert scope._ran == []


def test_detaching_does_not_look_at_the_others():
    """Constant time, counted: as many steps among 10,000 as alone. (`make bench` measures the seconds.)"""

    def steps(count):
        scope = Scope()
        handles = [scope.defer(boom) for _ in range(count)]
        assert type(scope._stack) is dict  # of which the removal of a key is one step
        seen = []
        sys.setprofile(lambda frame, event, arg: seen.append(event))
        try:
            handles[count // 2].detach()
        finally:
            sys.setprofile(None)
        scope.detach_all()
        return seen

    assert steps(10_000) == steps(1)


# -- context managers, nesting ---------------------------------------------------------------------------


class Manager:
    def __init__(self, ran, name):
        self.ran, self.name = ran, name

    def __enter__(self):
        self.ran.append(f"enter {self.name}")
        return self.name

    def __exit__(self, *exc):
        self.ran.append((f"exit {self.name}", exc))
        return True


def test_enter(ran):
    with Scope() as scope:
        assert scope.enter(Manager(ran, "a")) == "a"
        assert scope.enter(Manager(ran, "b")) == "b"
    assert ran == ["enter a", "enter b", ("exit b", (None,) * 3), ("exit a", (None,) * 3)]
    assert [entry.name for entry in scope.report()] == ["Manager.__exit__"] * 2


def test_enter_wants_a_context_manager():
    with pytest.raises(TypeError, match="context manager"):
        Scope().enter(5)


def test_nested_scopes_close_in_order(ran):
    with Scope("outer") as outer:
        outer.defer(ran.append, "outer, first")
        inner = outer.enter(Scope("inner"))
        inner.defer(ran.append, "inner")
        outer.defer(ran.append, "outer, last")
    assert ran == ["outer, last", "inner", "outer, first"]


def test_close_from_a_cleanup_of_an_inner_scope(ran):
    with Scope() as outer:
        outer.defer(ran.append, 1)
        with Scope() as inner:
            inner.defer(outer.close)
            inner.defer(ran.append, 2)
    assert ran == [2, 1]


# -- time ------------------------------------------------------------------------------------------------


@pytest.fixture
def hang():
    """A function that hangs until the test is over."""
    event = threading.Event()
    yield lambda: event.wait(30)
    event.set()


def test_within_stops_waiting_and_goes_on(ran, hang):
    with pytest.raises(CleanupFailed) as caught:
        with Scope() as scope:
            scope.defer(ran.append, 1)
            scope.defer(hang).within(0.05).named("hanging")
            scope.defer(ran.append, 2).within(timedelta(seconds=5))
    assert ran == [2, 1]
    (error,) = caught.value.exceptions
    assert isinstance(error, CleanupTimeout)
    assert isinstance(error, TimeoutError)
    assert "hanging did not end within 0.05 s" in str(error)
    assert [entry.outcome for entry in scope.report()] == ["done", "timeout", "done"]


def test_what_only_its_own_thread_may_do_is_done_there():
    connection = sqlite3.connect(":memory:")
    lock = threading.RLock()
    lock.acquire()
    variable = contextvars.ContextVar("variable")
    token = variable.set(1)
    threads = []
    with Scope(grace=5) as scope:
        scope.defer(connection.close)
        scope.defer(lock.release)
        scope.defer(variable.reset, token).within(None)
        scope.defer(lambda: threads.append(threading.get_ident())).within(None)
    assert threads == [threading.get_ident()]


def test_a_limited_cleanup_sees_the_context():
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)
    seen = []
    with Scope(grace=5) as scope:
        scope.defer(lambda: seen.append(variable.get()))
    assert seen == [7]


def test_errors_come_out_of_the_thread_as_they_are():
    with pytest.raises(CleanupFailed) as caught:
        with Scope() as scope:
            scope.defer(boom).within(5)
    assert isinstance(caught.value.exceptions[0], ValueError)
    assert caught.value.exceptions[0].__traceback__.tb_frame.f_code is boom.__code__


@pytest.mark.parametrize("bad", ["soon", -1, float("nan"), object()])
def test_times_are_checked(bad):
    scope = Scope()
    handle = scope.defer(boom)
    with pytest.raises((TypeError, ValueError)):
        handle.within(bad)
    with pytest.raises((TypeError, ValueError)):
        Scope(grace=bad)
    scope.detach_all()


# -- parallel --------------------------------------------------------------------------------------------


def test_parallel_closes_together_and_keeps_the_order_around(ran):
    meeting = threading.Barrier(5, timeout=10)
    with Scope() as scope:
        scope.defer(ran.append, "before")
        with scope.parallel() as pool:
            for _ in range(5):
                pool.defer(meeting.wait).within(30)
        assert ran == []
        scope.defer(ran.append, "after")
        pool.defer(ran.append, "late in the pool")
    assert ran == ["after", "late in the pool", "before"]


def test_parallel_takes_more_than_may_run_at_once(ran):
    with Scope() as scope:
        with scope.parallel("many") as pool:
            for number in range(300):
                pool.defer(ran.append, number)
    assert sorted(ran) == [*range(300)]
    (entry,) = scope.report()
    assert (entry.name, len(entry.cleanups)) == ("many", 300)


def test_parallel_collects_errors_and_heeds_limits(ran, hang):
    with pytest.raises(CleanupFailed) as caught:
        with Scope() as scope:
            scope.defer(ran.append, "oldest")
            with scope.parallel() as pool:
                pool.defer(boom)
                pool.defer(hang).within(0.1)
                pool.defer(ran.append, 1)
    (group,) = caught.value.exceptions
    assert {type(error) for error in group.exceptions} == {ValueError, CleanupTimeout}
    assert ran[-1] == "oldest"
    assert set(ran) == {1, "oldest"}


def test_a_hanging_pool_does_not_eat_the_grace(ran, hang):
    with pytest.raises(CleanupFailed):
        with Scope(grace=0.4) as scope:
            scope.defer(ran.append, "oldest")
            with scope.parallel() as pool:
                pool.defer(hang)
                pool.defer(ran.append, 1)
    assert ran == [1, "oldest"]


def test_a_pool_that_a_cleanup_fills_while_closing(ran):
    with Scope() as scope:
        with scope.parallel() as pool:
            pool.defer(lambda: pool.defer(ran.append, "late"))
    assert ran == ["late"]


# -- early, async, threads -------------------------------------------------------------------------------


def test_early_ones_run_first(ran):
    with Scope() as scope:
        scope.defer_early(ran.append, "stop 1")
        scope.defer(ran.append, "join")
        scope.defer_early(ran.append, "stop 2")
    assert ran == ["stop 2", "stop 1", "join"]


def test_an_async_function_is_awaited(ran):
    import asyncio

    async def later():
        await asyncio.sleep(0)
        ran.append("awaited")

    with Scope() as scope:
        scope.defer(later)
        scope.defer(later).within(5)
    assert ran == ["awaited", "awaited"]


def test_an_async_function_inside_a_loop_is_refused_with_advice():
    import asyncio

    async def later():
        raise AssertionError

    async def main():
        with Scope() as scope:
            scope.defer(later)

    with pytest.raises(CleanupFailed) as caught:
        asyncio.run(main())
    assert "AsyncScope" in str(caught.value.exceptions[0])


@pytest.mark.parametrize("grace", [None, 3600])
def test_eight_threads_defer_while_the_scope_closes(grace):
    """Each cleanup runs exactly once, or its defer raised ScopeClosed."""
    for _ in range(3 if grace else 15):
        counts: dict[tuple[int, int], int] = {}
        accepted: list[set[tuple[int, int]]] = [set() for _ in range(8)]
        refused = [0] * 8
        ready = threading.Barrier(9)
        scope = Scope(grace=grace)

        def run(key, counts=counts):
            counts[key] = counts.get(key, 0) + 1

        def work(number, scope=scope, accepted=accepted, refused=refused, ready=ready, run=run):
            ready.wait()
            for index in range(3000):
                try:
                    scope.defer(run, (number, index))
                except ScopeClosed:
                    refused[number] += 1
                    if refused[number] > 20:
                        return
                else:
                    accepted[number].add((number, index))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            for thread in threads:
                thread.start()
            ready.wait()
            scope.close()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert set(counts.values()) <= {1}
        assert set(counts) == set().union(*accepted)
        assert len(scope) == 0


def test_two_threads_close_and_each_cleanup_runs_once(ran):
    scope = Scope()
    for number in range(2000):
        scope.defer(ran.append, number)
    threads = [threading.Thread(target=scope.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ran == [*range(2000)][::-1]


# -- looking ---------------------------------------------------------------------------------------------


def test_report_as_data_and_json(ran):
    import json

    with pytest.raises(CleanupFailed):
        with Scope("demo") as scope:
            scope.defer(time.sleep, 0.02).named("slow")
            scope.defer(boom)
            assert scope.report().pending == ["boom", "slow"]
    report = scope.report()
    assert [(entry.name, entry.outcome) for entry in report] == [("boom", "failed"), ("slow", "done")]
    assert report.entries[1].seconds >= 0.02
    assert report.entries[0].error == "ValueError('boom')"
    assert report.failed == (report.entries[0],)
    data = json.loads(report.json())
    assert data == report.as_dict()
    assert data["scope"] == "demo"
    assert data["cleanups"][0]["error"] == "ValueError('boom')"
    assert data["seconds"] >= 0.02


def test_the_report_keeps_no_object_alive():
    import weakref

    class Thing:
        def close(self):
            pass

    thing = Thing()
    gone = weakref.ref(thing)
    with Scope() as scope:
        scope.defer(thing.close)
        del thing
    assert scope.report().entries[0].name.endswith("Thing.close")
    assert gone() is None


def test_garbage_collected_with_cleanups_pending():
    scope = Scope("lost")
    scope.defer(boom)
    with pytest.warns(ResourceWarning, match="<Scope 'lost' open: 1 pending, 0 run> was never closed; not run: boom"):
        del scope
        gc.collect()


def test_collected_without_cleanups_says_nothing():
    scope = Scope()
    scope.defer(boom).detach()
    del scope
    gc.collect()


def test_exit_reason_inside_a_scope(ran):
    assert lastly.exit_reason() is None

    def note():
        ran.append(lastly.exit_reason())

    for error in (ValueError("x"), SystemExit(3), CaughtSignal(15), KeyboardInterrupt(), None):
        try:
            with Scope() as scope:
                scope.defer(note)
                if error is not None:
                    raise error
        except BaseException as caught:
            assert caught is error
    assert [str(reason) for reason in ran] == [
        "exception ValueError: x",
        "exit code 3",
        "signal SIGTERM",
        "signal SIGINT",
        "the end",
    ]
    assert [reason.code for reason in ran] == [1, 3, 143, 130, None]
    assert lastly.exit_reason() is None


def test_an_interrupt_while_a_scope_begins_to_close_loses_nothing(ran, monkeypatch):
    def begin(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(lastly._scope.closing, "begin", begin)
    with pytest.raises(KeyboardInterrupt), Scope() as scope:
        scope.defer(ran.append, 1)
    assert ran == [1]
    assert scope.closed


def test_described_while_scopes_begin_and_end_in_other_threads(monkeypatch):
    class Other:
        @property
        def _current(self):
            now.closing[Scope()] = 0

    monkeypatch.setattr(now, "closing", {Other(): 0})
    assert "left" in lastly._exit.root.describe()
