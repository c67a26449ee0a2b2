"""What became of many removals of one owner, when none needs a row of its own: many in one row.

A row of its own for each of a million cleanups would be half a gigabyte that is never read. The first ones of
an owner have one, and whatever failed, waited or was given up. Of the others id and path are kept,
compressed: ten bytes each.
"""

import json
import zlib

from lastly._journal.replay import Item
from lastly._words import built_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

WHOLE = 200  # removals of one owner that have rows of their own
TOGETHER = 256  # that share one


class Packer:
    """Collects the removals of one owner that need no rows of their own."""

    def __init__(self, journal: str) -> None:
        self.journal = journal
        self.rest = WHOLE
        self.waiting: dict[tuple[str, str], list[tuple[int, list[Any], float]]] = {}

    def takes(self, item: Item) -> bool:
        """Whether it needs no row of its own; then it is taken."""
        uneventful = (
            item.action == built_in.REMOVE
            and item.state == "done"
            and item.attempts <= 1
            and not (item.error or item.remote or item.odd or item.what)
        )
        if not uneventful:
            return False
        if self.rest:
            self.rest -= 1
            return False
        by = str(item.events[-1].get("by", "owner"))
        self.waiting.setdefault((item.scope, by), []).append((item.id, item.args, item.changed))
        return True

    def row(self, *, all: bool = False) -> "dict[str, Any] | None":  # noqa: A002 - what it means
        """The next row to be written; None: there is none yet, or none any more with ``all``."""
        for key, taken in self.waiting.items():
            if all or len(taken) >= TOGETHER:
                del self.waiting[key]
                return self._row(*key, taken)
        return None

    def _row(self, scope: str, by: str, taken: "list[tuple[int, list[Any], float]]") -> "dict[str, Any]":
        text = json.dumps([[number, args] for number, args, _ in taken], separators=(",", ":"))
        return {
            "journal": self.journal,
            "first": taken[0][0],
            "last": taken[-1][0],
            "count": len(taken),
            "scope": text_of(scope),
            "doer": text_of(by),
            "changed": max(changed for _, _, changed in taken),
            "cleanups": zlib.compress(text.encode()),
        }


def text_of(value: "Any") -> str:
    """SQLite takes no lone surrogates (what bytes that are not UTF-8 become)."""
    text = str(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def unpack(row: "sqlite3.Row", number: int | None = None) -> "dict[str, Any] | None":
    """One cleanup of a packed row, as a row of its own would be; None when it is not in there.

    Args:
        row: as the statements give it, with its owner's columns.
        number: which; None: the first.
    """
    for found, args in json.loads(zlib.decompress(row["cleanups"])):
        if number is None or found == number:
            plan = {"kind": "plan", "id": found, "action": built_in.REMOVE, "args": args}
            done = {"kind": "done", "id": found, "by": row["doer"], "t": row["changed"]}
            return {
                **dict(row), "id": found, "action": plan["action"], "args": json.dumps(args), "kwargs": "{}",
                "remote": 0, "state": "done", "attempts": 1, "planned": None, "error": "", "reason": "",
                "events": json.dumps([plan, done]), "settled": "",
            }  # fmt: skip
    return None
