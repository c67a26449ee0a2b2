"""Settling where the system lies or refuses: a clock that is set, a disk that is full."""

import json
import socket
import time

import pytest
from journals import folder_made, journal_by_hand, removal, shell, work

from lastly._journal import disk
from lastly._journal import home as homes
from lastly._journal.file import Journal
from lastly._journal.replay import read
from lastly._reaper import desk, jobs
from lastly._settle.settle import settle
from lastly._settle.sweep import reference
from lastly._system import remove
from lastly.errors import NotRecorded

__all__ = ["folder_made", "journal_by_hand"]  # fixtures


def uptime():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def set_clock(monkeypatch, seconds):
    """Set the clock that settling reads, which is the one that birth times come from."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)


def test_the_clock_is_set_back_before_the_death(journal, folder, monkeypatch):
    """What the owner made carries a time that is still to come."""
    path = journal(removal(folder))
    set_clock(monkeypatch, -60)
    assert settle(path, died=(time.time(), uptime())).state == "final"
    assert not folder.exists()


def test_the_clock_is_set_forward_before_the_death(journal, folder, monkeypatch):
    path = journal(removal(folder))
    set_clock(monkeypatch, 3600)
    settle(path, died=(time.time(), uptime()))
    assert not folder.exists()


@pytest.mark.parametrize("seconds", [0, -60, 3600])
def test_made_after_the_death_whatever_the_clock_does_then(journal, folder, monkeypatch, seconds):
    """Somebody else's, at the path that the dead owner had planned: it stays."""
    path = journal(removal(folder))
    died = (time.time() - 10, uptime() - 10)
    set_clock(monkeypatch, seconds)
    if seconds < 0:  # it was made when the clock had been set back already
        real = remove.entry

        def entry(*args, **more):
            found = real(*args, **more)
            found.btime = found.btime and found.btime + seconds * 10**9
            return found

        monkeypatch.setattr(remove, "entry", entry)
    [ran] = settle(path, died=died).ran
    assert (ran["state"], "after its owner" in ran["error"]) == ("abandoned", True)
    assert folder.exists()


@pytest.fixture
def full():
    """Call it: from then on no journal takes a record; call what it returns: there is room again."""
    with pytest.MonkeyPatch.context() as patch:

        def fill():
            def no_room(self, fd, line):
                raise homes.unusable(self.path, disk.full())

            patch.setattr(Journal, "_write", no_room)
            return patch.undo

        yield fill


def test_what_was_run_on_a_full_disk_is_not_run_again(journal, tmp_path, full):
    """It is remembered by whoever had it run, and written down when there is room."""
    path = journal(shell(f"echo x >> {tmp_path}/runs"))
    room = full()
    outcome = settle(path)
    assert (outcome.state, [record["kind"] for record in outcome.unwritten]) == ("wait", ["run", "done"])
    assert "free some space" in outcome.why
    again = settle(path, unwritten=outcome.unwritten)
    assert (again.state, again.ran, again.unwritten) == ("wait", [], outcome.unwritten)
    room()
    assert settle(path, unwritten=again.unwritten).state == "final"
    assert (tmp_path / "runs").read_text() == "x\n"
    assert [event["kind"] for event in read(path).items[1].events] == ["plan", "run", "done"]


def test_failures_on_a_full_disk_count(journal, tmp_path, full):
    """Else what fails would be tried for ever, each time as if it were the first."""
    path = journal(shell("exit 3", retries=2))
    room = full()
    unwritten = []
    for attempt in (1, 2, 3):
        outcome = settle(path, force=True, unwritten=unwritten)
        unwritten = outcome.unwritten
        assert outcome.ran[-1]["state"] == ("abandoned" if attempt == 3 else "failed")
    assert settle(path, force=True, unwritten=unwritten).ran == []
    room()
    settle(path, unwritten=unwritten)
    assert (read(path).items[1].state, read(path).items[1].attempts) == ("abandoned", 3)


def test_no_more_is_run_than_can_be_remembered(journal, tmp_path, full):
    """But for what may be run any number of times."""
    folders = [tmp_path / str(number) for number in range(300)]
    for made in folders:
        made.mkdir()
    path = journal(
        *[removal(made, number) for number, made in enumerate(folders, 1)],
        *[shell(f"echo x >> {tmp_path}/runs", number) for number in range(301, 401)],
    )
    room = full()
    outcome = settle(path)
    ran = (tmp_path / "runs").read_text().count("x")
    assert 20 <= ran < 100
    assert not any(made.exists() for made in folders)
    room()
    assert settle(path, unwritten=outcome.unwritten).state == "final"
    assert (tmp_path / "runs").read_text().count("x") == 100


def test_what_the_disk_did_not_take_fits_into_one_message(journal, full, monkeypatch):
    path = journal(*[shell(f"echo {chr(9731) * 900}; exit 1", number) for number in range(1, 99)])
    full()
    monkeypatch.setattr(jobs, "_ready", True)
    job = {"do": "settle", "path": path, "force": False, "died": None, "unwritten": []}
    said = work(job)
    assert len(said["unwritten"]) > 50
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        ours.send(json.dumps(said).encode("ascii"))


def test_a_retry_on_a_full_disk_says_that_it_was_run(journal, tmp_path, full):
    path = journal(shell(f"echo x >> {tmp_path}/runs"))
    full()
    with pytest.raises(NotRecorded, match="was run, and is still owed.*free some space"):
        desk.retry(f"{reference(path)}.1", by="me")
