"""What is known about the end of this process: which signal ends it, by when, how the program itself ended.

Of a signal everything is in `end`. The handler, the threads that look after it and the exit functions share
it. Code that wants to hear of the end subscribes.

The interpreter tells no exit function which status will follow. Two traces mislead: `sys.last_exc` is set by
everything that shows a traceback (code, doctest, pytest, IPython), and a `SystemExit` may have been caught
long ago (argparse's, that of a thread). Only the exception that leaves the main module counts, and two facts
tell it from all others:

* An uncaught error is `sys.last_exc`; its traceback begins in the main module's frame, which no other called
  and which has not come to its own end.
* The exception of a `sys.exit()` that ends the program is asked for its code by the interpreter, whose C code
  nobody has called then. So `sys.exit`, while it is observed, raises an exception whose `code` looks at its
  caller.

What cannot be known: the code of ``raise SystemExit(3)`` and of the prompt's ``exit(3)``; and what a C
program that embeds Python returns. They count as 0, so that no failure is hidden.
"""

import sys
from _thread import get_native_id
from os import environ

from lastly._scope.now import now
from lastly._scope.reason import ExitReason, status_of
from lastly._words import fork
from lastly._words.pythons import getpid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn

    from lastly._exit.die import Status
    from lastly._exit.joins import Patience
    from lastly.errors import CaughtSignal

# Libraries whose worker processes end by `os._exit`: see pools.py.
FORKING = frozenset(("multiprocessing", "multiprocess", "billiard", "rq"))
# What is done with a signal that a server may hold back: see hold.py.
NOT_ASKED, WAITS, GOES_ON = 0, 1, 2
# Why the signal comes once more, sent by ourselves: to be raised now, or to see what became of it.
RAISE, LOOK = 1, 2

# The code of the sys.exit() that has left the program; UNKNOWN while there is none.
UNKNOWN: "Any" = object()
code: "Any" = UNKNOWN

_plain_exit: "Any" = None
_plain_code: "Any" = SystemExit.code
_observers: "set[str]" = set()


class End:
    """The facts about a signal that ends this process. There is one of it; a forked child knows nothing."""

    def __init__(self) -> None:
        self.handler: object = None  # of all the signals that are installed
        self.status: Status = "signal"  # die of it; "code": exit with 128 + number
        self.forget()

    def forget(self) -> None:
        """Know nothing: nothing is installed, and no signal came."""
        self.begun = False  # the first signal came and was not answered, or the root scope began to close
        self.reason: ExitReason | None = None  # when the program knows better than the interpreter
        self.previous: dict[int, object] = {}  # what to give back
        self.grace: float | None = None
        self.bottom: FrameType | None = None  # of the stack that called install()
        self.signum = 0  # the signal that this process ends with; 0: none came
        self.handled = 0  # a SIGINT that the program caught by its name
        self.again = 0  # RAISE or LOOK: the signal is on its way once more, sent by ourselves
        self.tries = 0  # how often it was swallowed
        self.due = False  # to be raised when the scope has closed
        self.held = NOT_ASKED
        self.count = self.presses = 0
        self.first_press = 0.0
        self.deadline: float | None = None
        self.driving = self.exiting = self.dying = False
        self.inside = 0  # exit functions run inside others that wait
        self.looking = 0  # threads of ours that look after the signal
        self.waits = self.alone = False  # the main thread waits for others; no thread can look for that
        self.patience: Patience | None = None  # with such waits; one for each signal
        self.pid = getpid()  # last: until then a signal is not this process's


end = End()


# ── who wants to hear of it ──────────────────────────────────────────────────────────────────────────────

_hears: "dict[str, list[Callable[..., object]]]" = {}


def subscribe(
    *,
    ending: "Callable[[], object] | None" = None,
    signal: "Callable[[int, float | None], object] | None" = None,
    raising: "Callable[[CaughtSignal], object] | None" = None,
    answered: "Callable[[], object] | None" = None,
    hold: "Callable[[], bool] | None" = None,
) -> None:
    """Hear of the end from now on; a second call with the same function does nothing.

    All are called in the signal handler, too: quick, without locks, and prepared to be called again.

    Args:
        ending: the process ends, or takes no new work any more.
        signal: the first signal came; called with its number and with the deadline (monotonic) or None.
        raising: called with the exception that is about to be raised for a signal.
        answered: the program deals with the signal itself, and goes on.
        hold: asked at the first signal whether it waits until `hold.go_on` is called.
    """
    for event, call in (
        ("ending", ending), ("signal", signal), ("raising", raising), ("answered", answered), ("hold", hold),
    ):  # fmt: skip
        if call is not None and call not in _hears.setdefault(event, []):
            _hears[event].append(call)


def unsubscribe(function: "Callable[..., object]") -> None:
    """Call this function no more; nothing happens when it is not called."""
    for calls in _hears.values():
        if function in calls:
            calls.remove(function)


def heard_by(event: str) -> "list[Callable[..., Any]]":
    """Return the functions that have subscribed to an event."""
    return _hears.get(event, []).copy()


def tell_ending(*, begun: bool = False) -> None:
    """Tell the subscribers that the process ends, or takes no new work any more."""
    end.begun = end.begun or begun
    for call in heard_by("ending"):
        try:
            call()
        except Exception:  # noqa: S110  # no subscriber may stand between a signal and its cleanups
            pass


def announce(signum: int, deadline: "float | None") -> None:
    """Note why the process ends and by when; called in the signal handler."""
    end.reason = ExitReason(signal=signum, code=128 + signum)
    now.deadline = deadline
    tell_ending(begun=True)
    for call in heard_by("signal"):
        call(signum, deadline)


def answered() -> None:
    """Let the program go on: it caught the signal by its name, and means to deal with it itself.

    If the program then exits with 0, it dies of the signal after all: the parent must not see success.
    """
    if end.previous:
        end.handled = end.signum
    end.signum = end.again = end.tries = end.count = end.presses = 0
    end.due, end.deadline, end.first_press, end.held = False, None, 0.0, NOT_ASKED
    end.reason, end.begun, now.deadline = None, False, None
    for call in heard_by("answered"):
        call()


def because(reason: "ExitReason | None") -> "ExitReason | None":
    """Say why the process ends; return what was known before."""
    before, end.reason = end.reason, reason
    return before


# ── the interpreter ──────────────────────────────────────────────────────────────────────────────────────


def finalizing() -> bool:
    """Whether the interpreter has begun to end: it waits for threads, runs exit functions, or is further.

    Where `threading` is not loaded that is known only after the exit functions.
    """
    return sys.is_finalizing() or getattr(sys.modules.get("threading"), "_SHUTTING_DOWN", False)


def in_main_interpreter() -> bool:
    """Whether this is the main interpreter: in others (PEP 734) Python runs no signal handlers."""
    import _thread

    if hasattr(_thread, "_is_main_interpreter"):  # from 3.13 on
        return bool(_thread._is_main_interpreter())  # threading asks so, too
    try:
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]  # typeshed has the new one
    except ImportError:
        return True
    return bool(interpreters.get_current() == interpreters.get_main())


def is_main(frame: "FrameType") -> bool:
    """Whether this is the frame of the program's main module, if no other frame has called it."""
    module = frame.f_globals.get("__name__")
    return module == "runpy" or (module == "__main__" and frame.f_code.co_name == "<module>")


def ended_by() -> "BaseException | None":
    """Return the error or the SystemExit that has left the main module; None: none has, or it is unknown."""
    if code is not UNKNOWN:
        return SystemExit(code)
    error: BaseException | None = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    trace = None if error is None else error.__traceback__
    if trace is None or not is_main(frame := trace.tb_frame) or _returned(frame) or frame.f_back is not None:
        return None
    return None if _at_prompt() or _embedded() else error


def status_would_be_zero() -> bool:
    """Whether the program ends with status 0, as far as can be known at exit; in doubt it does."""
    try:
        error = ended_by()
    except Exception:  # no memory is left, say: the cleanups that come next matter more
        return True
    return error is None or (isinstance(error, SystemExit) and status_of(error.code) == 0)


# What a function that returns a constant ends with, and one that returns a variable. The module `opcode` has
# their names, and cannot be imported where no descriptor is left or the program has called chroot().
_RETURNS = frozenset(function.__code__.co_code[-2] for function in (lambda: None, lambda value: value))


def _returned(frame: "FrameType") -> bool:
    """Whether a frame that is over ended by a ``return``: then what it caught before is history."""
    return frame.f_code.co_code[frame.f_lasti] in _RETURNS


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
        except ValueError:  # no Python code: the interpreter, which ends by this exception
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
    """Give `sys.exit` back after the last observer, unless the program has replaced it since."""
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


def _forked() -> None:
    forget()
    end.reason, end.begun = None, False


fork.in_child(_forked)
