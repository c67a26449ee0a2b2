"""What is known about the end of this process: whether it has begun, and how the program itself ended.

The interpreter tells no exit function which status will follow. Two traces mislead: `sys.last_exc` is set by
everything that shows a traceback (code, doctest, pytest, IPython), and a `SystemExit` may have been caught
long ago (argparse's, that of a thread). Only the exception that leaves the main module counts, and two facts
tell it from all others:

* An uncaught error is `sys.last_exc`; its traceback begins in the main module's frame, which nobody called
  and which has not come to its own end.
* The exception of a `sys.exit()` that ends the program is asked for its code by the interpreter, whose C code
  nobody has called then. So `sys.exit`, while it is observed, raises one that looks who asks.

What nobody tells: the code of ``raise SystemExit(3)`` and of the prompt's ``exit(3)``; and what a C program
that embeds Python returns. They count as 0, so that no failure is hidden.
"""

import sys
from _thread import get_native_id
from os import environ

from lastly._scope.reason import status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

# The code of the sys.exit() that has left the program; UNKNOWN while there is none.
UNKNOWN: "Any" = object()
code: "Any" = UNKNOWN

_plain_exit: "Any" = None
_plain_code: "Any" = SystemExit.code
_observers: "set[str]" = set()


def finalizing() -> bool:
    """Whether the interpreter has begun to end: it waits for threads, runs exit functions, or is further.

    Where `threading` is not loaded that is known only after the exit functions.
    """
    return sys.is_finalizing() or getattr(sys.modules.get("threading"), "_SHUTTING_DOWN", False)


def in_main_interpreter() -> bool:
    """Whether this is no subinterpreter (PEP 734): there Python runs no signal handlers."""
    import _thread

    if hasattr(_thread, "_is_main_interpreter"):  # from 3.13 on
        return bool(_thread._is_main_interpreter())  # threading asks so, too
    try:
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]  # typeshed has the new one
    except ImportError:
        return True
    return bool(interpreters.get_current() == interpreters.get_main())


def is_main(frame: "FrameType") -> bool:
    """Whether this is the frame of the program's main module, if nobody has called it."""
    module = frame.f_globals.get("__name__")
    return module == "runpy" or (module == "__main__" and frame.f_code.co_name == "<module>")


def ended_by() -> "BaseException | None":
    """Return the error or the SystemExit that has left the main module; None: none has, or nobody tells."""
    if code is not UNKNOWN:
        return SystemExit(code)
    error: BaseException | None = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    trace = None if error is None else error.__traceback__
    if trace is None or not is_main(frame := trace.tb_frame) or _returned(frame) or frame.f_back is not None:
        return None
    return None if _at_prompt() or _embedded() else error


def status_would_be_zero() -> bool:
    """Whether the program ends with status 0, as far as can be known at exit; in doubt it does."""
    error = ended_by()
    return error is None or (isinstance(error, SystemExit) and status_of(error.code) == 0)


def _returned(frame: "FrameType") -> bool:
    """Whether a frame that is over ended by a ``return``: then what it caught before is history."""
    from opcode import opname

    return opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN_")


def _at_prompt() -> bool:
    """Whether the interactive prompt had the last word: it goes on after errors, and its end is status 0.

    `sys.ps1` alone does not tell: until 3.12 `code.interact` leaves it behind.
    """
    if not hasattr(sys, "ps1"):
        return False
    return bool(
        sys.flags.inspect or "PYTHONINSPECT" in environ or not hasattr(sys.modules["__main__"], "__file__")
    )


def _embedded() -> bool:
    """Whether a C program called Python and decides on the status: it may go on after an error."""
    return not sys.orig_argv


# ── sys.exit ──────────────────────────────────────────────────────────────────────────────────────────────


class _Exit(SystemExit):
    """What `sys.exit` raises in the main thread."""

    @property
    def code(self) -> "Any":
        """Its code."""
        global code
        value = _plain_code.__get__(self)
        try:
            sys._getframe(1)  # the only way to know who asks
        except ValueError:  # nobody: the interpreter, which ends by this exception
            code = value
        return value

    @code.setter
    def code(self, value: object) -> None:
        _plain_code.__set__(self, value)

    def __reduce__(self) -> "tuple[object, ...]":
        return SystemExit, self.args, self.__dict__ or None


_Exit.__name__ = _Exit.__qualname__ = "SystemExit"
_Exit.__module__ = "builtins"
_Exit.__doc__ = SystemExit.__doc__


def observe_exit(who: str) -> None:
    """See from now on which `sys.exit()` ends the program; a second call by the same one does nothing."""
    global _plain_exit
    _observers.add(who)
    if _plain_exit is None:
        _plain_exit = sys.exit
        sys.exit = _observed_exit


def unobserve_exit(who: str) -> None:
    """Give `sys.exit` back after the last observer, unless somebody else has replaced it since."""
    global _plain_exit
    _observers.discard(who)
    if not _observers and sys.exit is _observed_exit:
        sys.exit = _plain_exit
        _plain_exit = None


def _observed_exit(status: object = None, /) -> "NoReturn":
    """Exit the interpreter by raising SystemExit(status)."""
    threading: Any = sys.modules.get("threading")
    kind: type[SystemExit] = _Exit
    # Not by get_ident(), of which gevent gives each greenlet one of its own.
    if threading is not None and get_native_id() != threading.main_thread().native_id:
        kind = SystemExit  # threading asks whether an exception's type *is* this
    if isinstance(status, SystemExit):
        raise status
    raise kind(*(status if isinstance(status, tuple) else () if status is None else (status,)))


def forget() -> None:
    """Know nothing: a forked child ends by itself."""
    global code
    code = UNKNOWN
