"""Where in a journal the records of each cleanup stand: for programs that leave a million of them.

Of each cleanup a few bytes are kept, whatever its records hold; these are read again when they are wanted.
The records of a cleanup are a chain of positions, from its last one back to the first after its plan.

Most lines are ours, with kind, number, time and id in this order: these four are read off without decoding
the rest. A line in any other form is decoded.
"""

from array import array
from bisect import bisect_left
from zlib import crc32

from lastly._journal.fields import clean
from lastly._journal.record import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator
    from typing import Any, TypeAlias

    Other: TypeAlias = Callable[[dict[str, Any], dict[str, Any], list[str], int], None]

OWED, DONE, RELEASED, VOID, ABANDONED = range(5)
_LAST = {"done": DONE, "release": RELEASED, "void": VOID, "abandon": ABANDONED}
WORDS = frozenset({"confirm", "run", "fail", "adopt", *_LAST})  # what may follow a plan

CHUNK = 1 << 18  # bytes read at once
_BLOCK, _BLOCKS = 1 << 16, 8  # bytes in a block that is read again, and how many are kept
_NONE = 0xFFFFFFFF


def of_bytes(data: bytes) -> "Callable[[int, int], bytes]":
    """Reads a journal that is in memory."""
    return lambda offset, size: data[offset : offset + size]


class Index:
    """The lines of one journal.

    Attributes:
        ids, states: of each cleanup, in the order of their plans. phases: of those that have one, by place.
        numbers: of all records. torn: the last line has no end.
    """

    _other: "Other"
    _complain: "Callable[[str], None]"

    def __init__(self, read: "Callable[[int, int], bytes]") -> None:
        self.ids, self.plans, self.last = array("I"), array("I"), array("I")
        self.states = bytearray()
        self.phases: dict[int, int] = {}
        self.numbers = Numbers()
        self.torn = False
        self._read = read
        self._end = self._lines = 0
        # Of each word: where it stands; how many words ago the one before it of its cleanup was, or 0.
        self._words, self._before = array("I"), array("H")
        self._early: dict[int, list[tuple[str, int]]] = {}  # words that stand before their plan
        self._ascending = True
        self._places: dict[int, int] = {}  # of each id, where they are not ascending
        self._blocks: dict[int, bytes] = {}  # of the file, as read again last

    # ---- taking in

    def scan(self, other: "Other", complain: "Callable[[str], None]") -> None:
        """Take in what was written since the last scan.

        Args:
            other: takes the records that are about no cleanup: the record, what `clean` says of it, where it
                stands.
            complain: takes what is wrong with a line.
        """
        # Let go of afterwards: whose they are refers to this index. Of a million cleanups it is 30 MB, which
        # would be kept until the garbage collector comes by.
        self._other, self._complain = other, complain
        try:
            self._scan()
        finally:
            del self._other, self._complain

    def _scan(self) -> None:
        size = _BLOCK  # does for most journals, and is had for less than a large one
        self.torn = False
        self._blocks.clear()
        while data := self._read(self._end, size):
            if not self._end and len(data) < size <= _BLOCK:  # all of it
                self._blocks[0] = data
            lines = data.split(b"\n")
            rest = lines.pop()
            if not lines and len(data) == size:  # a line longer than that
                size *= 2
                continue
            for line in lines:
                self._lines += 1
                if line:
                    self._line(line, self._end)
                self._end += len(line) + 1
            if len(data) < size:
                self._unended(rest)
                return
            size = max(size, CHUNK)

    def _unended(self, rest: bytes) -> None:
        """The last line: torn, and no damage; or whole, but for its LF. The next writer starts with one."""
        if rest:
            self.torn = True
            try:
                record = decode(rest)
            except ValueError:
                return
            self._take(record, self._end)
            self._end += len(rest)

    def _line(self, line: bytes, offset: int) -> None:
        known = _ours(line)
        if known is not None:
            kind, n, number = known
            self.numbers.add(n)
            if kind == "plan":
                self._plan(number, offset, line)
            else:
                self._word(kind, number, offset)
            return
        try:
            record = decode(line)
        except ValueError as error:
            self._complain(f"line {self._lines}: {error}")
            return
        self._take(record, offset)

    def _take(self, record: "dict[str, Any]", offset: int) -> None:
        kind = record["kind"]
        given, odd = clean(record)
        if kind != "plan" and kind not in WORDS:
            self.numbers.add(given.get("n", 0))
            self._other(record, given, odd, offset)
            return
        if odd:
            self._complain(f"odd fields in a record ({kind}): {', '.join(odd)}")
        number = given.get("id", 0)
        if not number:
            return  # about nobody knows what: as if it were missing
        self.numbers.add(given.get("n", 0))
        if kind == "plan":
            self._plan(number, offset, b'"phase":' if "phase" in given else b"")
        else:
            self._word(kind, number, offset)

    def _plan(self, number: int, offset: int, line: bytes) -> None:
        place = len(self.ids)
        if self._ascending and (not place or number > self.ids[-1]):
            pass
        elif self.place(number) is not None:
            return  # a second plan of the same id is not another cleanup
        elif self._ascending:
            self._ascending = False
            self._places = {known: where for where, known in enumerate(self.ids)}
        if not self._ascending:
            self._places[number] = place
        self.ids = _append(self.ids, number)
        self.plans = _append(self.plans, offset)
        self.last.append(_NONE)
        self.states.append(OWED)
        if b'"phase":' in line:
            self._note_phase(place, offset)
        for kind, where in self._early.pop(number, ()):
            self._word(kind, number, where)

    def _note_phase(self, place: int, offset: int) -> None:
        record = self.record(offset)
        phase = clean(record)[0].get("phase", 0) if record is not None else 0
        if phase:
            self.phases[place] = phase

    def _word(self, kind: str, number: int, offset: int) -> None:
        place = self.place(number)
        if place is None:
            self._early.setdefault(number, []).append((kind, offset))
            return
        here, last = len(self._words), self.last[place]
        self._words = _append(self._words, offset)
        self._before = _append(self._before, 0 if last == _NONE else here - last)
        self.last[place] = here
        self.settle(place, kind)

    def settle(self, place: int, kind: str) -> None:
        """Let a word of this kind count."""
        # A last word stays the last word, except that a person may retry or forget what was given up.
        state = self.states[place]
        if state == OWED or (state == ABANDONED and kind in ("run", "release")):
            self.states[place] = _LAST.get(kind, OWED)

    # ---- giving out

    def place(self, number: int) -> int | None:
        """The place of a cleanup; None when it has no plan."""
        if not self._ascending:
            return self._places.get(number)
        place = bisect_left(self.ids, number)
        return place if place < len(self.ids) and self.ids[place] == number else None

    def counts(self) -> tuple[int, int]:
        """How many are owed, and how many were given up."""
        return self.states.count(OWED), self.states.count(ABANDONED)

    def owed(self) -> "Iterator[int]":
        """The places of what is owed, in the order to run it: by phase, then newest first.

        What is settled while this is iterated over is left out.
        """
        places = range(len(self.ids) - 1, -1, -1)
        order = places if self._ascending else sorted(places, key=self.ids.__getitem__, reverse=True)
        for phase in sorted({0, *self.phases.values()}):
            for place in order:
                if self.states[place] == OWED and self.phases.get(place, 0) == phase:
                    yield place

    def words(self, place: int) -> "list[dict[str, Any]]":
        """The records that follow the plan, in the order in which they were written."""
        found, where = [], self.last[place]
        while where != _NONE:
            found.append(self._words[where])
            before = self._before[where]
            where = where - before if before else _NONE
        return [record for offset in sorted(found) if (record := self.record(offset)) is not None]

    def record(self, offset: int) -> "dict[str, Any] | None":
        """The record that stands there; None: its checksum is right, and it is none."""
        try:
            return decode(self._line_at(offset))
        except ValueError:
            return None

    def _line_at(self, offset: int) -> bytes:
        block, begin = divmod(offset, _BLOCK)
        data = self._block(block)
        parts = []
        while (end := data.find(b"\n", begin)) < 0 and len(data) == _BLOCK:
            parts.append(data[begin:])
            block, begin = block + 1, 0
            data = self._block(block)
        parts.append(data[begin : end if end >= 0 else None])
        return b"".join(parts)

    def _block(self, number: int) -> bytes:
        data = self._blocks.get(number)
        if data is None:
            if len(self._blocks) >= _BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            data = self._blocks[number] = self._read(number * _BLOCK, _BLOCK)
        return data


def _append(column: "array[int]", value: int) -> "array[int]":
    try:
        column.append(value)
    except OverflowError:  # two bytes, or four, do for nearly all journals
        return _append(array("I" if column.typecode == "H" else "Q", column), value)
    return column


_KINDS = {kind.encode(): kind for kind in ("plan", *WORDS)}


def _ours(line: bytes) -> "tuple[str, int, int] | None":
    """Kind, number and id of a whole line in our own form; None for any other."""
    kind_end = line.find(b'"', 18)
    kind = _KINDS.get(line[18:kind_end])
    n_end = line.find(b",", kind_end + 6)
    t_end = line.find(b",", n_end + 5)
    id_end = line.find(b",", t_end + 6)
    n, number = line[kind_end + 6 : n_end], line[t_end + 6 : id_end]
    if (
        kind is None
        or line[8:18] != b' {"kind":"'
        or line[kind_end + 1 : kind_end + 6] != b',"n":'
        or line[n_end : n_end + 5] != b',"t":'
        or line[t_end : t_end + 6] != b',"id":'
        or not (n.isdigit() and number.isdigit() and len(n) < 19 and len(number) < 19 and number != b"0")
        or line[:8] != b"%08x" % crc32(line[9:])
    ):
        return None
    return kind, int(n), int(number)


def about(read: "Callable[[int, int], bytes]", live: "Container[int]") -> "Iterator[bytes]":
    """The lines of a journal that are about these cleanups, and its contexts; some at a time."""
    offset, size = 0, CHUNK
    while data := read(offset, size):
        end = data.rfind(b"\n") + 1
        if not end and len(data) == size:  # a line longer than that
            size *= 2
            continue
        yield b"".join(line + b"\n" for line in data[:end].split(b"\n") if _is_about(line, live))
        offset += end
        if len(data) < size:
            return


def _is_about(line: bytes, live: "Container[int]") -> bool:
    known = _ours(line)
    if known is not None:
        return known[2] in live
    try:
        record = decode(line)
    except ValueError:  # empty, or torn
        return False
    return record["kind"] == "context" or record.get("id") in live


class Numbers:
    """A set of numbers, most of them in a row."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, n: int) -> None:
        """Add one; 0 is none."""
        starts, ends = self._starts, self._ends
        if ends and n == ends[-1] + 1:
            ends[-1] = n
        elif n and (not ends or n > ends[-1]):
            starts.append(n)
            ends.append(n)
        elif n:
            self._insert(n)

    def _insert(self, n: int) -> None:
        starts, ends = self._starts, self._ends
        where = bisect_left(ends, n)
        if starts[where] <= n:
            return
        after = starts[where] == n + 1
        before = where > 0 and ends[where - 1] == n - 1
        if after and before:
            del starts[where], ends[where - 1]
        elif after:
            starts[where] = n
        elif before:
            ends[where - 1] = n
        else:
            starts.insert(where, n)
            ends.insert(where, n)

    @property
    def last(self) -> int:
        """The greatest; 0 without any."""
        return self._ends[-1] if self._ends else 0

    def missing(self, first: int) -> int:
        """The greatest from ``first`` on that is missing below the last one; 0 for none."""
        hole = self._starts[-1] - 1 if self._starts else 0
        return hole if hole >= first else 0
