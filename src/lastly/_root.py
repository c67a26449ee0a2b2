"""The process's scope: closed at exit, with atexit's contract, and empty in a forked child."""

import atexit
import os
import sys

from lastly import _closing, _scope
from lastly._cleanup import Cleanup
from lastly._reason import ExitReason
from lastly._scope import CLOSED, OPEN, UNOPENED, Scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from lastly._report import Report

    F = TypeVar("F", bound=Callable[..., Any])

# Why the process ends, when somebody knows better than the interpreter: set by _signals and by an App.
reason: "ExitReason | None" = None


class Root(Scope):
    """The scope of the process. There is one: `lastly.defer` and its siblings are its methods."""

    __slots__ = ("_armed",)

    def __init__(self) -> None:
        super().__init__("root")
        self._shut = UNOPENED
        self._armed = False

    def _late(self, cleanup: Cleanup) -> None:
        if self._shut == CLOSED:
            super()._late(cleanup)
        else:
            self._open()

    def _open(self) -> None:
        """Ask to be closed at exit: at the first use, so that what atexit got before runs after us."""
        self._shut = OPEN
        if not self._armed:
            self._armed = True
            atexit.register(close_for_exit)

    def register(self, fn: "F", /, *args: "Any", **kwargs: "Any") -> "F":
        """Have ``fn(*args, **kwargs)`` run at exit; return `fn`: what `atexit.register` does.

        Newest first, twice if registered twice, usable as a decorator. Unlike with atexit, a function registered
        by a cleanup at exit runs too, and a failing one turns the exit status 0 into 1.
        """
        self.defer(fn, *args, **kwargs)
        return fn

    def unregister(self, fn: "Callable[..., Any]", /) -> None:
        """Forget every cleanup whose function is equal (``==``) to `fn`; nothing happens when there is none.

        What `atexit.unregister` does, and as slow: it looks at all. `Cleanup.detach` takes constant time.
        """
        for stack in (self._stack, self._early or {}):
            for cleanup in list(stack):
                func = cleanup.func
                if func is fn or func == fn:
                    cleanup.detach()

    def __del__(self) -> None:
        """Say nothing: it lives until the end."""


root = Root()
defer = root.defer
defer_early = root.defer_early
register = root.register
unregister = root.unregister


def close_for_exit() -> None:
    """Run the root scope's cleanups; print what failed as atexit does, and let the status tell."""
    failures = root._run_all(None if reason is None else reason.exception)
    if not failures:
        return
    status = 0
    for cleanup, error in failures:
        code = error.code if isinstance(error, SystemExit) else 1
        if isinstance(error, SystemExit) and (code is None or isinstance(code, int)):
            status = status or (code or 0)
        else:
            status = status or 1
            complain(cleanup, error)
    if status:
        from lastly import _finish

        _finish.exit_with_at_end(status)


def complain(cleanup: "Cleanup | None", error: BaseException) -> None:
    """Print a failure at exit: what atexit prints, with the cleanup's name. Never raises."""
    name = "(between two cleanups)" if cleanup is None else cleanup.name
    try:
        import traceback

        text = "".join(traceback.format_exception(error))
        print(f"Exception in cleanup {name}:\n{text}", end="", file=sys.stderr, flush=True)
    except Exception:
        try:
            os.write(2, f"Exception in cleanup {name}: {error!r}\n".encode(errors="backslashreplace"))
        except OSError:
            pass


def exit_reason() -> "ExitReason | None":
    """Return why the program, or the body of the scope that is closing, ends; None while nothing ends.

    A signal, an exception or an exit code. The code that ``sys.exit()`` was given is known inside scopes and once
    `lastly.install` or an `App` is there; otherwise the reason says only that the end was reached.

    .. versionadded:: 0.1
    """
    for scope in reversed(list(_closing.closing)):
        if scope is not root:
            return ExitReason.of(scope._body)
    if reason is not None:
        return reason
    if root._closer is None:
        return None
    return ExitReason.of(getattr(sys, "last_exc", None) or getattr(sys, "last_value", None))


def report() -> "Report":
    """Return what the process's scope has run so far, how long it took and how it ended: see `Scope.report`."""
    return root.report


def _in_child() -> None:
    global reason
    reason = None
    root._closer = None
    root._shut = UNOPENED
    _scope._scopes.add(root._ref)


os.register_at_fork(after_in_child=_in_child)
