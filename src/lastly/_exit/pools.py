"""Worker processes that end by `os._exit`: no exit function runs there, so what they owe is run before it.

A process of multiprocessing, or of its copies multiprocess and billiard, runs *finalizers* when its function
has returned. billiard's pools (celery) and rq's work horses run nothing at all. And in none of them does a
death by a signal look like one, for the library catches its exception. So in such a process `os._exit` is
replaced by a function that first does what is owed, when it is the library that calls.
"""

import os
import sys

from lastly._exit.state import FORKING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn

# Each with modules named `process` and `util`, like the first.
_COPIES = ("multiprocessing", "multiprocess")
# What spawn passes to the new interpreter, which ends as interpreters do.
_SPAWNED = frozenset(("--multiprocessing-fork", "--billiard-fork"))

_pid = 0  # the process in which os._exit is replaced
_owed: "list[Callable[[], object]]" = []


def at_end(function: "Callable[[], object]") -> None:
    """Have a function called when this process's work is done, if it is such a worker; maybe twice."""

    def finalizer() -> None:
        function()
        die.flush_standard()  # from 3.13 on they run after that was done

    if not is_worker():
        return
    from lastly._exit import die  # now: at the end it may be too late

    before_exit(function)
    for library in (*_COPIES, "billiard"):
        if _started_by(library):
            # billiard has no finalizers of its own.
            util: Any = sys.modules.get(f"{library}.util" if library in _COPIES else "multiprocessing.util")
            util.Finalize(None, finalizer, exitpriority=0)


def is_worker() -> bool:
    """Whether this process is one that ends by `os._exit`: it was forked by one of the libraries."""
    return not _SPAWNED.intersection(sys.orig_argv) and (
        any(map(_started_by, (*_COPIES, "billiard"))) or _is_work_horse()
    )


def before_exit(function: "Callable[[], object]") -> None:
    """Have a function called when a library ends this process by `os._exit`."""
    global _pid
    if _pid != os.getpid():
        _pid = os.getpid()
        _owed.clear()
        os._exit = _replacement(os._exit, _pid)  # type: ignore[assignment]  # public in all but its name
    if function not in _owed:
        _owed.append(function)


def _started_by(library: str) -> bool:
    process: Any = sys.modules.get(f"{library}.process")
    return process is not None and type(process.current_process()).__name__ != "_MainProcess"


def _is_work_horse() -> bool:
    """Whether rq has forked this process for a job: its function stands in the main thread's stack."""
    if "rq" not in sys.modules:
        return False
    for top in sys._current_frames().values():  # public in all but its name
        frame: FrameType | None = top
        while frame is not None:
            module: str = frame.f_globals.get("__name__") or ""
            if frame.f_code.co_name == "main_work_horse" and module.startswith("rq."):
                return True
            frame = frame.f_back
    return False


def _replacement(plain: "Callable[[int], NoReturn]", pid: int) -> "Callable[[int], NoReturn]":
    from lastly._exit import die

    def _exit(status: int) -> "NoReturn":
        """Exit to the system with specified status, without normal exit processing."""
        caller: str = sys._getframe(1).f_globals.get("__name__") or ""  # as above
        if pid == os.getpid() and caller.partition(".")[0] in FORKING:
            for function in _owed:
                try:
                    function()
                except BaseException:  # noqa: S110  # nothing stands between a worker and its end
                    pass
            die.flush_standard()  # not other files: what their buffers hold may be the parent's
        plain(status)

    _exit.__module__, _exit.__qualname__ = "posix", "_exit"
    return _exit
