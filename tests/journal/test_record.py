"""One line of a journal."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastly._journal import record
from lastly._journal.record import decode, encode

text = st.text(st.characters(exclude_categories=())) | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(text, values, max_size=5))
def test_every_json_value_comes_back(fields):
    """Whatever a file name holds: newlines, NUL, surrogates."""
    record = {**fields, "kind": "plan"}
    line = encode(record)
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert decode(line[:-1]) == record


def test_a_line_is_crc_space_json():
    """The format that other tools may read."""
    line = encode({"kind": "done", "n": 3, "id": 1})
    assert line[8:] == b' {"kind":"done","n":3,"id":1}\n'
    assert json.loads(line[9:]) == {"kind": "done", "n": 3, "id": 1}


def test_bytes_of_a_name_survive():
    """A name that is not UTF-8 is kept byte for byte."""
    import os

    name = b"/tmp/\xff\xfe\n\x01"
    assert os.fsencode(decode(encode({"kind": "x", "p": os.fsdecode(name)})[:-1])["p"]) == name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"x", {1, 2}])
def test_what_is_not_json_is_refused(value):
    """Never written in a way that cannot be read back."""
    with pytest.raises((TypeError, ValueError)):
        encode({"kind": "x", "v": value})


@given(st.binary(max_size=60))
def test_garbage_is_a_value_error(line):
    """Any bytes at all: a record, or ValueError."""
    try:
        decode(line)
    except ValueError:
        pass


@pytest.mark.parametrize("raw", [b"[]", b"1", b"{}", b'{"kind":1}', b"[" * 100_000])
def test_a_right_checksum_over_nonsense_is_refused(raw):
    """A record is an object with a kind."""
    from zlib import crc32

    with pytest.raises(ValueError):
        decode(b"%08x %b" % (crc32(raw), raw))


@pytest.mark.parametrize("kind", ["owner", "context", "plan"])
def test_names_from_another_locale_keep_their_bytes(monkeypatch, kind):
    """What is read as Latin-1 here is read as UTF-8 by the reaper."""
    names = {b"caf\xe9": "café", b"caf": "caf"}
    monkeypatch.setattr(record, "_utf8", False)
    monkeypatch.setattr(record.os, "fsencode", lambda name: name.encode("latin-1"))
    made = {"kind": kind, "action": "lastly.actions:run", "args": [list(names.values())], "n": 1, "known": None}
    read = decode(encode(made).rstrip(b"\n"))
    monkeypatch.undo()
    assert list(map(os.fsencode, read["args"][0])) == list(names)
    assert (read["n"], read["known"]) == (1, None)


def test_arguments_of_a_function_are_its_own(monkeypatch):
    monkeypatch.setattr(record, "_utf8", False)
    made = {"kind": "plan", "action": "mail:send", "args": ["café"]}
    assert decode(encode(made).rstrip(b"\n")) == made
