"""AsyncScope, under asyncio and under trio."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import subprocess
import sys
import threading

import anyio
import anyio.lowlevel
import pytest
import trio

from lastly import AsyncScope, Scope
from lastly.errors import CleanupFailed, CleanupTimeout, ScopeClosed


@pytest.fixture(params=["asyncio", "trio"])
def run(request):
    """Run a coroutine function to its end in one of the two."""
    return {"asyncio": lambda main: asyncio.run(main()), "trio": lambda main: trio.run(main)}[request.param]


@pytest.fixture
def ran():
    return []


def test_sync_and_async_in_one_order(run, ran):
    async def later(value):
        await anyio.lowlevel.checkpoint()
        ran.append(value)

    async def main():
        async with AsyncScope("demo") as scope:
            scope.defer(later, 1)
            scope.defer(ran.append, 2)
            scope.defer(later, 3).named("three")
            scope.defer(ran.append, 4)
        assert [entry.name for entry in scope.report()][1] == "three"
        assert repr(scope) == "<AsyncScope 'demo' closed: 0 pending, 4 run>"
        with pytest.raises(ScopeClosed):
            scope.defer(ran.append, 5)
        await scope.close()

    run(main)
    assert ran == [4, 3, 2, 1]


def test_failures_come_together_and_never_mask_the_body(run, ran):
    async def bad():
        await anyio.lowlevel.checkpoint()
        raise ValueError("bad")

    async def main():
        with pytest.raises(CleanupFailed) as caught:
            async with AsyncScope() as scope:
                scope.defer(ran.append, 1)
                scope.defer(bad)
                scope.defer(bad)
        assert len(caught.value.exceptions) == 2
        with pytest.raises(KeyError) as body:
            async with AsyncScope() as scope:
                scope.defer(bad)
                raise KeyError("body")
        assert "ValueError: bad" in body.value.__notes__[0]

    run(main)
    assert ran == [1]


def test_deferring_while_closing(run, ran):
    async def main():
        async with AsyncScope() as scope:
            scope.defer(ran.append, "oldest")

            async def one():
                ran.append("one")
                scope.defer(ran.append, "two")

            scope.defer(one)

    run(main)
    assert ran == ["one", "two", "oldest"]


def test_enter_both_kinds_of_context_manager(run, ran):
    @contextlib.asynccontextmanager
    async def slow(name):
        ran.append(f"enter {name}")
        async with anyio.create_task_group():
            yield name
        ran.append(f"exit {name}")

    @contextlib.contextmanager
    def plain():
        yield "plain"
        ran.append("exit plain")

    async def main():
        async with AsyncScope() as scope:
            assert await scope.enter(slow("a")) == "a"
            assert await scope.enter(plain()) == "plain"
            inner = await scope.enter(AsyncScope("inner"))
            inner.defer(ran.append, "inner")

    run(main)
    assert ran == ["enter a", "inner", "exit plain", "exit a"]


class Failed(Exception):
    pass


@pytest.mark.parametrize("grace", [None, 60])
@pytest.mark.parametrize("kind", ["plain", "async", "generator", "nested", "sync nested", "pool"])
def test_managers_are_told_what_ends_the_body_and_cannot_swallow_it(run, ran, kind, grace):
    class Plain:
        def __enter__(self):
            return self

        def __exit__(self, *told):
            ran.append(told[:2])
            return True

    class Async:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *told):
            ran.append(told[:2])
            return True

    @contextlib.asynccontextmanager
    async def generator():
        try:
            yield
        except Failed as error:
            ran.append((type(error), error))

    error = Failed()

    async def later():  # has the others run in a task of its own
        await anyio.lowlevel.checkpoint()

    async def main():
        async with AsyncScope(grace=grace) as scope:
            scope.defer(later)
            if kind == "nested":
                await (await scope.enter(AsyncScope("inner"))).enter(Async())
            elif kind == "sync nested":
                (await scope.enter(Scope("inner"))).enter(Plain())
            elif kind == "pool":
                await scope.parallel().enter(Async())
            else:
                await scope.enter({"plain": Plain, "async": Async, "generator": generator}[kind]())
            scope.defer(later)
            raise error

    with pytest.raises(Failed) as caught:
        run(main)
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert ran == [(Failed, error)]


def test_a_plain_manager_is_left_in_its_own_task(run, ran):
    """As a context variable, or a cancel scope of anyio, demands it."""
    var = contextvars.ContextVar("var", default=0)

    @contextlib.contextmanager
    def setting():
        token = var.set(5)
        yield
        var.reset(token)

    async def later():
        ran.append(var.get())

    async def main():
        async with AsyncScope() as scope:
            await scope.enter(setting())
            await scope.enter(anyio.CancelScope())
            scope.defer(later)
        ran.append(var.get())

    run(main)
    assert ran == [5, 0]


def test_what_takes_its_cancellation_back_decides_what_goes_on(ran):
    """A cancelled task would be reported otherwise, and the reason lost."""

    async def fail():
        raise Failed

    async def by_timeout():
        async with AsyncScope() as scope:
            await scope.enter(asyncio.timeout(0.01))
            scope.defer(ran.append, "closed")
            await asyncio.sleep(60)

    async def by_child():
        async with AsyncScope() as scope:
            (await scope.enter(asyncio.TaskGroup())).create_task(fail())
            scope.defer(ran.append, "closed")
            await asyncio.sleep(60)

    async def nested():
        async with AsyncScope() as scope:
            await (await scope.enter(AsyncScope("inner"))).enter(asyncio.timeout(0.01))
            scope.defer(ran.append, "closed")
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        asyncio.run(by_timeout())
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(by_child())
    assert [type(error) for error in caught.value.exceptions] == [Failed]
    with pytest.raises(TimeoutError):
        asyncio.run(nested())
    assert ran == ["closed"] * 3


def test_a_cancellation_from_outside_goes_on_whatever_a_manager_raises(ran):
    @contextlib.asynccontextmanager
    async def translating():
        try:
            yield
        except asyncio.CancelledError:
            raise Failed from None

    async def body(ready):
        async with AsyncScope() as scope:
            await scope.enter(translating())
            ready.set()
            await asyncio.sleep(60)

    async def main():
        ready = asyncio.Event()
        task = asyncio.create_task(body(ready))
        await ready.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        ran.append(caught.value.__notes__)

    asyncio.run(main())
    assert len(ran[0]) == 1
    assert "Failed" in ran[0][0]


def test_a_task_group_that_is_told_of_the_failure_stops_its_tasks(ran):
    async def endless():
        try:
            await asyncio.sleep(3600)
        finally:
            ran.append("stopped")

    async def main():
        async with AsyncScope() as scope:
            (await scope.enter(asyncio.TaskGroup())).create_task(endless())
            await asyncio.sleep(0)
            raise Failed

    with pytest.raises(Failed) as caught:
        asyncio.run(main())
    assert ran == ["stopped"]
    assert not hasattr(caught.value, "__notes__")


def test_parallel_as_tasks(run, ran):
    async def main():
        together = anyio.Event()

        async def close():
            closing.append(1)
            if len(closing) == 20:
                together.set()
            await together.wait()

        closing = []
        async with AsyncScope() as scope:
            scope.defer(ran.append, "oldest")
            async with scope.parallel("pool") as pool:
                for number in range(20):
                    pool.defer(close).named(str(number))
        assert len(scope.report().entries[0].cleanups) == 20

    run(main)
    assert ran == ["oldest"]


def test_limits_cancel_and_go_on(run, ran):
    async def hang():
        try:
            await anyio.sleep(60)
        except BaseException:
            ran.append("cancelled")
            raise

    async def main():
        with pytest.raises(CleanupFailed) as caught:
            async with AsyncScope() as scope:
                scope.defer(ran.append, "oldest")
                scope.defer(hang).within(0.05)
        assert isinstance(caught.value.exceptions[0], CleanupTimeout)
        with pytest.raises(CleanupFailed):
            async with AsyncScope(grace=2) as scope:
                scope.defer(ran.append, "oldest")
                scope.defer(hang)
                scope.defer(hang)

    run(main)
    assert ran == ["cancelled", "oldest", "cancelled", "cancelled", "oldest"]


def test_a_plain_function_with_a_limit_does_not_block_the_loop(run, ran):
    event = threading.Event()

    async def main():
        with pytest.raises(CleanupFailed):
            async with AsyncScope() as scope:
                scope.defer(event.wait, 30).within(0.05)
        event.set()

    run(main)


def test_a_coroutine_that_will_not_be_cancelled_is_left_behind(ran):
    async def stubborn():
        while not ran:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async def main():
        with pytest.raises(CleanupFailed):
            async with AsyncScope() as scope:
                scope.defer(stubborn).within(0.05)
        ran.append(1)
        await asyncio.sleep(0.05)

    asyncio.run(main())


def test_shielded_from_cancellation(run, ran):
    async def slow():
        await anyio.sleep(0.05)
        ran.append("whole")

    async def main():
        with anyio.move_on_after(0.01) as outer:
            async with AsyncScope() as scope:
                scope.defer(slow)
                scope.defer(slow)
                await anyio.sleep(60)
        assert outer.cancelled_caught

    run(main)
    assert ran == ["whole", "whole"]


@pytest.mark.parametrize("again", [0, 1, 3])
def test_native_cancellation_is_kept_for_the_end(ran, again):
    async def slow():
        async with asyncio.timeout(5):
            await asyncio.sleep(0.05)
        ran.append("whole")

    async def body(ready):
        async with AsyncScope() as scope:
            scope.defer(slow)
            scope.defer(slow)
            ready.set()
            if not again:
                await asyncio.sleep(60)

    async def main():
        ready = asyncio.Event()
        task = asyncio.create_task(body(ready))
        await ready.wait()
        task.cancel()
        for _ in range(again):
            await asyncio.sleep(0.01)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ran == ["whole", "whole"]


def test_cleanups_that_wait_for_nothing_take_no_turn_of_the_loop(ran):
    turns = []

    async def undo():
        ran.append(asyncio.current_task())

    async def main():
        async with AsyncScope() as scope:
            scope.defer(undo)
            scope.defer(undo)
            asyncio.get_running_loop().call_soon(turns.append, "a turn")
        return asyncio.current_task(), turns.copy()

    task, turned = asyncio.run(main())
    assert turned == ([] if sys.version_info >= (3, 12) else ["a turn"])
    assert len(ran) == 2
    assert task not in ran, "a cancellation of the closing task would reach them"


@pytest.mark.parametrize("by", ["factory", "loop"])
def test_tasks_of_the_loops_own_kind(ran, by):
    made = []

    class Task(asyncio.Task):
        pass

    def factory(loop, coroutine, **options):
        made.append(Task(coroutine, loop=loop, **options))
        return made[-1]

    class Loop(asyncio.SelectorEventLoop):
        create_task = factory

    async def undo():
        ran.append(asyncio.current_task())

    async def main():
        if by == "factory":
            asyncio.get_running_loop().set_task_factory(factory)
        async with AsyncScope() as scope:
            scope.defer(undo)

    with asyncio.Runner(loop_factory=Loop if by == "loop" else None) as runner:
        runner.run(main())
    assert len(ran) == 1
    assert ran[0] in made


def test_a_failing_cleanup_does_not_mask_the_cancellation():
    async def bad():
        await asyncio.sleep(0.02)
        raise ValueError("bad")

    notes = []

    async def body():
        try:
            async with AsyncScope() as scope:
                scope.defer(bad)
                scope.defer(bad)
                await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            notes.extend(error.__notes__)
            raise

    async def main():
        task = asyncio.create_task(body())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert "ValueError: bad" in notes[0]
    assert len(notes) == 2  # also when two fail alike


def test_inside_task_groups(ran):
    async def slow(value):
        await asyncio.sleep(0.02)
        ran.append(value)

    async def worker(value):
        async with AsyncScope() as scope:
            scope.defer(slow, value)
            await asyncio.sleep(60)

    async def failing():
        await asyncio.sleep(0.01)
        raise KeyError("one fails, the others are cancelled")

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(worker(1))
            group.create_task(worker(2))
            group.create_task(failing())

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert sorted(ran) == [1, 2]


def test_inside_anyio_task_groups(run, ran):
    async def slow():
        await anyio.sleep(0.02)
        ran.append("whole")

    async def worker():
        async with AsyncScope() as scope:
            scope.defer(slow)
            await anyio.sleep(60)

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(worker)
            await anyio.sleep(0.01)
            group.cancel_scope.cancel()

    run(main)
    assert ran == ["whole"]


def test_under_wait_for(ran):
    async def slow():
        await asyncio.sleep(0.05)
        ran.append("whole")

    async def body():
        async with AsyncScope() as scope:
            scope.defer(slow)
            await asyncio.sleep(60)

    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(body(), 0.01)

    asyncio.run(main())
    assert ran == ["whole"]


def test_the_context_is_the_bodys(run):
    variable = contextvars.ContextVar("variable")
    seen = []

    async def look():
        await anyio.lowlevel.checkpoint()
        seen.append(variable.get())

    async def main():
        variable.set(5)
        async with AsyncScope() as scope:
            scope.defer(look)

    run(main)
    assert seen == [5]


def test_a_plain_with_is_refused():
    with pytest.raises(TypeError, match="async with"):
        with AsyncScope():
            pass
    with pytest.raises((AttributeError, TypeError)):
        asyncio.run(_async_with(Scope()))


async def _async_with(scope):
    async with scope:
        pass


def test_asyncio_needs_no_anyio():
    code = """
import sys
sys.modules["anyio"] = sys.modules["sniffio"] = None
import asyncio
from lastly import AsyncScope
async def main():
    async with AsyncScope(grace=5) as scope:
        scope.defer(asyncio.sleep, 0)
        scope.defer(print, "ok")
asyncio.run(main())
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.stdout, result.stderr) == ("ok\n", "")


@pytest.mark.timeout(20)  # it hung, with the event loop
@pytest.mark.parametrize("parallel", [False, True])
def test_early_cleanups_come_before_the_others(run, ran, parallel):
    async def later(value):
        await anyio.lowlevel.checkpoint()
        ran.append(value)

    async def main():
        async with AsyncScope() as scope:
            one = scope.parallel() if parallel else scope
            one.defer_early(later, "first")
            one.defer_early(ran.append, "second")
            one.defer(later, "third")

    run(main)
    assert ran == ["second", "first", "third"]
