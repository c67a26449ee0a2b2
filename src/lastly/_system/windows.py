"""The calls of Windows that Python has no name for: the events of a console, and a tree of processes.

Windows asks a program to end by a console event: Ctrl-C, Ctrl-Break, the window is closed, the user logs off,
the system shuts down. It calls the handlers in a thread that it makes for that, the last one first, until one
returns true. After one of the last three events it ends the process as soon as they have returned, and
otherwise 5 s later.

A job holds a process and all that it starts, whatever becomes of the process itself.
"""

import ctypes
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final

BREAK: "Final" = 1
CLOSE: "Final" = 2
LOGOFF: "Final" = 5
SHUTDOWN: "Final" = 6

SUSPENDED: "Final" = 0x4  # a flag of a new process: it runs when it is told to
_EXTENDED_LIMITS = 9
_BREAKAWAY_OK, _KILL_ON_JOB_CLOSE = 0x800, 0x2000
_TERMINATE, _SET_QUOTA, _SUSPEND_RESUME = 0x1, 0x100, 0x800  # rights to a process
_KILLED = 1  # the status of a process that is ended, as Popen.kill gives it

_kernel: "Any" = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]  # for another system
_Handler: "Any" = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_ulong)  # type: ignore[attr-defined]  # as above
_kernel.SetConsoleCtrlHandler.argtypes = (_Handler, ctypes.c_int)
_kernel.OpenProcess.restype = _kernel.CreateJobObjectW.restype = ctypes.c_void_p
_kernel.OpenProcess.argtypes = (ctypes.c_ulong, ctypes.c_int, ctypes.c_ulong)
_kernel.CreateJobObjectW.argtypes = (ctypes.c_void_p, ctypes.c_wchar_p)
_kernel.AssignProcessToJobObject.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_kernel.SetInformationJobObject.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong)
_kernel.TerminateJobObject.argtypes = (ctypes.c_void_p, ctypes.c_uint)
_kernel.CloseHandle.argtypes = (ctypes.c_void_p,)


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
        _checked(_kernel.SetConsoleCtrlHandler(self._handler, int(listening)))
        self.listening = listening


class _Limits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (
        ("times", ctypes.c_longlong * 2), ("flags", ctypes.c_ulong), ("working_set", ctypes.c_size_t * 2),
        ("processes", ctypes.c_ulong), ("affinity", ctypes.c_size_t), ("classes", ctypes.c_ulong * 2),
        ("transfers", ctypes.c_ulonglong * 6), ("memory", ctypes.c_size_t * 4),
    )  # fmt: skip


class Job:
    """A process and all that it starts. Windows ends them all when this process has ended, in whatever way.

    What is started with CREATE_BREAKAWAY_FROM_JOB is left out: a program asks for that to be outlived.
    """

    def __init__(self, pid: int) -> None:
        """Hold a child that was not waited for yet, and what it starts from now on.

        Raises:
            OSError: it has ended, or is in a job that may have no other inside.
        """
        self._handle: int | None = _kernel.CreateJobObjectW(None, None)
        try:
            self._limit(_KILL_ON_JOB_CLOSE)
            with _opened(pid, _SET_QUOTA | _TERMINATE) as process:
                _checked(_kernel.AssignProcessToJobObject(self._handle, process))
        except OSError:
            self._close()
            raise

    def end(self) -> None:
        """End all of them; a second call does nothing."""
        if self._handle is not None:
            _checked(_kernel.TerminateJobObject(self._handle, _KILLED))
            self._close()

    def let_live(self) -> None:
        """Let them live on, also after this process; a second call does nothing."""
        if self._handle is not None:
            self._limit(0)
            self._close()

    def _limit(self, flags: int) -> None:
        limits = _Limits(flags=flags | _BREAKAWAY_OK)
        size = ctypes.sizeof(limits)
        _checked(_kernel.SetInformationJobObject(self._handle, _EXTENDED_LIMITS, ctypes.byref(limits), size))

    def _close(self) -> None:
        _kernel.CloseHandle(self._handle)
        self._handle = None


def resume(pid: int) -> None:
    """Let a child that was started SUSPENDED run. Raises OSError when it has ended."""
    with _opened(pid, _SUSPEND_RESUME) as process:
        ctypes.WinDLL("ntdll").NtResumeProcess(ctypes.c_void_p(process))  # type: ignore[attr-defined]  # as above


@contextmanager
def _opened(pid: int, rights: int) -> "Iterator[int]":
    handle = _kernel.OpenProcess(rights, 0, pid)
    _checked(handle is not None)
    try:
        yield handle
    finally:
        _kernel.CloseHandle(handle)


def _checked(done: int) -> None:
    if not done:
        raise ctypes.WinError(ctypes.get_last_error())  # type: ignore[attr-defined]  # for another system
