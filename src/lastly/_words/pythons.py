"""What Python and the system lend us below their public names, and what does the same where they do not.

Every private name that not every Python has stands here, and so does every name that only some systems have.
`import lastly` loads this file: it costs no import but those of modules written in C.
"""

import _signal as signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

try:
    from posix import _exit, close, fstat, getpid, write
except ImportError:  # Windows
    from os import _exit, close, fstat, getpid, write

try:
    from _functools import partial  # type: ignore[import-not-found]  # no stub; functools costs an import
except ImportError:  # PyPy
    from functools import partial

try:
    from posix import register_at_fork
except ImportError:  # nothing forks there

    def register_at_fork(  # type: ignore[misc]  # for another system
        *,
        before: "Callable[[], object] | None" = None,
        after_in_parent: "Callable[[], object] | None" = None,
        after_in_child: "Callable[[], object] | None" = None,
    ) -> None:
        """Do nothing: this system has no fork."""


__all__ = [
    "close", "fstat", "getpid", "leave", "partial", "register_at_fork", "signal", "write",
]  # fmt: skip

leave = _exit
# Windows itself, not a test that pretends to be it. It knows no death by a signal: a program that was
# interrupted has this status there.
WINDOWS = "nt" in sys.builtin_module_names
_CONTROL_C_EXIT = 0xC000013A - (1 << 32)

SIG_BLOCK: int = getattr(signal, "SIG_BLOCK", 0)
SIG_UNBLOCK: int = getattr(signal, "SIG_UNBLOCK", 1)
SIG_SETMASK: int = getattr(signal, "SIG_SETMASK", 2)


def number(name: str) -> int:
    """Return the number of a signal; -1, which no signal has, where this system does not know it."""
    return int(getattr(signal, name, -1))


def blocked(how: int, signums: "Iterable[int]") -> "set[int]":
    """Do what `signal.pthread_sigmask` does; nothing where a thread cannot block signals."""
    if not hasattr(signal, "pthread_sigmask"):
        return set()
    before: set[int] = signal.pthread_sigmask(how, signums)
    return before


def send(ident: int, signum: int) -> None:
    """Send a signal to a thread of this process; to the process where threads cannot be told apart."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(ident, signum)
    else:
        signal.raise_signal(signum)
        wake_sleep()


def wake_sleep() -> None:
    """Have a `time.sleep` of the main thread look for signals now, on Windows.

    Python itself wakes it at SIGINT alone there, and runs the handlers of other signals after the sleep.
    """
    if not WINDOWS:
        return
    try:
        import ctypes

        event = ctypes.pythonapi._PyOS_SigintEvent  # noqa: SLF001  # what its own extension modules wait for
    except (ImportError, AttributeError):
        return
    event.restype = ctypes.c_void_p
    ctypes.WinDLL("kernel32").SetEvent(ctypes.c_void_p(event()))  # type: ignore[attr-defined]  # for another system


def pipe() -> "tuple[int, int]":
    """Return the two ends of a pipe that never blocks and that no other program inherits."""
    import os

    if hasattr(os, "pipe2"):
        return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    ends = os.pipe()
    for fd in ends:
        os.set_blocking(fd, False)
    return ends


def has_timer() -> bool:
    """Whether the kernel keeps a clock that comes back by SIGALRM."""
    return hasattr(signal, "setitimer")


def after(seconds: float, function: "Callable[[], object]") -> None:
    """Call a function from a thread of its own, where there is no SIGALRM. No thread to be had: never."""
    import _thread

    def wait() -> None:
        never = _thread.allocate_lock()
        never.acquire()
        never.acquire(True, seconds)
        function()

    try:
        _thread.start_new_thread(wait, ())
    except RuntimeError:
        pass


def code_of(signum: int) -> int:
    """Return the status of a process that a signal has ended, where that is told by a status."""
    if WINDOWS and signum in (number("SIGINT"), number("SIGBREAK")):
        return _CONTROL_C_EXIT
    return 128 + signum


def c_call(name: str, *args: "Any") -> bool:
    """Call a function of the C library; strings among the arguments name functions of it.

    By _ctypes, which is a tenth of the cost of ctypes. Returns False where there is none.
    """
    try:
        import _ctypes

        dlopen, dlsym = _ctypes.dlopen, _ctypes.dlsym
    except (ImportError, AttributeError, OSError):  # OSError: no descriptor is left to load it with
        return _by_ctypes(name, args)
    library = dlopen(None, 0)  # type: ignore[arg-type]  # None: this program itself
    pointers: Any = type("void_p", (_ctypes._SimpleCData,), {"_type_": "P"})  # noqa: SLF001  # as ctypes does
    found = [dlsym(library, arg) if isinstance(arg, str) else arg for arg in args]
    _ctypes.call_cdeclfunction(dlsym(library, name), tuple(map(pointers, found)))
    return True


def _by_ctypes(name: str, args: "tuple[Any, ...]") -> bool:
    if WINDOWS:
        return False
    try:
        import ctypes
    except (ImportError, OSError):
        return False
    library = ctypes.CDLL(None)

    def pointer(arg: "Any") -> "Any":
        return ctypes.c_void_p(
            ctypes.cast(getattr(library, arg), ctypes.c_void_p).value if isinstance(arg, str) else arg
        )

    getattr(library, name)(*map(pointer, args))
    return True
