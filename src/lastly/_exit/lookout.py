"""A thread that looks what the main thread is about, from the first signal on until the program ends.

Python runs signal handlers in the main thread, between two bytecodes. So what nobody calls us for is seen by
this thread alone: that the main thread waits for others (joins.py), or goes on as if there had been no
signal (swallowed.py, event_loops.py). It decides nothing: it sends the signal once more, and the handler
looks again, in the main thread. It sends it until the handler has run, for what arrives in the instant
before a call begins to wait does not wake it.

Under gevent and eventlet a "thread" is a greenlet, which would run only when the main thread lets it, and
block that for its sleep. So the interpreter's own functions are used, even where they were replaced, and
whenever.
"""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum
import _thread

from lastly._exit import delivery, ending, joins, stack, state, swallowed
from lastly._exit.state import LOOK, end
from lastly._words import pythons
from lastly._words.clock import monotonic
from lastly._words.pythons import getpid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

# Seconds between two looks.
TICK = 0.05
# Longer than any grace.
_FAR = 1e10

_turn = 0  # the last one started goes on, others end


def follow() -> bool:
    """Look from now on; False: no thread can be had."""
    global _turn
    _turn += 1
    native = _native()
    try:
        native.start_new_thread(_look, (_turn, native.allocate_lock()))
    except RuntimeError:  # at exit, from 3.12 on; or too many threads
        return False
    return True


def _native() -> "Any":
    """Return `_thread` as the interpreter has made it."""
    if type(_thread.start_new_thread).__name__ == "builtin_function_or_method":
        return _thread
    import _imp
    from importlib.machinery import ModuleSpec

    fresh = _imp.create_builtin(ModuleSpec("_thread", None))
    _imp.exec_builtin(fresh)
    return fresh


def _look(turn: int, never: "Any") -> None:
    signum = end.signum
    end.looking += 1
    try:
        # A signal for the process must not go to this thread: it would not wake the main one.
        pythons.blocked(pythons.SIG_BLOCK, _signal.valid_signals())
        never.acquire()
        lost, last = 0, None
        while True:
            never.acquire(True, TICK)  # sleeps: nobody releases it, and `time.sleep` may be gevent's
            if turn != _turn or end.signum != signum or end.dying:
                return
            if not delivery.installed(signum):
                return
            if joins.at_it():
                end.waits = True
            # Twice in a row: between two lines of a framework an exception may be in no hand for a moment.
            before, last = last, swallowed.watched
            lost = 0 if not delivery.lost() else lost + 1 if last is before else 1
            if lost >= 2 and not end.again:
                end.again = LOOK
            if end.waits or end.again:
                pythons.send(stack.main_ident, signum)
    finally:
        end.looking -= 1


# ── the kernel's clock ───────────────────────────────────────────────────────────────────────────────────


def look_for_waits() -> None:
    """Have waits for threads and processes bounded from now on."""
    if not follow():
        end.alone = True
        alarm_in(TICK)


def alarm_in(seconds: float) -> None:
    """Come back after so many seconds, if the program does not use SIGALRM itself."""
    if not pythons.has_timer():
        pythons.after(seconds, lambda: alarm(0, None))
        return
    if _signal.getsignal(_signal.SIGALRM) not in (_signal.SIG_DFL, alarm):
        return
    left = _signal.getitimer(_signal.ITIMER_REAL)[0]
    if not left or _signal.getsignal(_signal.SIGALRM) is alarm:
        _signal.signal(_signal.SIGALRM, alarm)
        _signal.setitimer(_signal.ITIMER_REAL, max(seconds, 0.001))


def alarm(_signum: int, frame: "FrameType | None") -> None:
    """Handle the deadline; and a moment of waiting, where no thread can look for that."""
    if end.pid != getpid() or not end.signum:
        return
    left = _FAR if end.deadline is None else end.deadline - monotonic()
    if left <= 0.001:
        ending.force(f"{end.grace:g} s are over")
    if end.alone:
        alarm_in(min(left, TICK))
        ending.waits(frame)
        if delivery.lost():
            delivery.look(frame)
    elif left < _FAR:
        alarm_in(left)


def no_alarm() -> None:
    """Take the alarm back."""
    if pythons.has_timer() and _signal.getsignal(_signal.SIGALRM) is alarm:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)


state.subscribe(answered=no_alarm)
