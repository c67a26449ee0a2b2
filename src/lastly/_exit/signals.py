"""Signals: capture, unwind, run everything, die of the signal.

What we want: after SIGTERM every ``finally``, ``with``, cleanup and atexit function runs, once, whole; and
the parent sees a death by SIGTERM. Raising an exception from a handler is nearly that, and fails at the
edges:

* Raised where it cannot pass on (``__del__``, a weakref callback, a bare ``except:``) it is lost, and
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

from lastly._exit import (
    console,
    delivery,
    ending,
    event_loops,
    hold,
    interrupted_join,
    joins,
    lookout,
    loop_children,
    pools,
    root,
    stack,
    state,
    stuck,
    swallowed,
    uncaught,
)
from lastly._exit.stack import BODY, JOIN
from lastly._exit.state import RAISE, end
from lastly._scope.now import now
from lastly._scope.scope import RUNNING
from lastly._system import proc
from lastly._words import fork, pythons, signal_names
from lastly._words.clock import monotonic
from lastly._words.clock import seconds as _seconds
from lastly._words.pythons import getpid, register_at_fork
from lastly._words.signal_names import signal_name
from lastly._words.warn import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta
    from types import FrameType, TracebackType
    from typing import Any

    from lastly._exit.die import Status
    from lastly._words.signal_names import SignalName

_NAMES: "tuple[Any, ...]" = ("INT", "TERM", "HUP", "QUIT", "BREAK")  # the last one is Windows'
DEFAULT: "tuple[SignalName, ...]" = tuple(name for name in _NAMES if hasattr(_signal, f"SIG{name}"))

# Pressed by a person at the keyboard: only these can force.
_KEYBOARD = (_signal.SIGINT, pythons.number("SIGQUIT"), pythons.number("SIGBREAK"))
_FORCE_AFTER = 2.0
# A grace of so many seconds counts as none: the kernel's and the reaper's clocks end somewhere.
_ENDLESS = 1e9


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
        names = " ".join(map(signal_name, end.previous)) or "nothing installed"
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
        TypeError, ValueError: an unknown signal or status, one that cannot be caught, or not a length of
        time.

    .. versionadded:: 0.1
    """
    numbers = signal_names.numbers(signals)
    if status not in ("signal", "code"):
        raise ValueError(f"status={status!r}: use 'signal' or 'code'")
    seconds = None if grace is None else _seconds(grace, "grace")
    if end.pid != getpid():
        _forked()
    for signum in [signum for signum in end.previous if signum not in numbers]:
        _give_back(signum)
    install_bare(numbers, status, seconds)
    # Loads `threading`, which is told of the interpreter's end before everything else.
    root.arm_early()
    if seconds is not None:
        from lastly._scope import threads  # noqa: F401  # not as late as when the signal comes
    stack.trust_threading()
    from lastly._exit import reloader

    reloader.watch()
    loop_children.watch()
    return Installation()


def install_bare(numbers: "Iterable[int]", status: "Status" = "signal", grace: "float | None" = None) -> None:
    """Do what `install` does, but load nothing."""
    for signum in numbers:
        _take(signum)
    end.status = status
    end.grace = grace if grace is None or grace < _ENDLESS else None
    end.bottom = stack.bottom_of(sys._getframe())  # the only way to one's own frame
    state.observe_exit("signals")
    atexit.unregister(ending.driver)
    atexit.register(ending.driver)
    if pools.is_worker():
        pools.before_exit(ending.end_worker)
    stuck.guard(tuple(end.previous), end.grace)
    console.listen(lookout.alarm_in)


def uninstall() -> None:
    """Give every signal back; a second call does nothing.

    A handler that the program has set meanwhile stays. A signal that is already ending the program does so.

    Raises:
        RuntimeError: not in the main thread; nothing was given back.

    Warns:
        RuntimeWarning: a signal was in other hands, and was left there.

    .. versionadded:: 0.1
    """
    for signum in list(end.previous):
        _give_back(signum)
    stuck.give_back()
    console.stop()
    uncaught.expect_no_more()
    if end.signum or end.handled:  # the driver has still to see how it ends
        return
    state.unobserve_exit("signals")
    atexit.unregister(ending.driver)
    end.bottom = None


def _take(signum: int) -> None:
    if signum in end.previous:
        if _signal.getsignal(signum) is not _handler:
            _set(signum, _handler)
        return
    previous = _signal.getsignal(signum)
    if previous is None or (previous == _signal.SIG_IGN and signum != pythons.number("SIGPIPE")):
        return
    if previous == _signal.SIG_DFL and proc.caught() >> (signum - 1) & 1:
        return  # C code took it since the start (faulthandler, a debugger's library): Python does not know
    _set(signum, _handler)
    end.previous[signum] = previous


def _set(signum: int, handler: object) -> None:
    try:
        _signal.signal(signum, handler)
    except ValueError:
        where = "main thread" if state.in_main_interpreter() else "main interpreter"
        raise RuntimeError(
            f"install() and uninstall() work in the {where} only: Python runs signal handlers there"
        ) from None
    stack.note_main_thread()  # this module may have been imported in another thread


def _give_back(signum: int) -> None:
    if _signal.getsignal(signum) is _handler:
        _set(signum, end.previous[signum])
        del end.previous[signum]
        return
    del end.previous[signum]
    warn(f"{signal_name(signum)} has another handler since install(): left as it is")


# ── the handler ────────────────────────────────────────────────────────────────────────────────


def _handler(signum: int, frame: "FrameType | None") -> None:
    if end.pid != getpid():  # a forked child, before its own defaults were back
        _signal.signal(signum, _signal.SIG_DFL)
        _signal.raise_signal(signum)
        return
    if end.waits and signum == end.signum:
        end.waits = False
        ending.waits(frame)
        return
    if end.again or event_loops.marked():
        why, end.again = end.again, 0
        if why == RAISE:
            delivery.deliver(end.signum, frame, stack.where(frame))
        else:
            delivery.look(frame)
        return
    forced = signum in _KEYBOARD and presses_to_force() == 1
    repeated = _note(signum)
    stuck.answered()
    where = stack.where(frame)
    if repeated:
        _repeated(signum, frame, where, forced=forced)
    else:
        delivery.deliver(signum, frame, where)


def presses_to_force() -> int:
    """Return how many times Ctrl-C must be pressed, one right after the other, to leave at once."""
    if end.presses and (end.count >= 2 or monotonic() - end.first_press >= _FORCE_AFTER):
        return 1
    return 2 if end.count else 3


def way_out() -> str:
    """Return what Ctrl-C does at this moment, in a few words; nothing when that is not known."""
    handler = _signal.getsignal(_signal.SIGINT)
    if handler is _handler:
        return f"Ctrl-C{('', ' twice', ' three times')[presses_to_force() - 1]} forces"
    return "Ctrl-C interrupts it" if handler is _signal.default_int_handler else ""


def _note(signum: int) -> bool:
    """Set the flags; return whether the process was ending already."""
    moment = monotonic()
    end.count += 1
    if signum in _KEYBOARD:
        end.presses += 1
        end.first_press = end.first_press or moment
    if end.signum:
        return True
    end.signum = signum
    swallowed.begin()
    event_loops.forget()
    if end.grace is not None:
        end.deadline = moment + end.grace
        lookout.alarm_in(end.grace)
    # A little less for the cleanups: what they had to give up must still be told, and files written out.
    spare = min(1.0, 0.05 * (end.grace or 0.0))
    state.announce(signum, None if end.deadline is None else end.deadline - spare)
    end.patience = joins.Patience()
    lookout.look_for_waits()
    return False


def _repeated(signum: int, frame: "FrameType | None", where: str, *, forced: bool) -> None:
    if where == BODY and not hold.repeated(pressed=signum in _KEYBOARD):
        lost = not event_loops.cancelling() and not swallowed.unwinding()
        if lost or event_loops.insist():  # nothing is being cleaned up that could be forced
            ending.count_try(event_loops.where)
            interrupted_join.keep(frame)
            raise swallowed.make(end.signum, frame)
    if forced:
        ending.force("forced")
    if where == JOIN:
        ending.end_now()
    ending.explain(signum, way_out())


# ── fork ────────────────────────────────────────────────────────────────────────────────

# By thread: the signals that it had blocked before it forked.
_masks: "dict[int, set[int]]" = {}


def _before_fork() -> None:
    """Hold our signals back: the interpreter drops what reaches a child before its first bytecode."""
    if end.previous:
        _masks[_thread.get_ident()] = pythons.blocked(pythons.SIG_BLOCK, end.previous)


def _after_fork() -> None:
    mask = _masks.pop(_thread.get_ident(), None)
    if mask is not None:
        pythons.blocked(pythons.SIG_SETMASK, mask)


def _forked() -> None:
    """Make a forked child what it would be without us: its parent's cleanups are not its own."""
    previous = end.previous
    end.forget()
    event_loops.forget()
    stuck.give_back()
    stack.note_main_thread()
    atexit.unregister(ending.driver)
    state.unobserve_exit("signals")
    for signum, handler in previous.items():
        if _signal.getsignal(signum) is _handler:
            _signal.signal(signum, handler)
    lookout.no_alarm()  # a child has its parent's handler, and no timer
    _after_fork()


end.pid = getpid()  # forked, maybe, since lastly was imported
end.handler = _handler
stack.leave_alone(*RUNNING, root.before_join)
now.subscribe(let_out=delivery.raise_due, way_out=way_out)
register_at_fork(before=_before_fork, after_in_parent=_after_fork)
fork.in_child(_forked)
