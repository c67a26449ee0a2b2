"""What became of cleanups whose journals are closed: ``history.db``, SQLite in WAL mode, synchronous=FULL.

Written by the reaper's workers only, after the cleanups, never before them; a journal is removed once its
entry is committed. A worker killed in between writes the same entry again. The statements are in
``history.sql``.
"""

import os
import sqlite3
import time

from lastly._journal import home
from lastly._journal.file import Journal
from lastly._journal.record import dumps
from lastly._journal.replay import Item, Replay
from lastly._settle.packed import Packer, text_of
from lastly._system.identity import boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Entry: TypeAlias = "tuple[Journal, Replay, dict[str, Any]]"  # under lease; with died and at, if known

NAME = "history.db"
DAY = 86400.0
KEPT = 90 * DAY  # seconds that entries are kept
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
MOST_EVENTS = 100  # records of one cleanup that are kept: the first and the last ones


def _statements() -> dict[str, str]:
    """Read the named statements; once, at import: the file may be replaced while the reaper lives."""
    text = __loader__.get_data(os.path.join(os.path.dirname(__file__), "history.sql")).decode()  # type: ignore[name-defined]  # every import sets it; also in a zip
    found = {}
    for part in text.split("-- name: ")[1:]:
        name, _, body = part.partition("\n")
        found[name.strip()] = body
    return found


SQL = _statements()


def connect(*, write: bool = False) -> "sqlite3.Connection | None":
    """Open the history; None when there is none yet and it is only to be read.

    Raises:
        sqlite3.Error, OSError: it cannot be opened.
    """
    if not write and not os.path.lexists(home.state_path()):
        return None  # nothing was ever owed here
    path = os.path.join(home.state_dir(create=write), NAME)
    if not write and not os.path.exists(path):
        return None
    before = os.umask(0o077)
    try:
        made = sqlite3.connect(path, timeout=10.0, isolation_level=None)
    finally:
        os.umask(before)
    made.row_factory = sqlite3.Row
    try:
        if write:
            made.execute("PRAGMA journal_mode=WAL")
            made.execute("PRAGMA synchronous=FULL")
            made.execute("PRAGMA foreign_keys=ON")
            made.executescript(SQL["schema"])
        elif made.execute(SQL["is_made"]).fetchone() is None:  # its writer is just about to
            made.close()
            return None
        elif made.execute(SQL["is_packed"]).fetchone() is None:
            made.execute(SQL["no_packed"])
    except BaseException:
        made.close()
        raise
    return made


def archive(items: "list[dict[str, Any]]") -> "dict[str, Any]":
    """Write settled journals into the history and remove them; returns which, and why not the others."""
    taken: list[Entry] = []
    gone: list[str] = []
    why = ""
    for item in items:
        try:
            journal = Journal.take(item["path"])
        except OSError as error:
            why = str(error)
            continue
        if journal is not None:
            taken.append((journal, journal.taken or journal.read(), item))
        elif not os.path.lexists(item["path"]):
            gone.append(item["path"])
    said = file(taken)
    return {"archived": [*gone, *said["archived"]], "why": said["why"] or why}


def file(taken: "list[Entry]", *, more: bool = False) -> "dict[str, Any]":
    """The same for journals that are open under lease; all are closed then.

    Args:
        taken: the journals.
        more: others will follow soon.
    """
    try:
        for _, seen, _ in taken:
            if not seen.current:
                seen.refresh()
        ready = [entry for entry in taken if not (entry[1].owes or entry[1].unknown or entry[1].newer)]
        try:
            _write(ready, more)
        except (sqlite3.Error, OSError) as error:
            return {"archived": [], "why": f"the history cannot be written: {error}"}
        for journal, _, _ in ready:
            journal.close(unlink=True)
        _tidy(ready)
        return {"archived": [seen.path for _, seen, _ in ready], "why": ""}
    finally:
        for journal, _, _ in taken:
            journal.close()


def _write(ready: "list[Entry]", more: bool) -> None:
    # An owner whose cleanups were all released, never run, is not worth an entry; one that a person forgot
    # is.
    worth = [entry for entry in ready if any(map(_worth, entry[1].items.values()))]
    if not worth:
        return
    try:
        _enter(worth, more)
    except sqlite3.DatabaseError as error:
        # Any of its pages may be the damaged one; with an extended code, the lowest byte says so.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
            raise
        _put_aside()
        _enter(worth, more)


def _enter(worth: "list[Entry]", more: bool) -> None:
    global _kept
    now = time.time()
    base = _opened()
    try:
        base.execute("BEGIN IMMEDIATE")
        for _, seen, about in worth:
            base.execute(SQL["add_owner"], _owner(seen, about, now))
            _enter_cleanups(base, seen)
        base.execute(SQL["trim_owners"], {"before": now - KEPT})
        base.execute("COMMIT")
        if more:
            _kept = (base, _file())
    finally:
        if _kept is None:
            base.close()  # what is not committed is rolled back


_kept: "tuple[sqlite3.Connection, tuple[int, int]] | None" = None  # to which file


def _opened() -> "sqlite3.Connection":
    """A connection to write; the last one is used again while its file is still the one in place.

    To open and close one takes longer than many transactions: the last one to close writes the file anew.
    """
    global _kept
    kept, _kept = _kept, None
    if kept is not None:
        if kept[1] == _file():
            return kept[0]
        kept[0].close()
    made = connect(write=True)
    assert made is not None
    return made


def _file() -> tuple[int, int]:
    """Which file the history is; (0, 0): none."""
    try:
        found = os.stat(os.path.join(home.state_path(), NAME))
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _enter_cleanups(base: "sqlite3.Connection", seen: Replay) -> None:
    packer = Packer(text_of(home.journal_name(seen.path)))
    for item in seen.items.values():
        if not packer.takes(item):
            base.execute(SQL["add_cleanup"], _cleanup(seen, item))
        elif (row := packer.row()) is not None:
            base.execute(SQL["add_packed"], row)
    while (row := packer.row(all=True)) is not None:
        base.execute(SQL["add_packed"], row)


def _worth(item: "Item") -> bool:
    return item.state != "released" or item.attempts > 0 or (item.reason or "").startswith("forgotten")


def _put_aside() -> None:
    """Rename a damaged history: people may want to look at it, and it must not keep journals waiting."""
    path = os.path.join(home.state_dir(), NAME)
    os.replace(path, f"{path}.damaged-{int(time.time())}")
    for suffix in ("-wal", "-shm"):
        try:
            os.unlink(path + suffix)
        except FileNotFoundError:
            pass


def _tidy(ready: "list[Entry]") -> None:
    """Remove the folders of other boots, those of this machine and of `ready`, when nothing is in them.

    A file that never became a journal counts as nothing: its process died between creating and renaming it.
    """
    here = os.uname().nodename.replace("/", "_")
    folders = {os.path.dirname(seen.path) for _, seen, _ in ready}
    folders.update(path for path in home.folders() if os.path.basename(path).rpartition("-")[0] == here)
    for folder in folders:
        if folder.endswith(f"-{boot_id()}"):
            continue
        try:
            for path in [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".tmp")]:
                if os.lstat(path).st_mtime < time.time() - DAY:
                    os.unlink(path)
            os.rmdir(folder)
        except OSError:  # there are journals in it
            pass


def _owner(seen: Replay, about: "dict[str, Any]", now: float) -> "dict[str, Any]":
    header = seen.header or {}
    who = seen.identity
    return {
        "journal": text_of(home.journal_name(seen.path)),
        "host": text_of(who.host) if who else "",
        "boot": text_of(who.boot) if who else "",
        "pid": who.pid if who else 0,
        "start": who.start if who else 0,
        "uid": who.uid if who else -1,
        "argv0": text_of(header.get("argv0", "")),
        "exe": text_of(header.get("exe", "")),
        "began": header.get("t"),
        "ended": about.get("at"),
        "died": about.get("died") or "",
        "settled": now,
        "header": dumps(header),
    }


def _cleanup(seen: Replay, item: Item) -> "dict[str, Any]":
    events = item.events
    if len(events) > MOST_EVENTS:
        events = [*events[: MOST_EVENTS // 2], *events[-MOST_EVENTS // 2 :]]
    return {
        "journal": text_of(home.journal_name(seen.path)),
        "id": item.id,
        "action": text_of(item.action),
        # Of a child that was started later, what is known of it: its token tells people nothing.
        "args": dumps([item.known] if item.args == [None] and item.known else item.args),
        "kwargs": dumps(item.kwargs),
        "scope": text_of(item.scope),
        "remote": int(item.remote),
        "state": item.state,
        "attempts": item.attempts,
        "planned": item.t,
        "changed": item.changed,
        "error": text_of(item.error),
        "reason": text_of(item.reason),
        "events": dumps(events),
        "context": dumps(item.context or {}),
    }
