"""How the command line shows things: names, times, tables. What comes out of a journal is somebody's text."""

import json
import sys
import time
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Arguments of the built-in actions that only the journal is interested in.
_OURS = frozenset({"expect", "confirmed", "grace", "token", "cwd", "timeout"})
_COLOURS = {
    "alive": "green", "dead": "yellow", "unknown": "yellow", "done": "green", "failed": "red",
    "abandoned": "red", "due": "yellow",
}  # fmt: skip


def printable(text: str) -> str:
    """A text without what would move a terminal's cursor: control characters and stray bytes as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def cleanup_name(cleanup: dict[str, Any]) -> str:
    """What a person calls it: ``remove '/tmp/build'``, ``deploy:destroy_vm 'site-42'``."""
    action, kwargs = cleanup["action"], dict(cleanup.get("kwargs") or {})
    if action.startswith("lastly.actions:"):
        action = action.removeprefix("lastly.actions:")
        kwargs = {k: v for k, v in kwargs.items() if k not in _OURS}
    words = [_short(value) for value in cleanup.get("args") or ()]
    words += [f"{name}={_short(value)}" for name, value in kwargs.items()]
    return printable(" ".join([action, *words]))


def _short(value: Any) -> str:
    if isinstance(value, dict) and "pid" in value:
        return f"pid {value['pid']}"
    if isinstance(value, str):
        return repr(value)
    return json.dumps(value)


def program_name(owner: dict[str, Any]) -> str:
    """``deploy.py (4711)``: the last part of what was started, and its pid."""
    name = str(owner["argv0"]).rsplit("/", 1)[-1] or str(owner["exe"]).rsplit("/", 1)[-1] or "?"
    return printable(f"{name} ({owner['pid']})")


def life(owner: dict[str, Any]) -> str:
    """alive, dead, or unknown: of another machine or namespace."""
    return {True: "alive", False: "dead", None: "unknown"}[owner["alive"]]


def age(moment: float | None) -> str:
    """How long ago: ``5 min``."""
    if not moment:
        return ""
    seconds = max(0.0, time.time() - moment)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds / size)} {unit}"
    return f"{int(seconds)} s"


def clock(moment: float | None) -> str:
    """Local date and time, to the second."""
    return "" if not moment else datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; on a pipe as wide as its longest line, so that nothing is cut."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr, width=None if stream.isatty() else 100_000, highlight=False, soft_wrap=False
    )


def table(head: list[str], rows: list[list[str]]) -> None:
    """Print rows under their headings; known words are coloured on a terminal."""
    terminal = console()
    if not terminal.is_terminal:
        _plain([head, *rows])
        return
    grid = Table(*head, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        grid.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    terminal.print(grid)


def _plain(lines: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        sys.stdout.write("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() + "\n")


def as_json(value: Any) -> None:
    """Print data for programs: one document, ASCII, so that any bytes of a path survive."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
