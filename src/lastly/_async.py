"""AsyncScope: the same stack, closed by a task of asyncio or trio.

Shielding. What cancels the body must not cancel the cleanups that follow from it. trio and anyio have
shielded cancel scopes; asyncio has nothing of the kind, and cancels the *future that the task waits for*.
So in asyncio a coroutine runs in a task of its own, and the closing task waits for it in a way that a
cancellation interrupts but does not break (`asyncio.wait`), remembers the cancellation, and waits on. In
the end it is raised: swallowing it would leave the program running.

Two things do not bear a task of their own. A context manager has to be left in the task that entered it
(asyncio.timeout, task groups), so what `enter` entered is left in the closing task, where a *second* native
cancellation does reach it. And a plain function runs in the event loop's thread, unless it has a limit of
its own by `Cleanup.within`: most of what one calls there (``writer.close``, ``event.set``) belongs to that
thread.
"""

import sys

from lastly import _closing
from lastly._cleanup import HERE, Cleanup
from lastly._closing import clock, outcome_of, without_us
from lastly._scope import CLOSED, OPEN, Scope
from lastly.errors import ScopeClosed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from types import TracebackType
    from typing import Any, Self, TypeVar

    from lastly._closing import Budget, Failure

    T = TypeVar("T")

# Tasks that were given up: kept until they end, or asyncio would lose them with a warning.
_left: "set[asyncio.Task[Any]]" = set()


class AsyncScope(Scope):
    """A stack of cleanups, plain and ``async def``, that all run, newest first, when ``async with`` ends.

    Under asyncio, and under trio when anyio is installed. The cleanups are shielded from cancellation;
    `grace` and `Cleanup.within` bound them: a coroutine whose time is over is cancelled, reported, and no
    longer waited for. A cancellation that comes meanwhile is raised after the last of them. `parallel`
    closes its cleanups together, as tasks.

    .. versionadded:: 0.1
    """

    __slots__ = ()

    def __enter__(self) -> "Self":
        raise TypeError("AsyncScope needs `async with`; Scope is the one for `with`")

    def close(self) -> "Awaitable[None]":  # type: ignore[override]  # the sibling for coroutines
        """Run all cleanups, newest first; a second call does nothing. To be awaited.

        Raises:
            CleanupFailed: cleanups failed, after all of them were tried.
        """
        return self._aclose(None)

    aclose = close

    async def __aenter__(self) -> "Self":
        if self._shut == CLOSED:
            raise ScopeClosed(f"{self._title} is closed: make a new one")
        return self

    async def __aexit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        await self._aclose(error)

    async def enter(  # type: ignore[override]  # the sibling for coroutines
        self, manager: "AbstractAsyncContextManager[T] | AbstractContextManager[T]"
    ) -> "T":
        """Enter a context manager, asynchronous or plain; leave it when the scope closes, in its task."""
        kind: Any = type(manager)
        if not hasattr(kind, "__aenter__"):
            plain: Any = manager
            value: T = Scope.enter(self, plain)
            return value
        if self._shut == CLOSED:
            raise ScopeClosed(f"{self._title} is closed: nothing was entered")
        value = await kind.__aenter__(manager)
        try:
            cleanup = self.defer(kind.__aexit__.__get__(manager), None, None, None)
        except ScopeClosed:
            await kind.__aexit__(manager, None, None, None)
            raise
        cleanup.named(f"{kind.__qualname__}.__aexit__")._here = True
        entered: object = manager
        if isinstance(entered, AsyncScope):
            cleanup.nested = entered
        return value

    def parallel(self, name: "str | None" = None, *, grace: "Any" = None) -> "AsyncParallel":  # type: ignore[override]
        """Return a scope whose cleanups run at the same time, as tasks; see `Scope.parallel`."""
        pool = AsyncParallel(name, grace=grace)
        cleanup = self.defer(pool.close)
        cleanup.nested = pool
        cleanup.named(name or "parallel")
        return pool

    async def _aclose(self, body: "BaseException | None", limit: "float | None" = None) -> None:
        if self._closer is not None or self._shut == CLOSED:
            return
        self._closer = -1  # no thread: a task
        self._body = body
        failures: list[Failure] = []
        backend = _backend()
        try:
            with backend.shield():
                await self._drain_async(backend, self._budget(limit), failures)
        finally:
            self._closer = self._current = None
        cancelled, backend.cancelled = backend.cancelled, None
        try:
            if cancelled is not None and (body is None or isinstance(body, Exception)):
                for cleanup, error in failures:
                    name = "a cleanup" if cleanup is None else f"cleanup {cleanup.name}"
                    _closing.note(cancelled, f"{name} failed: {type(error).__name__}: {error}")
                raise cancelled
            _closing.settle(self, failures, body)
        finally:
            failures.clear()
            self._body = body = cancelled = None

    async def _drain_async(
        self, backend: "_Asyncio", budget: "Budget | None", failures: "list[Failure]"
    ) -> None:
        while True:
            while self._early or self._stack:
                await self._drain_once(backend, budget, failures)
            self._shut = CLOSED
            if not self._stack and not self._early:
                return
            self._shut = OPEN

    async def _drain_once(
        self, backend: "_Asyncio", budget: "Budget | None", failures: "list[Failure]"
    ) -> None:
        stack = self._early or self._stack
        try:
            cleanup, limit = stack.popitem()
        except KeyError:
            return
        if limit is None and budget is None and not cleanup._here and _is_async(cleanup):
            stack[cleanup] = None
            await backend.apart(cleanup, self._drain_plain(failures), HERE)
            return
        await self._astep(backend, cleanup, _allowed(limit, budget, len(self._stack)), limit, failures)

    async def _drain_plain(self, failures: "list[Failure]") -> None:
        """Run in a task of its own, as far as may be: making one costs more than most cleanups do."""
        inside = _backend()
        inside.inside = True
        while self._stack:
            cleanup, limit = self._stack.popitem()
            if cleanup._here:
                self._stack[cleanup] = limit
                return
            await self._astep(inside, cleanup, HERE if limit is None else limit, limit, failures)

    async def _astep(
        self,
        backend: "_Asyncio",
        cleanup: Cleanup,
        allowed: float,
        limit: "float | None",
        failures: "list[Failure]",
    ) -> None:
        self._current = cleanup
        outcome, text = "done", None
        start = clock()
        try:
            await backend.run(cleanup, allowed, threaded=limit is not None and limit != HERE)
        except BaseException as error:
            outcome, text = outcome_of(error), repr(error)
            failures.append((cleanup, without_us(error)))
        self._ran.append((cleanup.name, start, clock(), outcome, text, cleanup.nested))


class AsyncParallel(AsyncScope):
    """Cleanups that run together, as tasks; made by `AsyncScope.parallel`. Its ``with`` block only gathers.

    .. versionadded:: 0.1
    """

    __slots__ = ()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *exc: object) -> None:
        """Close nothing: the scope it came from does."""

    async def __aexit__(self, *exc: object) -> None:
        """Close nothing: the scope it came from does."""

    async def _drain_once(
        self, backend: "_Asyncio", budget: "Budget | None", failures: "list[Failure]"
    ) -> None:
        steps = []
        while self._stack:
            cleanup, limit = self._stack.popitem()
            steps.append((backend, cleanup, _allowed(limit, budget, 0), limit, failures))
        await backend.together(self._astep, steps)


def _allowed(limit: "float | None", budget: "Budget | None", following: int) -> float:
    """As `_closing.bound`: how many seconds; HERE: no limit."""
    if budget is None:
        return HERE if limit is None else limit
    if limit == HERE:
        return HERE
    share = budget.limit(following)
    return share if limit is None else min(share, limit)


def _backend() -> "_Asyncio":
    """Return how to wait here: trio through anyio, else asyncio."""
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            pass
        else:
            return _Trio()
    return _Asyncio()


class _Asyncio:
    """Waiting under asyncio; one per closing scope."""

    def __init__(self) -> None:
        self.cancelled: BaseException | None = None
        self.inside = False  # in a task that is not the closing one, and that nobody cancels

    def shield(self) -> "Any":
        # Against anyio's own cancellation, which would come again at every turn of the loop.
        anyio: Any = sys.modules.get("anyio")
        return _Nothing() if anyio is None else anyio.CancelScope(shield=True)

    async def run(self, cleanup: Cleanup, limit: float, *, threaded: bool) -> None:
        """Run one cleanup; raise what it raises."""
        if limit <= 0:
            raise _closing.too_late(cleanup, "was not begun: no time was left", "skipped")
        if isinstance(cleanup.nested, AsyncScope):
            result: Any = cleanup.nested._aclose(None, None if limit == HERE else limit)
            await result
            return
        if cleanup.nested is not None or (threaded and not _is_async(cleanup)):
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


class _Trio(_Asyncio):
    """Waiting under trio, in anyio's words: its shields hold, so everything runs in the closing task."""

    def shield(self) -> "Any":
        return _anyio().CancelScope(shield=True)

    async def apart(self, cleanup: Cleanup, awaitable: "Any", limit: float) -> None:
        with _anyio().CancelScope(shield=True, deadline=_anyio().current_time() + limit) as scope:
            await awaitable
        if scope.cancelled_caught:
            raise _closing.too_late(cleanup, f"did not end within {limit:.3g} s and was cancelled", "timeout")

    inline = apart

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


def _is_async(cleanup: Cleanup) -> bool:
    fn: Any = cleanup.func
    while hasattr(fn, "func"):
        fn = fn.func
    code = getattr(getattr(fn, "__func__", fn), "__code__", None)
    return code is not None and bool(code.co_flags & 0x80)  # CO_COROUTINE


def _forget(task: "asyncio.Task[Any]") -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # seen: or asyncio would log it
