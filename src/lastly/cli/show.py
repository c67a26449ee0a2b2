"""Tables for people.

Names come from the journal and may hold anything: nothing of them reaches the terminal raw.
"""

import contextlib
import os
import sys
import time

from rich.console import Console
from rich.table import Table
from rich.text import Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lastly.cli.doctor import Finding
    from lastly.reaper.settle import Outcome

    Row = dict[str, Any]

_COLOURS = {
    "done": "green", "released": "green", "ok": "green", "active": "cyan", "planned": "cyan",
    "running": "yellow", "failed": "yellow", "unprotected": "yellow", "abandoned": "red", "wrong": "red",
}  # fmt: skip
_WIDE = {"cleanup", "state", "owner", "what", "how to change that"}
_NARROWEST = 60  # columns
_ENDLESS = 1_000_000


def console(*, err: bool = False) -> Console:
    """A console that folds nothing when nobody looks: a pipe or a file gets whole lines.

    On a terminal too narrow for a table the terminal folds: rich would leave out whole columns.
    """
    made = Console(stderr=err, highlight=False)
    made.width = max(made.width, _NARROWEST) if made.file.isatty() else _ENDLESS
    return made


def plain(value: object) -> str:
    """Return text in which control characters, bidi marks and stray bytes are visible, and harmless."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def line(text: str) -> None:
    """Print one line."""
    console().print(Text(plain(text)))


def age(moment: float | None) -> str:
    """Return how long ago, in one unit."""
    if not moment:
        return ""
    seconds = max(0.0, time.time() - moment)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def call(item: "Row") -> str:
    """Return a cleanup as a call: remove('/tmp/x')."""
    given = {k: v for k, v in item["kwargs"].items() if v not in (None, {}) and k != "expect"}
    words = [repr(arg) for arg in item["args"] if arg is not None]
    words += [f"{name}={value!r}" for name, value in given.items()]
    name = item["action"].removeprefix("lastly.actions:")
    return plain(f"{name}({', '.join(words)})")


def state(item: "Row") -> str:
    """Return the state with what explains it."""
    why = item.get("reason") or item.get("error") or ""
    settled = f" ({item['settled']})" if item.get("settled") else ""
    return f"{item['state']}{f': {why}' if why else ''}{settled}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column not in _WIDE)
    return table


def _coloured(text: str, word: str) -> Text:
    return Text(plain(text), style=_COLOURS.get(word, ""))


def owners(found: "list[Row]", abandoned: "list[Row]") -> None:
    """Show who owes what."""
    table = _table("id", "cleanup", "state", "since", "owner")
    for owner in found:
        life = {True: "alive", False: "dead", None: "not to be told from here"}[owner["alive"]]
        who = f"{plain(os.path.basename(owner['argv0'])) or '?'} (pid {owner['pid']}, {life})"
        if owner["alive"] is None and owner["host"]:
            who = f"{who} on {plain(owner['host'])}"
        for note in _notes(owner):
            table.add_row(owner["owner"], "", _coloured(note, "wrong"), age(owner["since"]), Text(who))
        for item in owner["cleanups"]:
            _add(table, item, who)
    for item in abandoned:
        _add(table, item, "gone")
    _print(table, "Nothing is owed.")


def _notes(owner: "Row") -> "list[str]":
    """What is to be said of a journal as a whole: of all damage, one line."""
    damage = owner["damage"]
    more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
    return [
        *(f"{one}{more}" for one in damage[:1]),
        *(["written by a newer lastly"] if owner["newer"] else []),
    ]


def _add(table: Table, item: "Row", who: str) -> None:
    text = _coloured(state(item), item["state"])
    table.add_row(item["ref"], Text(call(item)), text, age(item["planned"]), Text(who))


def _print(table: Table, empty: str) -> None:
    if table.row_count:
        console().print(table)
    else:
        line(empty)


def history(found: "list[Row]") -> None:
    """Show what became of cleanups."""
    table = _table("when", "id", "cleanup", "state", "attempts")
    for item in found:
        when = time.strftime("%m-%d %H:%M:%S", time.localtime(item["changed"] or item["planned"]))
        table.add_row(
            when, item["ref"], Text(call(item)), _coloured(state(item), item["state"]), str(item["attempts"])
        )
    _print(table, "Nothing in this time.")


def outcomes(found: "list[Outcome]", *, dry_run: bool) -> None:
    """Show what a sweep has done, or would do."""
    table = _table("id", "action", "state")
    for outcome in found:
        owner = os.path.basename(outcome.path).split(".")[-2][:8]
        for item in outcome.ran:
            what = "would be run" if dry_run else state(item)
            table.add_row(
                f"{owner}.{item['id']}", Text(plain(item["action"])), _coloured(what, item["state"])
            )
        if not outcome.ran and (outcome.why or outcome.state not in ("final", "due")):
            table.add_row(owner, "", Text(plain(outcome.why or outcome.state)))
    _print(table, "Nothing to reap.")


def cleanup(about: "Row") -> None:
    """Show all about one cleanup."""
    owner = about["owner"]
    life = {True: "alive", False: "dead", None: "cannot be told from here"}[owner["alive"]]
    rows = [
        ("cleanup", call(about)),
        ("state", state(about)),
        ("owner", f"{owner['argv0']} (pid {owner['pid']} on {owner['host']}), {life}"),
        ("interpreter", owner["exe"]),
        ("died", owner["died"]),
        ("scope", about["scope"]),
        ("remote", "yes" if about["remote"] else ""),
        ("planned", _stamp(about["planned"])),
        ("next attempt", _stamp(about["next"])),
        ("blocked by", _blocked(about)),
        ("journal", owner["journal"] or "filed in the history"),
    ]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, Text(plain(value)))
    for event in about["events"]:
        more = {
            k: v
            for k, v in event.items()
            if k in ("attempt", "by", "error", "reason", "seconds", "pid") and v
        }
        told = " ".join(f"{k}={v}" for k, v in more.items())
        table.add_row(_stamp(event.get("t")), Text(plain(f"{event['kind']} {told}")))
    console().print(table)


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
    table = _table("", "what", "how to change that")
    for finding in found:
        table.add_row(
            _coloured(finding.level, finding.level), Text(plain(finding.what)), Text(plain(finding.fix))
        )
    console().print(table)


@contextlib.contextmanager
def progress(what: str, *, quiet: bool) -> "Iterator[Callable[[Outcome], None] | None]":
    """Show on a terminal how far a long reap is, on standard error."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    count = 0
    with console(err=True).status(f"{what} …") as status:

        def tick(_outcome: "Outcome") -> None:
            nonlocal count
            count += 1
            status.update(f"{what} … {count} owners")

        yield tick
