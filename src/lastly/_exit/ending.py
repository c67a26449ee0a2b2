"""How a signal ends the process, once unwinding is over or cannot be: exit functions, then death by it.

Three ways lead here: the driver, an atexit function; a wait for threads or worker processes that is given up
(joins.py); and force.
"""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum
import atexit

from lastly._exit import console, die, loop_children, pools, root, stack, state
from lastly._exit import joins as _joins
from lastly._exit import swallowed as _swallowed
from lastly._exit.last import RanAlready
from lastly._exit.state import end
from lastly._words import pythons
from lastly._words.pythons import getpid
from lastly._words.signal_names import signal_name
from lastly._words.warn import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn


def driver() -> None:
    """Run the atexit functions that are left; then end by the signal, or make way for the plain end."""
    if end.pid != getpid():
        return
    atexit.unregister(RanAlready(driver.__code__))  # type: ignore[arg-type]  # compared, never called
    end.driving = True
    if end.signum or loop_children.watching():
        loop_children.end_with_program()
    atexit._run_exitfuncs()  # atexit's own test hook, and all there is
    if end.inside:
        return
    # From here on a late signal kills by its default action. Blocked first, so that none falls between.
    pythons.blocked(pythons.SIG_BLOCK, end.previous)
    signum = end.signum
    if not signum and end.handled and state.status_would_be_zero():
        signum = end.handled
    if signum:
        pythons.blocked(pythons.SIG_UNBLOCK, end.previous)
        _die(signum)
    for number in end.previous:
        if _signal.getsignal(number) is end.handler:
            _signal.signal(number, _signal.SIG_DFL)
    console.stop()
    end.bottom = None  # it holds the program's globals, whose ``__del__`` finalization is to call
    pythons.blocked(pythons.SIG_UNBLOCK, end.previous)


def end_now(frame: "FrameType | None" = None) -> None:
    """Run the exit functions here and die: the interpreter waits for something, and would not come to them.

    Args:
        frame: where it waits, when that is inside one of the exit functions.
    """
    end.exiting = True
    if pools.is_worker():
        root.close_for_exit()  # the exit functions are its parent's
    elif frame is None or _run_rest(frame):
        atexit._run_exitfuncs()  # the driver is among them, and does not return
    _die(end.signum)


def end_worker() -> None:
    """Die of the signal that came, in a worker process that is about to end by `os._exit`."""
    if end.pid == getpid() and end.signum:
        _die(end.signum)


def _die(signum: int, limit: float = 0.0) -> "NoReturn":
    end.dying = True
    die.die_of(signum, limit, files=not pools.is_worker())


def _run_rest(frame: "FrameType") -> bool:
    """Run the exit functions that are left, inside of one; False: which ones are left cannot be told."""
    current = _joins.exit_function(frame)
    ran = RanAlready(None if current is None else current.f_code)
    atexit.unregister(ran)  # type: ignore[arg-type]  # compared, never called
    if not ran.seen:
        root.close_for_exit()
        return False
    end.inside += 1
    atexit._run_exitfuncs()
    end.inside -= 1
    atexit.register(driver)  # for when the waiting is over
    return True


def waits(frame: "FrameType | None") -> None:
    """Deal with a wait for threads or processes; called by the handler every moment while it lasts.

    In an exit function the others are run first, so that the cleanups do not have to wait.
    """
    where, joins, patience = stack.where(frame), _joins.at(frame), end.patience
    if (
        joins is None
        or frame is None
        or patience is None
        or (where == stack.BODY and not _swallowed.unwinding())
    ):
        return
    if where == stack.EXIT and not pools.is_worker():
        inside = _joins.exit_function(frame)
        if patience.rest_of is not inside:
            patience.rest_of = inside
            _run_rest(frame)
    if not patience.over(end.deadline):
        return
    say(f"{_joins.names(joins)} did not end and is no longer waited for")
    if where == stack.BODY:
        raise _swallowed.make(end.signum, frame)
    if where == stack.JOIN:
        end_now()
    _die(end.signum)


def count_try(loops: "Callable[[], str]") -> None:
    """Count a signal that was swallowed; after too many end the program here.

    Args:
        loops: returns which task of an event loop swallowed it; nothing if none did.
    """
    end.tries += 1
    if end.tries >= _swallowed.TRIES:
        give_up(loops() or _swallowed.where())


def give_up(place: str) -> None:
    """End the program where it stands: it swallows every signal."""
    times = f"{signal_name(end.signum)} was swallowed {end.tries} times"
    say(f"{times}{place and f', last by {place}'}; the program ends here, after its cleanups")
    end_now()


def force(why: str) -> None:
    """Leave now: what is durable stays owed, all else is lost and named."""
    say(f"{why}: leaving at once{pending(' without: ')}; what is durable stays with the reaper")
    _die(end.signum, limit=1.0)


def explain(signum: int, way_out: str) -> None:
    """Say why the repeated signal does not end the program yet, and what does."""
    say(f"{signal_name(signum)} again: still cleaning up{pending(': ')}. {way_out}")


def pending(before: str) -> str:
    """Return what is running and left, in a few words, or nothing."""
    try:
        text = root.describe()
    except Exception:
        text = ""
    return before + text if text else ""
