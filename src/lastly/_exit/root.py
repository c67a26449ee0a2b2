"""The process's scope: closed at exit, with atexit's contract, and empty in a forked child."""

import atexit
import os
import sys

from lastly._scope import closing
from lastly._scope.budget import budget_of
from lastly._scope.failures import complain, named
from lastly._scope.handle import Cleanup
from lastly._scope.now import NO_LATE_THREADS, OPEN, SOON, UNOPENED, now
from lastly._scope.reason import ExitReason, status_of
from lastly._scope.scope import Scope, in_child, look
from lastly._words import fork
from lastly._words.warn import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import ParamSpec, TypeVar

    from lastly._scope.failures import Failure
    from lastly._scope.handle import Stack
    from lastly._scope.report import Report

    P = ParamSpec("P")
    T = TypeVar("T")


class Root(Scope):
    """The scope of the process. There is one: `lastly.defer` and its siblings are its methods."""

    __slots__ = ("_armed", "_before", "_grace", "_used")

    def __init__(self) -> None:
        super().__init__("root")
        self._reset()
        self._armed = False
        self._used = 0.0  # seconds of the grace that were needed for that

    @property
    def grace(self) -> "float | None":
        """The process's total for all cleanups at exit."""
        return self._grace

    @grace.setter
    def grace(self, value: "float | None") -> None:
        self._grace = value
        if value is not None:
            from lastly._scope import threads  # noqa: F401  # not as late as at exit
        if value is not None and NO_LATE_THREADS:
            arm_early()

    def _late(self, cleanup: Cleanup) -> None:
        look(cleanup)
        if self._shut == UNOPENED:
            self._open()
        else:
            super()._late(cleanup)

    def _open(self) -> None:
        """Ask to be closed at exit: at the first use, so that what atexit got before runs after us."""
        from lastly._exit import last, state  # noqa: F401  # not as late as when something has failed

        self._shut = OPEN
        if not self._armed:
            self._armed = True
            fork.arm()
            atexit.register(_at_exit)
            # A failed cleanup turns 0 into 1, and leaves 3 alone; the interpreter does not tell which it is.
            state.observe_exit("root")
            if SOON:
                state.subscribe(signal=_prepare_soon)
            if NO_LATE_THREADS and os.isatty(2):
                arm_early()  # for the thread of progress.py
        if not state.FORKING.isdisjoint(sys.modules):
            from lastly._exit import pools

            pools.at_end(close_for_exit)

    def defer_early(self, fn: "Callable[P, object]", /, *args: "P.args", **kwargs: "P.kwargs") -> Cleanup:
        arm_early()
        return super().defer_early(fn, *args, **kwargs)

    defer_early.__doc__ = Scope.defer_early.__doc__

    def register(self, fn: "Callable[P, T]", /, *args: "P.args", **kwargs: "P.kwargs") -> "Callable[P, T]":
        """Have ``fn(*args, **kwargs)`` run at exit; return `fn`: what `atexit.register` does.

        Newest first, twice if registered twice, usable as a decorator. Unlike with atexit, a function
        registered by a cleanup at exit runs too, and a failing one turns the exit status 0 into 1.

        Raises:
            ScopeClosed, NotRecorded, TypeError: as `defer`.

        .. versionadded:: 0.1
        """
        self.defer(fn, *args, **kwargs)
        return fn

    def unregister(self, fn: "Callable[..., object]", /) -> None:
        """Forget every cleanup whose function is equal (``==``) to `fn`; nothing happens when there is none.

        What `atexit.unregister` does, and as slow: it looks at all. `Cleanup.detach` takes constant time.
        Unlike with atexit since Python 3.14, what a cleanup forgets at exit does not run any more.

        .. versionadded:: 0.1
        """
        for stack in (self._stack, self._early or {}):
            for cleanup in list(stack):
                func = cleanup.func
                # Each Python's atexit asks one of the two first for its __eq__.
                if func is fn or ((fn == func) if _ASKS_GIVEN else (func == fn)):
                    cleanup.detach()

    def _run_early(self) -> None:
        """Run the requests to stop, and have threads ready for it."""
        if self._early:
            self._prepare()
        now.closing[self] = 0
        began = closing.clock()
        try:
            budget = budget_of(self, None)
            while self._early:
                try:
                    closing.drain_early(self, budget, self._before)
                except Exception as error:
                    self._before.append((None, error))
                    break  # what is left runs with the rest
                except BaseException as error:  # an interrupt between two
                    self._before.append((None, error))
        finally:
            now.closing.pop(self, None)
            self._used = closing.clock() - began

    def _prepare(self) -> None:
        """Start the threads that closing the root scope may need."""
        graced = self.grace is not None or now.deadline is not None
        count = 0
        # Copied in one step, see now.inside.
        for cleanup, limit in [*self._stack.copy().items(), *(self._early or {}).copy().items()]:
            count += graced or limit is not None
            count += 0 if cleanup.nested is None else len(cleanup.nested)
        if count:
            from lastly._scope import threads

            threads.reserve(count)

    def _expect(self, stack: "Stack") -> None:
        """Be prepared for a cleanup with a limit."""
        from lastly._scope import threads  # noqa: F401  # not as late as when it runs

        if NO_LATE_THREADS:
            arm_early()
        if SOON and stack is self._stack:
            self._prepare()

    def _reset(self) -> None:
        """Be as if nothing had been deferred yet."""
        self._closer = None
        self._shut = UNOPENED
        self._over = False
        self._before: list[Failure] = []  # what failed before the threads were joined
        now.scopes.add(self._ref)

    def __del__(self) -> None:
        """Say nothing: it lives until the end."""


_ASKS_GIVEN = sys.version_info >= (3, 14)  # atexit.unregister asks given == registered

root = now.outermost = Root()
defer = root.defer
defer_early = root.defer_early
register = root.register
unregister = root.unregister


def arm_early() -> None:
    """Have early cleanups run in time, before CPython waits for threads; a second call does nothing."""
    from lastly._exit import early

    early.arm(before_join)


def before_join() -> None:
    """Run what must run before CPython waits for threads, and start the threads that may be needed later."""
    from lastly._exit import state

    fork.look()
    state.tell_ending(begun=True)
    root._run_early()
    if NO_LATE_THREADS:
        watch()
    root._prepare()


def _prepare_soon(_signum: int, deadline: "float | None") -> None:
    """Be prepared when the first signal has come: later no thread can be started."""
    watch()
    if deadline is not None:
        root._prepare()


now.subscribe(limit_set=root._expect)


def watch() -> None:
    """Start the thread that says what closes, to be there when the root scope closes."""
    if len(root) and os.isatty(2):
        from lastly._scope import progress

        progress.stay()


def _at_exit() -> None:
    from lastly._exit import state

    close_for_exit()
    if not state.end.exiting:  # else it has been said where the program ended
        _tell_left_open()


def _tell_left_open() -> None:
    """Say which scopes stay open when the program has ended in the middle of their blocks.

    C code that reports a SystemExit ends the process there, below what called it: a slot of Qt's, a callback
    of GLib's. Python code that calls the exit functions itself (multiprocessing's) is not meant.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("lastly."):
        frame = frame.f_back
    if frame is None or "_run_exitfuncs" in frame.f_code.co_names or not (left := closing.left_open(root)):
        return
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"
    say(
        f"the program ended inside a call of C code ({place}); not closed: {', '.join(left)}; "
        "leave that call first (in Qt QCoreApplication.exit()), then exit"
    )


def close_for_exit(limit: "float | None" = None) -> None:
    """Run the root scope's cleanups; print what failed as atexit does, and let the status tell.

    A second call does nothing: a server's hook may close the scope before atexit comes to it.

    Args:
        limit: seconds for all of them together, in addition to the scope's own grace; None: no limit.
    """
    from lastly._exit import state

    fork.look()
    state.tell_ending(begun=True)
    reason = state.end.reason
    if reason is not None and reason.signal:
        _end_children_of_loops()
    zero = state.status_would_be_zero()
    if root.grace is not None and root._used:
        left = max(root.grace - root._used, 0.0)
        limit = left if limit is None else min(limit, left)
    if threads := sys.modules.get("lastly._scope.threads"):
        threads.stay()
    failures = root._before + closing.run_all(root, None if reason is None else reason.exception, limit)
    root._before = []
    if not failures:
        return
    status = 0
    for cleanup, error in failures:
        code = error.code if isinstance(error, SystemExit) else 1
        if isinstance(error, SystemExit) and (code is None or isinstance(code, int)):
            status = status or status_of(code)
        else:
            status = status or 1
            complain(named(cleanup), error)
    if status and zero:
        from lastly._exit import last

        last.exit_with_at_end(status)


def _end_children_of_loops() -> None:
    try:
        from lastly._exit import loop_children
    except Exception:  # no descriptor is left to import it with: the cleanups matter more
        return
    loop_children.end_with_program()


def describe() -> str:
    """Say what is running, or waited for, and what is left, in a few words; in any thread."""
    from lastly._scope import progress

    joins = sys.modules.get("lastly._exit.joins")
    return progress.describe(None if joins is None else joins.describe)


def exit_reason() -> "ExitReason | None":
    """Return why the program, or the body of the scope that is closing, ends; None while nothing ends.

    A signal, an exception or an exit code. At exit it is what has left the main module; an exception that was
    caught before does not count. The code is known when it came from ``sys.exit()``, called after the first
    cleanup was deferred; otherwise (``raise SystemExit(3)``, a C program that embeds Python) the reason says
    only that the end was reached.

    .. versionadded:: 0.1
    """
    for scope in reversed(list(now.closing)):
        if scope is not root:
            return ExitReason.of(closing.body_of(scope))
    from lastly._exit import state

    if state.end.reason is not None:
        return state.end.reason
    if root._closer is None and root not in now.closing:
        return None
    return ExitReason.of(state.ended_by())


def report() -> "Report":
    """Return what has run so far at the end of the process: as `Scope.report`, for the process's own scope.

    .. versionadded:: 0.1
    """
    return root.report()


# What a forked child found in its parent's scopes. Kept for ever: dropping it might run finalizers, which
# are the parent's business too.
_parents: "list[object]" = []


def _in_child() -> None:
    """Empty all scopes after a fork: what is in them is the parent's. The handles run nothing either."""
    _parents.extend(in_child())
    for name in ("lastly._scope.threads", "lastly._scope.progress"):
        if module := sys.modules.get(name):
            module.forget()
    root._reset()


fork.in_child(_in_child)
