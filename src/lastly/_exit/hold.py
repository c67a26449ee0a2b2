"""A signal that waits: a server has requests to answer before the program unwinds.

The server's own loop runs in the main thread as a rule, and an exception raised there ends it: what it had
accepted would not be answered any more. So who looks after the requests is asked first, in the handler. When
it says "wait", the handler returns and the loop goes on, until `go_on` sends the signal once more.

The wait is the first to go when somebody presses Ctrl-C again; a repeated SIGTERM does not end it.
"""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Asked in the handler, at the first signal: whether it waits until `go_on` is called. Must not raise.
hold: "Callable[[], bool] | None" = None

NOT_ASKED, WAITS, GOES_ON = 0, 1, 2


def waits() -> bool:
    """Return whether the signal that has just come is held back; asked once per signal."""
    from lastly._exit import signals

    state = signals.state
    if hold is None or state.held != NOT_ASKED:
        return state.held == WAITS
    state.held = WAITS  # before the question: the answer may be `go_on`, at once and from another thread
    if not hold():
        state.held = GOES_ON
    return state.held == WAITS


def repeated(*, pressed: bool) -> bool:
    """Return whether the signal still waits, now that another one has come."""
    from lastly._exit import signals

    state = signals.state
    if state.held == WAITS and pressed:
        state.held = GOES_ON
    return state.held == WAITS


def go_on() -> None:
    """Have the signal unwind the program; from any thread, a second call does nothing."""
    from lastly._exit import signals

    state = signals.state
    if state.held == WAITS:
        state.held = GOES_ON
        state.again = signals.RAISE
        _signal.pthread_kill(signals.main_ident, state.signum)  # and again by lookout.py, until it is seen
