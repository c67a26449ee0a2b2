"""The calls of Windows that Python has no name for: the events of a console.

Windows asks a program to end by a console event: Ctrl-C, Ctrl-Break, the window is closed, the user logs off,
the system shuts down. It calls the handlers in a thread that it makes for that, the last one first, until one
returns true. After one of the last three events it ends the process as soon as they have returned, and
otherwise 5 s later.
"""

import ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

BREAK: "Final" = 1
CLOSE: "Final" = 2
LOGOFF: "Final" = 5
SHUTDOWN: "Final" = 6

_kernel: "Any" = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]  # for another system
_Handler: "Any" = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_ulong)  # type: ignore[attr-defined]  # as above
_kernel.SetConsoleCtrlHandler.argtypes = (_Handler, ctypes.c_int)


class Console:
    """Calls a function with the number of each console event, in a thread of Windows'.

    The function returns whether it has dealt with the event; if not, the next handler is asked. The object
    must live for as long as it may be called.
    """

    def __init__(self, heard: "Callable[[int], bool]") -> None:
        self._handler = _Handler(heard)
        self.listening = False

    def listen(self) -> None:
        """Be called before all handlers that there are now; a second call does nothing.

        Raises:
            OSError: Windows refuses.
        """
        if not self.listening:
            self._set(listening=True)

    def stop(self) -> None:
        """Be called no more; a second call does nothing. Raises OSError when Windows refuses."""
        if self.listening:
            self._set(listening=False)

    def _set(self, *, listening: bool) -> None:
        if not _kernel.SetConsoleCtrlHandler(self._handler, int(listening)):
            raise ctypes.WinError(ctypes.get_last_error())  # type: ignore[attr-defined]  # for another system
        self.listening = listening
