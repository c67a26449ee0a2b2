"""Scope: a stack of cleanups that all run, newest first, when it closes.

No lock guards the stack. Every step that two threads might take at once is a single operation on the dict: a
cleanup is put in by one store, and taken out by popitem (to run), by del (to detach) or by del (to run
early); the thread that takes it out has it, so that it runs once. One race is left: a thread defers while
another finds the stack empty and closes. The closer sets the flag and *then* looks once more; the deferrer
stores and *then* looks at the flag. Whichever comes second sees the other, and a cleanup that came too late
is taken out again by its own thread (`ScopeClosed`) or has been run by the closer: never both, never neither.
"""

import _thread

from lastly._action import Action
from lastly._scope import closing
from lastly._scope.failures import raise_failures
from lastly._scope.handle import FUNCTION, Cleanup, checked_name
from lastly._scope.now import CLOSED, CLOSING, OPEN, now
from lastly._words import fork
from lastly._words.clock import seconds
from lastly._words.warn import warn
from lastly.errors import ScopeClosed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import timedelta
    from types import TracebackType
    from typing import Any, ParamSpec, Self, TypeVar
    from weakref import ref

    from lastly._action import AnyAction
    from lastly._durable.handle import Plan
    from lastly._scope.budget import Budget
    from lastly._scope.failures import Failure
    from lastly._scope.handle import Stack
    from lastly._scope.report import Report

    P = ParamSpec("P")
    T = TypeVar("T")
else:
    from _weakref import ref

_AS = "write {}(function, argument), without calling the function"
GUESTS = 1000  # how many cleanups from outside a closing scope accepts while it runs one of those: _takes


def in_child() -> "list[list[Cleanup]]":
    """Empty all scopes after a fork, and return what was in them: it is the parent's business."""
    found = []
    for scope in [each for reference in now.scopes if (each := reference()) is not None]:
        if scope._closer != _thread.get_ident():
            scope._closer = None  # that thread is not here
            if scope._shut == CLOSING:
                scope._shut = OPEN
        for stack in (scope._stack, scope._early):
            if stack:
                found.append(list(stack))
                stack.clear()
    now.closing.clear()
    now.deadline = None
    return found


def look(cleanup: Cleanup) -> None:
    """In a child whose fork Python has not seen: forget what is the parent's, keep what was just deferred."""
    if not fork.page[0]:
        stack = cleanup._stack
        stack.pop(cleanup, None)
        fork.look()
        stack[cleanup] = None


class Scope:
    """A stack of cleanups: all run, newest first, when it closes.

    Used as a context manager, or closed by `close`. A scope closes once; deferring to a closed one raises
    `ScopeClosed`, deferring while it closes (from a cleanup, say) works: it runs next. Any thread may defer;
    one that never stops is refused: while a cleanup runs that came from outside after closing began, 1,000
    more are taken from there.

    Args:
        name: what messages and reports call it.
        grace: seconds, or a timedelta, that closing may take in all; None: as long as it takes. With a
            grace each cleanup runs in a thread of its own that can be left behind when it hangs (see
            `Cleanup.within`, also for how to have one run in the closing thread). Half of the grace is
            reserved in equal parts.

    Raises:
        TypeError, ValueError: the name is not a string, or the grace is not a length of time.

    Warns:
        ResourceWarning: it was garbage-collected with cleanups pending.

    .. versionadded:: 0.1
    """

    __slots__ = (
        "__weakref__", "_begun", "_body", "_closer", "_current", "_early", "_guests", "_over", "_ran", "_ref",
        "_shut", "_stack", "_untimed", "grace", "name",
    )  # fmt: skip

    def __init__(self, name: "str | None" = None, *, grace: "float | timedelta | None" = None) -> None:
        self.name = None if name is None else checked_name(name, "Scope")
        self.grace = None if grace is None else seconds(grace, "grace")
        if grace is not None:
            from lastly._scope import threads  # noqa: F401  # not as late as when it closes
        self._stack: Stack = {}
        self._early: Stack | None = None
        self._shut = OPEN
        self._closer: int | None = None
        self._current: Cleanup | None = None  # what runs
        self._begun: Cleanup | None = None  # it has really been called
        self._body: BaseException | None = None
        self._over = False  # closed, and what failed has been raised
        self._ran: list[Any] = []
        self._untimed = self._guests = 0  # guests: those from outside while one of them ran
        self._ref = ref(self)
        if now.scopes:  # not for the first, the root scope: an import pays for nothing
            fork.arm()
        now.scopes.add(self._ref)

    # -- deferring ---------------------------------------------------------------------------------------

    def defer(self, fn: "Callable[P, object]", /, *args: "P.args", **kwargs: "P.kwargs") -> Cleanup:
        """Have ``fn(*args, **kwargs)`` run when the scope closes; return its handle.

        Deferred twice, it runs twice. As a decorator it leaves the handle in the function's place, which
        can be called like it. Deferring an action (`lastly.action`, `lastly.actions`) is durable: it is
        written down before this returns. An ``async def`` function is awaited, by `asyncio.run`; in a
        running event loop use `AsyncScope`.

        Raises:
            ScopeClosed: the scope has run its cleanups, or closes and takes no more (see `Scope`).
            NotRecorded: a durable cleanup could not be written down: do not create what it would undo.
            TypeError: not callable; or an action with arguments that it does not take or that are not JSON.

        .. versionadded:: 0.1
        """
        if type(fn) is not FUNCTION:
            if type(fn) is Action:
                return self._defer_durable(fn, args, kwargs, self._stack)
            if not callable(fn):
                raise TypeError(f"{fn!r} is not callable: {_AS.format('defer')}")
        cleanup = Cleanup()
        cleanup.func = fn
        cleanup.args = args
        cleanup._keywords = kwargs or None
        cleanup._stack = stack = self._stack
        stack[cleanup] = None
        if not fork.page[self._shut]:
            self._late(cleanup)
        return cleanup

    def defer_early(self, fn: "Callable[P, object]", /, *args: "P.args", **kwargs: "P.kwargs") -> Cleanup:
        """Have a request to stop run before all other cleanups; return its handle.

        On the root scope that is before CPython waits for threads and shuts executors down, which it does
        *before* anything else runs at exit: ``defer_early(stop.set)`` ends a worker thread that would
        otherwise be waited for without end, ``defer_early(scheduler.shutdown)`` finds the scheduler's
        executors alive. An action is durable, as ever.

        Raises:
            ScopeClosed, NotRecorded, TypeError: as `defer`.

        .. versionadded:: 0.1
        """
        if self._closer is not None:
            return self.defer(fn, *args, **kwargs)  # next is as early as it can be
        if self._early is None:
            self._early = {}
        if type(fn) is Action:
            return self._defer_durable(fn, args, kwargs, self._early)
        if not callable(fn):
            raise TypeError(f"{fn!r} is not callable: {_AS.format('defer_early')}")
        cleanup = Cleanup()
        cleanup.func, cleanup.args, cleanup._keywords = fn, args, kwargs or None
        cleanup._stack = self._early
        self._early[cleanup] = None
        if not fork.page[self._shut]:
            self._late(cleanup)
        return cleanup

    def enter(self, manager: "AbstractContextManager[T]") -> "T":
        """Enter a context manager and leave it when the scope closes; return what entering gives.

        It is left with the exception that ends the scope's body, as by ``with``, so that it rolls back, say,
        or throws away what is half written. That exception goes on: a manager cannot swallow it here, and
        what it raises is a failed cleanup. Other failed cleanups are not the body's, and it is not told of
        them. Entering a `Scope` nests it: it closes as one cleanup of this one, within the time that this one
        has, and what is entered on it is told of the same exception. What entering raises comes out, and
        nothing is deferred.

        Raises:
            ScopeClosed: as `defer`; what was entered already is left again.
            TypeError: not a context manager.
        """
        kind = type(manager)
        try:
            enter, leave = kind.__enter__, kind.__exit__
        except AttributeError:
            raise TypeError(f"enter() takes a context manager, not {manager!r}") from None
        if self._shut == CLOSED:
            raise ScopeClosed(f"{self._title} is closed: nothing was entered")
        value = enter(manager)
        entered: object = manager
        try:
            if isinstance(entered, Scope):
                self._nest(entered, f"{kind.__qualname__}.__exit__")
            else:
                from lastly._scope.entered import Leave

                cleanup = self.defer(Leave(self._ref, manager, leave)).named(f"{kind.__qualname__}.__exit__")
                cleanup._here = True
        except ScopeClosed as error:
            leave(manager, type(error), error, error.__traceback__)
            raise
        return value

    def _nest(self, inner: "Scope", name: str) -> Cleanup:
        """Have another scope close as one cleanup of this one."""
        from lastly._scope.entered import Close

        cleanup = self.defer(Close(self._ref, inner)).named(name)
        cleanup.nested = inner
        return cleanup

    def parallel(self, name: "str | None" = None, *, grace: "float | timedelta | None" = None) -> "Parallel":
        """Return a scope whose cleanups run at the same time, each in a thread.

        It closes as one cleanup of this scope: after what is deferred to this scope later, before what was
        deferred earlier. Its ``with`` block only gathers: leaving it closes nothing. At most 64 run at a
        time. A second call gives another one.

        Args:
            name: what messages and reports call it.
            grace: seconds (or a timedelta) for all of them together; None: as long as this scope has.
        """
        from lastly._scope import parallel  # noqa: F401  # not as late as when it closes

        pool = Parallel(name, grace=grace)
        self._nest(pool, name or "parallel")
        return pool

    def planned(self, action: "Action[P, Any]", /, *args: "P.args", **kwargs: "P.kwargs") -> "Plan":
        """Write an action down before its resource exists: ``with scope.planned(…) as plan`` creates it.

        Left by an exception, the block runs the undo at once; left normally, the undo stays for the scope's
        end. ``plan.confirm(id=…)`` writes down what is known when the thing exists: the action is given it
        when it has a keyword-only parameter ``confirmed``. ``plan.token`` is a text to mark the thing with.

        Raises:
            ScopeClosed, NotRecorded: as `defer`; the resource must not be created.
            TypeError: not an action; or its arguments are not JSON.
        """
        from lastly._durable import seam

        return seam.planned(self, action, args, kwargs)

    def detach_all(self) -> int:
        """Forget all cleanups without running them; return how many there were.

        A second call finds none and returns 0. The scope stays open.
        """
        return sum(cleanup.detach() for stack in (self._early or {}, self._stack) for cleanup in list(stack))

    # -- closing -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Run all cleanups, newest first; a second call, or one by a cleanup, does nothing.

        A call in another thread while it closes does nothing either, and does not wait. Where no function can
        be called at all, at the recursion limit or without memory, it raises that error; the scope stays
        open, and can be closed again.

        Raises:
            CleanupFailed: cleanups failed, after all of them were tried.
        """
        self._close(None)

    def __enter__(self) -> "Self":
        if self._shut == CLOSED:
            raise ScopeClosed(f"{self._title} is closed: make a new one")
        return self

    def __exit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        self._close(error)

    def _close(self, body: "BaseException | None") -> None:
        failures = self._run_all(body, raises=True)
        try:
            raise_failures(self, failures, body)
        finally:
            failures.clear()  # they hold tracebacks, which hold this frame
            self._body = body = None
            self._over = self._shut == CLOSED
            now.let_out(self)

    def _close_inside(self, body: "BaseException | None", limit: "float | None" = None) -> None:
        """Close as a cleanup of another scope, whose body ended by `body`: what fails here fails there."""
        failures = self._run_all(body, limit, raises=True)
        try:
            raise_failures(self, failures, None)
        finally:
            failures.clear()
            self._body = body = None
            self._over = self._shut == CLOSED

    def _run_all(
        self, body: "BaseException | None" = None, limit: "float | None" = None, *, raises: bool = False
    ) -> "list[Failure]":
        """Run everything; return what failed. The caller that raises it says when the scope is over."""
        failures: list[Failure] = []
        fork.look()
        me = _thread.get_ident()
        if self._closer is not None or self._shut == CLOSED:
            return failures
        self._closer = me
        try:
            self._body = body
            closing.run_rounds(self, failures, limit)
        finally:
            # First what needs no call: at the recursion limit every call fails.
            self._closer = self._current = self._begun = None
            if self in now.closing:
                del now.closing[self]
            closing.end(self)
            if self._shut == CLOSED:
                now.scopes.discard(self._ref)
        try:
            if not raises:
                self._over = self._shut == CLOSED
            now.let_out(self)
        except BaseException as error:
            failures.append((None, error))
        return failures

    def _drain(self, budget: "Budget | None", failures: "list[Failure]") -> None:
        closing.drain(self, budget, failures)

    def _late(self, cleanup: Cleanup) -> None:
        """Deal with a cleanup that was deferred to a scope which is not open, or not this process's."""
        look(cleanup)
        state = self._shut
        if state == OPEN or (state == CLOSING and self._takes(cleanup)):
            return
        if cleanup.detach():  # else the closer took it, and runs it
            raise self._refusal(cleanup.name)

    def _takes(self, cleanup: Cleanup) -> bool:
        """Whether a closing scope runs what has just been deferred; False: it would never end.

        What a cleanup defers is always run. So is what others defer while a cleanup runs that was here
        before: the jobs, say, that an executor's exit waits for. Only what comes while one of *these* runs
        can go on for ever, and would keep all that is older from its turn.
        """
        guest = self._closer != _thread.get_ident() and self._ref not in now.inside()
        again = self._current is not None and self._current._guest
        if guest and again:
            if self._guests >= GUESTS:
                return False
            self._guests += 1  # two threads may count one: no matter
        cleanup._guest = guest or again
        return True

    def _refusal(self, name: str) -> ScopeClosed:
        what = "closed" if self._shut == CLOSED else f"closing, and has taken {GUESTS:,} from others"
        return ScopeClosed(f"{self._title} is {what}: {name} was not deferred and will not run")

    def _defer_durable(self, action: "AnyAction", args: "Any", kwargs: "Any", stack: "Stack") -> Cleanup:
        if self._shut == CLOSED:
            raise self._refusal(action.name)
        from lastly._durable import seam

        cleanup = seam.defer(self, stack, action, args, kwargs)
        if not fork.page[self._shut]:
            self._late(cleanup)
        return cleanup

    # -- looking -----------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it has run its cleanups."""
        return self._shut == CLOSED

    def report(self) -> "Report":
        """Return what has run so far, in order, how long it took and how it ended; and what is pending.

        Each call returns a new one, which does not change any more. `lastly.report` is that of the process.
        """
        from lastly._scope.report import Report

        return Report(self.name, self._ran, self._untimed, [c.name for c in self._pending()])

    def _pending(self) -> "list[Cleanup]":
        return [*reversed(self._early or {}), *reversed(self._stack)]

    @property
    def _title(self) -> str:
        return f"scope {self.name!r}" if self.name else "the scope"

    @property
    def _state(self) -> str:
        return "closed" if self._shut == CLOSED else "open" if self._closer is None else "closing"

    def __len__(self) -> int:
        return len(self._stack) + len(self._early or ())

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        ran = len(self._ran) + self._untimed
        return f"<{type(self).__name__}{name} {self._state}: {len(self)} pending, {ran} run>"

    def __del__(self) -> None:
        try:
            now.scopes.discard(self._ref)
            pending = self._stack or self._early
        except AttributeError:  # __init__ did not come that far
            return
        if pending and self._shut != CLOSED:
            names = ", ".join(c.name for c in self._pending()[:3])
            warn(
                f"{self!r} was never closed; not run: {names}{' …' if len(self) > 3 else ''}",
                ResourceWarning,
                self,
            )


def nest(outer: Scope, inner: Scope, name: str) -> Cleanup:
    """Have a scope close as one cleanup of another one, and be given its time."""
    return outer._nest(inner, name)


# What runs cleanups: a signal must not cut it short.
RUNNING = (Scope.__exit__, Scope.close, Scope._close, Scope._close_inside, Scope._run_all)


class Parallel(Scope):
    """Cleanups that run together; made by `Scope.parallel`.

    Closes with the scope that it came from, or by `close`. Its ``with`` block only gathers.

    .. versionadded:: 0.1
    """

    __slots__ = ()

    def __exit__(self, *exc: object) -> None:
        """Close nothing: the scope it came from does."""

    def _drain(self, budget: "Budget | None", failures: "list[Failure]") -> None:
        from lastly._scope import parallel

        parallel.drain(self, budget, failures)
