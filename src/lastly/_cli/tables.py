"""Tables for people.

Names come from the journal and may hold anything: nothing of them reaches the terminal raw.

`rich`, where it is installed, draws on terminals: colours, and columns that fold. Anywhere else, in a pipe or
a file, and without rich, columns are padded with spaces and each row is one line. On a terminal too narrow
for the columns a row is a paragraph, with one line for each of its cells.
"""

import contextlib
import itertools
import os
import shutil
import sys
import time

from lastly._words import naming
from lastly._words.counts import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from lastly._cli.finding import Finding
    from lastly._settle.settle import Outcome

    Row = dict[str, Any]

_COLOURS = {
    "done": "green", "released": "green", "ok": "green", "active": "cyan", "planned": "cyan",
    "running": "yellow", "failed": "yellow", "unprotected": "yellow", "abandoned": "red", "wrong": "red",
}  # fmt: skip
_WIDE = {"cleanup", "state", "owner", "what", "how to change that"}
_NARROWEST = 60  # columns that a table needs to be readable
_FOLDED = 12  # characters that a line of a folded cell needs
_MEASURED = 50  # rows of a long table by which the widths of its columns are chosen


def plain(value: object) -> str:
    """Return text in which control characters, bidi marks and stray bytes are visible, and harmless."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def line(text: str) -> None:
    """Print one line."""
    sys.stdout.write(f"{plain(text)}\n")


def age(moment: float | None) -> str:
    """Return how long ago, in one unit."""
    if not moment:
        return ""
    return _length(max(0.0, time.time() - moment))


def _length(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def state(item: "Row") -> str:
    """Return the state with what explains it."""
    why = item.get("reason") or item.get("error") or ""
    settled = f" ({item['settled']})" if item.get("settled") else ""
    again = f", next attempt {_until(item['next'])}" if item["state"] == "failed" and item.get("next") else ""
    return f"{item['state']}{f': {why}' if why else ''}{again}{settled}"


def _until(moment: float) -> str:
    seconds = moment - time.time()
    return f"in {_length(seconds)}" if seconds > 0 else "now"


class Cell(str):
    """A text without control characters, and the word that its colour stands for."""

    __slots__ = ("word",)
    word: str

    @classmethod
    def of(cls, text: object, word: str = "") -> "Cell":
        """Return *text*, made harmless."""
        cell = cls(plain(text))
        cell.word = word
        return cell


class Table:
    """Rows of cells below their columns' names."""

    def __init__(self, *columns: str) -> None:
        self.columns = columns
        self.rows: list[list[Cell]] = []

    def add(self, *cells: object) -> None:
        """Add a row."""
        self.rows.append([cell if isinstance(cell, Cell) else Cell.of(cell) for cell in cells])

    def print(self, empty: str = "") -> None:
        """Print it; without rows, the text *empty*."""
        if not self.rows:
            line(empty)
            return
        terminal = sys.stdout.isatty()
        if terminal and any(self.columns) and self._narrowest() > shutil.get_terminal_size().columns:
            self._paragraphs().print()
        elif not (terminal and self._by_rich()):
            for text in self.lines():
                sys.stdout.write(f"{text}\n")

    def _narrowest(self) -> int:
        """How wide a terminal must be for a table that can be read."""
        fixed = [
            _FOLDED if name in _WIDE else max(map(len, (name, *cells)))
            for name, cells in zip(self.columns, zip(*self.rows, strict=True), strict=True)
        ]
        return max(sum(fixed) + 2 * (len(fixed) - 1), _NARROWEST)

    def _paragraphs(self) -> "Table":
        """Each row as lines of a name and a value, with an empty line between rows."""
        turned = Table("", "")
        for place, row in enumerate(self.rows):
            if place:
                turned.add("", "")
            for name, cell in zip(self.columns, row, strict=True):
                if cell:
                    turned.add(name, cell)
        return turned

    def lines(self, later: "Iterable[list[Cell]]" = ()) -> "Iterator[str]":
        """Return it as lines of padded columns; *later* rows go below, in columns of the same width."""
        rows = [[Cell.of(name) for name in self.columns], *self.rows] if any(self.columns) else self.rows
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in itertools.chain(rows, later):
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    def stream(self, rows: "Iterator[tuple[object, ...]]", empty: str) -> None:
        """Print rows as they come, without keeping them; without any, the text *empty*."""
        for row in itertools.islice(rows, _MEASURED):
            self.add(*row)
        if len(self.rows) < _MEASURED:
            self.print(empty)
            return
        for text in self.lines([Cell.of(cell) for cell in row] for row in rows):
            sys.stdout.write(f"{text}\n")

    def _by_rich(self) -> bool:
        try:
            from rich.console import Console
            from rich.table import Table as RichTable
            from rich.text import Text
        except ImportError:
            return False
        console = Console(highlight=False)
        table = RichTable(box=None, pad_edge=False, header_style="bold", show_header=any(self.columns))
        for place, column in enumerate(self.columns):
            folds = column in _WIDE or (not column and place > 0)  # the first of two without names is a name
            table.add_column(column, overflow="fold", no_wrap=not folds)
        for row in self.rows:
            table.add_row(*(Text(cell, style=_COLOURS.get(cell.word, "")) for cell in row))
        console.print(table)
        return True


_OWED = ("id", "cleanup", "state", "since", "owner")
_NOTHING = "Nothing is owed."


def owners(found: "list[Row]", abandoned: "list[Row]") -> None:
    """Show what is owed, by which program."""
    table = Table(*_OWED)
    for row in _owed(((owner, owner["cleanups"]) for owner in found), abandoned):
        table.add(*row)
    table.print(_NOTHING)


def all_owners(found: "Iterable[tuple[Row, Iterable[Row]]]", abandoned: "list[Row]") -> None:
    """Show what is owed, by which program, row by row as it is read."""
    Table(*_OWED).stream(_owed(found, abandoned), _NOTHING)


def more(count: int, abandoned: int) -> None:
    """Say how many cleanups a table left out, and how many of them were abandoned."""
    if count:
        given_up = f", {abandoned:,} of them abandoned" if abandoned else ""
        line(f"and {count:,} more{given_up}: lastly ls --all")


def _owed(
    found: "Iterable[tuple[Row, Iterable[Row]]]", abandoned: "list[Row]"
) -> "Iterator[tuple[object, ...]]":
    for owner, cleanups in found:
        for note in _notes(owner):
            yield owner["owner"], "", Cell.of(note, "wrong"), age(owner["since"]), owner["who"]
        for item in cleanups:
            yield _cells(item, owner["who"])
    for item in abandoned:
        yield _cells(item, "gone")


def _notes(owner: "Row") -> "list[str]":
    """What is to be said of a journal as a whole: of all damage, one line."""
    damage = owner["damage"]
    more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
    return [
        *(f"{one}{more}" for one in damage[:1]),
        *(["written by a newer lastly"] if owner["newer"] else []),
    ]


def _cells(item: "Row", who: str) -> "tuple[object, ...]":
    return item["ref"], item["what"], Cell.of(state(item), item["state"]), age(item["planned"]), who


def history(found: "list[Row]", since: float) -> None:
    """Show what became of cleanups since then."""
    table = Table("when", "id", "cleanup", "state", "attempts", "by", "took")
    for item in found:
        when = time.strftime("%m-%d %H:%M:%S", time.localtime(item["changed"] or item["planned"]))
        text = Cell.of(state(item), item["state"])
        took = "" if item["seconds"] is None else f"{item['seconds']:.1f}s"
        table.add(when, item["ref"], item["what"], text, str(item["attempts"]), item["by"] or "", took)
    table.print(f"Nothing was reaped since {time.strftime('%m-%d %H:%M', time.localtime(since))}.")


def outcomes(found: "list[Outcome]", *, dry_run: bool) -> None:
    """Show what a sweep has done, or would do."""
    table = Table("id", "cleanup", "state")
    for outcome in found:
        owner = os.path.basename(outcome.path).split(".")[-2][:8]
        for item in outcome.ran:
            what = "would be run" if dry_run else state(item)
            table.add(f"{owner}.{item['id']}", item["what"], Cell.of(what, item["state"]))
        if not outcome.ran and (outcome.why or outcome.state not in ("final", "due")):
            table.add(owner, "", outcome.why or outcome.state)
    table.print("Nothing to reap.")


def cleanup(about: "Row") -> None:
    """Show all about one cleanup."""
    owner = about["owner"]
    rows = [
        ("cleanup", about["what"]),
        ("call", naming.call(about) if naming.call(about) not in about["what"] else ""),
        ("state", state(about)),
        ("owner", owner["who"]),
        ("program", owner["argv0"]),
        ("machine", owner["host"]),
        ("interpreter", owner["exe"]),
        ("died", owner["died"]),
        ("scope", about["scope"]),
        ("remote", "yes" if about["remote"] else ""),
        ("shared", _shared(about)),
        ("planned", _stamp(about["planned"])),
        ("next attempt", _stamp(about["next"])),
        ("blocked by", _blocked(about)),
        ("journal", owner["journal"] or "filed in the history"),
    ]
    table = Table("", "")
    for name, value in rows:
        if value:
            table.add(name, value)
    for event in about["events"]:
        more = {
            k: v
            for k, v in event.items()
            if k in ("attempt", "by", "error", "reason", "seconds", "pid") and v
        }
        told = " ".join(f"{k}={v}" for k, v in more.items())
        table.add(_stamp(event.get("t")), f"{event['kind']} {told}")
    table.print()


def _shared(about: "Row") -> str:
    if about["epoch"]:
        return f"yes, under lease {about['epoch']}"
    return "not yet: this machine alone knows of it" if about["shared"] else ""


def _blocked(about: "Row") -> str:
    if about["state"] in ("done", "released", "void"):
        return ""
    if about["owner"]["alive"]:
        return "nothing: its owner lives and will run it"
    if about["owner"]["alive"] is None:
        return "its owner belongs to another machine or pid namespace: ask there"
    if about["doubt"]:
        return (
            "the journal is damaged where this may have been released: `lastly retry` or `lastly forget` it"
        )
    return str(about["reason"] or about["error"] or "")


def _stamp(moment: "Any") -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) if moment else ""
    except (TypeError, ValueError, OverflowError, OSError):  # as it stands in a record
        return plain(moment)


def findings(found: "list[Finding]") -> None:
    """Show what the doctor says."""
    table = Table("", "what", "how to change that")
    for finding in found:
        table.add(Cell.of(finding.level, finding.level), finding.what, finding.fix)
    table.print()


@contextlib.contextmanager
def progress(what: str, *, quiet: bool) -> "Iterator[Callable[[Outcome], None] | None]":
    """Show on a terminal how far a long reap is: one line on standard error, rewritten."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    count = 0

    def tick(_outcome: "Outcome") -> None:
        nonlocal count
        count += 1
        sys.stderr.write(f"\r{what} … {counted(count, 'owner')}")
        sys.stderr.flush()

    try:
        yield tick
    finally:
        if count:
            sys.stderr.write(f"\r{' ' * (len(what) + 20)}\r")
