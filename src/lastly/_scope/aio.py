"""AsyncScope: the same stack, closed by a task of asyncio or trio.

Shielding. What cancels the body must not cancel the cleanups that follow from it. trio and anyio have
shielded cancel scopes; asyncio has nothing of the kind, and cancels the *future that the task waits for*.
So in asyncio a coroutine runs in a task of its own, and the closing task waits for it in a way that a
cancellation interrupts but does not break (`asyncio.wait`), remembers the cancellation, and waits on. In
the end it is raised: swallowing it would leave the program running.

Two things do not bear a task of their own. A context manager has to be left in the task that entered it,
and inside the same cancel scopes (task groups, asyncio.timeout): so what `enter` entered is left in the
closing task, unshielded, as `async with` would; a cancellation that reaches it is raised in the end. And a
plain function runs in the event loop's thread, unless it has a limit of its own by `Cleanup.within`: most
of what one calls there (``writer.close``, ``event.set``) belongs to that thread. So that the loop turns while
children end, what ends them (`actions.kill`, and `actions.run`) runs in a thread as well.
"""

from lastly._scope import closing
from lastly._scope.backends import backend, is_async
from lastly._scope.budget import budget_of, seconds_for
from lastly._scope.closing import clock
from lastly._scope.failures import note, outcome_of, raise_failures, without_us
from lastly._scope.handle import COROUTINE, FUNCTION, UNLIMITED, Cleanup
from lastly._scope.now import CLOSED, CLOSING, OPEN, callers, now
from lastly._scope.scope import Scope
from lastly._words import fork
from lastly._words.warn import message_of, repr_of
from lastly.errors import ScopeClosed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from datetime import timedelta
    from types import TracebackType
    from typing import Any, Self, TypeVar

    from lastly._scope.backends import Asyncio
    from lastly._scope.budget import Budget
    from lastly._scope.failures import Failure

    T = TypeVar("T")


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
        """Enter a context manager, asynchronous or plain; leave it when the scope closes, in its task.

        As `Scope.enter`: it is told of the exception that ends the body. An asynchronous one is not shielded,
        for it may be a task group. Where it was itself what cancelled the body, as `asyncio.timeout` and task
        groups do, the exception that it puts in the cancellation's place goes on.
        """
        kind: Any = type(manager)
        if not hasattr(kind, "__aenter__"):
            plain: Any = manager
            value: T = Scope.enter(self, plain)
            return value
        if self._shut == CLOSED:
            raise ScopeClosed(f"{self._title} is closed: nothing was entered")
        value = await kind.__aenter__(manager)
        entered: object = manager
        name = f"{kind.__qualname__}.__aexit__"
        try:
            if isinstance(entered, AsyncScope):
                cleanup = self._nest(entered, name)
            else:
                from lastly._scope.entered import LeaveAsync

                cleanup = self.defer(LeaveAsync(self._ref, manager, kind.__aexit__)).named(name)
        except ScopeClosed as error:
            await kind.__aexit__(manager, type(error), error, error.__traceback__)
            raise
        cleanup._here = True
        return value

    def parallel(  # type: ignore[override]  # the sibling for coroutines
        self, name: "str | None" = None, *, grace: "float | timedelta | None" = None
    ) -> "AsyncParallel":
        """Return a scope whose cleanups run at the same time, as tasks; see `Scope.parallel`.

        What has to be left in the task that entered it, a task group or a timeout, is not for there: enter it
        into this scope.
        """
        pool = AsyncParallel(name, grace=grace)
        self._nest(pool, name or "parallel")
        return pool

    async def _aclose(
        self, body: "BaseException | None", limit: "float | None" = None, *, inside: bool = False
    ) -> None:
        """Close; `inside`: as a cleanup of another scope, whose body has ended by `body`."""
        fork.look()
        if self._closer is not None or self._shut == CLOSED:
            return
        self._closer = -1  # no thread: a task
        self._body = body
        failures: list[Failure] = []
        waiting = backend()
        outside = callers.get()
        try:
            closing.begin(self, 0)  # no thread: a signal does not wait for it, the loop does
            callers.set((*outside, self._ref))
            await self._drain_async(waiting, budget_of(self, limit), failures)
        except GeneratorExit:  # the coroutine is not run any more
            raise
        except BaseException as error:  # not a cleanup's: no memory, say
            failures.append((None, error))
        finally:
            # First what needs no call: at the recursion limit every call fails.
            self._closer = self._current = None
            if self in now.closing:
                del now.closing[self]
            if self._shut != CLOSED:
                self._shut = OPEN
            callers.set(outside)
            closing.end(self)
        ending = None if inside else body
        if (answer := self._body) is not body:  # what cancelled the body has put this in its place
            ending = answer
        cancelled, waiting.cancelled = waiting.cancelled, None
        try:
            if cancelled is not None and (ending is None or isinstance(ending, Exception)):
                for cleanup, failed in failures:
                    name = "a cleanup" if cleanup is None else f"cleanup {cleanup.name}"
                    note(cancelled, f"{name} failed: {message_of(failed)}", again=True)
                raise cancelled
            raise_failures(self, failures, ending)
            if answer is not None and answer is not body:
                raise answer
        finally:
            failures.clear()
            self._body = body = cancelled = ending = answer = None

    def _close_inside(self, body: "BaseException | None", limit: "float | None" = None) -> "Any":
        return self._aclose(body, limit, inside=True)

    async def _drain_async(
        self, waiting: "Asyncio", budget: "Budget | None", failures: "list[Failure]"
    ) -> None:
        while True:
            self._shut = CLOSING
            while self._early or self._stack:
                with waiting.shield():
                    while (self._early or self._stack) and not self._next_is_here():
                        await self._drain_once(waiting, budget, failures)
                if self._next_is_here():
                    await self._drain_once(waiting, budget, failures)
            self._shut = CLOSED
            if not self._stack and not self._early:
                return

    async def _drain_once(
        self, waiting: "Asyncio", budget: "Budget | None", failures: "list[Failure]"
    ) -> None:
        stack = self._early or self._stack
        try:
            cleanup, limit = stack.popitem()
        except KeyError:
            return
        plain = stack is self._stack and limit is None and budget is None and not cleanup._here
        if plain and is_async(cleanup):
            stack[cleanup] = None
            await waiting.apart(cleanup, self._drain_plain(failures), UNLIMITED)
            return
        try:
            await self._astep(waiting, cleanup, seconds_for(limit, budget, len(self)), limit, failures)
        except Exception as error:  # at the recursion limit not even the step can be made
            failures.append((cleanup, without_us(error)))

    def _next_is_here(self) -> bool:
        """Whether the next one must be left in the task, and the cancel scopes, that it was entered in."""
        return not self._early and bool(self._stack) and next(reversed(self._stack))._here

    async def _drain_plain(self, failures: "list[Failure]") -> None:
        """Run in a task of its own, as far as may be: making one costs more than most cleanups do."""
        stack, ran = self._stack, self._ran.append
        many = len(stack) > closing.TIMED
        before = clock()
        while stack:
            cleanup, limit = stack.popitem()
            fn = cleanup.func
            plain = type(fn) is FUNCTION  # managers, scopes and actions are no functions: no need to ask
            if limit is not None or not (plain or _may_run_here(cleanup)):
                if cleanup._here:
                    stack[cleanup] = limit
                    return
                inside = backend()
                inside.inside = True
                await self._astep(inside, cleanup, UNLIMITED if limit is None else limit, limit, failures)
                before = clock()
                continue
            self._current = cleanup
            try:
                # As in closing.py: calling the handle takes longer.
                result = fn(*cleanup.args) if cleanup._keywords is None else cleanup()
                if result is not None and (type(result) is COROUTINE or hasattr(result, "__await__")):
                    await result
            except BaseException as error:
                failures.append((cleanup, without_us(error)))
                if not many:
                    closing.note(self, cleanup, before, outcome_of(error), repr_of(error))
                    before = clock()
                    continue
            if many:
                self._untimed += 1
                continue
            after = clock()
            if plain:
                ran((cleanup._name or fn, before, after))
            else:
                ran(closing.ended_well(cleanup, before, after))
            before = after

    async def _astep(
        self,
        waiting: "Asyncio",
        cleanup: Cleanup,
        allowed: float,
        limit: "float | None",
        failures: "list[Failure]",
    ) -> None:
        self._current = cleanup
        outcome, text = "done", None
        start = clock()
        told = self._body
        requests = waiting.requests()
        try:
            threaded = limit != UNLIMITED and (limit is not None or cleanup.blocks)
            await waiting.run(self, cleanup, allowed, threaded=threaded)
        except BaseException as error:
            outcome, text = outcome_of(error), repr_of(error)
            if cleanup._here and waiting.is_cancellation(error):
                waiting.cancelled = waiting.cancelled or error
            elif told is not None and waiting.is_cancellation(told) and waiting.requests() < requests:
                self._body = error  # it had cancelled the body, and has taken that back
            else:
                failures.append((cleanup, without_us(error)))
        closing.note(self, cleanup, start, outcome, text)


def _may_run_here(cleanup: Cleanup) -> bool:
    """Whether a cleanup needs no more than to be called and awaited."""
    return not (cleanup._here or cleanup.blocks) and cleanup.nested is None


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
        self, waiting: "Asyncio", budget: "Budget | None", failures: "list[Failure]"
    ) -> None:
        if self._early:
            await super()._drain_once(waiting, budget, failures)
            return
        steps = []
        while self._stack:
            cleanup, limit = self._stack.popitem()
            steps.append((waiting, cleanup, seconds_for(limit, budget, 0), limit, failures))
        await waiting.together(self._astep, steps)
