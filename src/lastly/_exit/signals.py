"""Signals: capture, unwind, run everything, die of the signal.

What we want: after SIGTERM every ``finally``, ``with``, cleanup and atexit function runs, once, whole; and
the parent sees a death by SIGTERM. Raising an exception from a handler is nearly that, and fails at the
edges:

* Raised where nobody can let it pass (``__del__``, a weakref callback, a bare ``except:``) it is lost, and
  the program lives on. So the exception is watched: when it dies while the program's own code is still
  running, it was swallowed, and the signal is raised again (swallowed.py).
* Raised in `threading._shutdown` or inside an atexit function it is printed, the rest is cut off, and the
  status is 0. So the handler asks whether the interpreter's end has begun (_exit/stack.py): then nothing is
  raised any more.
* Raised inside a cleanup it cuts that cleanup off. So a stack with a closing scope in it is left alone as
  well, and the signal is raised when the scope has closed.
* Raised in an event loop it ends whichever task happens to run. So there the main task is cancelled
  (event_loops.py).

In each case a flag is set first, and the flag decides the end: a driver (ending.py), one atexit function,
runs the other atexit functions that are left, and then dies of the signal. Whatever became of the
exception, the status is true.

What still fails: a main thread that never comes back from C code runs no handler. For that the wake-up
descriptor goes to the reaper (`_durable`), which keeps the deadline from outside.
"""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum
import _thread
import atexit
import sys
from posix import getpid, register_at_fork

from lastly._exit import (
    die,
    early,
    event_loops,
    hold,
    joins,
    loop_children,
    pools,
    stack,
    stuck,
    swallowed,
    uncaught,
)
from lastly._exit import ending as _ending
from lastly._exit import state as _exit_state
from lastly._exit.stack import BODY, CLOSING, EXIT, JOIN
from lastly._system import proc
from lastly._words import fork, signal_names
from lastly._words.clock import monotonic
from lastly._words.clock import seconds as _seconds
from lastly._words.signal_names import signal_name
from lastly._words.warn import warn
from lastly.errors import CaughtSignal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta
    from types import FrameType, TracebackType

    from lastly._exit.die import Status
    from lastly._scope.scope import Scope
    from lastly._words.signal_names import SignalName

DEFAULT: "tuple[SignalName, ...]" = ("INT", "TERM", "HUP", "QUIT")

# Pressed by a person at the keyboard: only these can force.
_KEYBOARD = (_signal.SIGINT, _signal.SIGQUIT)
_FORCE_AFTER = 2.0
# A grace of so many seconds is none: clocks, the kernel's and the reaper's, end somewhere.
_ENDLESS = 1e9

# Called in a repeated signal's message: what is running and what is left, in a few words. Set by _root.
describe: "Callable[[], str] | None" = None
# Called by the handler with the first signal's number and the deadline (monotonic) or None. Set by _root.
announce: "Callable[[int, float | None], None] | None" = None
# Called in the handler with the exception that it is about to raise. Set by an App, which keeps it.
raising: "Callable[[CaughtSignal], None] | None" = None

# Why the signal comes once more, sent by ourselves: to be raised now, or to see what became of it.
RAISE, LOOK = 1, 2


class _State:
    """What is known in this process; a forked child gets a fresh one."""

    def __init__(self) -> None:
        self.pid = getpid()
        self.previous: dict[int, object] = {}  # what to give back
        self.grace: float | None = None
        self.bottom: FrameType | None = None  # of the stack that called install()
        self.signum = 0  # the signal that this process ends with; 0: none came
        self.handled = 0  # a SIGINT that the program caught by its name
        self.again = 0  # RAISE or LOOK: the signal is on its way once more, sent by ourselves
        self.tries = 0  # how often it was swallowed
        self.due = False  # to be raised when the scope has closed
        self.held = hold.NOT_ASKED
        self.count = self.presses = 0
        self.first_press = 0.0
        self.deadline: float | None = None
        self.driving = self.ending = self.dying = False
        self.inside = 0  # exit functions run inside others that wait
        self.waits = self.alone = False  # the main thread waits for others; no thread can look for that
        self.patience = joins.Patience()


state = _State()


class Installation:
    """What `install` returns: leave its ``with`` block, or close it, to give the signals back.

    .. versionadded:: 0.1
    """

    def close(self) -> None:
        """Give the signals back, as `uninstall`. A second call does nothing."""
        uninstall()

    def __enter__(self) -> "Installation":  # noqa: PYI034  # Self is of typing
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        uninstall()

    def __repr__(self) -> str:
        names = " ".join(map(signal_name, state.previous)) or "nothing installed"
        return f"<{type(self).__name__} {names}>"


def install(
    signals: "Iterable[int | SignalName] | int | SignalName" = DEFAULT,
    *,
    status: "Status" = "signal",
    grace: "float | timedelta | None" = None,
) -> Installation:
    """Let these signals end the program in order: unwind, run all cleanups and atexit functions, then die
    of them.

    A second call replaces the settings; what was there before the first one is still given back in the end.
    A signal that is ignored (``nohup``, a shell's ``&``) or that C code handles is left alone; SIGPIPE,
    which Python itself ignores, is taken when it is named.

    Args:
        signals: names (``"TERM"``, ``"SIGTERM"``) or numbers, or one of them.
        status: ``"signal"``: the parent sees a death by the signal, shells 128 + number. ``"code"``: the
            process exits with 128 + number, as it does anyway as PID 1.
        grace: seconds, or a timedelta, from the first signal to the process's end; None: no limit.

    Raises:
        RuntimeError: not in the main thread of the main interpreter.
        TypeError, ValueError: an unknown signal or status, one that cannot be caught, or no length of time.

    .. versionadded:: 0.1
    """
    numbers = signal_names.numbers(signals)
    if status not in ("signal", "code"):
        raise ValueError(f"status={status!r}: use 'signal' or 'code'")
    seconds = None if grace is None else _seconds(grace, "grace")
    if state.pid != getpid():
        _forked()
    for signum in [signum for signum in state.previous if signum not in numbers]:
        _give_back(signum)
    own(numbers, status, seconds)
    # Loads `threading`, which is told of the interpreter's end before anybody else.
    early.arm()
    stack.told = True
    from lastly._exit import reloader

    reloader.watch()
    loop_children.watch()
    return Installation()


def own(numbers: "Iterable[int]", status: "Status" = "signal", grace: "float | None" = None) -> None:
    """Do what `install` does, but load nothing."""
    for signum in numbers:
        _take(signum)
    die.status = status
    state.grace = grace if grace is None or grace < _ENDLESS else None
    state.bottom = stack.bottom_of(sys._getframe())  # the only way to one's own frame
    _exit_state.observe_exit("signals")
    atexit.unregister(_ending.driver)
    atexit.register(_ending.driver)
    if pools.is_worker():
        pools.before_exit(_ending.end_worker)
    from lastly._exit import root

    root.connect(sys.modules[__name__])
    stuck.lend(tuple(state.previous), state.grace)


def uninstall() -> None:
    """Give every signal back; a second call does nothing.

    A handler that somebody else has set meanwhile stays. A signal that is already ending the program does so.

    Raises:
        RuntimeError: not in the main thread; nothing was given back.

    Warns:
        RuntimeWarning: a signal was in other hands, and was left there.

    .. versionadded:: 0.1
    """
    for signum in list(state.previous):
        _give_back(signum)
    stuck.give_back()
    uncaught.expect_no_more()
    if state.signum or state.handled:  # the driver has still to see how it ends
        return
    _exit_state.unobserve_exit("signals")
    atexit.unregister(_ending.driver)
    state.bottom = None


def _take(signum: int) -> None:
    if signum in state.previous:
        if _signal.getsignal(signum) is not _handler:
            _set(signum, _handler)
        return
    previous = _signal.getsignal(signum)
    if previous is None or (previous == _signal.SIG_IGN and signum != _signal.SIGPIPE):
        return
    if previous == _signal.SIG_DFL and proc.caught() >> (signum - 1) & 1:
        return  # C code took it since the start (faulthandler, a debugger's library): Python does not know
    _set(signum, _handler)
    state.previous[signum] = previous


def _set(signum: int, handler: object) -> None:
    global main_ident
    try:
        _signal.signal(signum, handler)
    except ValueError:
        where = "main thread" if _exit_state.in_main_interpreter() else "main interpreter"
        raise RuntimeError(
            f"install() and uninstall() work in the {where} only: Python runs signal handlers there"
        ) from None
    main_ident = _ident()  # this module may have been imported in another thread


def _give_back(signum: int) -> None:
    if _signal.getsignal(signum) is _handler:
        _set(signum, state.previous[signum])
        del state.previous[signum]
        return
    del state.previous[signum]
    warn(f"{signal_name(signum)} has another handler since install(): left as it is")


# ── the handler ────────────────────────────────────────────────────────────────────────────────


def _handler(signum: int, frame: "FrameType | None") -> None:
    if state.pid != getpid():  # a forked child, before its own defaults were back
        _signal.signal(signum, _signal.SIG_DFL)
        _signal.raise_signal(signum)
        return
    if state.waits and signum == state.signum:
        state.waits = False
        _ending.waits(frame)
        return
    if state.again or event_loops.marked():
        why, state.again = state.again, 0
        if why == RAISE:
            _deliver(state.signum, frame, _where(frame))
        else:
            look(frame)
        return
    forced = signum in _KEYBOARD and presses_to_force() == 1
    repeated = _note(signum)
    stuck.answered()
    where = _where(frame)
    if repeated:
        _repeated(signum, frame, where, forced=forced)
    else:
        _deliver(signum, frame, where)


def presses_to_force() -> int:
    """Return how many times Ctrl-C must be pressed, one right after the other, to leave at once."""
    if state.presses and (state.count >= 2 or monotonic() - state.first_press >= _FORCE_AFTER):
        return 1
    return 2 if state.count else 3


def way_out() -> str:
    """Return what Ctrl-C does at this moment, in a few words; nothing when it does not come to us."""
    if _signal.getsignal(_signal.SIGINT) is not _handler:
        return ""
    return f"Ctrl-C{('', ' twice', ' three times')[presses_to_force() - 1]} forces"


def _note(signum: int) -> bool:
    """Set the flags; return whether the process was ending already."""
    now = monotonic()
    state.count += 1
    if signum in _KEYBOARD:
        state.presses += 1
        state.first_press = state.first_press or now
    if state.signum:
        return True
    state.signum = signum
    swallowed.begin()
    event_loops.forget()
    if state.grace is not None:
        state.deadline = now + state.grace
        _ending.alarm_in(state.grace)
    if announce is not None:
        # A little less for the cleanups: what they had to give up must still be told, and files written out.
        spare = min(1.0, 0.05 * (state.grace or 0.0))
        announce(signum, None if state.deadline is None else state.deadline - spare)
    state.patience = joins.Patience()
    _ending.look_for_waits()
    return False


def _deliver(signum: int, frame: "FrameType | None", where: str) -> None:
    """Make the program unwind, if it can."""
    if where in (JOIN, EXIT) and pools.is_worker():
        return  # the library that has made it ends it: see pools
    if where == JOIN:
        _ending.end_now()
    elif where == EXIT and joins.at(frame) is not None:
        _ending.end_now(frame)
    elif where == CLOSING:
        state.due = True
    elif where == BODY and not hold.waits() and not event_loops.cancel(frame):
        raise _watched(signum, frame)


def fate() -> str:
    """Return what has become of the signal: see swallowed.py."""
    return event_loops.fate() or swallowed.fate()


def lost() -> bool:
    """Whether the signal seems to be lost, or answered, while the program's body runs; in any thread."""
    if state.driving or state.held == hold.WAITS:
        return False
    frame = sys._current_frames().get(main_ident)  # documented, in spite of its name
    return _where(frame) == BODY and fate() in (swallowed.ANSWERED, swallowed.SWALLOWED)


def installed(signum: int) -> bool:
    """Whether a signal still comes to us; 0, one that was answered meanwhile, does not."""
    return signum > 0 and _signal.getsignal(signum) is _handler


def look(frame: "FrameType | None") -> None:
    """See what became of the signal; raise it again if it was swallowed."""
    where = _where(frame)
    found = fate() if where == BODY else ""  # else it has left the main module, or will be raised by a scope
    if found == swallowed.ANSWERED:
        answered()
    elif found == swallowed.SWALLOWED:
        count_try()
        state.due = False
        if not event_loops.cancel_again():
            _deliver(state.signum, frame, where)


def count_try() -> None:
    """Count a signal that was swallowed; after too many end the program here."""
    state.tries += 1
    if state.tries >= swallowed.TRIES:
        _ending.give_up(event_loops.where() or swallowed.where())


def _repeated(signum: int, frame: "FrameType | None", where: str, *, forced: bool) -> None:
    if where == BODY and not hold.repeated(pressed=signum in _KEYBOARD):
        lost = not event_loops.cancelling() and not swallowed.unwinding()
        if lost or event_loops.insist():  # nothing is being cleaned up that could be forced
            count_try()
            raise _watched(state.signum, frame)
    if forced:
        _ending.force("forced")
    if where == JOIN:
        _ending.end_now()
    _ending.explain(signum)


def raise_due(scope: "Scope | None" = None) -> None:
    """Raise the signal that came while a scope was closing; called by the scope that has closed."""
    if state.due and in_main_thread():
        frame: FrameType | None = sys._getframe(1)  # the way to who has called the scope
        while scope is not None and frame is not None and _is_of(scope, frame):
            frame = frame.f_back
        if _where(frame) == BODY:
            state.due = False
            _deliver(state.signum, frame, BODY)


def _is_of(scope: "Scope", frame: "FrameType") -> bool:
    values = frame.f_locals
    return frame.f_globals.get("__name__", "").startswith("lastly.") and (
        values.get("self") is scope or values.get("scope") is scope
    )


def _watched(signum: int, frame: "FrameType | None") -> CaughtSignal:
    caught = swallowed.make(signum, frame)
    if raising is not None:
        raising(caught)
    return swallowed.watch(caught)


def answered() -> None:
    """Let the program go on: it caught the signal by its name, and means to deal with it itself.

    Should it then end with status 0, it dies of the signal after all: nobody shall hear that nothing was.
    """
    if state.previous:
        state.handled = state.signum
    state.signum = state.again = state.tries = state.count = state.presses = 0
    state.due, state.deadline, state.first_press, state.held = False, None, 0.0, hold.NOT_ASKED
    if announce is not None:
        announce(0, None)
    stuck.answered(ending=False)
    uncaught.expect_no_more()
    _ending.no_alarm()


def _ident() -> int:
    """Return this thread's number as the system knows it: gevent's `get_ident` tells a greenlet's."""
    me = sys._getframe()  # the only way to one's own frame
    found = sys._current_frames().items()  # documented, in spite of its name
    # A subinterpreter is shown the frames of the main one.
    return next((ident for ident, frame in found if frame is me), _thread.get_ident())


main_ident = _ident()


def in_main_thread() -> bool:
    """Whether the caller runs in the thread that handles signals."""
    return _ident() == main_ident


def _where(frame: "FrameType | None") -> str:
    return EXIT if state.ending else stack.where(frame, state.bottom)


# ── fork ────────────────────────────────────────────────────────────────────────────────

# By thread: the signals that it had blocked before it forked.
_masks: "dict[int, set[int]]" = {}


def _before_fork() -> None:
    """Hold our signals back: the interpreter drops what reaches a child before its first bytecode."""
    if state.previous:
        _masks[_thread.get_ident()] = _signal.pthread_sigmask(_signal.SIG_BLOCK, state.previous)


def _after_fork() -> None:
    mask = _masks.pop(_thread.get_ident(), None)
    if mask is not None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def _forked() -> None:
    """Make a forked child what it would be without us: its parent's cleanups are none of its business."""
    global state, main_ident
    old, state = state, _State()
    event_loops.forget()
    stuck.give_back()
    main_ident = _ident()
    atexit.unregister(_ending.driver)
    _exit_state.forget()
    _exit_state.unobserve_exit("signals")
    for signum, previous in old.previous.items():
        if _signal.getsignal(signum) is _handler:
            _signal.signal(signum, previous)
    if _signal.getsignal(_signal.SIGALRM) is _ending.alarm:
        _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
    _after_fork()


register_at_fork(before=_before_fork, after_in_parent=_after_fork)
fork.in_child(_forked)
