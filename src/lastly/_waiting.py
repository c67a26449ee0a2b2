"""How an AsyncScope waits: for asyncio, and for trio in anyio's words. See _async for the reasons."""

import sys

from lastly import _closing
from lastly._cleanup import HERE, Cleanup
from lastly._closing import clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Any

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
        self.inside = False  # in a task that is not the closing one, and that nobody cancels

    def shield(self) -> "Any":
        # Against anyio's own cancellation, which would come again at every turn of the loop.
        anyio: Any = sys.modules.get("anyio")
        return _Nothing() if anyio is None else anyio.CancelScope(shield=True)

    def is_cancellation(self, error: BaseException) -> bool:
        import asyncio

        return isinstance(error, asyncio.CancelledError)

    async def run(self, cleanup: Cleanup, limit: float, *, threaded: bool) -> None:
        """Run one cleanup; raise what it raises."""
        if limit <= 0:
            raise _closing.too_late(cleanup, "was not begun: no time was left", "skipped")
        nested: Any = cleanup.nested
        if hasattr(nested, "_aclose"):
            result: Any = nested._aclose(None, None if limit == HERE else limit)
            await result
            return
        if nested is not None or (threaded and not is_async(cleanup)):
            await self.in_thread(cleanup, limit)
            return
        result = cleanup()
        if hasattr(result, "__await__"):
            wait = self.inline if cleanup._here or (self.inside and limit == HERE) else self.apart
            await wait(cleanup, result, limit)

    async def apart(self, cleanup: Cleanup, awaitable: "Any", limit: float) -> None:
        """Await in a task of its own, whatever happens to this one."""
        import asyncio

        task = asyncio.ensure_future(awaitable)
        if not await self.wait(task, limit):
            task.cancel()
            await self.wait(task, 0.05)  # let it see the cancellation
            if not task.done():
                _left.add(task)
                task.add_done_callback(_forget)
            elif not task.cancelled():
                task.exception()  # seen
            raise _closing.too_late(cleanup, f"did not end within {limit:.3g} s and was cancelled", "timeout")
        task.result()

    async def wait(self, task: "asyncio.Future[Any]", limit: float) -> bool:
        """Wait for a task; a cancellation of the waiting one is kept for later. False: the time is over."""
        import asyncio

        end = None if limit == HERE else clock() + limit
        while not task.done():
            left = None if end is None else end - clock()
            if left is not None and left <= 0:
                return False
            try:
                await asyncio.wait([task], timeout=left)
            except asyncio.CancelledError as error:
                self.cancelled = self.cancelled or error
        return True

    async def inline(self, cleanup: Cleanup, awaitable: "Any", limit: float) -> None:
        """Await in this task."""
        import asyncio

        if limit == HERE:
            await awaitable
            return
        try:
            async with asyncio.timeout(limit) as bound:
                await awaitable
        except TimeoutError:
            if not bound.expired():
                raise
            what = f"did not end within {limit:.3g} s and was cancelled"
            raise _closing.too_late(cleanup, what, "timeout") from None

    async def in_thread(self, cleanup: Cleanup, limit: float) -> None:
        """Run a plain function with a limit: in a thread, so that waiting for it can stop."""
        import asyncio

        from lastly import _workers

        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            if not ended.done():
                ended.set_result(None)

        job = _workers.start(cleanup, lambda: loop.call_soon_threadsafe(tell))
        if job is None:
            cleanup()
        elif not await self.wait(ended, limit):
            what = f"did not end within {limit:.3g} s and is no longer waited for"
            raise _closing.too_late(cleanup, what, "timeout")
        elif job.error is not None:
            raise job.error

    async def together(self, step: "Any", steps: "list[Any]") -> None:
        """Do all steps at the same time; no step raises."""
        import asyncio

        tasks = [asyncio.ensure_future(step(*args)) for args in steps]
        if tasks:
            await self.wait(asyncio.gather(*tasks), HERE)


class Trio(Asyncio):
    """Waiting under trio, in anyio's words: its shields hold, so everything runs in the closing task."""

    def shield(self) -> "Any":
        return _anyio().CancelScope(shield=True)

    def is_cancellation(self, error: BaseException) -> bool:
        return isinstance(error, sys.modules["trio"].Cancelled)

    async def apart(self, cleanup: Cleanup, awaitable: "Any", limit: float) -> None:
        with _anyio().CancelScope(shield=True, deadline=_anyio().current_time() + limit) as scope:
            await awaitable
        if scope.cancelled_caught:
            raise _closing.too_late(cleanup, f"did not end within {limit:.3g} s and was cancelled", "timeout")

    async def inline(self, cleanup: Cleanup, awaitable: "Any", limit: float) -> None:
        if limit != HERE:
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
