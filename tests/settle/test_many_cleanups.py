"""One owner that owed very much: the memory that it takes, what the history keeps, and what people see of it."""

import gc
import os
import sqlite3
import tracemalloc
import weakref

import pytest
from journals import folder_made, journal_by_hand, removal, shell, work

from lastly._journal import disk
from lastly._journal.file import Journal
from lastly._journal.index import Index
from lastly._reaper import desk
from lastly._settle import history, packed
from lastly._settle.settle import MOST_TOLD, settle
from lastly._settle.sweep import reference, sweep
from lastly._words import naming

__all__ = ["folder_made", "journal_by_hand"]  # fixtures

MANY = 1500


def many(folder, first=1, count=MANY, **more):
    return [removal(folder / str(number), number, **more) for number in range(first, first + count)]


def test_all_are_run_newest_first_and_written_down(journal, folder):
    """With few writes: the order is told by the journal."""
    for number in range(1, 301):
        (folder / str(number)).touch()
    writes = []
    note = Journal.note

    def noted(self, records):
        writes.append([(record["kind"], record["id"]) for record in records])
        return note(self, records)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "note", noted)
        outcome = settle(journal(*many(folder, count=300)))
    assert outcome.state == "final"
    assert os.listdir(folder) == []
    done = [number for records in writes for kind, number in records if kind == "done"]
    assert done == list(range(300, 0, -1))
    assert len(writes) < 50
    begun = [number for records in writes for kind, number in records if kind == "run"]
    assert begun == done


def test_something_else_in_between_keeps_its_turn(journal, folder):
    """What was deferred later is run earlier, whatever it is."""
    (folder / "1").mkdir()
    path = journal(removal(folder / "1"), shell(f"test -d {folder}/1 && test ! -e {folder}/3", 2), removal(folder / "3", 3))
    (folder / "3").mkdir()
    outcome = settle(path)
    assert [(ran["id"], ran["state"]) for ran in outcome.ran] == [(3, "done"), (2, "done"), (1, "done")]


def test_an_interrupted_batch_is_tried_one_by_one(journal, folder):
    """A removal that kills whoever runs it takes no others with it."""
    records = many(folder, count=5)
    runs = [{"kind": "run", "id": number, "attempt": 1, "by": "reaper", "pid": 1} for number in range(1, 6)]
    path = journal(*records, *runs)
    outcome = settle(path, force=True)
    assert {ran["state"] for ran in outcome.ran} == {"failed", "done"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "note", pytest.fail)
        assert settle(path).ran == []


@pytest.mark.slow
def test_memory_does_not_grow_with_what_is_owed(journal, folder):
    """Some bytes each; a list of all records would be a hundred times that."""

    def peak(count):
        path = journal(*many(folder, count=count))
        tracemalloc.start()
        settle(path)
        history.archive([{"path": path}])
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    small = peak(2 * MOST_TOLD)
    assert (peak(5 * MOST_TOLD) - small) / (3 * MOST_TOLD) < 200  # bytes each; 5,000 with lists of records


def test_the_history_keeps_many_in_few_rows(journal, folder):
    """And still tells what became of each."""
    path = journal(
        removal(folder / "named", MANY + 3, what="folder of the build"),
        *many(folder), shell("exit 1", MANY + 1, retries=0), removal("/nonexistent/other", MANY + 2, scope="deploy"),
    )  # fmt: skip
    sweep()
    base = history.connect()
    (rows,), (packs, count) = base.execute("SELECT count(*) FROM cleanups"), base.execute("SELECT count(*), sum(count) FROM packed").fetchone()
    base.close()
    rows = rows[0]
    assert rows + count == MANY + 3
    assert rows <= packed.WHOLE + 3
    assert packs <= (MANY - packed.WHOLE) / packed.TOGETHER + 2
    told = [row for row in desk.past(limit=10_000)]
    assert sum(row["count"] for row in told) == MANY + 3
    assert desk.why(f"{reference(path)}.{MANY + 3}")["what"] == "folder of the build"
    for number in (1, packed.WHOLE, packed.WHOLE + 1, packed.WHOLE + packed.TOGETHER, MANY):
        about = desk.why(f"{reference(path)}.{number}")
        assert (about["state"], about["args"], about["owner"]["argv0"]) == ("done", [str(folder / str(number))], "me")
        assert about["events"][-1]["by"] == "sweep"
    [several] = [row for row in told if row["count"] > 2]
    assert several["what"] == f"remove {several['args'][0]} and {several['count'] - 1} more"
    with pytest.raises(desk.NotFound):
        desk.why(f"{reference(path)}.{MANY + 4}")


def test_the_same_journal_twice_is_one_entry(journal, folder):
    path = journal(*many(folder))
    settle(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "remove", lambda path: None)
        history.archive([{"path": path}])
    history.archive([{"path": path}])
    assert sum(row["count"] for row in desk.past(limit=10_000)) == MANY


def test_what_is_reaped_of_a_scope_is_counted(journal, folder):
    """For pytest's report: each of many, and not what the owner has done itself."""
    own = [{"kind": "run", "id": n, "attempt": 1, "by": "owner"} for n in range(1, 401)]
    own += [{"kind": "done", "id": n, "by": "owner"} for n in range(1, 401)]
    settle(path := journal(*many(folder, scope="pytest s"), *own))
    history.archive([{"path": path}])
    assert len(desk.reaped("pytest")) == MANY - 400


def test_a_history_of_an_earlier_version_is_read(journal, folder, home):
    settle(path := journal(removal(folder)))
    history.archive([{"path": path}])
    base = sqlite3.connect(home / "history.db")
    base.execute("DROP TABLE packed")
    base.close()
    assert [row["state"] for row in desk.past()] == ["done"]
    settle(path := journal(*many(folder)))
    history.archive([{"path": path}])
    assert sum(row["count"] for row in desk.past(limit=10_000)) == MANY + 1


@pytest.mark.parametrize(
    ("action", "args", "known", "shown"),
    [
        ("kill", [None], {"pid": 4711, "start": 1, "name": "redis-server"}, "kill redis-server (pid 4711)"),
        ("kill", [{"pid": 4711, "start": 1, "boot": ""}], {}, "kill pid 4711"),
        ("kill", [None], {}, "kill a child"),
        ("kill_token", ["f87c" * 6], {}, "kill all children"),
        ("remove", ["/tmp/x"], {"ino": 1}, "remove /tmp/x"),
        ("run", [["true"]], {}, "run true"),
    ],
)
def test_a_cleanup_is_called_what_a_person_would_call_it(action, args, known, shown):
    """Not by its token."""
    kwargs = {"token": "f87c" * 6, "expect": {}} if action == "kill" else {}
    item = {"action": f"lastly.actions:{action}", "args": args, "kwargs": kwargs, "known": known}
    assert naming.cleanup(item) == shown


def test_a_killed_child_keeps_its_name_in_the_history(journal):
    """What is known of it, not the token that it was planned with."""
    kill = {"kind": "plan", "id": 1, "action": "lastly.actions:kill", "args": [None], "kwargs": {"token": "f87c" * 6}}
    known = {"pid": 4194000, "start": 1, "boot": "", "pidns": "", "name": "redis-server"}
    path = journal(kill, {"kind": "confirm", "id": 1, "known": known})
    settle(path)
    [row] = desk.past()
    assert row["what"] == "kill redis-server (pid 4194000)"
    history.archive([{"path": path}])
    [row] = desk.past()
    assert row["what"] == "kill redis-server (pid 4194000)"


def test_what_is_filed_at_once_is_what_the_journal_said(journal, folder):
    """Without reading it again: each record with its number and time, failures and all."""
    path = journal(removal(folder), shell("exit 3", 2, retries=0), removal("/nonexistent/x", 3, known={"ino": 1}))
    job = {"do": "settle", "path": path, "force": False, "died": None, "unwritten": []}
    looked = []
    scan = Index.scan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Index, "scan", lambda *args: (looked.append(1), scan(*args))[1])
        said = work(job)
    assert len(looked) == 1
    assert said["state"] == "filed"
    assert not os.path.exists(path)
    for number, kinds in ((1, ["plan", "run", "done"]), (2, ["plan", "run", "abandon"]), (3, ["plan", "run", "done"])):
        events = desk.why(f"{reference(path)}.{number}")["events"]
        assert [event["kind"] for event in events] == kinds
        assert all(event["n"] > 0 and event["t"] > 0 for event in events)
    numbers = [event["n"] for number in (1, 2, 3) for event in desk.why(f"{reference(path)}.{number}")["events"]]
    assert sorted(numbers) == list(range(1, 10))


def test_what_was_read_of_a_journal_is_freed_when_it_is_closed(journal, folder):
    """At once: of a million cleanups it is 30 MB, and the archive reads the journal again."""
    path = journal(removal(folder))
    gc.disable()
    try:
        taken = Journal.take(path)
        read = weakref.ref(taken.taken._index)
        assert [item.id for item in taken.taken.items.values()] == [1]
        taken.close()
        assert read() is None
    finally:
        gc.enable()


def test_the_records_of_one_cleanup_may_be_far_apart(journal, folder):
    """Further than two bytes count."""
    run = {"kind": "run", "by": "reaper"}
    path = journal(removal(folder), removal(folder, 2), {**run, "id": 1}, *[{**run, "id": 2}] * 70_000, {**run, "id": 1})
    taken = Journal.take(path)
    assert [len(item.events) for item in taken.taken.items.values()] == [3, 70_001]
    taken.close()
