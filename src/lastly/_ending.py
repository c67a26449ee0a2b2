"""How a signal ends the process, once unwinding is over or cannot be: exit functions, then death by it.

Three ways lead here: the driver, an atexit function; a signal in `threading._shutdown`, where the
interpreter waits for threads and would not come to atexit; and force.
"""
# ruff: noqa: SLF001  # one machine in two files

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum
import atexit
import sys
from posix import getpid, write

from lastly import _finish
from lastly._clock import monotonic
from lastly.errors import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

# After a signal, threads that do not end are not waited for longer than this; without us it would not wait
# at all.
_JOIN_LIMIT = 5.0
_join_limited = False


class _RanAlready:
    """Equal to every atexit function from the driver on: those have been run, or are the driver.

    atexit calls its functions from the last to the first and forgets them only at the very end, so a run
    inside the run would call some twice; and it shows its list to nobody. But `unregister` compares with
    ``==``, from the first to the last, and thus lets us name those behind the driver.
    """

    __slots__ = ("seen",)
    __hash__ = None  # type: ignore[assignment]  # equal to many

    def __init__(self) -> None:
        self.seen = False

    def __eq__(self, other: object) -> bool:
        self.seen = self.seen or other is driver
        return self.seen


def driver() -> None:
    """Run the atexit functions that are left; then end by the signal, or make way for the plain end."""
    from lastly import _signals

    if _signals.state.pid != getpid():
        return
    atexit.unregister(_RanAlready())  # type: ignore[arg-type]  # compared, never called
    _signals.state.driving = True
    atexit._run_exitfuncs()  # atexit's own test hook, and all there is
    # From here on a late signal kills by its default action. Blocked first, so that none falls between.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _signals.state.previous)
    signum = _signals.state.signum
    if not signum and _signals.state.handled and _finish.status_would_be_zero():
        signum = _signals.state.handled
    if signum:
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _signals.state.previous)
        _finish.die_of(signum)
    for number in _signals.state.previous:
        if _signal.getsignal(number) is _signals._handler:
            _signal.signal(number, _signal.SIG_DFL)
    _signals.state.bottom = None  # it holds the program's globals, whose ``__del__`` finalization is to call
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _signals.state.previous)


def end_now() -> None:
    """Run the exit functions here and die: the interpreter waits for threads, and would not come to it."""
    from lastly import _signals

    _signals.state.ending = True
    atexit._run_exitfuncs()  # the driver is among them, and does not return
    _finish.die_of(_signals.state.signum)


def force(why: str) -> None:
    """Leave now: what is durable stays owed, all else is lost and named."""
    from lastly import _signals

    say(f"{why}: leaving at once{pending(' without: ')}; what is durable stays with the reaper")
    _finish.die_of(_signals.state.signum, limit=1.0)


def explain(signum: int) -> None:
    """Say why the repeated signal does not end the program yet, and what does."""
    from lastly import _signals

    how = "Ctrl-C again" if _signals.state.presses else "Ctrl-C twice"
    say(f"{signal_name(signum)} again: still cleaning up{pending(': ')}. To leave at once: {how} (after 2 s)")


def pending(before: str) -> str:
    """Return what is running and left, in a few words, or nothing."""
    from lastly import _signals

    try:
        text = _signals.describe() if _signals.describe is not None else ""
    except Exception:
        text = ""
    return before + text if text else ""


def say(text: str) -> None:
    """Write a line to stderr by the system call alone: a handler may interrupt a print."""
    try:
        write(2, f"lastly: {text}\n".encode(errors="replace"))
    except OSError:
        pass


def alarm_in(seconds: float) -> None:
    """Come back after so many seconds, if the program does not use SIGALRM itself."""
    if _signal.getsignal(_signal.SIGALRM) not in (_signal.SIG_DFL, alarm):
        return
    left = _signal.getitimer(_signal.ITIMER_REAL)[0]
    if not left or _signal.getsignal(_signal.SIGALRM) is alarm:
        _signal.signal(_signal.SIGALRM, alarm)
        _signal.setitimer(_signal.ITIMER_REAL, max(seconds, 0.001))


def alarm(_signum: int, frame: "FrameType | None") -> None:
    """Handle the deadline, or the limit of the join."""
    from lastly import _signals

    if _signals.state.pid != getpid() or not _signals.state.signum:
        return
    if _signals.state.deadline is not None and monotonic() >= _signals.state.deadline - 0.001:
        force(f"{_signals.state.grace:g} s are over")
    elif _signals._where(frame) == _signals.JOIN:
        end_now()
    elif not _signals.state.driving:
        alarm_in(1.0)


def no_alarm() -> None:
    """Take the alarm back."""
    if _signal.getsignal(_signal.SIGALRM) is alarm:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)


def limit_join() -> None:
    """Have the wait for threads bounded when it comes; a second call does nothing."""
    global _join_limited
    threading = sys.modules.get("threading")
    if threading is None or _join_limited:
        return
    _join_limited = True
    try:
        threading._register_atexit(_before_join)  # the one place before the join
    except (AttributeError, RuntimeError):  # another Python; or the join has begun
        pass


def _before_join() -> None:
    from lastly import _signals

    if not _signals.state.signum:  # the one that came was answered
        return
    left = _JOIN_LIMIT if _signals.state.deadline is None else _signals.state.deadline - monotonic()
    alarm_in(min(left, _JOIN_LIMIT))
