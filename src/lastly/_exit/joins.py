"""Waiting for threads and worker processes at the end: seen, bounded, and named.

After a signal the program unwinds and its exit functions run; but on the way the standard library waits for
what the program has started, without limit: `threading` for threads, multiprocessing's exit function for its
children, ``with ProcessPoolExecutor()`` for its workers, a `logging` queue listener for its thread. A busy
child would make the program immortal, where without us the signal kills it at once.

Such a wait is not a cleanup. The stack shows it: from the call that waits outwards there is only code of
libraries. A join that the program's own code calls, in a ``finally`` or an exit function, is a cleanup of the
program's and is left alone; so is everything that a closing scope calls.

While such a wait goes on, a thread sends the signal once more every moment (lookout.py), and the handler
decides (`ending.waits`). Python runs it in the main thread between two bytecodes, and the call goes on
waiting.
"""

import sys

from lastly._exit import stack, state
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

# At most so many seconds between two looks count as waited.
_PAUSE = 0.3
# All such waits together are given up after so many seconds, or half of the grace that is left.
LIMIT = 5.0

# Libraries that wait at exit, or pass a wait on.
_LIBRARIES = frozenset((
    "threading", "multiprocessing", "multiprocess", "billiard", "concurrent", "asyncio", "selectors",
    "logging", "weakref", "contextlib", "joblib", "loky", "torch", "lastly",
))  # fmt: skip

# Files of this room whose functions deal with a signal, and are no exit functions.
_HANDLERS = frozenset(("delivery", "ending", "lookout", "signals"))

_FAR = float("inf")


class Patience:
    """How much of the waiting is left; one for each signal."""

    __slots__ = ("end", "last", "left", "rest_of")

    def __init__(self) -> None:
        self.left: float | None = None  # None: not waited yet
        self.last = self.end = 0.0
        self.rest_of: FrameType | None = None  # the exit function inside which the other ones have been run

    def over(self, deadline: "float | None") -> bool:
        """Note that the main thread waits; return whether it has waited long enough."""
        now = monotonic()
        if self.left is None:
            self.left = LIMIT
            self.end = _FAR if deadline is None else now + max(deadline - now, 0.0) / 2
        else:
            self.left -= min(now - self.last, _PAUSE)  # longer: something else was done in between
        self.last = now
        return self.left <= 0 or now >= self.end


def at(frame: "FrameType | None") -> "FrameType | None":
    """Return the call in which the main thread waits for a thread or a process, if it does."""
    found = outermost = None
    inside = True
    while frame is not None:
        if found is None and _ours(frame) == "ending":
            return None  # it is being dealt with just now
        if frame.f_code in stack.closing:
            return None
        if inside and _library(frame) in _LIBRARIES:
            outermost = frame
            found = found or (frame if _waits(frame) else None)
        else:
            inside = False
        frame = frame.f_back
    if found is not None and found is outermost and not inside:
        return None  # called by the program itself
    return found


def _library(frame: "FrameType") -> str:
    name: str = frame.f_globals.get("__name__") or ""
    return name.partition(".")[0]


def _ours(frame: "FrameType") -> str:
    """Return which file of this room a frame is of."""
    name: str = frame.f_globals.get("__name__") or ""
    room = __name__.rpartition(".")[0] + "."
    return name.removeprefix(room) if name.startswith(room) else ""


def _waits(frame: "FrameType") -> bool:
    module: str = frame.f_globals.get("__name__") or ""
    function = frame.f_code.co_name
    if module == "threading":
        return function == "join" or (function == "_shutdown" and state.finalizing())
    if module == "logging":  # for the locks of its handlers, which a thread may hold
        return function == "shutdown"
    if function == "join":
        return module.endswith(".process")
    # A loop that waits for its executor's threads.
    return module == "asyncio.runners" and function == "close" and bool(_executor(frame))


def _executor(frame: "FrameType") -> "Any":
    loop = getattr(frame.f_locals.get("self"), "_loop", None)
    return getattr(loop, "_executor_shutdown_called", False) and getattr(loop, "_default_executor", None)


def names(frame: "FrameType") -> str:
    """Say for what this call waits."""
    me = frame.f_locals.get("self")
    if frame.f_code.co_name == "shutdown":
        return "logging.shutdown()"
    if frame.f_code.co_name == "close":
        threads = getattr(_executor(frame), "_threads", ())
    elif frame.f_code.co_name == "_shutdown":
        # Not by enumerate(): the interrupted code may hold its lock.
        threads = [t for t in frame.f_globals["_active"].copy().values() if not t.daemon]
    elif frame.f_globals.get("__name__") == "threading":
        threads = [me]
    else:
        return _process(me)
    main = frame.f_globals.get("main_thread", lambda: None)()
    found = [_of_thread(thread) for thread in threads if thread is not main]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more or "threads"


def _of_thread(thread: "Any") -> str:
    processes = getattr(thread, "processes", None)  # concurrent.futures' manager of worker processes
    if isinstance(processes, dict) and processes:
        return ", ".join(map(_process, list(processes.values())[:3]))
    return f"thread {thread.name!r}"


def _process(process: "Any") -> str:
    return f"process {process.name!r} (pid {process.pid})"


def exit_function(frame: "FrameType | None") -> "FrameType | None":
    """Return the frame of the exit function in which this one stands: the outermost, unless we called it."""
    found = None
    while frame is not None:
        ours = _ours(frame)
        if ours == "ending" and found is not None:
            return found
        if ours not in _HANDLERS:
            found = frame
        frame = frame.f_back
    return found


def describe() -> str:
    """Say for what the main thread waits, if it does; in any thread."""
    frame = sys._current_frames().get(stack.main_ident)
    while frame is not None and _library(frame) == "lastly":  # a handler that asks
        frame = frame.f_back
    frame = at(frame)
    return "" if frame is None else f"waiting for {names(frame)}"


def at_it() -> bool:
    """Whether the main thread waits; in any thread."""
    return at(sys._current_frames().get(stack.main_ident)) is not None
