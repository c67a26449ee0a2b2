"""Settling, without processes: journals written by hand, of owners that are dead, alive, of yesterday, of elsewhere."""

import json
import os
import socket
import sqlite3
import time

import pytest
from journals import contents, dead_identity, folder_made, journal_by_hand, removal, work

from lastly._journal import home as homes
from lastly._journal.record import VERSION
from lastly._journal.replay import read
from lastly._reaper import desk, jobs
from lastly._settle import history
from lastly._settle.settle import Outcome, settle
from lastly._settle.sweep import reference, sweep
from lastly._system import remove
from lastly._system.identity import Identity

__all__ = ["folder_made", "journal_by_hand"]  # fixtures


def test_done_archived_and_unlinked(journal, folder):
    path = journal(removal(folder))
    outcome = settle(path, by="test")
    assert (outcome.state, [ran["state"] for ran in outcome.ran]) == ("final", ["done"])
    assert not folder.exists()
    assert settle(path).ran == []  # run twice is run once
    assert sweep()[0].state == "final"
    assert not os.path.exists(path)
    [row] = desk.past()
    assert (row["state"], row["argv0"], row["attempts"]) == ("done", "me", 1)
    assert desk.why(row["ref"])["events"][-1]["by"] == "test"


def test_a_removal_says_how_long_it_may_take(journal, folder):
    """Else several long ones look like a worker that hangs."""
    said = []
    settle(journal(removal(folder), removal(folder, 2, timeout=7.5)), announce=said.append)
    assert said == [7.5, 60.0]


def test_a_live_owner_is_not_touched(journal, folder):
    path = journal(removal(folder), header=Identity.of(os.getppid()).to_mapping())
    assert settle(path).state == "alive"
    assert sweep() == []
    assert folder.exists()
    with pytest.raises(desk.NotNow, match="lives"):
        desk.forget(f"{reference(path)}.1", by="me")


def test_another_pid_namespace_is_in_doubt(journal, folder):
    path = journal(removal(folder), header=dead_identity(pidns="1"))
    [outcome] = sweep()
    assert (outcome.state, outcome.path) == ("alive", path)
    assert "namespace" in outcome.why
    assert folder.exists()


def test_another_machine_is_in_doubt(journal, folder):
    journal(removal(folder), header=dead_identity(boot="0" * 32, host="elsewhere", machine="1"))
    [outcome] = sweep()
    assert outcome.state == "alive"
    assert folder.exists()


def test_an_earlier_boot_of_this_machine(journal, folder):
    """What is on the disk is removed; what was to be killed died with the boot; what was made since then is not ours."""
    born = remove.identity(folder)
    kill = {
        "kind": "plan",
        "id": 2,
        "action": "lastly.actions:kill",
        "args": [{"pid": os.getppid(), "start": 1}],
    }
    token = {"kind": "plan", "id": 3, "action": "lastly.actions:kill_token", "args": ["feedbeeffeed"]}
    path = journal(removal(folder, known=born), kill, token, header=dead_identity(boot="0" * 32))
    assert settle(path).state == "final"
    assert not folder.exists()
    folder.mkdir()
    path = journal(removal(folder), header=dead_identity(boot="0" * 32))
    settle(path)
    assert folder.exists()
    sweep()
    states = {(row["action"].partition(":")[2], row["state"]) for row in desk.past()}
    assert {("kill", "void"), ("kill_token", "void"), ("remove", "done"), ("remove", "abandoned")} == states
    assert not os.path.exists(os.path.dirname(path))  # that boot's folder is empty, and gone


def test_something_else_is_there(journal, folder):
    other = {**remove.identity(folder), "btime": 1}
    path = journal(removal(folder, known=other))
    assert settle(path).ran[0]["state"] == "abandoned"
    assert folder.exists()
    sweep()
    [row] = desk.abandoned()
    assert "not the one that was planned" in row["reason"]


def failed_at(path):
    [item] = read(path).items.values()
    return item.changed


def test_failures_back_off_and_end(journal, folder, monkeypatch):
    monkeypatch.setattr(
        remove, "remove", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    )
    path = journal(removal(folder, retries=2, backoff=10.0))
    outcome = settle(path)
    assert outcome.state == "wait"
    assert 6 < outcome.next - failed_at(path) < 14
    assert settle(path).ran == []  # not yet
    outcome = settle(path, force=True)
    assert 13 < outcome.next - failed_at(path) < 27
    outcome = settle(path, force=True)
    assert (outcome.state, outcome.ran[0]["state"]) == ("final", "abandoned")
    assert "gave up after attempt 3: OSError" in outcome.ran[0]["error"]


def test_one_failure_stops_no_other(journal, folder, tmp_path):
    plans = [
        removal(folder, 1),
        {"kind": "plan", "id": 2, "action": "lastly.actions:remove", "args": [], "retries": 0},
    ]
    outcome = settle(journal(*plans))
    assert [ran["state"] for ran in outcome.ran] == ["abandoned", "done"]
    assert not folder.exists()


def test_a_runner_s_death_is_an_attempt(journal, folder):
    path = journal(removal(folder, retries=0), {"kind": "run", "id": 1, "attempt": 1, "by": "reaper"})
    outcome = settle(path)
    assert outcome.ran[0]["state"] == "abandoned"
    assert folder.exists()


def test_the_owner_s_death_in_the_middle_is_none(journal, folder):
    path = journal(removal(folder, retries=0), {"kind": "run", "id": 1, "attempt": 1, "by": "owner"})
    assert settle(path).ran[0]["state"] == "done"
    assert not folder.exists()


def test_phases_come_first(journal, tmp_path):
    plans = [removal(tmp_path / f"p{i}", i, phase=phase) for i, phase in ((1, 0), (2, 1), (3, 0), (4, -1))]
    assert [ran["id"] for ran in settle(journal(*plans)).ran] == [4, 3, 1, 2]


def test_a_later_version_is_neither_run_nor_dropped(journal, folder):
    path = journal(removal(folder), header={**dead_identity(), "v": VERSION + 1})
    assert settle(path).state == "kept"
    sweep()
    assert os.path.exists(path)
    assert folder.exists()


def test_unknown_kinds_and_actions_are_kept_and_the_rest_is_run(journal, folder):
    unknown = {"kind": "plan", "id": 2, "action": "lastly.actions:teleport", "args": [], "colour": "red"}
    path = journal(removal(folder), unknown, {"kind": "blessing", "id": 1})
    outcome = settle(path)
    assert outcome.state == "kept"
    assert "teleport" in outcome.why
    assert not folder.exists()
    sweep()
    assert os.path.exists(path)
    assert desk.why(f"{reference(path)}.2")["events"][0]["colour"] == "red"


def test_a_damaged_journal_in_doubt(journal, folder):
    """The lost record may have been its release: abandoned, visible, untouched."""
    path = journal(removal(folder), {"kind": "context", "id": 9}, {"kind": "context", "id": 10})
    raw = bytearray(contents(path))
    lines = raw.split(b"\n")
    lines[2] = lines[2][:-5] + b"XXXXX"
    with open(path, "wb") as file:
        file.write(b"\n".join(lines))
    outcome = settle(path)
    assert outcome.ran[0]["state"] == "abandoned"
    assert folder.exists()


def test_a_torn_last_line_is_no_damage(journal, folder):
    path = journal(removal(folder), tail=b'1234abcd {"kind":"rel')
    assert settle(path).ran[0]["state"] == "done"
    sweep()
    assert desk.past()[0]["state"] == "done"


@pytest.mark.parametrize("mode", [0o666, 0o620])
def test_a_journal_that_others_may_write(journal, folder, mode):
    path = journal(removal(folder))
    os.chmod(path, mode)
    assert settle(path).state == "kept"
    assert folder.exists()


def test_a_link_in_place_of_a_journal(journal, folder, tmp_path):
    path = journal(removal(folder))
    os.rename(path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path)
    assert settle(path).state == "kept"
    assert sweep()[0].state == "kept"
    assert folder.exists()


@pytest.mark.root
def test_a_journal_of_another_user(journal, folder):
    path = journal(removal(folder))
    os.chown(path, 12345, -1)
    assert settle(path).state == "kept"
    assert folder.exists()


# ---- retry, forget, history


def test_retry_what_was_abandoned(journal, folder):
    known = remove.identity(folder)
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.mkdir()
    path = journal(removal(folder, known=known), header=dead_identity())
    sweep()
    [row] = desk.abandoned()
    assert not os.path.exists(path)
    folder.rmdir()
    aside.rename(folder)
    about = desk.retry(row["ref"], by="a test")
    assert about["state"] == "done"
    assert not folder.exists()
    assert desk.abandoned() == []
    assert {row["settled"].partition(",")[0] for row in desk.past()} == {"", "retried by a test"}
    with pytest.raises(desk.NotNow, match="done"):
        desk.retry(about["ref"], by="a test")


def test_retry_what_waits(journal, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(remove, "remove", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "x")))
        path = journal(removal(folder))
        settle(path)
    assert desk.retry(f"{reference(path)}.1", by="me")["state"] == "done"
    assert not folder.exists()


def test_forget(journal, folder):
    path = journal(removal(folder), removal(folder, 2))
    desk.forget(f"{reference(path)}.1", by="me")
    [owner] = desk.owners()
    assert [c["ref"].partition(".")[2] for c in owner["cleanups"]] == ["2"]
    desk.forget(f"{reference(path)}.2", by="me")
    assert desk.owners() == []
    assert sweep() == []
    assert folder.exists()


def test_forget_what_was_abandoned(journal, folder):
    journal(removal(folder, known={**remove.identity(folder), "btime": 1}))
    sweep()
    [row] = desk.abandoned()
    desk.forget(row["ref"], by="me")
    assert desk.abandoned() == []
    assert desk.past()[0]["settled"].startswith("forgotten by me")


@pytest.fixture
def waiting(journal, folder, monkeypatch):
    """A journal with one cleanup that was abandoned and one that waits for its next attempt."""
    real = remove.remove

    def stubborn(path, **more):
        if path.endswith("busy"):
            raise OSError(16, "busy")
        return real(path, **more)

    monkeypatch.setattr(remove, "remove", stubborn)
    other = removal(folder, known={**remove.identity(folder), "btime": 1})  # than what is there
    path = journal(other, removal(folder.parent / "busy", 2))
    sweep()
    assert {item.state for item in read(path).items.values()} == {"abandoned", "failed"}
    return reference(path)


def test_abandoned_beside_what_waits_is_seen(waiting):
    [owner] = desk.owners()
    assert [item["state"] for item in owner["cleanups"]] == ["abandoned", "failed"]
    assert desk.abandoned() == []  # it is not filed yet


def test_abandoned_beside_what_waits_is_forgotten(waiting):
    desk.forget(f"{waiting}.1", by="me")
    [owner] = desk.owners()
    assert [item["state"] for item in owner["cleanups"]] == ["failed"]
    assert desk.why(f"{waiting}.1")["state"] == "released"


def test_abandoned_beside_what_waits_is_retried(waiting, folder, monkeypatch):
    assert desk.retry(f"{waiting}.1", by="me")["state"] == "abandoned"
    folder.rmdir()
    about = desk.retry(f"{waiting}.1", by="me")
    assert (about["ref"], about["state"], about["attempts"]) == (f"{waiting}.1", "done", 3)
    with pytest.raises(desk.NotNow, match="nothing to retry"):
        desk.retry(f"{waiting}.1", by="me")
    with pytest.raises(desk.NotNow, match="nothing to forget"):
        desk.forget(f"{waiting}.1", by="me")


def test_retried_once(journal, folder):
    """The copy goes on under a reference of its own; another one would run it twice."""
    journal(removal(folder, known={**remove.identity(folder), "btime": 1}))
    sweep()
    [row] = desk.abandoned()
    desk.retry(row["ref"], by="me")
    for again in (desk.retry, desk.forget):
        with pytest.raises(desk.NotNow, match="retried"):
            again(row["ref"], by="me")
    assert len(desk.past()) == 2


def test_old_and_abandoned_is_not_lost(journal, folder, monkeypatch):
    """Neither behind thousands that were done since, nor when the history is trimmed."""
    journal(removal(folder, known={**remove.identity(folder), "btime": 1}))
    sweep()
    base = history.connect(write=True)
    base.execute("UPDATE cleanups SET changed = 1")
    base.execute("UPDATE owners SET settled = 1")
    base.execute(
        "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 10100)"
        " INSERT INTO cleanups SELECT journal, i, action, args, kwargs, scope, remote, 'done', 1, 1, 2, '', '', events,"
        " context, '' FROM cleanups, n"
    )
    base.close()
    journal(removal(folder.parent / "other"))
    sweep()
    [row] = desk.abandoned()
    assert row["ref"].endswith(".1")


def test_a_history_that_takes_no_mark_is_closed(journal, folder, monkeypatch):
    """An open one would keep its file, and Python 3.13 warns of it, in whatever comes later."""
    journal(removal(folder, known={**remove.identity(folder), "btime": 1}))
    sweep()
    [row] = desk.abandoned()
    opened, connect = [], history.connect
    monkeypatch.setattr(history, "connect", lambda **how: opened.append(connect(**how)) or opened[-1])
    monkeypatch.setitem(history.SQL, "mark", "UPDATE elsewhere SET state = ''")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        desk.forget(row["ref"], by="me")
    for base in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            base.total_changes
    assert opened


def test_part_of_a_reference(journal, folder, tmp_path):
    """Enough while it is one owner's; never less than four digits, which might be anybody's."""
    path = journal(removal(folder))
    twin = path[:-13] + "0" * 11 + ".j"  # the first five digits are the same
    with open(path, "rb") as file, open(os.open(twin, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as copy:
        copy.write(file.read())
    assert reference(path)[:5] == reference(twin)[:5]
    with pytest.raises(desk.NotFound, match="one of 2"):
        desk.forget(f"{reference(path)[:5]}.1", by="me")
    desk.forget(f"{reference(twin)}.1", by="me")
    assert desk.why(f"{reference(path)}.1")["state"] == "planned"
    for ref in ("", ".", ".1", reference(path)[:3], f"{reference(path)}.", f"{reference(path)}.9", "٠" * 4 + ".1"):
        assert sweep(only=ref) == []
    assert folder.exists()
    assert [outcome.state for outcome in sweep(only=reference(path)[:4])] == ["final"]


def test_one_of_two(journal, folder):
    """Swept alone, the other one stays owed; what this version does not know is said, also beside others."""
    path = journal(removal(folder), removal(folder, 2), removal(folder, 3, action="later:thing", args=[]))
    [outcome] = sweep(only=f"{reference(path)}.1")
    assert (outcome.state, [item["id"] for item in outcome.ran]) == ("wait", [1])
    assert sweep(only=f"{reference(path)}.1") == []


@pytest.mark.parametrize("ref", ["", "x", "12", "abcdef", "abcdefgh.1", "abcdefgh.x", "%.1", "a'b.1"])
def test_no_such_reference(home, ref):
    homes.state_dir()
    for ask in (desk.why, lambda r: desk.retry(r, by=""), lambda r: desk.forget(r, by="")):
        with pytest.raises(desk.NotFound):
            ask(ref)


def test_only_one(journal, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    path = journal(removal(folder), removal(other, 2))
    third = journal(removal(tmp_path / "third"))
    [due] = sweep(dry_run=True, only=f"{reference(path)}.2")
    assert [ran["id"] for ran in due.ran] == [2]
    [outcome] = sweep(only=f"{reference(path)}.2")
    assert outcome.state == "wait"
    assert not other.exists()
    assert folder.exists()
    assert os.path.exists(third)


def test_a_damaged_history_is_put_aside(journal, folder, home):
    with open(home / "history.db", "w") as file:
        file.write("this is not a database" * 100)
    path = journal(removal(folder))
    sweep()
    assert not os.path.exists(path)
    assert desk.past()[0]["state"] == "done"
    assert [name for name in os.listdir(home) if ".damaged-" in name]


def test_a_history_that_cannot_be_written_keeps_the_journal(journal, folder, monkeypatch):
    def fail(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    path = journal(removal(folder))
    with monkeypatch.context() as patch:
        patch.setattr(history, "connect", fail)
        assert sweep()[0].state == "final"
    assert not folder.exists()
    assert os.path.exists(path)
    sweep()
    assert not os.path.exists(path)
    assert len(desk.past()) == 1


def test_the_same_journal_written_twice_is_one_entry(journal, folder):
    path = journal(removal(folder))
    settle(path)
    raw = contents(path)
    history.archive([{"path": path}])
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(raw)
    history.archive([{"path": path}])
    assert len(desk.past()) == 1


def test_names_that_are_not_utf8(journal, tmp_path):
    raw = os.path.join(os.fsencode(tmp_path), b"\xff\n\x80")
    os.mkdir(raw)
    journal(removal(os.fsdecode(raw)))
    assert sweep()[0].state == "final"
    assert not os.path.exists(raw)
    assert os.fsencode(desk.past()[0]["args"][0]) == raw


@pytest.mark.parametrize("where", [{"pidns": "1"}, {"boot": "0" * 32, "host": "elsewhere", "machine": "1"}])
def test_what_is_elsewhere_when_somebody_vouches_for_its_end(journal, folder, where):
    """What is on the disk is removed; no process here is killed for it; and who lives keeps all."""
    kill = {"kind": "plan", "id": 2, "action": "lastly.actions:kill", "args": [{"pid": os.getppid(), "start": 1}]}
    path = journal(removal(folder), kill, header=dead_identity(**where))
    assert [o.state for o in sweep(dry_run=True)] == ["alive"]
    assert [o.state for o in sweep(dry_run=True, elsewhere=True)] == ["due"]
    [outcome] = sweep(elsewhere=True)
    assert (outcome.path, outcome.state) == (path, "final")
    assert {item["id"]: item["state"] for item in outcome.ran} == {1: "done", 2: "void"}
    assert not folder.exists()


def test_a_history_damaged_inside_is_put_aside(journal, tmp_path, home):
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        journal(removal(folder))
    sweep()
    with open(home / "history.db", "r+b") as file:
        file.seek(4096)  # its first page is whole: the schema can be read
        file.write(b"Z" * (os.path.getsize(home / "history.db") - 4096))
    folder.mkdir()
    path = journal(removal(folder))
    sweep()
    assert not os.path.exists(path)
    assert len(desk.past()) == 1
    assert [name for name in os.listdir(home) if ".damaged-" in name]


def test_a_reference_is_no_start_time(journal, tmp_path):
    """In the name of a journal both stand behind a dot."""
    path = journal(removal(tmp_path / "one"), header=dead_identity(start=12345678))
    other = path.replace(os.path.basename(path).split(".")[2], "12345678abcdef00").replace(".12345678.", ".9.", 1)
    os.rename(journal(removal(tmp_path / "two")), other)
    sweep()
    for number in ("12345678.1", f"{reference(path)}.1"):
        assert desk.why(number)["ref"] == number


def test_a_retry_on_a_full_disk_leaves_no_half_a_journal(journal, monkeypatch):
    journal({"kind": "plan", "id": 1, "action": "lastly.actions:remove", "args": ["/"]})
    sweep()
    [given_up] = desk.abandoned()
    plain = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: plain(fd, data[:20]))
        with pytest.raises(OSError, match="No space left"):
            desk.retry(given_up["ref"], by="test")
    assert desk.owners() == []
    assert not [name for _, _, names in os.walk(homes.state_path()) for name in names if name.endswith((".j", ".tmp"))]
    assert [item["ref"] for item in desk.abandoned()] == [given_up["ref"]]


def test_a_removal_has_an_end(journal, folder, monkeypatch):
    """Its own way of going on after each failure must not take the end for one of them."""
    for name in range(50):
        (folder / str(name)).touch()
    plain = os.unlink

    def slow(*args, **options):
        time.sleep(0.05)
        plain(*args, **options)

    path = journal(removal(folder, timeout=0.1))
    monkeypatch.setattr(os, "unlink", slow)
    [ran] = settle(path).ran
    assert (ran["state"], ran["error"]) == ("failed", "TimeoutError: took longer than 0.1 s")
    assert len(os.listdir(folder)) > 10


def test_what_a_worker_answers_fits_into_one_message(monkeypatch):
    outcome = Outcome("/path", "wait")
    outcome.ran = [
        {"id": number, "action": "module:function", "state": "failed", "error": "\N{SNOWMAN}" * 1000, "seconds": None}
        for number in range(1000)
    ]
    monkeypatch.setattr(jobs, "settle", lambda *_, **__: outcome)
    monkeypatch.setattr(jobs, "_ready", True)
    job = {"do": "settle", "path": "", "force": False, "died": None, "unwritten": []}
    said = work(job)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        ours.send(json.dumps(said).encode("ascii"))


def test_earlier_boots_leave_no_folders(journal, folder, home):
    """Neither empty ones, nor with what never became a journal; other machines' stay."""
    host = dead_identity()["host"]
    empty, half, fresh, kept, other = (
        home / "owners" / name for name in (f"{host}-1", f"{host}-2", f"{host}-3", f"{host}-4", "other-5")
    )
    path = journal(removal(folder))
    for made, name in ((empty, ""), (half, "1.1.a.tmp"), (fresh, "1.1.a.tmp"), (kept, "1.1.a.j"), (other, "")):
        made.mkdir()
        if name:
            (made / name).touch()
    os.utime(half / "1.1.a.tmp", (0, 0))
    settle(path)
    history.archive([{"path": path}])
    assert [made.exists() for made in (empty, half, fresh, kept, other)] == [False, False, True, True, True]
    assert os.path.isdir(os.path.dirname(path))
