"""While a person waits: lines on the terminal that say what is running, what is left, and how to force.

Only when closing takes longer than half a second and stderr is a terminal. A thread writes them, for the one
that closes is busy: one at once, one when Ctrl-C means something else, and one every 2 s, less often while
nothing changes.

Plain lines, one below the other. A line that stays in its place needs the last row taken out of the scrolling
region, as package managers do: then a program that is killed leaves the terminal a row smaller, and nothing
is left to repair it. One that is overwritten in place is garbled by what the cleanups print.
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
# Seconds between two lines; twice as many after each that says the same.
PAUSE, LONGEST = 2.0, 16.0
# How long the thread stays when nothing is closing: the next scope often follows at once.
LINGER = 0.6
_NAMED = 100  # cleanups whose names are looked at for one line

_running = False
_stay = False  # at exit, from 3.12 on, no other thread could be started


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
    lines = _Lines()
    while True:
        time.sleep(EVERY)
        moment = monotonic()
        if any(scope._current is not None for scope in list(now.closing)):
            idle = moment
            since = since or moment - EVERY
            if moment - since >= AFTER:
                lines.say(moment, moment - since)
        else:
            since = None
            if moment - idle > LINGER and not _stay:
                _running = False
                return


class _Lines:
    """What was said last, and when; how long the same is not said again."""

    def __init__(self) -> None:
        self.said = ("", "")
        self.at = -PAUSE
        self.pause = PAUSE

    def say(self, moment: float, spent: float) -> None:
        """Write a line, if it is time for one."""
        threading: Any = sys.modules.get("threading")
        # Ctrl-C does not reach another thread that is closing.
        reached = threading is None or threading.main_thread().ident in now.closing.copy().values()
        what, out = describe(), _way_out() if reached else ""
        same = (what, out) == self.said
        if out == self.said[1] and moment < self.at + (self.pause if same else PAUSE):
            return
        self.said, self.at = (what, out), moment
        self.pause = min(2 * self.pause, LONGEST) if same else PAUSE
        if list(now.closing):
            _write(f"lastly: {what} ({spent:.0f} s{out and '; '}{out})")


def _way_out() -> str:
    told = now.way_out()
    if told is not None:
        return told
    return "Ctrl-C interrupts it" if getsignal(SIGINT) is default_int_handler else ""


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


def _write(line: str) -> None:
    """Write a line of its own, wherever the cursor stands.

    As many spaces as a row has: from its beginning they fill it, from anywhere else they end in the next one.
    """
    try:
        columns = os.get_terminal_size(2).columns
        # Not through sys.stderr: a cleanup may hold its lock, and its buffer is not ours to flush.
        os.write(2, f"{' ' * columns}\r{line[: columns - 1]}\r\n".encode(errors="replace"))
    except (OSError, ValueError):
        pass


def forget() -> None:
    """In a forked child: the thread is the parent's."""
    global _running, _stay
    _running = _stay = False
