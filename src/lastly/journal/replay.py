"""Read a journal, whatever state it is in: what is owed, and how far it got.

A journal may end in the middle of a line (its owner was killed while writing), hold a line that a full disk
cut short, or be damaged by the disk or by somebody's editor. What is read is always *a prefix plus whole
lines*: a line with a wrong checksum is left out and reported, every other one counts. Nothing in here raises
for what stands in the file.

**What a missing line can do.** A lost ``plan`` leaks a resource, and a lost ``release`` would get removed
what the program meant to keep. The second is worse. Records are therefore numbered (``n``): when a number is
missing, every item whose last word came before the gap is in *doubt*, and whoever runs orphans leaves it
alone and says so. A torn last line is no gap: its call never returned.
"""

import os

from lastly._action import BACKOFF, RETRIES, TIMEOUT
from lastly._system.identity import Identity
from lastly.journal import disk, locks
from lastly.journal.fields import PLANNED, clean
from lastly.journal.record import VERSION, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FINAL = frozenset({"done", "released", "void", "abandoned"})
_STATE = {
    "confirm": "active", "run": "running", "done": "done", "fail": "failed", "release": "released", "void":
    "void", "abandon": "abandoned",
}  # fmt: skip
_MOST_DAMAGE = 20  # lines that are kept of what is wrong with one journal


class Item:
    """One durable cleanup, as its journal tells it.

    Attributes:
        state: planned, active, running, done, failed, released, void or abandoned; `final` for the last
            words.
        known: the confirmed facts. attempts: how often it was begun. error, next: of the last failure.
        doubt: a record is missing from the journal that may have been this item's release.
        odd: the names of fields that say what is to be done, and hold what they cannot hold.
        extra: fields of the plan that this version does not know. events: all its records, as they stand.
    """

    __slots__ = (
        "action", "args", "attempts", "backoff", "changed", "context", "doubt", "error", "events", "extra",
        "id", "known", "kwargs", "last_n", "next", "odd", "phase", "reason", "remote", "retries", "scope",
        "state", "t", "timeout", "token",
    )  # fmt: skip

    def __init__(self, plan: "dict[str, Any]", token: str, contexts: "dict[int, dict[str, Any]]") -> None:
        given, self.odd = clean(plan)
        self.id: int = given["id"]
        self.action: str = given["action"]
        self.args: list[Any] = given.get("args", [])
        self.kwargs: dict[str, Any] = given.get("kwargs", {})
        self.known: dict[str, Any] = dict(given.get("known", {}))
        self.remote: bool = given.get("remote", False)
        self.scope: str = given.get("scope", "")
        self.phase: int = given.get("phase", 0)
        self.retries: int = given.get("retries", RETRIES)
        self.timeout = float(given.get("timeout", TIMEOUT))
        self.backoff = float(given.get("backoff", BACKOFF))
        self.context: dict[str, Any] | None = contexts.get(given.get("context", 0))
        self.t = float(given.get("t", 0.0))
        self.changed = self.t
        self.token = f"{token}.{self.id}"
        self.extra = {key: value for key, value in given.items() if key not in PLANNED}
        self.state = "active" if self.known else "planned"
        self.attempts = 0
        self.error = self.reason = ""
        self.next: float | None = None
        self.doubt = False
        self.events: list[dict[str, Any]] = []
        self.last_n = 0

    @property
    def final(self) -> bool:
        """Nothing more is owed."""
        return self.state in FINAL

    def apply(self, record: "dict[str, Any]") -> None:
        """Take in one more record of this item."""
        kind = record["kind"]
        self.events.append(record)
        given, odd = clean(record)
        self.last_n = max(self.last_n, given.get("n", 0))
        if kind == "plan":
            return
        self.changed = max(self.changed, float(given.get("t", 0.0)))
        if kind == "confirm":
            self.known.update(given.get("known", {}))
            self.odd += odd
        elif kind == "run":
            self.attempts = max(self.attempts + 1, given.get("attempt", 0))
        elif kind == "fail":
            self.error = given.get("error", "")
            self.next = given.get("next")
        self.reason = given.get("reason", self.reason)
        # A last word stays the last word, but for what was given up, and a person retries or forgets; and a
        # resource confirmed while its cleanup runs is not "active" again.
        reopened = self.state == "abandoned" and kind in ("run", "release")
        if (reopened or not self.final) and not (kind == "confirm" and self.state != "planned"):
            self.state = _STATE[kind]

    def __repr__(self) -> str:
        return f"<item {self.id} {self.action} {self.state}>"


class Replay:
    """What one journal says.

    Attributes:
        header: the owner record, or None when it is damaged. identity: the owner; from the file's name when
            need be.
        items: id → `Item`. context: the last one. contexts: all of them, by number.
        damage: one line per damaged record. torn: the last line has no end (somebody was killed writing it).
        newer: written by a later version of lastly: neither run nor dropped.
        unknown: records of kinds that this version does not know: the file is not to be dropped.
        next_n: the number of the next record.
    """

    __slots__ = (
        "context", "contexts", "damage", "header", "identity", "items", "newer", "next_n", "path", "torn",
        "unknown"
    )  # fmt: skip

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.header: dict[str, Any] | None = None
        self.identity: Identity | None = None
        self.items: dict[int, Item] = {}
        self.context: dict[str, Any] = {}
        self.contexts: dict[int, dict[str, Any]] = {}
        self.damage: list[str] = []
        self.torn = False
        self.newer = False
        self.unknown: list[dict[str, Any]] = []
        self.next_n = 1

    @property
    def token(self) -> str:
        """The owner's token: the first part of every item's."""
        return str((self.header or {}).get("token", ""))

    def pending(self) -> list[Item]:
        """What is still owed, in the order to run it: by phase, then newest first."""
        owed = [item for item in self.items.values() if not item.final]
        owed.sort(key=lambda item: (item.phase, -item.id))
        return owed

    def complain(self, what: str) -> None:
        """Note something that is wrong with the file."""
        if len(self.damage) < _MOST_DAMAGE:
            self.damage.append(what)

    def __repr__(self) -> str:
        return f"<journal {self.path}: {len(self.items)} items, {len(self.pending())} owed>"


def read(path: str, *, trusted: bool = False) -> Replay:
    """Read the journal at `path`; safe on one's own.

    Args:
        path: the journal.
        trusted: something is done because of what it says, so it must be ours.

    Raises:
        OSError: it cannot be opened, or is not ours where it must be.
    """
    fd = locks.held(path)
    if fd is not None:
        # Opening and closing it here would drop the lock that says we live.
        return replay(contents(fd), path)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if trusted:
            disk.check_ours(fd, path)
        return replay(contents(fd), path)
    finally:
        os.close(fd)


def contents(fd: int) -> bytes:
    """Everything in the open file, without moving its offset."""
    parts = []
    offset = 0
    while part := os.pread(fd, 1 << 18, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def replay(data: bytes, path: str = "") -> Replay:
    """Read the bytes of a journal. Never raises."""
    found = Replay(path)
    lines = data.split(b"\n")
    found.torn = bool(lines[-1])
    records = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            records.append(decode(line))
        except ValueError as error:
            if number < len(lines):
                found.complain(f"line {number}: {error}")
            continue
        if number == len(lines):
            found.torn = True  # whole, but for its LF: the next writer has to start with one all the same
    _header(found, records)
    _apply(found, records)
    return found


def _header(found: Replay, records: "list[dict[str, Any]]") -> None:
    for record in records:
        if record["kind"] == "owner":
            found.header, odd = clean(record)
            if odd:
                found.complain(f"odd fields in the owner record: {', '.join(odd)}")
            found.identity = Identity.from_mapping(found.header)
            version = record.get("v")
            found.newer = not (version.__class__ is int and version <= VERSION)
            break
    if found.identity is None:
        found.identity = identity_from_path(found.path)
    if found.header is None and records:
        found.complain("no owner record")


def _apply(found: Replay, records: "list[dict[str, Any]]") -> None:
    numbers: set[int] = set()
    later: list[tuple[int, dict[str, Any]]] = []
    for record in records:
        kind = record["kind"]
        given, odd = clean(record)
        if kind == "context":
            found.context = found.contexts[given.get("id", 0)] = record
        elif kind == "plan" or kind in _STATE:
            if odd:
                found.complain(f"odd fields in a record ({kind}): {', '.join(odd)}")
            if not given.get("id") or (kind == "plan" and not given.get("action")):
                continue  # about nobody knows what: as if it were missing
            if kind == "plan":
                _plan(found, record)
            else:
                later.append((given["id"], record))
        elif kind not in ("owner", "adopt"):
            found.unknown.append(record)
        numbers.add(given.get("n", 0))
    # In a second pass: after a compaction a word may stand before the plan that it is about.
    for about, record in later:
        if (known := found.items.get(about)) is not None:
            known.apply(record)
    _doubt(found, numbers)


def _plan(found: Replay, record: "dict[str, Any]") -> None:
    if record["id"] not in found.items:
        found.items[record["id"]] = item = Item(record, found.token, found.contexts)
        item.apply(record)


def _doubt(found: Replay, numbers: "set[int]") -> None:
    first = (found.header or {}).get("next", 1)
    last = max(numbers, default=0)
    found.next_n = max(first, last + 1)
    if last - first > len(numbers) + 1_000_000:
        missing = last  # numbers from outer space: nobody's writing; all before them is in doubt
    else:
        missing = max((n for n in range(first, last) if n not in numbers), default=0)
    if missing:
        for item in found.items.values():
            item.doubt = not item.final and item.last_n < missing


def identity_from_path(path: str) -> Identity | None:
    """What the name of a journal tells of its owner.

    Not the pid namespace: by its name alone nobody is proven dead before the boot is over.
    """
    directory, name = os.path.split(path)
    host, _, boot = os.path.basename(directory).rpartition("-")
    parts = name.split(".")
    if not host or len(parts) != 4 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return None
    return Identity(boot=boot, pidns="", pid=int(parts[0]), start=int(parts[1]), host=host)
