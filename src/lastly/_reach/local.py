"""What the journals of this host say is shared: for a relay that joins, or finds another server."""

import os

from lastly._journal import home, locks, replay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._journal.replay import Item

FIELDS = ("id", "action", "args", "kwargs", "known", "what", "phase", "retries", "timeout", "backoff")


def path_of(name: str) -> str:
    """Where the journal of this name is on this host."""
    return os.path.join(home.state_path(), "owners", name)


def owed(key: str, queue: str) -> "dict[str, list[dict[str, Any]]]":
    """What is owed on this host and belongs into this shared journal: plans, by the name of their journal."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in home.journals():
        try:
            seen = replay.read(path, trusted=True)
        except OSError:
            continue
        about = {name: (seen.header or {}).get(name) for name in ("pid", "uid", "argv0")}
        plans = [plan_of(item, queue, seen.token, about) for item in seen.items.owed() if item.shared == key]
        if plans:
            for plan in plans:
                plan["journal"] = home.journal_name(path)
            found[home.journal_name(path)] = plans
    return found


def plan_of(item: "Item", queue: str, token: str, about: "dict[str, Any]") -> "dict[str, Any]":
    """A cleanup as `flush` takes it."""
    plan = {name: getattr(item, name) for name in FIELDS}
    return {"queue": queue, "token": token, "about": about, **plan}


def alive(name: str) -> bool:
    """Whether the owner of a journal lives."""
    try:
        return locks.is_locked(path_of(name))
    except OSError:
        return False
