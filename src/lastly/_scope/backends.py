"""How an AsyncScope waits: for asyncio, and for trio in anyio's words. The reasons are in aio.py.

An event loop has a clock of its own, and a tool that freezes time in tests may have stopped it: then nothing
that the loop is asked to do later ever comes, and a thread wakes it instead (`_alarm`).
"""

import sys
import time

from lastly._scope.budget import too_late
from lastly._scope.closing import clock
from lastly._scope.handle import COROUTINE, UNLIMITED, Cleanup
from lastly._words.clock import untouched

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

    from lastly._scope.aio import AsyncScope

# Tasks that were given up: kept until they end, or asyncio would lose them with a warning.
_left: "set[asyncio.Task[Any]]" = set()


def backend() -> "Asyncio":
    """Return how to wait here: trio through anyio, else asyncio."""
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            pass
        else:
            return Trio()
    return Asyncio()


class Asyncio:
    """Waiting under asyncio; one per closing scope."""

    def __init__(self) -> None:
        self.cancelled: BaseException | None = None
        self.inside = False  # in a task that is not the closing one, and that is not cancelled

    def shield(self) -> "Any":
        # Against anyio's own cancellation, which would come again at every turn of the loop.
        anyio: Any = sys.modules.get("anyio")
        return _Nothing() if anyio is None else anyio.CancelScope(shield=True)

    def is_cancellation(self, error: BaseException) -> bool:
        import asyncio

        return isinstance(error, asyncio.CancelledError)

    def requests(self) -> int:
        """Return how many have asked for this task's cancellation, and have not taken that back."""
        import asyncio

        task = asyncio.current_task()
        return 0 if task is None else task.cancelling()

    async def run(self, scope: "AsyncScope", cleanup: Cleanup, limit: float, *, threaded: bool) -> None:
        """Run one cleanup; raise what it raises."""
        if limit <= 0:
            raise too_late(cleanup, "was not begun: no time was left", "skipped")
        nested: Any = cleanup.nested
        if hasattr(nested, "_aclose"):
            await nested._close_inside(scope._body, None if limit == UNLIMITED else limit)
            return
        if nested is not None or (threaded and not is_async(cleanup)):
            await self.in_thread(cleanup, limit)
            return
        result: Any = cleanup()
        if hasattr(result, "__await__"):
            wait = self.inline if cleanup._here or (self.inside and limit == UNLIMITED) else self.apart
            await wait(cleanup, result, limit)

    async def apart(self, cleanup: Cleanup, awaitable: "Any", limit: float) -> None:
        """Await in a task of its own, whatever happens to this one."""
        task = _begun(awaitable)
        if not (task.done() or await self.wait(task, limit)):
            task.cancel()
            await self.wait(task, 0.05)  # let it see the cancellation
            if not task.done():
                _left.add(task)
                task.add_done_callback(_forget)
            elif not task.cancelled():
                task.exception()  # seen
            raise too_late(cleanup, f"did not end within {limit:.3g} s and was cancelled", "timeout")
        task.result()

    async def wait(self, task: "asyncio.Future[Any]", limit: float) -> bool:
        """Wait for a task; a cancellation of the waiting one is kept for later. False: the time is over."""
        import asyncio

        end = None if limit == UNLIMITED else clock() + limit
        while not task.done():
            left = None if end is None else end - clock()
            if left is not None and left <= 0:
                return False
            try:
                await self.wait_once(task, left)
            except asyncio.CancelledError as error:
                self.cancelled = self.cancelled or error
        return True

    async def wait_once(self, task: "asyncio.Future[Any]", left: "float | None") -> None:
        """Wait until the task has ended or the time is over, or a cancellation comes."""
        import asyncio

        loop = asyncio.get_running_loop()
        if left is None:  # as asyncio.wait does it, at half of its price
            ended: asyncio.Future[None] = loop.create_future()

            def tell(_: object) -> None:
                if not ended.done():
                    ended.set_result(None)

            task.add_done_callback(tell)
            try:
                await ended
            finally:
                task.remove_done_callback(tell)
            return
        if _keeps_time(loop):
            await asyncio.wait([task], timeout=left)
            return
        over: asyncio.Future[None] = loop.create_future()
        off = _alarm(left, lambda: loop.call_soon_threadsafe(over.cancel))
        try:
            await asyncio.wait([task, over], return_when=asyncio.FIRST_COMPLETED)
        finally:
            off()

    async def inline(self, cleanup: Cleanup, awaitable: "Any", limit: float) -> None:
        """Await in this task."""
        import asyncio

        if limit == UNLIMITED:
            await awaitable
            return
        loop = asyncio.get_running_loop()
        live = _keeps_time(loop)
        try:
            async with asyncio.timeout(limit if live else None) as bound:
                off = _nothing if live else _alarm(limit, lambda: _expire(loop, bound))
                try:
                    await awaitable
                finally:
                    off()
        except TimeoutError:
            if not bound.expired():
                raise
            what = f"did not end within {limit:.3g} s and was cancelled"
            raise too_late(cleanup, what, "timeout") from None

    async def in_thread(self, cleanup: Cleanup, limit: float) -> None:
        """Run a plain function with a limit: in a thread, so that waiting for it can stop."""
        import asyncio

        from lastly._scope import threads

        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            if not ended.done():
                ended.set_result(None)

        job = threads.start(cleanup, lambda: loop.call_soon_threadsafe(tell))
        if job is None:
            cleanup()
        elif not await self.wait(ended, limit):
            what = f"did not end within {limit:.3g} s and is no longer waited for"
            raise too_late(cleanup, what, "timeout")
        elif job.error is not None:
            raise job.error

    async def together(self, step: "Any", steps: "list[Any]") -> None:
        """Do all steps at the same time; no step raises."""
        import asyncio

        tasks = [asyncio.ensure_future(step(*args)) for args in steps]
        if tasks:
            await self.wait(asyncio.gather(*tasks), UNLIMITED)


class Trio(Asyncio):
    """Waiting under trio, in anyio's words: its shields hold, so everything runs in the closing task."""

    def shield(self) -> "Any":
        return _anyio().CancelScope(shield=True)

    def is_cancellation(self, error: BaseException) -> bool:
        return isinstance(error, sys.modules["trio"].Cancelled)

    def requests(self) -> int:
        return 0  # trio keeps them in its cancel scopes

    async def apart(self, cleanup: Cleanup, awaitable: "Any", limit: float) -> None:
        frozen = not untouched(time.perf_counter)  # trio's clock reads it
        token: Any = sys.modules["trio"].lowlevel.current_trio_token()
        with _anyio().CancelScope(shield=True, deadline=_anyio().current_time() + limit) as scope:
            off = _nothing
            if frozen and limit != UNLIMITED:
                off = _alarm(limit, lambda: token.run_sync_soon(scope.cancel))
            try:
                await awaitable
            finally:
                off()
        if scope.cancelled_caught:
            raise too_late(cleanup, f"did not end within {limit:.3g} s and was cancelled", "timeout")

    async def inline(self, cleanup: Cleanup, awaitable: "Any", limit: float) -> None:
        if limit != UNLIMITED:
            await self.apart(cleanup, awaitable, limit)
        else:
            await awaitable

    async def in_thread(self, cleanup: Cleanup, limit: float) -> None:
        async def call() -> None:
            await _anyio().to_thread.run_sync(cleanup, abandon_on_cancel=True)

        await self.apart(cleanup, call(), limit)

    async def together(self, step: "Any", steps: "list[Any]") -> None:
        async with _anyio().create_task_group() as group:
            for args in steps:
                group.start_soon(step, *args)


def _begun(awaitable: "Any") -> "asyncio.Task[Any]":
    """Return a task for it, which has run as far as it can at once, where Python has that (3.12).

    Most cleanups need not wait for anything: the loop's turns are then what takes longest. A loop that makes
    tasks of its own kind goes on making them.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    usual = type(loop).create_task is asyncio.BaseEventLoop.create_task and loop.get_task_factory() is None
    if sys.version_info >= (3, 12) and usual and type(awaitable) is COROUTINE:
        return asyncio.Task(awaitable, loop=loop, eager_start=True)
    return asyncio.ensure_future(awaitable)


def _keeps_time(loop: "asyncio.AbstractEventLoop") -> bool:
    """Whether the loop's clock is the system's, as asyncio's and uvloop's are."""
    return abs(loop.time() - clock()) < 60


def _expire(loop: "asyncio.AbstractEventLoop", bound: "asyncio.Timeout") -> None:
    def now() -> None:
        try:
            bound.reschedule(loop.time())
        except RuntimeError:  # it has been left in the meantime
            pass

    loop.call_soon_threadsafe(now)


def _alarm(seconds: float, ring: "Callable[[], object]") -> "Callable[[], None]":
    """Have a thread call `ring` after so many seconds; return what calls that off."""
    import _thread

    off = _thread.allocate_lock()
    off.acquire()

    def wait() -> None:
        if not off.acquire(timeout=min(seconds, _thread.TIMEOUT_MAX)):
            try:
                ring()
            except RuntimeError:  # the loop is closed: nothing waits any more
                pass

    _thread.start_new_thread(wait, ())
    return off.release


def _nothing() -> None:
    pass


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass


def _anyio() -> "Any":
    try:
        import anyio
    except ImportError:
        raise RuntimeError("AsyncScope under trio needs anyio: pip install 'lastly[anyio]'") from None
    return anyio


def is_async(cleanup: Cleanup) -> bool:
    fn: Any = cleanup.func
    while hasattr(fn, "func"):
        fn = fn.func
    code = getattr(getattr(fn, "__func__", fn), "__code__", None)
    return code is not None and bool(code.co_flags & 0x80)  # CO_COROUTINE


def _forget(task: "asyncio.Task[Any]") -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # seen: or asyncio would log it
