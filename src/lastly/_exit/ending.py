"""How a signal ends the process, once unwinding is over or cannot be: exit functions, then death by it.

Three ways lead here: the driver, an atexit function; a wait for threads or worker processes that is given up
(joins.py); and force.
"""
# one machine in two files

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum
import atexit
from posix import getpid, write

from lastly._exit import die, lookout, loop_children, pools, stack, state
from lastly._exit import joins as _joins
from lastly._exit import swallowed as _swallowed
from lastly._scope import progress
from lastly._words.clock import monotonic
from lastly._words.signal_names import signal_name
from lastly.errors import NotOurs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

# Longer than any grace.
_FAR = 1e10


class _RanAlready:
    """Equal to every atexit function from the one that runs now on: those have been run, or run.

    atexit calls its functions from the last to the first and forgets them only at the very end, so a run
    inside the run would call some twice; and it shows its list to nobody. But `unregister` compares with
    ``==``, from the first to the last, and thus lets us name those behind the driver.
    """

    __slots__ = ("code", "seen")
    __hash__ = None  # type: ignore[assignment]  # equal to many

    def __init__(self, code: object) -> None:
        self.code = code
        self.seen = False

    def __eq__(self, other: object) -> bool:
        self.seen = self.seen or _code(other) is self.code
        return self.seen


def _code(fn: object) -> object:
    """Return the code that runs when it is called, where that is Python's."""
    while hasattr(fn, "func"):  # a partial, a cleanup
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    if not hasattr(fn, "__code__"):
        fn = getattr(type(fn).__call__, "__func__", type(fn).__call__)
    return getattr(fn, "__code__", None)


def driver() -> None:
    """Run the atexit functions that are left; then end by the signal, or make way for the plain end."""
    from lastly._exit import signals

    if signals.state.pid != getpid():
        return
    atexit.unregister(_RanAlready(driver.__code__))  # type: ignore[arg-type]  # compared, never called
    signals.state.driving = True
    if signals.state.signum or loop_children.watching():
        end_children()
    atexit._run_exitfuncs()  # atexit's own test hook, and all there is
    if signals.state.inside:
        return
    # From here on a late signal kills by its default action. Blocked first, so that none falls between.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, signals.state.previous)
    signum = signals.state.signum
    if not signum and signals.state.handled and state.status_would_be_zero():
        signum = signals.state.handled
    if signum:
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, signals.state.previous)
        _die(signum)
    for number in signals.state.previous:
        if _signal.getsignal(number) is signals._handler:
            _signal.signal(number, _signal.SIG_DFL)
    signals.state.bottom = None  # it holds the program's globals, whose ``__del__`` finalization is to call
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, signals.state.previous)


def end_children() -> None:
    """End what event loops have started and left running; a second call finds none."""
    from lastly._exit import signals

    deadline = signals.state.deadline
    try:
        ended, killed = loop_children.end(None if deadline is None else deadline - monotonic())
    except (OSError, NotOurs) as error:
        say(f"a child that an event loop had started could not be ended: {error}")
        return
    for child in killed:
        say(f"{child} did not end on SIGTERM: killed")
    if not signals.state.signum:
        for child in ended:
            say(
                f"{child} still ran when the program ended: told to end; await it, or use lastly.open_process"
            )


def end_now(frame: "FrameType | None" = None) -> None:
    """Run the exit functions here and die: the interpreter waits for something, and would not come to them.

    Args:
        frame: where it waits, when that is inside one of the exit functions.
    """
    from lastly._exit import root, signals

    signals.state.ending = True
    if pools.is_worker():
        root.close_for_exit()  # the exit functions are its parent's
    elif frame is None or _run_rest(frame):
        atexit._run_exitfuncs()  # the driver is among them, and does not return
    _die(signals.state.signum)


def end_worker() -> None:
    """Die of the signal that came, in a worker process that is about to end by `os._exit`."""
    from lastly._exit import signals

    if signals.state.pid == getpid() and signals.state.signum:
        _die(signals.state.signum)


def _die(signum: int, limit: float = 0.0) -> "NoReturn":
    from lastly._exit import signals

    signals.state.dying = True
    die.die_of(signum, limit, files=not pools.is_worker())


def _run_rest(frame: "FrameType") -> bool:
    """Run the exit functions that are left, inside of one; False: which ones are left cannot be told."""
    from lastly._exit import root, signals

    current = _joins.exit_function(frame)
    ran = _RanAlready(None if current is None else current.f_code)
    atexit.unregister(ran)  # type: ignore[arg-type]  # compared, never called
    if not ran.seen:
        root.close_for_exit()
        return False
    signals.state.inside += 1
    atexit._run_exitfuncs()
    signals.state.inside -= 1
    atexit.register(driver)  # for when the waiting is over
    return True


def waits(frame: "FrameType | None") -> None:
    """Deal with a wait for threads or processes; called by the handler every moment while it lasts.

    In an exit function the others are run first, so that the cleanups do not have to wait.
    """
    from lastly._exit import signals

    state = signals.state
    where, joins = signals._where(frame), _joins.at(frame)
    if joins is None or frame is None or (where == stack.BODY and not _swallowed.unwinding()):
        return
    if where == stack.EXIT and not pools.is_worker():
        inside = _joins.exit_function(frame)
        if state.patience.rest_of is not inside:
            state.patience.rest_of = inside
            _run_rest(frame)
    if not state.patience.over(state.deadline):
        return
    say(f"{_joins.names(joins)} did not end and is no longer waited for")
    if where == stack.BODY:
        raise signals._watched(state.signum, frame)
    if where == stack.JOIN:
        end_now()
    _die(state.signum)


def give_up(place: str) -> None:
    """End the program where it stands: it swallows every signal."""
    from lastly._exit import signals

    times = f"{signal_name(signals.state.signum)} was swallowed {signals.state.tries} times"
    say(f"{times}{place and f', last by {place}'}; the program ends here, after its cleanups")
    end_now()


def force(why: str) -> None:
    """Leave now: what is durable stays owed, all else is lost and named."""
    from lastly._exit import signals

    say(f"{why}: leaving at once{pending(' without: ')}; what is durable stays with the reaper")
    _die(signals.state.signum, limit=1.0)


def explain(signum: int) -> None:
    """Say why the repeated signal does not end the program yet, and what does."""
    say(f"{signal_name(signum)} again: still cleaning up{pending(': ')}. {progress.way_out()}")


def pending(before: str) -> str:
    """Return what is running and left, in a few words, or nothing."""
    from lastly._exit import signals

    try:
        text = signals.describe() if signals.describe is not None else ""
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
    """Handle the deadline; and a moment of waiting, where no thread can look for that."""
    from lastly._exit import signals

    state = signals.state
    if state.pid != getpid() or not state.signum:
        return
    left = _FAR if state.deadline is None else state.deadline - monotonic()
    if left <= 0.001:
        force(f"{state.grace:g} s are over")
    if state.alone:
        alarm_in(min(left, lookout.TICK))
        waits(frame)
        if signals.lost():
            signals.look(frame)
    elif left < _FAR:
        alarm_in(left)


def no_alarm() -> None:
    """Take the alarm back."""
    if _signal.getsignal(_signal.SIGALRM) is alarm:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)


def look_for_waits() -> None:
    """Have waits for threads and processes bounded from now on."""
    from lastly._exit import signals

    if not lookout.follow():
        signals.state.alone = True
        alarm_in(lookout.TICK)
