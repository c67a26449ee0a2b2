"""What a program is told: warnings that point at its own line, however deep they arise; lines on stderr;
what an error says.

An exception is the program's own code: its ``__str__`` may raise, and then nothing else must be lost.
"""

import sys
from _warnings import warn_explicit  # a name that lasts to the very end of the interpreter

from lastly._words.pythons import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Between the program and us, and nobody's line: a `with` of an ExitStack, a decorated function.
_BETWEEN = frozenset({"contextlib", "functools"})


def warn(text: str, category: type[Warning] = RuntimeWarning, source: "Any" = None) -> None:
    """Give a warning at the line that called into this library.

    `warnings.warn` counts frames, and each way into the library has another number of them.

    Args:
        text: the message.
        category: its class.
        source: the object that it is about, for tracemalloc.
    """
    frame = sys._getframe(1)  # noqa: SLF001  # documented, and what warnings.warn itself uses
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    where = frame.f_globals
    # Without module_globals: a loader would be asked for the line, and some raise (python -c, -m).
    warn_explicit(
        text, category, frame.f_code.co_filename, frame.f_lineno, where.get("__name__") or "<unknown>",
        where.setdefault("__warningregistry__", {}), source=source,
    )  # fmt: skip


def warn_only(text: str) -> None:
    """As `warn`, where the caller goes on even if warnings are errors."""
    try:
        warn(text)
    except RuntimeWarning:
        pass


def say(text: str) -> None:
    """Write a line to stderr by the system call alone: a handler may interrupt a print."""
    try:
        write(2, f"lastly: {text}\n".encode(errors="replace"))
    except OSError:
        pass


def message_of(error: BaseException) -> str:
    """Return an error's class and message, as a traceback ends; never raises, whatever ``__str__`` does."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:
        return f"{name}: its message cannot be shown"


def repr_of(error: BaseException) -> str:
    """Return what `repr` gives; never raises, whatever the error's ``__repr__`` does."""
    try:
        return repr(error)
    except Exception:
        return f"<{type(error).__name__}, which cannot be shown>"


def _is_ours(module: str) -> bool:
    return module == "lastly" or module.startswith("lastly.") or module in _BETWEEN
