"""A signal that waits: a server has requests to answer before the program unwinds.

The server's own loop runs in the main thread as a rule, and an exception raised there ends it: what it had
accepted would not be answered any more. So the code that looks after the requests is asked first, in the
handler. When it says "wait", the handler returns and the loop goes on, until `go_on` sends the signal once
more.

The wait is the first to go when a person presses Ctrl-C again; a repeated SIGTERM does not end it.
"""

from lastly._exit import stack, state
from lastly._exit.state import GOES_ON, NOT_ASKED, RAISE, WAITS, end
from lastly._words import pythons


def waits() -> bool:
    """Return whether the signal that has just come is held back; asked once per signal."""
    questions = state.heard_by("hold")
    if not questions or end.held != NOT_ASKED:
        return end.held == WAITS
    end.held = WAITS  # before the question: the answer may be `go_on`, at once and from another thread
    if not any(ask() for ask in questions):
        end.held = GOES_ON
    return end.held == WAITS


def repeated(*, pressed: bool) -> bool:
    """Return whether the signal still waits, now that another one has come."""
    if end.held == WAITS and pressed:
        end.held = GOES_ON
    return end.held == WAITS


def go_on() -> None:
    """Have the signal unwind the program; from any thread, a second call does nothing."""
    if end.held == WAITS:
        end.held = GOES_ON
        end.again = RAISE
        pythons.send(stack.main_ident, end.signum)  # and again by lookout.py, until it is seen
