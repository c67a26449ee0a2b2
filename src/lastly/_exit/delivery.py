"""Bring a signal to the program: as an exception, by an event loop, or later; and see what became of it."""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum
import sys

from lastly._exit import ending, event_loops, hold, interrupted_join, joins, pools, stack, state, swallowed
from lastly._exit.stack import BODY, CLOSING, EXIT, JOIN
from lastly._exit.state import WAITS, end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from lastly._scope.scope import Scope


def deliver(signum: int, frame: "FrameType | None", where: str) -> None:
    """Make the program unwind, if it can."""
    if where in (JOIN, EXIT) and pools.is_worker():
        return  # the library that has made it ends it: see pools
    if where == JOIN:
        ending.end_now()
    elif where == EXIT and joins.at(frame) is not None:
        ending.end_now(frame)
    elif where == CLOSING:
        end.due = True
    elif where == BODY and not hold.waits() and not event_loops.cancel(frame):
        interrupted_join.keep(frame)
        raise swallowed.make(signum, frame)


def fate() -> str:
    """Return what has become of the signal: see swallowed.py."""
    return event_loops.fate() or swallowed.fate()


def lost() -> bool:
    """Whether the signal seems to be lost, or answered, while the program's body runs; in any thread."""
    if end.driving or end.held == WAITS:
        return False
    frame = sys._current_frames().get(stack.main_ident)  # documented, in spite of its name
    return stack.where(frame) == BODY and fate() in (swallowed.ANSWERED, swallowed.SWALLOWED)


def installed(signum: int) -> bool:
    """Whether a signal still comes to us; 0, one that was answered meanwhile, does not."""
    return signum > 0 and _signal.getsignal(signum) is end.handler


def look(frame: "FrameType | None") -> None:
    """See what became of the signal; raise it again if it was swallowed."""
    where = stack.where(frame)
    found = fate() if where == BODY else ""  # else it has left the main module, or will be raised by a scope
    if found == swallowed.ANSWERED:
        state.answered()
    elif found == swallowed.SWALLOWED:
        ending.count_try(event_loops.where)
        end.due = False
        if not event_loops.cancel_again():
            deliver(end.signum, frame, where)


def forget() -> None:
    """Take the signal that came for answered; the process does not end by it, with status 0 either."""
    state.answered()
    end.handled = 0
    swallowed.begin()


def raise_due(scope: "Scope | None" = None) -> None:
    """Raise the signal that came while a scope was closing; called by the scope that has closed."""
    if end.due and stack.in_main_thread():
        frame: FrameType | None = sys._getframe(1)  # the way to the scope's caller
        while scope is not None and frame is not None and _is_of(scope, frame):
            frame = frame.f_back
        if stack.where(frame) == BODY:
            end.due = False
            deliver(end.signum, frame, BODY)


def _is_of(scope: "Scope", frame: "FrameType") -> bool:
    values = frame.f_locals
    return frame.f_globals.get("__name__", "").startswith("lastly.") and (
        values.get("self") is scope or values.get("scope") is scope
    )
