"""While a person waits: one line on the terminal that says what is running, what is left, and how to force.

Only when closing takes longer than half a second and stderr is a terminal. It is drawn by a thread, for
the one that closes is busy.

The program's own output must not be garbled by it. A line drawn where the cursor stands is: a cleanup
that prints writes over its beginning and leaves its end. So we do as package managers do: the last row is
taken out of the scrolling region, and what the program prints scrolls above it. Entering and leaving that
state keeps the cursor in its row and column (``ESC D`` moves down, scrolling if need be, and unlike a
newline stays in the column), for the program may have printed half a line.

What still fails: killed by SIGKILL in between, the terminal keeps the smaller region until it is reset.
"""

import os
import sys
import time
from _signal import SIGINT, default_int_handler, getsignal  # type: ignore[import-not-found]  # no stub

from lastly._scope.now import now
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

AFTER = 0.5
EVERY = 0.1
# How long the thread stays when nothing is closing: the next scope often follows at once.
LINGER = 0.6
_NAMED = 100  # cleanups whose names are looked at for one line

SAVE, RESTORE = "\x1b7", "\x1b8"

_running = False
_stay = False  # at exit, from 3.12 on, no other thread could be started
_rows = 0  # of the terminal while the line is there; else 0


def begin() -> None:
    """Have a thread look after the scopes that close; a second call does nothing while there is one."""
    global _running
    if _running:
        return
    import _thread

    _running = True
    try:
        _thread.start_new_thread(_watch, ())
    except RuntimeError:  # at exit, from 3.12 on: there is no line then
        _running = False


def stay() -> None:
    """Start the thread now, to be there when the root scope closes."""
    global _stay
    _stay = True
    begin()


def _watch() -> None:
    global _running
    since: float | None = None
    idle = monotonic()
    while True:
        time.sleep(EVERY)
        moment = monotonic()
        if any(scope._current is not None for scope in list(now.closing)):
            idle = moment
            since = since or moment - EVERY
            if moment - since >= AFTER:
                draw(moment - since)
        else:
            since = None
            if moment - idle > LINGER and not _stay:
                _running = False
                return


def text(spent: float) -> str:
    """Return the line."""
    threading: Any = sys.modules.get("threading")
    # Ctrl-C does not reach another thread that is closing.
    reached = threading is None or threading.main_thread().ident in now.closing.copy().values()
    out = way_out() if reached else ""
    return f"lastly: {describe()} ({spent:.0f} s{out and '; '}{out})"


def way_out() -> str:
    """Return what Ctrl-C does at this moment, in a few words; nothing when that is not known."""
    return "Ctrl-C interrupts it" if getsignal(SIGINT) is default_int_handler else now.way_out()


def describe(waiting: "Callable[[], str] | None" = None) -> str:
    """Say what is running and what is left, in a few words; in any thread.

    Args:
        waiting: says what is waited for; asked when no cleanup is running.
    """
    scopes = [scope for scope in list(now.closing) if scope._current is not None]
    running = scopes[-1]._current if scopes else None
    outer = [] if now.outermost is None else [now.outermost]
    pending = [cleanup for scope in [*reversed(scopes), *outer] for cleanup in scope._pending()]
    names = list(dict.fromkeys(c.name for c in pending[:_NAMED]))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    more = " and others" if len(pending) > _NAMED else more
    parts = [f"running {running.name}" if running is not None else waiting() if waiting is not None else ""]
    if names:
        parts.append(f"{len(set(map(id, pending)))} left: {', '.join(names[:3])}{more}")
    return "; ".join(filter(None, parts)) or "nothing is left"


def draw(spent: float) -> None:
    """Draw the line in the last row, and take that row out of the scrolling region the first time."""
    global _rows
    try:
        size = os.get_terminal_size(2)
        if size.lines < 3 or size.columns < 20:
            return
        enter = ""
        if not _rows:
            enter = f"\x1bD\x1b[A{SAVE}\x1b[1;{size.lines - 1}r{RESTORE}"
            _rows = size.lines
        line = dim(text(spent)[: size.columns - 1])
        # Not through sys.stderr: a cleanup may hold its lock, and its buffer is not ours to flush.
        if list(now.closing):
            _write(f"{enter}{SAVE}\x1b[{_rows};1H\x1b[2K{line}{RESTORE}")
    except (OSError, ValueError):
        pass


def dim(line: str) -> str:
    """By rich where it is installed, which knows what this terminal can do and whether NO_COLOR is set."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return line
    console = Console(stderr=True)
    with console.capture() as capture:
        console.print(Text(line, style="dim", no_wrap=True), end="")
    return capture.get()


def clear() -> None:
    """Take the line away and give the row back; nothing happens when there is none."""
    global _rows
    if _rows:
        rows, _rows = _rows, 0
        _write(f"{SAVE}\x1b[{rows};1H\x1b[2K\x1b[r{RESTORE}")


def _write(data: str) -> None:
    try:
        os.write(2, data.encode(errors="replace"))
    except OSError:
        pass


def forget() -> None:
    """In a forked child: the thread is the parent's, and so is the line."""
    global _running, _stay, _rows
    _running = _stay = False
    _rows = 0
