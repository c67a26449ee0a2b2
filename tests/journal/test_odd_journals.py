"""Journals with right checksums and odd content: one line in a table, and no other owner's affair."""

import contextlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from zlib import crc32

import pytest
from harness import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import dead_identity, folder_made, journal_by_hand, removal, shell

from lastly._cli.commands import main
from lastly._cli.doctor import owed
from lastly._journal import home as homes
from lastly._reaper import desk, owners
from lastly._settle import history
from lastly._settle.settle import settle
from lastly._settle.sweep import reference, sweep

__all__ = ["folder_made", "journal_by_hand"]  # fixtures

ODD = (
    None, True, -1, 1 << 70, 10**4299, 1e308, -1e308, 1.5, "soon", "", "\0", "\udcff", "x" * 5000, [], [1], {},
    {"ino": 1}, [[[]]], {"": None},
)  # fmt: skip

HEADER = {"kind": "owner", "v": 1, "n": 0, "t": 1.0, "next": 1, "exe": "", "argv0": "me", "token": "feedbeef", "parent": ""}
PLAN = {
    "kind": "plan", "n": 1, "t": 1.0, "id": 1, "action": "lastly.actions:remove", "args": ["/nonexistent/x"],
    "kwargs": {"expect": {}}, "known": {}, "remote": False, "scope": "s", "phase": 0, "retries": 2, "timeout": 1.0,
    "backoff": 0.0, "context": 7, "file": "/nonexistent/f",
}  # fmt: skip
RECORDS = (
    PLAN,
    {"kind": "context", "n": 2, "t": 1.0, "id": 7, "exe": "/nonexistent/python", "path": [], "cwd": "/", "env": {}, "main": None},
    {"kind": "confirm", "n": 3, "t": 1.0, "id": 1, "known": {"ino": 1, "dev": 1, "btime": 1}},
    {"kind": "run", "n": 4, "t": 1.0, "id": 1, "attempt": 1, "by": "reaper", "pid": 1},
    {"kind": "fail", "n": 5, "t": 1.0, "id": 1, "error": "no", "attempt": 1, "next": 1.0, "by": "reaper", "output": ""},
    {**PLAN, "n": 6, "id": 2, "action": "lastly.actions:kill", "args": [{"pid": 1, "start": 1}], "kwargs": {"grace": 0.0, "token": None}},
    {**PLAN, "n": 7, "id": 3, "action": "lastly.actions:run", "args": [["true"]], "kwargs": {"cwd": "/", "timeout": 1.0}},
    {**PLAN, "n": 8, "id": 4, "action": "m:f", "args": []},
    {"kind": "abandon", "n": 9, "t": 1.0, "id": 4, "reason": "no", "by": "reaper"},
    {"kind": "release", "n": 10, "t": 1.0, "id": 4, "reason": "no", "by": "lastly forget"},
)  # fmt: skip


def signed(record):
    """As an unknown tool would write it: with NaN and Infinity, which Python's json reads and writes."""
    raw = json.dumps(record).encode()
    return b"%08x %b\n" % (crc32(raw), raw)


def write(records, header):
    who = {**dead_identity(), **HEADER}
    folder = homes.owners_dir(who["host"], who["boot"])
    path = os.path.join(folder, f"{who['pid']}.1.{os.urandom(8).hex()}.j")
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(b"".join(map(signed, [{**who, **header}, *records])))
    return path


changes = st.lists(
    st.tuples(
        st.integers(-1, len(RECORDS) - 1),
        st.sampled_from(sorted({name for record in (HEADER, *RECORDS, dead_identity()) for name in record} - {"kind"})),
        st.sampled_from(ODD),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


def command(*words):
    """Run it as people do: status 0 or 1, never a traceback."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        assert main(list(words)) in (0, 1)
    return out.getvalue()


def strictly(text):
    """JSON as every tool reads it."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def place():
    """A home for many examples."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tempfile.mkdtemp(prefix="lt-")
        patch.setenv("LASTLY_HOME", folder)
        patch.setenv("LASTLY_REAPER", "0")
        yield Path(folder)
        shutil.rmtree(folder)


@settings(max_examples=examples(30), deadline=None)
@given(some=changes)
def test_every_reader_of_every_field(place, some):
    """Two cleanups of another program are settled as ever, and everything can be shown."""
    for found in place.iterdir():
        shutil.rmtree(found) if found.is_dir() else found.unlink()
    records, header = [dict(record) for record in RECORDS], {}
    for which, name, value in some:
        (header if which < 0 else records[which])[name] = value
    path = write(records, header)
    made = place / "made"
    made.mkdir()
    good = write([{**PLAN, "args": [str(made)], "known": {}}, {**PLAN, "n": 2, "id": 2}], {})

    assert owners.look(path)[0] in ("queued", "kept", "watched")
    listed = strictly(command("ls", "--json"))["owners"]
    assert {reference(path), reference(good)} == {owner["owner"] for owner in listed}
    assert reference(good) in command("ls")
    command("why", f"{reference(path)}.1")
    command("reap", "--dry-run")
    owed()
    settle(path, force=True)
    command("ls", "--all")
    strictly(command("reap", "--json"))
    assert not made.exists()
    assert not os.path.exists(good)
    strictly(command("history", "--json", "--since", "1970-02-01"))
    command("history", "--since", "1970-02-01")
    rows = [*desk.past(), *(item for owner in desk.owners(all=True) for item in owner["cleanups"])]
    for row in {row["ref"]: row for row in rows}.values():
        command("why", row["ref"])
        if row["state"] == "abandoned":
            strictly(command("retry", "--json", row["ref"]))
            command("forget", "--yes", row["ref"])
    assert {row["state"] for row in desk.past() if row["ref"].startswith(reference(good))} == {"done"}


@pytest.mark.parametrize(
    "odd", [{"t": "soon"}, {"t": {"ino": 1}}, {"t": [1]}, {"pid": 1 << 40}, {"start": "x"}, {"argv0": ["x"]}]
)
def test_an_odd_header_is_one_line(journal, folder, odd):
    path = journal(removal(folder), header={**dead_identity(), "host": os.uname().nodename}, top=odd)
    [owner] = desk.owners()
    assert owner["damage"] == [f"odd fields in the owner record: {min(odd)}"]
    assert command("ls").count("odd fields") == 1
    assert reference(path) in command("ls")


@pytest.mark.parametrize(
    "odd",
    [{"args": {"0": "/"}}, {"kwargs": ["expect"]}, {"known": [1]}, {"action": 5}, {"timeout": "long"}, {"context": "first"}],
)
def test_an_odd_plan_is_not_run(journal, folder, odd):
    """With an argument left out it would be another action."""
    path = journal(removal(folder, 1, **odd), removal(folder.parent / "other", 2))
    settle(path)
    found = {item["ref"][-1]: item for item in desk.owners(all=True)[0]["cleanups"]}
    assert found["2"]["state"] == "done"
    assert (found["1"]["state"], found["1"]["reason"]) == (
        "abandoned", f"its record is odd ({min(odd)}): look, then forget it"
    )  # fmt: skip
    assert desk.retry(f"{reference(path)}.1", by="me")["state"] == "abandoned"
    assert folder.exists()


def test_an_odd_confirmation_is_not_believed(journal, folder):
    settle(journal(removal(folder), {"kind": "confirm", "id": 1, "known": "all of it"}))
    assert folder.exists()


def test_a_release_of_nobody_knows_what_is_a_missing_one(journal, folder, tmp_path):
    """What was planned before it may have been released."""
    path = journal(removal(folder), {"kind": "release", "id": "1"}, removal(tmp_path / "later", 2))
    settle(path)
    states = {item["ref"][-1]: item["state"] for item in desk.owners(all=True)[0]["cleanups"]}
    assert states == {"1": "abandoned", "2": "done"}
    assert folder.exists()


def test_what_cannot_be_opened_is_one_line(journal, folder):
    """A journal replaced by a link."""
    path = journal(removal(folder))
    other = journal(shell("true"))
    os.rename(other, f"{other}.aside")
    os.symlink(f"{other}.aside", other)
    shown = command("ls")
    assert f"{reference(path)}.1" in shown
    assert reference(other) in shown
    sweep()
    assert not folder.exists()


def test_one_journal_does_not_keep_the_others_out_of_the_history(journal, folder):
    """A boot id that is no text for SQLite."""
    odd = journal(removal("/nonexistent/x"), header=dead_identity(boot="\udcff" * 8, machine="", host="h"))
    good = journal(removal(folder))
    sweep(elsewhere=True)
    assert not os.path.exists(odd)
    assert not os.path.exists(good)
    assert len(desk.past()) == 2
    with contextlib.closing(history.connect()):  # it is there, and whole
        pass
