"""Reading a journal in whatever state: a prefix plus whole lines (I7)."""

import json
from zlib import crc32

import pytest
from harness import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from lastly._journal import index
from lastly._journal.index import CHUNK, Numbers
from lastly._journal.record import encode
from lastly._journal.replay import Replay, replay


def lines_of(*records):
    return [encode(record) for record in records]


HEADER = {
    "kind": "owner", "v": 1, "boot": "b", "pidns": "1", "pid": 7, "start": 9, "host": "h", "uid": 0, "token": "tok",
    "next": 1,
}  # fmt: skip
RECORDS = lines_of(
    HEADER,
    {"kind": "plan", "n": 1, "id": 1, "action": "lastly.actions:remove", "args": ["/a\nb"], "t": 1.5},
    {"kind": "plan", "n": 2, "id": 2, "action": "m:f", "kwargs": {"x": 1}, "remote": True, "later": "kept"},
    {"kind": "confirm", "n": 3, "id": 1, "known": {"ino": 5}},
    {"kind": "run", "n": 4, "id": 2, "attempt": 1, "by": "owner"},
    {"kind": "fail", "n": 5, "id": 2, "error": "boom", "attempt": 1, "next": 12.0},
    {"kind": "plan", "n": 6, "id": 3, "action": "m:g"},
    {"kind": "release", "n": 7, "id": 3},
)
WHOLE = b"".join(RECORDS)


def states(found):
    return {item.id: item.state for item in found.items.values()}


def test_a_whole_journal():
    """Items, states, facts, failures; the order to run them in."""
    found = replay(WHOLE)
    assert states(found) == {1: "active", 2: "failed", 3: "released"}
    assert found.items[1].args == ["/a\nb"]
    assert found.items[1].known == {"ino": 5}
    assert found.items[1].token == "tok.1"
    assert (found.items[2].attempts, found.items[2].error, found.items[2].next) == (1, "boom", 12.0)
    assert found.items[2].extra == {"later": "kept"}
    assert [item.id for item in found.pending()] == [2, 1]
    assert not found.damage
    assert not found.torn
    assert found.next_n == 8
    assert not any(item.doubt for item in found.items.values())


def test_phases_come_before_age():
    """Lower phase first, then newest first."""
    found = replay(
        b"".join(lines_of(*({"kind": "plan", "n": i, "id": i, "action": "m:f", "phase": i % 2} for i in range(1, 5))))
    )
    assert [item.id for item in found.pending()] == [4, 2, 3, 1]


@pytest.mark.parametrize("cut", range(len(WHOLE) + 1))
@pytest.mark.slow(keep=50)
def test_truncated_at_every_byte(cut):
    """A prefix of the records counts, the torn one does not, and nothing raises."""
    found = replay(WHOLE[:cut])
    whole = WHOLE[:cut].count(b"\n")
    # A line that lacks nothing but its LF counts too.
    complete = whole + (cut < len(WHOLE) and WHOLE[cut : cut + 1] == b"\n")
    assert states(found) == states(replay(b"".join(RECORDS[:complete])))
    assert not found.damage
    assert found.torn == bool(WHOLE[:cut] and not WHOLE[:cut].endswith(b"\n"))
    assert not any(item.doubt for item in found.items.values())


def test_every_bit_flipped():
    """One damaged line is left out (two, when it was their LF); all others count; what it may have said is doubted."""
    for position in range(len(WHOLE)):
        line = WHOLE[:position].count(b"\n")
        for bit in range(8):
            data = bytearray(WHOLE)
            data[position] ^= 1 << bit
            found = replay(bytes(data))
            merged = WHOLE[position] == 10
            split = data[position] == 10
            left = [r for i, r in enumerate(RECORDS) if i != line and not (merged and i == line + 1)]
            expected = states(replay(b"".join(left)))
            if merged and line == len(RECORDS) - 1:
                expected = states(replay(WHOLE[:-1]))  # the last one's end: torn, at worst
                assert states(found) in (expected, states(replay(b"".join(RECORDS[:-1]))))
                continue
            assert states(found) == expected, (position, bit)
            assert found.damage or line == len(RECORDS) - 1 or split
            if line == len(RECORDS) - 2 and not merged:  # the plan that was released: gone, and its release is about nothing
                assert 3 not in found.items


def test_a_lost_release_is_doubted():
    """What may have been kept on purpose is not removed: a number is missing."""
    rows = lines_of(
        HEADER,
        {"kind": "plan", "n": 1, "id": 1, "action": "m:f"},
        {"kind": "release", "n": 2, "id": 1},
        {"kind": "plan", "n": 3, "id": 2, "action": "m:f"},
    )
    found = replay(rows[0] + rows[1] + rows[3])
    assert found.items[1].doubt
    assert not found.items[2].doubt


def test_a_torn_line_in_the_middle_is_no_gap():
    """A full disk cut it short; its writer knew, began a new line and used the number again."""
    rows = lines_of(
        HEADER,
        {"kind": "plan", "n": 1, "id": 1, "action": "m:f"},
        {"kind": "plan", "n": 2, "id": 2, "action": "m:f"},
        {"kind": "plan", "n": 2, "id": 3, "action": "m:f"},
    )
    found = replay(rows[0] + rows[1] + rows[2][:20] + b"\n" + rows[3])
    assert sorted(found.items) == [1, 3]
    assert len(found.damage) == 1
    assert not any(item.doubt for item in found.items.values())


def test_a_newer_version_is_marked():
    """Neither run nor dropped: that is for whoever reads `newer`."""
    assert replay(encode({**HEADER, "v": 2})).newer
    assert not replay(encode(HEADER)).newer


def test_an_unknown_kind_is_kept():
    """The file is not to be dropped."""
    found = replay(WHOLE + encode({"kind": "mystery", "n": 8, "id": 1}))
    assert [record["kind"] for record in found.unknown] == ["mystery"]


def test_a_last_word_stays():
    """After done nothing brings it back, and a second plan of the same id is not another item."""
    rows = lines_of(
        {"kind": "done", "n": 2, "id": 1},
        {"kind": "plan", "n": 1, "id": 1, "action": "m:f"},
        {"kind": "run", "n": 3, "id": 1},
        {"kind": "plan", "n": 4, "id": 1, "action": "m:other"},
    )
    found = replay(b"".join(rows))
    assert states(found) == {1: "done"}
    assert found.items[1].action == "m:f"


def test_confirmed_while_running():
    """Facts are kept, the state stays."""
    rows = lines_of(
        {"kind": "plan", "n": 1, "id": 1, "action": "m:f"},
        {"kind": "run", "n": 2, "id": 1},
        {"kind": "confirm", "n": 3, "id": 1, "known": {"a": 1}},
    )
    found = replay(b"".join(rows))
    assert states(found) == {1: "running"}
    assert found.items[1].known == {"a": 1}


def test_damaged_header_identity_from_the_name():
    """Who owned it is known all the same, but nobody is proven dead by a name alone."""
    from lastly._system.identity import boot_id

    found = replay(b"garbage\n", f"/x/owners/some-host-{boot_id()}/12.34.abcd.j")
    assert (found.identity.pid, found.identity.start, found.identity.host) == (12, 34, "some-host")
    assert found.identity.alive() is None


def signed(row):
    """As a hostile writer would: with NaN and Infinity, which Python's json reads."""
    raw = json.dumps(row).encode()
    return b"%08x %b\n" % (crc32(raw), raw)


record = st.fixed_dictionaries(
    {"kind": st.sampled_from(["plan", "confirm", "run", "done", "fail", "release", "owner", "context", "adopt", "?"])},
    optional={
        name: st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
        | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2) | st.floats()
        for name in ("n", "id", "action", "args", "kwargs", "known", "t", "v", "next", "error", "attempt", "phase",
                     "boot", "pid", "pidns", "start", "host", "token", "remote", "context", "retries", "timeout")
    },
)  # fmt: skip


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(record | st.binary(max_size=30), max_size=8), st.binary(max_size=10))
def test_nothing_in_a_file_raises(rows, end):
    """Right checksums over wrong types included."""
    data = b"".join(signed(row) if isinstance(row, dict) else row for row in rows) + end
    found = replay(data, "/x/owners/h-b/1.2.c.j")
    found.pending()
    repr(found)
    if found.identity is not None:
        found.identity.alive()


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 5))
def test_numbers_are_a_set(some, first):
    numbers = Numbers()
    for n in some:
        numbers.add(n)
    model = set(some) - {0}
    assert numbers.last == max(model, default=0)
    assert numbers.missing(first) == max((n for n in range(first, numbers.last) if n not in model), default=0)


@pytest.mark.parametrize("size", [50, 5000, 200_000])
def test_a_journal_read_again_piece_by_piece(size, monkeypatch):
    """Records that cross a block, and that are longer than one, ours and in another form, are read as they stand."""
    rows, expected = [HEADER], {}
    for number in range(1, 60):
        plan = {"kind": "plan", "n": number, "t": 1.0, "id": number, "action": "m:f", "args": ["x" * (size % (number * 37 + 1) + number)]}
        rows.append(plan if number % 3 else {"id": number, **plan})
        expected[number] = plan["args"]
    for number in range(1, 60, 7):
        rows.append({"kind": "run", "n": 60 + number, "t": 2.0, "id": number, "attempt": number, "by": "y" * size})
    data = b"".join(map(encode, rows))
    for chunk, block in ((CHUNK, 1 << 16), (64, 32), (1000, 4096)):
        monkeypatch.setattr(index, "CHUNK", chunk)
        monkeypatch.setattr(index, "_BLOCK", block)
        found = Replay("", lambda offset, length: data[offset : offset + length])
        assert {item.id: item.args for item in found.items.values()} == expected
        assert {item.id for item in found.items.values() if item.attempts} == set(range(1, 60, 7))
        assert [item.id for item in found.pending()] == sorted(expected, reverse=True)
        assert not found.damage


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_written_on_after_it_was_read(data):
    """Taken in piece by piece, at any places, it says what it says when it is read at once."""
    rows = [HEADER] + [
        {"kind": "plan", "n": n, "t": 1.0, "id": n, "action": "m:f", "phase": n % 3} for n in range(1, 8)
    ] + [{"kind": kind, "n": 8 + n, "t": 1.0, "id": n % 7 + 1} for n, kind in enumerate(["run", "done", "fail", "release"] * 3)]
    whole = b"".join(map(encode, rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    so_far = b""
    found = Replay("", lambda offset, length: so_far[offset : offset + length])
    for cut in (*cuts, len(whole)):
        so_far = whole[:cut]
        found.refresh()
    at_once = replay(whole)
    assert states(found) == states(at_once)
    assert [item.id for item in found.pending()] == [item.id for item in at_once.pending()]
    assert (found.next_n, found.torn, found.missing) == (at_once.next_n, at_once.torn, at_once.missing)
    assert [event["kind"] for item in found.items.values() for event in item.events] == [
        event["kind"] for item in at_once.items.values() for event in item.events
    ]
