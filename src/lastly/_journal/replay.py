"""Read a journal, whatever state it is in: what is owed, and how far it got.

A journal may end in the middle of a line (its owner was killed while writing), hold a line that a full disk
cut short, or be damaged by the disk or by somebody's editor. What is read is always *a prefix plus whole
lines*: a line with a wrong checksum is left out and reported, every other one counts. Nothing in here raises
because of what is in the file.

**What a missing line can do.** A lost ``plan`` leaks a resource, and a lost ``release`` would get removed
what the program meant to keep. The second is worse. Records are therefore numbered (``n``): when a number is
missing, every item whose last word came before the gap is in *doubt*, and a process that runs orphans leaves
it alone and says so. A torn last line is no gap: its call never returned.
:mod:`index` sees that it has no end, and :func:`record.decode` that a checksum is wrong.
"""

import os

from lastly._journal import disk, locks
from lastly._journal.fields import PLANNED, clean
from lastly._journal.index import ABANDONED, CHUNK, OWED, Index, of_bytes
from lastly._journal.record import VERSION, decode
from lastly._system.identity import Identity
from lastly._words import naming
from lastly._words.clock import BACKOFF, RETRIES, TIMEOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

FINAL = frozenset({"done", "released", "void", "abandoned"})
_STATE = {
    "confirm": "active", "run": "running", "done": "done", "fail": "failed", "release": "released", "void":
    "void", "abandon": "abandoned",
}  # fmt: skip
_FEW = 64  # cleanups of one journal that are kept when they were read
_MOST_DAMAGE = 20  # lines that are kept of what is wrong with one journal


class Item:
    """One durable cleanup, as its journal tells it.

    Attributes:
        state: planned, active, running, done, failed, released, void or abandoned; `final` for the last
            words.
        what: its description, if its action brings one, or the name that the program gave it.
        known: the confirmed facts. attempts: how often it was begun. error, next: of the last failure.
        shared: the shared journal that it is in, or was to be; epoch: under which lease, once it is.
        doubt: a record is missing from the journal that may have been this item's release.
        odd: the names of fields that say what is to be done, and hold what they cannot hold.
        extra: fields of the plan that this version does not know. events: all its records, as they stand.
    """

    __slots__ = (
        "action", "args", "attempts", "backoff", "changed", "context", "doubt", "epoch", "error", "events",
        "extra", "id", "known", "kwargs", "last_n", "next", "odd", "phase", "reason", "remote", "retries",
        "scope", "shared", "state", "t", "timeout", "token", "what",
    )  # fmt: skip

    def __init__(self, plan: "dict[str, Any]", token: str, contexts: "Contexts") -> None:
        given, self.odd = clean(plan)
        self.id: int = given["id"]
        self.action: str = given.get("action", "")
        if not self.action and "action" not in self.odd:
            self.odd.append("action")
        self.args: list[Any] = given.get("args", [])
        self.kwargs: dict[str, Any] = given.get("kwargs", {})
        self.known: dict[str, Any] = dict(given.get("known", {}))
        self.remote: bool = given.get("remote", False)
        self.scope: str = given.get("scope", "")
        self.what: str = given.get("what", "")
        self.shared: str = given.get("shared", "")
        self.epoch = 0
        self.phase: int = given.get("phase", 0)
        self.retries: int = given.get("retries", RETRIES)
        self.timeout = float(given.get("timeout", TIMEOUT))
        self.backoff = float(given.get("backoff", BACKOFF))
        self.context = contexts.get(given["context"]) if "context" in given else None
        self.t = float(given.get("t", 0.0))
        self.changed = self.t
        self.token = f"{token}.{self.id}"
        self.extra = {key: value for key, value in given.items() if key not in PLANNED}
        self.state = "active" if self.known else "planned"
        self.attempts = 0
        self.error = self.reason = ""
        self.next: float | None = None
        self.doubt = False
        self.events = [plan]
        self.last_n: int = given.get("n", 0)

    @property
    def final(self) -> bool:
        """Nothing more is owed."""
        return self.state in FINAL

    def called(self) -> str:
        """Return what people call it."""
        return naming.cleanup({
            "action": self.action, "args": self.args, "kwargs": self.kwargs, "known": self.known,
            "what": self.what, "scope": self.scope,
        })  # fmt: skip

    def apply(self, record: "dict[str, Any]") -> None:
        """Take in one more record of this item, as it was read."""
        self.take_in(record, *clean(record))

    def take_in(self, record: "dict[str, Any]", given: "dict[str, Any]", odd: "list[str]") -> None:
        """Take in one more record of this item, and what `fields.clean` says of it."""
        kind = record["kind"]
        self.events.append(record)
        self.last_n = max(self.last_n, given.get("n", 0))
        self.changed = max(self.changed, float(given.get("t", 0.0)))
        if kind == "adopt":
            self.shared, self.epoch = given.get("shared", self.shared), given.get("epoch", 0)
            return
        if kind == "confirm":
            self.known.update(given.get("known", {}))
            self.what = given.get("what", self.what)
            self.odd += odd
        elif kind == "run":
            self.attempts = max(self.attempts + 1, given.get("attempt", 0))
        elif kind == "fail":
            self.error = given.get("error", "")
            self.next = given.get("next")
        self.reason = given.get("reason", self.reason)
        # A final state is kept, except that a person may retry or forget an abandoned item. A resource that
        # is confirmed, or gets a name, while its cleanup runs does not become "active" again.
        reopened = self.state == "abandoned" and kind in ("run", "release")
        confirmed = kind == "confirm" and (self.state != "planned" or "known" not in given)
        if (reopened or not self.final) and not confirmed:
            self.state = _STATE[kind]

    def __repr__(self) -> str:
        return f"<item {self.id} {self.action} {self.state}>"


class Items:
    """The cleanups of one journal by id, in the order of their plans; each is read when it is asked for.

    Attributes:
        token: the owner's. first: the number of the first record that is there.
    """

    def __init__(self, index: Index, contexts: "Contexts") -> None:
        self.token = ""
        self.first = 1
        self._index = index
        self._contexts = contexts
        self._added: dict[int, list[dict[str, Any]]] = {}
        self._built: dict[int, Item] = {}  # of a journal with few

    def add(self, record: "dict[str, Any]") -> None:
        """Let a record count that could not be written into the journal."""
        self._added.setdefault(record["id"], []).append(record)
        self._built.clear()

    def forget(self) -> None:
        """Let all be read again."""
        self._built.clear()

    def settled(self, record: "dict[str, Any]") -> bool:
        """Take in a word that was written and applied to its cleanup; False: that has to be read again."""
        place = self._index.place(record["id"])
        if place is None or place not in self._built:
            return False
        self._index.settle(place, record["kind"])
        return True

    def __len__(self) -> int:
        return len(self._index.ids)

    def __iter__(self) -> "Iterator[int]":
        return iter(self._index.ids)

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self._index.place(number) is not None

    def __getitem__(self, number: int) -> Item:
        place = self._index.place(number)
        if place is None:
            raise KeyError(number)
        return self.at(place)

    def get(self, number: int) -> Item | None:
        """The cleanup of this id, if there is one."""
        place = self._index.place(number)
        return None if place is None else self.at(place)

    def values(self) -> "Iterator[Item]":
        """All of them."""
        return map(self.at, range(len(self)))

    def counts(self) -> tuple[int, int]:
        """How many are owed, and how many were given up; none of them is read for that."""
        return self._index.counts()

    def unsettled(self) -> "Iterator[Item]":
        """Those that are owed or were given up, in the order of their plans."""
        for place, state in enumerate(self._index.states):
            if state in (OWED, ABANDONED):
                yield self.at(place)

    def owed(self) -> "Iterator[Item]":
        """Those that are owed, in the order to run them: by phase, then newest first."""
        for item in map(self.at, self._index.owed()):
            if not item.final:  # by what could not be written
                yield item

    @property
    def missing(self) -> int:
        """The number of the last record that is missing; 0 for none."""
        return self._index.numbers.missing(self.first)

    def at(self, place: int) -> Item:
        """The cleanup at a place of the index."""
        item = self._built.get(place)
        if item is None:
            item = self._read(place)
            if len(self) <= _FEW:
                self._built[place] = item
        return item

    def _read(self, place: int) -> Item:
        index, number = self._index, self._index.ids[place]
        plan = index.record(index.plans[place])
        if plan is None or plan.get("id") != number:  # the checksum is right, the content is not
            plan = {"kind": "plan", "id": number}
        item = Item(plan, self.token, self._contexts)
        for record in (*index.words(place), *self._added.get(number, ())):
            item.apply(record)
        missing = self.missing
        item.doubt = missing > 0 and not item.final and item.last_n < missing
        return item


class Contexts:
    """What children need to run the actions of one journal, by number; each is read when it is asked for."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._where: dict[int, int] = {}
        self._last: tuple[int, dict[str, Any] | None] = (-1, None)

    def __len__(self) -> int:
        return len(self._where)

    def add(self, number: int, offset: int) -> None:
        """Take in where one stands."""
        self._where.pop(number, None)
        self._where[number] = offset

    def get(self, number: int) -> "dict[str, Any] | None":
        """The context of this number, if there is one."""
        offset = self._where.get(number)
        if offset is None:
            return None
        if self._last[0] != offset:
            self._last = (offset, self._index.record(offset))
        return self._last[1]

    def newest(self) -> "dict[str, Any] | None":
        """The last one."""
        return self.get(next(reversed(self._where))) if self._where else None


class Replay:
    """What one journal says.

    Attributes:
        header: the owner record, without what is odd in it, or None when it is damaged. identity: the owner;
            from the file's name when need be.
        items: id → `Item`. contexts: what children need, by number.
        damage: one line per damaged record, at most 20. newer: written by a later version of lastly: neither
            run nor dropped.
        unknown: records of kinds that this version does not know: the file is not to be dropped.
        current: it says what stands in the file; else `refresh` it.
    """

    __slots__ = (
        "_index", "contexts", "current", "damage", "header", "identity", "items", "newer", "path", "unknown"
    )  # fmt: skip

    def __init__(self, path: str = "", source: "Callable[[int, int], bytes] | None" = None) -> None:
        self.path = path
        self.header: dict[str, Any] | None = None
        self.identity: Identity | None = None
        self.damage: list[str] = []
        self.newer = False
        self.unknown: list[dict[str, Any]] = []
        self._index = Index(source or of_bytes(b""))
        self.contexts = Contexts(self._index)
        self.items = Items(self._index, self.contexts)
        self.refresh()
        if not self._has_header():
            self.identity = identity_from_path(path)
            if len(self.items) or self.unknown:
                self.complain("no owner record")

    def _has_header(self) -> bool:
        return self.header is not None

    @property
    def token(self) -> str:
        """The owner's token: the first part of every item's."""
        return self.items.token

    @property
    def torn(self) -> bool:
        """The last line has no end: its writer was killed."""
        return self._index.torn

    @property
    def next_n(self) -> int:
        """The number of the next record."""
        return max(self.items.first, self._index.numbers.last + 1)

    @property
    def missing(self) -> int:
        """The number of the last record that is missing; 0 for none."""
        return self.items.missing

    @property
    def owes(self) -> bool:
        """Whether anything is still owed."""
        return next(self.items.owed(), None) is not None

    def pending(self) -> list[Item]:
        """What is still owed, in the order to run it: by phase, then newest first."""
        return list(self.items.owed())

    def refresh(self) -> None:
        """Take in what was written since."""
        self._index.scan(self._other, self.complain)
        self.items.forget()
        self.current = True

    def complain(self, what: str) -> None:
        """Note something that is wrong with the file."""
        if len(self.damage) < _MOST_DAMAGE:
            self.damage.append(what)

    def _other(
        self, record: "dict[str, Any]", given: "dict[str, Any]", odd: "list[str]", offset: int
    ) -> None:
        kind = record["kind"]
        if kind == "context":
            self.contexts.add(given.get("id", 0), offset)
        elif kind == "owner":
            if self.header is None:
                self._take_header(record, given, odd)
        elif kind != "adopt":
            self.unknown.append(record)

    def _take_header(self, record: "dict[str, Any]", given: "dict[str, Any]", odd: "list[str]") -> None:
        self.header = given
        self.items.token, self.items.first = given.get("token", ""), given.get("next", 1)
        if odd:
            self.complain(f"odd fields in the owner record: {', '.join(odd)}")
        self.identity = Identity.from_mapping(self.header) or identity_from_path(self.path)
        version = record.get("v")
        self.newer = not (version.__class__ is int and version <= VERSION)

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
    return replay(_bytes(path, contents, trusted=trusted), path)


def since(path: str) -> float:
    """When the journal at `path` was made (unix time), by its first line; 0.0 where that does not tell."""
    try:
        line = _bytes(path, lambda fd: os.pread(fd, CHUNK, 0)).partition(b"\n")[0]
        return float(clean(decode(line))[0].get("t", 0.0))
    except (OSError, ValueError):
        return 0.0


def _bytes(path: str, take: "Callable[[int], bytes]", *, trusted: bool = False) -> bytes:
    fd = locks.held(path)
    if fd is not None:
        # Opening and closing it here would drop the lock that says we live.
        return take(fd)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if trusted:
            disk.check_ours(fd, path)
        return take(fd)
    finally:
        os.close(fd)


def contents(fd: int) -> bytes:
    """Everything in the open file, without moving its offset."""
    parts = []
    offset = 0
    while part := os.pread(fd, CHUNK, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def replay(data: bytes, path: str = "") -> Replay:
    """Read the bytes of a journal. Never raises."""
    return Replay(path, of_bytes(data))


def identity_from_path(path: str) -> Identity | None:
    """What the name of a journal tells of its owner.

    Not the pid namespace: from the name alone no owner is proved dead before its boot is over.
    """
    directory, name = os.path.split(path)
    host, _, boot = os.path.basename(directory).rpartition("-")
    parts = name.split(".")
    if not host or len(parts) != 4 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return None
    return Identity(boot=boot, pidns="", pid=int(parts[0]), start=int(parts[1]), host=host)
