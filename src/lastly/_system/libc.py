"""Calls of the C library that Python does not offer. Where there is no ctypes, nothing happens."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PDEATHSIG, _NAME, _SUBREAPER, _IS_SUBREAPER = 1, 15, 36, 37
_MMAP_THRESHOLD = -3  # of mallopt
_library: "Any" = None  # False: there is none


def _load() -> "Any":
    global _library
    if _library is None:
        try:
            import ctypes

            _library = ctypes.CDLL(None, use_errno=True)
        except (ImportError, OSError):
            _library = False
    return _library


def _prctl(option: int, value: "Any") -> str:
    """Return why it could not be done, or an empty string."""
    call = getattr(_load(), "prctl", None)
    if call is None:
        return "no prctl in this C library"
    if call(option, value, 0, 0, 0) == 0:
        return ""
    import ctypes

    return os.strerror(ctypes.get_errno())


def adopt_orphans() -> str:
    """Make this process the parent of what its descendants leave behind; returns why that cannot be.

    It survives exec, and forked children do not inherit it.
    """
    return _prctl(_SUBREAPER, 1)


def die_with_parent(signum: int) -> str:
    """Have the kernel signal this process when the thread that forked it ends; returns why that cannot be."""
    return _prctl(_PDEATHSIG, signum)


def name_process(name: str) -> str:
    """Set what ps and top call this process (15 bytes)."""
    return _prctl(_NAME, name.encode()[:15])


def is_there() -> bool:
    """Whether this Python reaches the C library: one without ctypes does not."""
    return bool(_load())


def refuses_prctl() -> str:
    """Return why this process cannot become the parent of orphans, or an empty string; changes nothing."""
    if not is_there():
        return "no ctypes in this Python"
    import ctypes

    return _prctl(_IS_SUBREAPER, ctypes.byref(ctypes.c_int()))


def give_back_memory() -> None:
    """Return to the system what compiling modules took, where there were no .pyc files: three megabytes.

    From now on each block of 128 kB or more is returned once it is free. Without that, the C library raises
    this limit after the first one, and arrays that grow below it leave holes: 20 MB with a million cleanups.
    """
    trim = getattr(_load(), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
        _library.mallopt(_MMAP_THRESHOLD, 128 << 10)
