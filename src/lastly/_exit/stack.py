"""The main thread, and where in its life it is: told by the interpreter, and read off the thread's stack.

A signal's exception is raised in the program's own code only. A closing scope and the exit functions are left
alone: it would cut them short, and end nowhere.

Frames do not tell whether the end has begun. Python code runs with no frame below it also where a C
program calls it (embedding), and in a greenlet; and when C code reports a `SystemExit` by ``PyErr_Print``,
the interpreter ends right there, on top of the program's frames. But `threading` is told, before anything
else is done. Where it is not loaded (an unmodified program under `lastly run`) the frames must do.
"""

import _thread
import sys

from lastly._exit import state
from lastly._exit.state import end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

BODY, CLOSING, JOIN, EXIT = "body", "closing", "join", "exit"

# Code objects of functions that run cleanups: a stack that holds one is not interrupted.
closing: "set[CodeType]" = set()

# Whether `threading` was loaded before the program ran on.
_told = False


def leave_alone(*functions: "Callable[..., object]") -> None:
    """Let no signal cut these functions short: they run cleanups."""
    closing.update(function.__code__ for function in functions)


def trust_threading() -> None:
    """Ask `threading` whether the end has begun: it is loaded before the program runs on."""
    global _told
    _told = True


def where(frame: "FrameType | None") -> str:
    """Return where this frame of the main thread stands; None: no Python code, at the prompt."""
    if end.exiting:
        return EXIT
    start = end.bottom  # of the program, as far as it is known
    found = BODY
    bottom = None
    while frame is not None:
        if frame.f_code in closing and not _has_closed(frame):
            found = CLOSING
        elif frame.f_code.co_name == "_shutdown" and frame.f_globals.get("__name__") == "threading":
            # In its first moment it has not begun to wait.
            return JOIN if found == BODY and state.finalizing() else EXIT
        bottom, frame = frame, frame.f_back
    if state.finalizing():
        return EXIT
    if bottom is None or bottom is start or state.is_main(bottom):
        return found
    # After an error of the program's own, what runs with no frame below it is its excepthook.
    running = state.ended_by() is None if _told else _runs(bottom, start)
    return found if running else EXIT


def bottom_of(frame: "FrameType") -> "FrameType":
    """Return the outermost frame of this stack."""
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


def _has_closed(frame: "FrameType") -> bool:
    """Whether the scope in this frame is done, and will not ask any more for a signal that came."""
    return getattr(frame.f_locals.get("self"), "_over", False)


def _runs(bottom: "FrameType", start: "FrameType | None") -> bool:
    """Whether the program has not begun to run, or its first frame has not ended: this is a greenlet's."""
    if bottom.f_globals.get("__name__") == "importlib._bootstrap":
        return True
    try:
        if start is not None:
            start.clear()  # of a frame that has ended: drops locals that nothing uses
    except RuntimeError:
        return True
    return False


# ── the main thread ──────────────────────────────────────────────────────────────────────────────────────


def _ident() -> int:
    """Return this thread's number as the system knows it: gevent's `get_ident` tells a greenlet's."""
    me = sys._getframe()  # the only way to one's own frame
    found = sys._current_frames().items()  # documented, in spite of its name
    # A subinterpreter is shown the frames of the main one.
    return next((ident for ident, frame in found if frame is me), _thread.get_ident())


main_ident = _ident()


def note_main_thread() -> None:
    """Take this thread for the one that handles signals."""
    global main_ident
    main_ident = _ident()


def in_main_thread() -> bool:
    """Whether the caller runs in the thread that handles signals."""
    return _ident() == main_ident
