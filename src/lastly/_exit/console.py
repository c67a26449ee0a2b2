"""Windows: Ctrl-Break, a console that is closed, a user that logs off, a system that shuts down.

All four end the program as SIGBREAK does where `install` has that one. Microsoft's C library turns them into
SIGBREAK as well, but returns to Windows at once: after the last three Windows then ends the process before
Python has run a handler. So our own handler, which is asked first, does not return: the main thread ends the
process meanwhile. Windows waits 5 s for that, and so the cleanups have a little less.
"""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum
import _thread

from lastly._exit.state import end
from lastly._scope.now import now
from lastly._words import pythons
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lastly._system.windows import Console

# Seconds from the event to the process's end: Windows kills it after 5.
_LIMIT = 4.5
# Seconds between two attempts to wake the main thread.
_TICK = 0.05

_console: "Console | None" = None


def listen(alarm_in: "Callable[[float], None]") -> None:
    """Hear of console events from now on, where there are any; a second call does nothing.

    Args:
        alarm_in: has the end's deadline looked at after so many seconds.
    """
    global _console
    if not pythons.WINDOWS:
        return
    try:
        from lastly._system import windows
    except ImportError:  # a build without ctypes
        return
    _console = _console or windows.Console(lambda event: _heard(event, alarm_in))
    _console.listen()


def stop() -> None:
    """Hear of them no more."""
    if _console is not None:
        _console.stop()


def _heard(event: int, alarm_in: "Callable[[float], None]") -> bool:
    """Deal with one, in a thread of Windows'."""
    from lastly._system import windows

    signum = pythons.number("SIGBREAK")
    if event not in (windows.BREAK, windows.CLOSE, windows.LOGOFF, windows.SHUTDOWN):
        return False
    if signum not in end.previous or _signal.getsignal(signum) is not end.handler:
        return False
    if event == windows.BREAK:
        _tell(signum)
        return True
    if not end.signum:
        end.grace = _LIMIT if end.grace is None else min(end.grace, _LIMIT)
        _tell(signum)
    elif end.deadline is None or end.deadline > monotonic() + _LIMIT:  # it is ending already, too slowly
        until = monotonic() + _LIMIT
        end.grace, end.deadline, now.deadline = _LIMIT, until, until - 0.05 * _LIMIT
        alarm_in(_LIMIT)
    never = _thread.allocate_lock()
    never.acquire()
    never.acquire()
    return True


def _tell(signum: int) -> None:
    """Raise the signal, and wake the main thread until the handler has run, at most for a second.

    What comes in the instant before a sleep begins does not wake it.
    """
    before = end.count
    pythons.send(0, signum)
    never = _thread.allocate_lock()
    never.acquire()
    for _ in range(round(1 / _TICK)):
        if end.count != before or never.acquire(True, _TICK):
            return
        pythons.wake_sleep()
