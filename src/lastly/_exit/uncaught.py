"""An uncaught SIGINT of ours is silent and has its status, like every SystemExit.

Since Python 3.14 an uncaught KeyboardInterrupt is printed with its traceback, even if it is a
SystemExit; then Python itself dies of SIGINT, whatever status was asked for. So `sys.excepthook` makes a
plain SystemExit of ours: from the moment such an exception is raised until the signal is answered.
"""

import sys

from lastly._exit import state
from lastly.errors import CaughtSignal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

_previous: "Any" = None
_told: "Any" = None


def expect(told: "Callable[[CaughtSignal], object]") -> None:
    """Let an uncaught exception of ours pass in silence; a second call does nothing.

    Args:
        told: is called with the exception, then.
    """
    global _previous, _told
    _told = told
    if sys.version_info >= (3, 14) and sys.excepthook is not _pass_silently:
        _previous, sys.excepthook = sys.excepthook, _pass_silently


def expect_no_more() -> None:
    """Give `sys.excepthook` back, unless the program has set it meanwhile; a second call does nothing."""
    if sys.excepthook is _pass_silently:
        sys.excepthook = _previous


def _pass_silently(kind: type[BaseException], error: BaseException, trace: "TracebackType | None") -> None:
    if not isinstance(error, CaughtSignal):
        _previous(kind, error, trace)
        return
    _told(error)
    raise SystemExit(error.code)


state.subscribe(answered=expect_no_more)
