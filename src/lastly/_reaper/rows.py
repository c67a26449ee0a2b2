"""Owners and cleanups as plain data, from a journal or from the history: one form for all that shows them."""

import json

from lastly._journal import locks, replay
from lastly._journal.fields import clean
from lastly._journal.replay import Item, Replay
from lastly._settle import packed
from lastly._settle.sweep import reference
from lastly._words import naming

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

    from lastly._reaper.sizes import Looker

_ENDS = ("done", "fail", "abandon")


def owner(seen: Replay) -> "dict[str, Any]":
    """Return the owner of a journal."""
    header = seen.header or {}
    who = seen.identity
    try:
        held = locks.is_locked(seen.path)
    except OSError:
        held = False
    alive = who.alive() if who is not None else None
    return _called({
        "owner": reference(seen.path),
        "journal": seen.path,
        "host": who.host if who else "",
        "boot": who.boot if who else "",
        "pid": who.pid if who else 0,
        "uid": who.uid if who else -1,
        "argv0": header.get("argv0", ""),
        "exe": header.get("exe", ""),
        "since": float(header.get("t", 0.0)),
        "alive": alive,
        "leased": held and alive is False,
        "damage": seen.damage,
        "newer": seen.newer,
        "died": "",
        "ended": None,
    })  # fmt: skip


def past_owner(row: "sqlite3.Row | dict[str, Any]") -> "dict[str, Any]":
    """Return the owner of a cleanup as the history tells it."""
    return _called({
        "owner": reference(row["journal"]),
        "journal": None,
        "host": row["host"],
        "boot": row["boot"],
        "pid": row["pid"],
        "uid": row["uid"],
        "argv0": row["argv0"],
        "exe": row["exe"],
        "since": json.loads(row["header"]).get("t"),
        "alive": False,
        "leased": False,
        "damage": [],
        "newer": False,
        "died": row["died"],
        "ended": row["ended"],
    })  # fmt: skip


def _called(owner: "dict[str, Any]") -> "dict[str, Any]":
    """The owner, with what people call it."""
    return {**owner, "who": naming.owner(owner)}


def _last_run(events: "list[dict[str, Any]]") -> "dict[str, Any]":
    """Which process ran a cleanup last, and for how many seconds; None for what is unknown."""
    ran = clean(next((event for event in reversed(events) if event.get("kind") == "run"), {"kind": "run"}))[0]
    end = next((event for event in reversed(events) if event.get("kind") in _ENDS), {"kind": "done"})
    end = clean(end)[0]
    took = None
    if "t" in ran and "t" in end and end["t"] >= ran["t"] and end.get("attempt", ran.get("attempt")):
        took = round(end["t"] - ran["t"], 3)
    return {"by": str(ran.get("by") or end.get("by") or "") or None, "seconds": took}


def cleanup(path: str, item: Item, looker: "Looker | None" = None) -> "dict[str, Any]":
    """Return a cleanup as its journal tells it.

    Args:
        path: the journal.
        item: the cleanup.
        looker: tells how large the thing is.
    """
    return _named(looker, {
        "what": item.what,
        "ref": f"{reference(path)}.{item.id}",
        "action": item.action,
        "args": item.args,
        "kwargs": item.kwargs,
        "known": item.known,
        "scope": item.scope,
        "remote": item.remote,
        "shared": bool(item.shared),
        "epoch": item.epoch or None,
        "state": item.state,
        "attempts": item.attempts,
        "planned": item.t,
        "changed": item.changed,
        "error": item.error,
        "reason": item.reason,
        "next": item.next,
        "doubt": item.doubt,
        "retries": item.retries,
        "timeout": item.timeout,
        "settled": "",
        **_last_run(item.events),
    })  # fmt: skip


def called(events: "list[dict[str, Any]]") -> str:
    """The description or name that a cleanup's records give it, the last one; empty without."""
    return next((event["what"] for event in reversed(events) if event.get("what")), "")


def _named(looker: "Looker | None", row: "dict[str, Any]") -> "dict[str, Any]":
    """The cleanup, with what people call it; a description of its own is a part of that."""
    owed = row["state"] not in replay.FINAL - {"abandoned"}
    size = looker.size(row) if looker is not None and owed else ""
    return {**row, "what": naming.cleanup(row, size)}


def past(row: "sqlite3.Row | dict[str, Any]", count: int = 1) -> "dict[str, Any]":
    """Return a cleanup as the history tells it; with it, `count` of its kind."""
    events = json.loads(row["events"])
    return _named(None, {
        "ref": f"{reference(row['journal'])}.{row['id']}",
        "action": row["action"],
        "args": json.loads(row["args"]),
        "kwargs": json.loads(row["kwargs"]),
        "scope": row["scope"],
        "remote": bool(row["remote"]),
        "shared": None,  # the history does not say
        "epoch": None,
        "state": row["state"],
        "attempts": row["attempts"],
        "planned": row["planned"],
        "changed": row["changed"],
        "error": row["error"],
        "reason": row["reason"],
        "next": None,
        "doubt": False,
        "retries": None,
        "timeout": None,
        "host": row["host"],
        "pid": row["pid"],
        "argv0": row["argv0"],
        "died": row["died"],
        "ended": row["ended"],
        "settled": row["settled"],
        "count": count,
        "what": called([clean(event)[0] for event in events]),
        **_last_run(events),
    })  # fmt: skip


def several(row: "sqlite3.Row") -> "dict[str, Any]":
    """Return many that are done, told by the first of them."""
    first = packed.unpack(row)
    assert first is not None
    return past(first, row["all_count"])
