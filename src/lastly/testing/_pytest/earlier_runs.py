"""What killed test runs had left and what became of it: one line at the end of a later run."""

import time

from lastly._reaper import desk
from lastly._words.counts import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KEY = "lastly/told"  # in pytest's cache: the time of the last entry that was told
_DAY = 86400.0


def line(prefix: str, cache: "Any") -> str:
    """Return what to say, or nothing; what was said is not said again.

    Args:
        prefix: the beginning of the names of this project's scopes.
        cache: pytest's; None: it is switched off, and a line is repeated for a day.
    """
    since = time.time() - _DAY if cache is None else float(cache.get(_KEY, 0.0))
    try:
        reaped = desk.reaped(prefix, since=since)
        owed = [
            cleanup["scope"]
            for owner in desk.owners()
            if owner["alive"] is False
            for cleanup in owner["cleanups"]
            if cleanup["scope"].startswith(prefix)
        ]
    except Exception as error:  # a damaged history, another user's home: no reason to fail a test run
        return f"what earlier runs have left cannot be told: {error}"
    if reaped and cache is not None:
        cache.set(_KEY, max(entry["settled"] for entry in reaped))
    return _sentence(reaped, owed, prefix)


def _sentence(reaped: "list[dict[str, Any]]", owed: "list[str]", prefix: str) -> str:
    done = [entry["scope"] for entry in reaped if entry["state"] == "done"]
    given_up = [entry["scope"] for entry in reaped if entry["state"] == "abandoned"]
    parts = []
    if done:
        owed_them = f"{counted(len(done), 'cleanup')} that killed test runs owed"
        parts.append(f"reaped {owed_them} ({_whose(done, prefix)})")
    if given_up:
        parts.append(f"gave up {len(given_up)} ({_whose(given_up, prefix)}; see `lastly history`)")
    if owed:
        parts.append(f"{len(owed)} still owed ({_whose(owed, prefix)}; see `lastly ls`)")
    return ", ".join(parts)


def _whose(scopes: "list[str]", prefix: str) -> str:
    names = list(dict.fromkeys(scope.removeprefix(prefix) or "session" for scope in scopes))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
