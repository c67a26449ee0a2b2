"""What is owed, by whom, since when, and what became of it: plain data for the command line and other tools.

A cleanup's reference is ``<owner>.<number>``: eight digits of its journal's random name, and its number in
there. All times are unix times in seconds. Keys are only ever added.
"""

import json
import os
import time
from itertools import islice

from lastly._journal import disk, home, locks, replay
from lastly._journal.fields import clean
from lastly._journal.file import Journal
from lastly._journal.record import VERSION, encode
from lastly._journal.replay import Item, Replay
from lastly._reaper import client, rows, sizes
from lastly._settle import history, packed
from lastly._settle.settle import settle
from lastly._settle.sweep import WAIT, looks, parts, reference
from lastly.errors import LastlyError, NotRecorded

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from typing import Any

__all__ = [
    "NotFound", "NotNow", "abandoned", "count_abandoned", "each", "first", "forget", "owners", "past",
    "reaped", "retry", "status", "totals", "why",
]  # fmt: skip


class NotFound(LastlyError, LookupError):  # noqa: N818 - as in errors.py: the name says what happened
    """No cleanup has this reference."""


class NotNow(LastlyError, RuntimeError):  # noqa: N818 - as above
    """The cleanup's owner lives, or another process is working on it."""


def owners(*, all: bool = False) -> "list[dict[str, Any]]":  # noqa: A002 - what it means
    """Return every owner that has a journal, oldest first, with what it owes, and what of it was abandoned.

    Args:
        all: also cleanups that are done, released or void.

    Returns:
        dicts with owner (reference), journal (path), host, boot, pid, uid, argv0, exe, since, alive (True,
        False, or None when it cannot be told from here), leased, damage (list of str), newer, died (how) and
        ended (when) where the history tells it, who (for people), cleanups (see :func:`why`, without owner
        and events).
    """
    return [{**owner, "cleanups": list(cleanups)} for owner, cleanups in each(all=all)]


def each(
    *,
    all: bool = False,  # noqa: A002 - as above
) -> "Iterator[tuple[dict[str, Any], Iterator[dict[str, Any]]]]":
    """Yield what :func:`owners` returns, each cleanup when it is asked for: there may be a million."""
    looker = sizes.Looker()
    for seen in _journals():
        items = seen.items.values() if all else seen.items.unsettled()
        owner = rows.owner(seen)
        yield owner, _rows_of(owner, items, looker)


def first(most: int) -> "tuple[list[dict[str, Any]], int]":
    """Return the beginning of what :func:`owners` returns, and how many cleanups there are after it.

    Args:
        most: how many cleanups to return; an owner whose journal is damaged counts as one.
    """
    found: list[dict[str, Any]] = []
    looker = sizes.Looker()
    after = 0
    for seen in _journals():
        count = sum(seen.items.counts()) or int(bool(seen.damage or seen.newer))
        if most > 0 and count:
            owner = rows.owner(seen)
            cleanups = list(_rows_of(owner, islice(seen.items.unsettled(), most), looker))
            found.append({**owner, "cleanups": cleanups})
            shown = max(1, len(cleanups))
            most -= shown
            count -= shown
        after += count
    return found, after


def totals() -> "dict[str, Any]":
    """Return what is owed in numbers: dead, elsewhere (of owners that cannot be judged from here), abandoned;
    and damaged, the paths of journals.
    """
    dead = elsewhere = 0
    abandoned = count_abandoned()
    damaged = []
    for seen in _journals():
        owed, given_up = seen.items.counts()
        abandoned += given_up
        alive = seen.identity.alive() if owed and seen.identity is not None else None
        dead += owed if alive is False else 0
        elsewhere += owed if alive is None else 0
        if seen.damage:
            damaged.append(seen.path)
    return {"dead": dead, "elsewhere": elsewhere, "abandoned": abandoned, "damaged": damaged}


def _journals() -> "Iterator[Replay]":
    """Every journal, oldest first."""
    for path in sorted(home.journals(), key=replay.since):
        try:
            yield replay.read(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            seen = Replay(path)
            seen.complain(str(error))
            yield seen


def _rows_of(
    owner: "dict[str, Any]", items: "Iterator[Item]", looker: sizes.Looker
) -> "Iterator[dict[str, Any]]":
    here = looker if owner["alive"] is not None else None  # of another machine's things nothing is known
    return (rows.cleanup(owner["journal"], item, here) for item in items)


def why(ref: str) -> "dict[str, Any]":
    """Return everything about one cleanup.

    Returns:
        a dict: ref, what (for people), action, args, kwargs, scope, remote, state, attempts, planned,
        changed, error, reason, next, by and seconds (which process ran it last, and for how long), doubt,
        retries, timeout, owner (as in :func:`owners`, without cleanups), events (its records).

    Raises:
        NotFound: there is none.
    """
    path, number = _find(ref)
    if path is not None:
        seen = replay.read(path)
        item = seen.items[number]
        owner = rows.owner(seen)
        return {
            **rows.cleanup(path, item, sizes.Looker() if owner["alive"] is not None else None),
            "owner": owner,
            "events": item.events,
        }
    row = _row(ref)
    return {**rows.past(row), "owner": rows.past_owner(row), "events": json.loads(row["events"])}


def past(*, since: float = 0.0, limit: int = 1000) -> "list[dict[str, Any]]":
    """Return what became of the cleanups of dead owners, newest first.

    Also what is done while something else of the same owner is still owed, and so is not filed yet.

    Args:
        since: unix time.
        limit: how many at most.
    """
    found = list(_unfiled(since))
    base = history.connect()
    if base is not None:
        try:
            wanted = {"since": since, "most": limit}
            found += map(rows.past, base.execute(history.SQL["list_since"], wanted))
            found += map(rows.several, base.execute(history.SQL["list_packed"], wanted))
        finally:
            base.close()
    # Filed between the two looks: the entry is the last that was said.
    newest = {row["ref"]: row for row in found}
    return sorted(newest.values(), key=lambda row: row["changed"] or 0.0, reverse=True)[:limit]


def _unfiled(since: float) -> "Iterator[dict[str, Any]]":
    for path in home.journals():
        try:
            seen = replay.read(path)
        except OSError:
            continue
        owner = rows.owner(seen)
        rest = {name: owner[name] for name in ("host", "pid", "argv0")}
        for item in seen.items.values():
            if item.final and item.changed >= since and item.events[-1].get("by", "owner") != "owner":
                yield {**rows.cleanup(path, item), **rest, "died": "", "ended": None}


def reaped(scope: str, *, since: float = 0.0) -> "list[dict[str, Any]]":
    """Return what dead owners owed and other processes have settled since, oldest first.

    Args:
        scope: the beginning of the names of the scopes that it was deferred to.
        since: unix time of the last entry that is known already.

    Returns:
        dicts with scope, state (done or abandoned) and settled (unix time of the entry).
    """
    base = history.connect()
    if base is None:
        return []
    try:
        entries = base.execute(history.SQL["list_settled"], {"scope": scope, "since": since}).fetchall()
    finally:
        base.close()
    return [
        {"scope": row["scope"], "state": row["state"], "settled": row["settled"]}
        for row in entries
        for _ in range(row["count"])
        if row["state"] in ("done", "abandoned") and _doer(row) != "owner"
    ]


def _doer(row: "sqlite3.Row") -> "Any":
    return row["doer"] or json.loads(row["events"])[-1].get("by")


def abandoned(*, most: int = -1) -> "list[dict[str, Any]]":
    """Return what was given up and not retried or forgotten since, newest first; all of it, or so many."""
    base = history.connect()
    if base is None:
        return []
    try:
        return [rows.past(row) for row in base.execute(history.SQL["list_abandoned"], {"most": most})]
    finally:
        base.close()


def count_abandoned() -> int:
    """Return how many :func:`abandoned` returns."""
    base = history.connect()
    if base is None:
        return 0
    try:
        return int(base.execute(history.SQL["count_abandoned"]).fetchone()[0])
    finally:
        base.close()


def retry(ref: str, *, by: str) -> "dict[str, Any]":
    """Run a cleanup of a dead owner now, also one that was abandoned; returns what :func:`why` says
    afterwards.

    Raises:
        NotFound: there is none.
        NotNow: its owner lives, or another process has been working on it for a minute; or it is done, or
            goes on as another already.
        NotRecorded: it was run, and that could not be written down (a full disk).
    """
    path, number = _retried(ref, by)
    for _ in looks(WAIT):
        outcome = settle(path, by=by, force=True, only=number)
        if outcome.state != "busy":
            break
    if outcome.state == "gone":  # into the history, meanwhile
        about = why(ref)
        return about if about["state"] == "done" else retry(ref, by=by)
    if outcome.state in {"busy", "alive"}:
        raise NotNow(f"{ref}: {outcome.why}")
    if outcome.unwritten:
        raise NotRecorded(f"{ref} was run, and is still owed: {outcome.why}")
    if outcome.state == "final":
        history.archive([{"path": path}])
    else:
        client.ask("sweep")  # a running reaper then knows of it
    return why(f"{reference(path)}.{number}")


def _retried(ref: str, by: str) -> tuple[str, int]:
    """The journal and number of what is to be run again; from the history it gets a journal of its own."""
    path, number = _find(ref)
    if path is not None:
        _dead(path, ref)
        state = replay.read(path).items[number].state
        if state in replay.FINAL - {"abandoned"}:
            raise NotNow(f"{ref} is {state}: there is nothing to retry")
        return path, number
    row = _row(ref)
    if row["state"] != "abandoned":
        raise NotNow(f"{ref} is {row['state']}: there is nothing to retry")
    if row["settled"].startswith("retried"):
        raise NotNow(f"{ref} was {row['settled']}, under an ID of its own: see `lastly ls`")
    path = _reopen(dict(row))
    _mark(row, f"retried by {by}")
    return path, number


def forget(ref: str, *, by: str) -> None:
    """Stop owing a cleanup, without running it.

    Raises:
        NotFound: there is none.
        NotNow: its owner lives, or another process has been working on it for a minute; or it is not owed any
            more.
    """
    path, number = _find(ref)
    if path is None:
        row = _row(ref)
        _owed(ref, row["settled"].partition(" ")[0] or row["state"])
        _mark(row, f"forgotten by {by}")
        return
    _dead(path, ref)
    for _ in looks(WAIT):
        if (journal := Journal.take(path)) is not None or not os.path.lexists(path):
            break
    if journal is None:
        if os.path.lexists(path):
            raise NotNow(f"{ref}: another process has the lease")
        forget(ref, by=by)  # into the history, meanwhile
        return
    try:
        _owed(ref, journal.read().items[number].state)
        journal.release(number, by=by, reason=f"forgotten by {by}")
        empty = not journal.read().owes
    finally:
        journal.close()
    if empty:
        history.archive([{"path": path}])


def status() -> "dict[str, Any] | None":
    """Return what the reaper says of itself (pid, seconds, owners, workers, jobs); None without one."""
    return client.ask("status")


# ---- finding


def _find(ref: str) -> tuple[str | None, int]:
    owner, number = parts(ref) or ("", None)
    if number is None:
        raise NotFound(f"no cleanup is called {ref!r}: see `lastly ls` and `lastly history` for their IDs")
    found = []
    for path in home.journals():
        if reference(path).startswith(owner):
            try:
                if number in replay.read(path).items:
                    found.append(path)
            except OSError:
                continue
    if len(found) > 1:
        raise NotFound(f"{ref!r} may be one of {len(found)} cleanups: see `lastly ls`")
    return (found[0] if found else None), number


def _row(ref: str) -> "sqlite3.Row | dict[str, Any]":
    owner, _, number = ref.partition(".")
    base = history.connect() if owner.isalnum() else None
    if base is not None:
        which = int(number)
        wanted = {"journal": f"%.{owner}%.j", "id": which}
        try:
            entries: list[sqlite3.Row | dict[str, Any]] = [*base.execute(history.SQL["find"], wanted)]
            several = base.execute(history.SQL["find_packed"], wanted)
            entries += filter(None, (packed.unpack(row, which) for row in several))
        finally:
            base.close()
        for row in entries:
            # The pattern may also find its start time, which stands before it.
            if reference(row["journal"]).startswith(owner):
                return row
    raise NotFound(f"no cleanup is called {ref!r}: see `lastly ls` and `lastly history` for their IDs")


def _mark(row: "sqlite3.Row | dict[str, Any]", text: str) -> None:
    base = history.connect(write=True)
    if base is not None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime())
        wanted = {"journal": row["journal"], "id": row["id"], "settled": f"{text}, {stamp}"}
        try:
            base.execute(history.SQL["mark"], wanted)
        finally:
            base.close()


def _dead(path: str, ref: str) -> None:
    if locks.held(path) is None:
        seen = replay.read(path)
        alive = seen.identity.alive() if seen.identity is not None else None
        if alive is False:
            return
        if alive is None:
            raise NotNow(f"{ref}: its owner belongs to another machine or pid namespace: ask there")
    raise NotNow(f"{ref}: its owner lives and will run it")


def _owed(ref: str, state: str) -> None:
    if state in {"retried", "forgotten", *replay.FINAL} - {"abandoned"}:
        raise NotNow(f"{ref} is {state}: there is nothing to forget")


def _reopen(row: "dict[str, Any]") -> str:
    """Make a journal for one abandoned cleanup, in its dead owner's name: the rest works as ever."""
    header = {**json.loads(row["header"]), "kind": "owner", "v": VERSION, "next": 1}
    plan = dict(json.loads(row["events"])[0])
    events = [clean(event)[0] for event in json.loads(row["events"])]
    known: dict[str, Any] = {}
    for event in events:
        known.update(event.get("known", {}))
    plan.update(n=1, known=known)
    if what := rows.called(events):
        plan["what"] = what
    lines = [header]
    context = json.loads(row["context"])
    if context:
        lines.append({**context, "n": 1})
        plan.update(n=2, context=context.get("id"))
    lines.append(plan)
    folder = os.path.join(home.state_dir(), "owners", row["journal"].partition("/")[0])
    home.make(folder)
    stem = os.path.join(folder, f"{row['pid']}.{row['start']}.{os.urandom(8).hex()}")
    fd = disk.new_file(f"{stem}.tmp", b"".join(map(encode, lines)))
    try:
        os.fdatasync(fd)
        os.rename(f"{stem}.tmp", f"{stem}.j")
    except BaseException:
        disk.discard(fd, f"{stem}.tmp")
        raise
    disk.close(fd)
    return f"{stem}.j"
