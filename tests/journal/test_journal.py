"""Writing a journal: modes, locks, full disks, compaction, forks, threads."""

import errno
import os
import resource
import signal
import stat
import threading

import pytest

from lastly._journal import index, locks
from lastly._journal.file import ROOM, Journal
from lastly._journal.replay import read
from lastly.errors import NotRecorded


@pytest.fixture
def journal(home):
    made = Journal.create()
    yield made
    made.close(unlink=True)


def in_child(function):
    """Run it in a forked child; its answer, a bool."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            code = 0 if function() else 1
        finally:
            os._exit(code)
    return {0: True, 1: False}[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]


def states(path):
    return {item.id: item.state for item in read(path).items.values()}


def test_modes_and_place(home, journal):
    """The file is the owner's alone, its descriptor is not inherited, its place and name tell whose it is."""
    info = os.stat(journal.path)
    assert stat.S_IMODE(info.st_mode) == 0o600
    assert not os.get_inheritable(journal.fd)
    folder = os.path.dirname(journal.path)
    assert os.path.dirname(folder) == str(home / "owners")
    assert stat.S_IMODE(os.stat(folder).st_mode) == stat.S_IMODE(os.stat(home / "owners").st_mode) == 0o700
    assert os.path.basename(journal.path).split(".")[0] == str(os.getpid())
    assert os.listdir(folder) == [os.path.basename(journal.path)]


def test_header_names_the_owner(journal):
    """Alive, and the same that the process says of itself."""
    found = read(journal.path)
    assert found.identity.pid == os.getpid()
    assert found.identity.alive() is True
    assert {"v", "boot", "pidns", "pid", "start", "host", "uid", "exe", "argv0", "token", "parent"} <= set(found.header)


def test_the_life_of_a_cleanup(journal):
    """planned → active → running → failed → running → done."""
    number = journal.plan("m:f", ["x"], {"y": 1})
    seen = [states(journal.path)[number]]
    for step in (
        lambda: journal.confirm(number, {"ino": 1}),
        lambda: journal.run(number, attempt=1),
        lambda: journal.fail(number, "boom", attempt=1),
        lambda: journal.run(number, attempt=2),
        lambda: journal.done(number),
    ):
        step()
        seen.append(states(journal.path)[number])
    assert seen == ["planned", "active", "running", "failed", "running", "done"]
    assert read(journal.path).items[number].attempts == 2


def test_locked_while_the_owner_lives(journal):
    """By anybody's look, also after the owner has read its own file."""
    read(journal.path)
    assert locks.is_locked(journal.path)
    assert in_child(lambda: locks.is_locked(journal.path))
    assert in_child(lambda: Journal.take(journal.path) is None)


def test_a_forked_child_does_not_keep_the_lock(home):
    """A daemon that a dead program left behind does not make it look alive."""
    ready, go = os.pipe(), os.pipe()
    parent = os.fork()
    if parent == 0:
        journal = Journal.create()
        os.write(ready[1], journal.path.encode() + b"\n")
        if os.fork() == 0:  # holds the descriptor open
            os.close(go[1])
            os.read(go[0], 1)
        os._exit(0)
    path = os.read(ready[0], 4096).decode().strip()
    os.waitpid(parent, 0)
    try:
        assert not locks.is_locked(path)
        assert read(path).identity.alive() is False
    finally:
        os.write(go[1], b"x")
        for fd in (*ready, *go):
            os.close(fd)


def test_a_forked_child_cannot_write_to_it(journal):
    """Its records would be about another process."""

    def try_it():
        try:
            journal.plan("m:f", [], {})
        except NotRecorded:
            return True
        return False

    assert in_child(try_it)
    assert not read(journal.path).items


def dead_journal(*, torn=b""):
    """The journal of a child that has died; its path."""
    ends = os.pipe()
    pid = os.fork()
    if pid == 0:
        journal = Journal.create()
        journal.plan("m:f", ["one"], {})
        if torn:
            os.write(journal.fd, torn)
        os.write(ends[1], journal.path.encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    path = os.read(ends[0], 4096).decode()
    os.close(ends[0])
    os.close(ends[1])
    return path


@pytest.mark.parametrize("torn", [b"", b'0badcafe {"kind":"plan","n":2,"id":2,"act'])
def test_taking_over(home, torn):
    """Numbers go on where they ended; a torn line is fenced off."""
    path = dead_journal(torn=torn)
    taken = Journal.take(path)
    records = [{"kind": "run", "id": 1, "attempt": 1, "by": "test"}, {"kind": "done", "id": 1, "by": "test"}]
    assert taken.note(records) is None
    assert records == []
    taken.close()
    found = read(path)
    assert states(path) == {1: "done"}
    assert len(found.damage) == bool(torn)
    assert not found.items[1].doubt
    assert found.next_n == 4


@pytest.mark.parametrize("torn", [b"", b'0badcafe {"kind":"plan","n":2,"id":2,"act'])
def test_a_full_disk_takes_a_part_of_what_is_noted(home, monkeypatch, torn):
    """What is whole in the file is taken out of the list; the rest is written when there is room, once."""
    path = dead_journal(torn=torn)
    taken = Journal.take(path)
    records = [{"kind": "run", "id": 1, "attempt": 1}, {"kind": "fail", "id": 1, "error": "x" * 99}, {"kind": "done", "id": 1}]
    plain = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: plain(fd, data[:150]))
        assert "free some space" in str(taken.note(records))
    assert [record["kind"] for record in records] == ["fail", "done"]
    assert taken.note(records) is None
    taken.close()
    found = read(path)
    assert [event["kind"] for event in found.items[1].events] == ["plan", "run", "fail", "done"]
    assert not found.items[1].doubt
    assert found.next_n == 5


def test_one_at_a_time(home):
    """The lease is the lock: a second process gets nothing."""
    path = dead_journal()
    taken = Journal.take(path)
    assert in_child(lambda: Journal.take(path) is None)
    taken.close()

    def take_again():
        return Journal.take(path) is not None

    assert in_child(take_again)


def test_what_cannot_be_read_is_not_kept(home, monkeypatch):
    path = dead_journal()
    before = os.listdir("/proc/self/fd")

    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(OSError, match="Input/output"):
        Journal.take(path)
    assert os.listdir("/proc/self/fd") == before
    assert locks.held(path) is None


def test_what_is_gone_cannot_be_taken(home):
    """No error: another has dealt with it."""
    path = dead_journal()
    os.unlink(path)
    assert Journal.take(path) is None


@pytest.mark.parametrize("how", ["link", "mode", "fifo"])
def test_what_is_not_a_plain_file_is_not_taken(home, how, tmp_path):
    """Somebody else could have put it there."""
    path = dead_journal()
    if how == "mode":
        os.chmod(path, 0o666)
    else:
        os.rename(path, tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", path) if how == "link" else os.mkfifo(path)
    with pytest.raises(OSError):
        Journal.take(path)


def test_it_does_not_grow_for_ever(journal):
    """Deferring and detaching for ever keeps the file small, and what is owed in it."""
    kept = journal.plan("m:keep", ["me"], {})
    journal.confirm(kept, {"a": 1})
    for _ in range(3000):
        journal.release(journal.plan("m:f", ["x" * 50], {}))
    assert os.path.getsize(journal.path) < ROOM + 5000
    found = read(journal.path)
    assert [item.id for item in found.pending()] == [kept]
    assert found.items[kept].known == {"a": 1}
    assert not found.items[kept].doubt
    assert not found.damage
    assert in_child(lambda: locks.is_locked(journal.path))
    assert os.listdir(os.path.dirname(journal.path)) == [os.path.basename(journal.path)]
    assert len(os.listdir("/proc/self/fd")) < 100


def test_nested_writes_during_a_compaction(journal, monkeypatch):
    """A signal handler that defers in the middle of one: its record is in the new file as well."""
    kept = journal.plan("m:keep", [], {})
    gone = journal.plan("m:gone", [], {})
    nested = []
    take = locks.take

    def handler(fd):
        nested.append(journal.plan("m:nested", [], {}))
        journal.release(gone)
        return take(fd)

    monkeypatch.setattr(locks, "take", handler)
    journal._compact()
    monkeypatch.undo()
    later = journal.plan("m:later", [], {})
    found = read(journal.path)
    assert states(journal.path) == {kept: "planned", gone: "released", nested[0]: "planned", later: "planned"}
    assert not any(item.doubt for item in found.items.values())
    assert not found.damage


@pytest.mark.parametrize("function", ["write", "rename", "fdatasync"])
@pytest.mark.parametrize("after", [False, True])
def test_an_exception_anywhere_in_a_compaction(journal, monkeypatch, function, after):
    """Before the rename the old file stays, after it the new one: never neither, never a stray descriptor."""
    kept = journal.plan("m:keep", [], {}, remote=True)
    journal.release(journal.plan("m:f", [], {}))
    before = len(os.listdir("/proc/self/fd"))
    real = getattr(os, function)

    def interrupted(*args):
        if after:
            real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, function, interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal._rewrite()
    monkeypatch.undo()
    later = journal.plan("m:later", [], {})
    assert states(journal.path)[kept] == states(journal.path)[later] == "planned"
    assert not read(journal.path).damage
    assert len(os.listdir("/proc/self/fd")) == before
    assert in_child(lambda: locks.is_locked(journal.path))


def test_a_removed_home_is_made_again(home, journal):
    """Somebody emptied the state directory: what is owed is written where it is looked for."""
    import shutil

    kept = journal.plan("m:keep", [], {})
    shutil.rmtree(home / "owners")
    later = journal.plan("m:later", [], {})
    assert states(journal.path) == {kept: "planned", later: "planned"}
    assert in_child(lambda: locks.is_locked(journal.path))


def test_threads(journal):
    """8 threads, no record in another's middle, no number twice."""
    made = []

    def work():
        for _ in range(200):
            made.append(journal.plan("m:f", ["x"], {}))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read(journal.path)
    assert sorted(found.items) == sorted(made)
    assert len(set(made)) == 1600
    assert not found.damage
    assert found.next_n == 1601


def test_a_full_disk(journal, monkeypatch):
    """Nothing, a part or an error: NotRecorded with the reason, the next record stands alone, nothing is doubted."""
    first = journal.plan("m:first", [], {})
    real = os.write
    for part in (0, 1, 30):
        monkeypatch.setattr(os, "write", lambda fd, data, part=part: real(fd, data[:part]))
        with pytest.raises(NotRecorded, match=r"No space left.*free some space") as caught:
            journal.plan("m:lost", [], {})
        assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    second = journal.plan("m:second", [], {})
    assert states(journal.path) == {first: "planned", second: "planned"}
    assert not any(item.doubt for item in read(journal.path).items.values())


def test_a_real_limit(home):
    """RLIMIT_FSIZE is reached in the middle of a record: an error, and what stands before it counts."""

    def try_it():
        journal = Journal.create()
        journal.plan("m:first", [], {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(journal.path) + 20,) * 2)
        try:
            journal.plan("m:second", [], {})
        except NotRecorded as error:
            return states(journal.path) == {1: "planned"} and "No space" in str(error)
        return False

    assert in_child(try_it)


def test_no_descriptors_left(home):
    """Said in one line, before anything exists."""

    def try_it():
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        try:
            Journal.create()
        except NotRecorded as error:
            return "no file descriptors left" in str(error) and "\n" not in str(error)
        return False

    assert in_child(try_it)


def test_remote_is_on_the_disk(journal, monkeypatch):
    """The record is synced before plan() returns, the folders once; others pay nothing."""
    calls = []
    for name in ("fdatasync", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda fd, name=name, real=real: (calls.append(name), real(fd))[1])
    journal.plan("m:f", [], {})
    assert calls == []
    number = journal.plan("m:f", [], {}, remote=True)
    assert calls == ["fdatasync", "fsync", "fsync", "fsync"]
    journal.confirm(number, {"id": "i-1"})
    journal.plan("m:f", [], {}, remote=True)
    assert calls[4:] == ["fdatasync", "fdatasync"]


def test_a_disk_that_does_not_sync(journal, monkeypatch):
    """The plan is taken back: it may be anywhere."""

    def broken(fd):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(NotRecorded, match="Input/output error"):
        journal.plan("m:f", [], {}, remote=True)
    assert set(states(journal.path).values()) == {"released"}


def test_too_large_or_not_json(journal):
    """A TypeError, and the journal goes on."""
    with pytest.raises(TypeError, match="too many for one record"):
        journal.plan("m:f", ["x" * (1 << 20)], {})
    with pytest.raises(TypeError, match="not JSON"):
        journal.plan("m:f", [object()], {})
    assert states(journal.path) == {}
    assert not journal.live


def test_a_nested_last_word_puts_no_other_file_under_a_write(journal, monkeypatch):
    """A signal handler detaches, which would compact, when the number of the file is already on its way to write()."""
    kept, gone = journal.plan("m:kept", [], {}), journal.plan("m:gone", [], {})
    journal._limit = 0
    real = os.write

    def interrupted(fd, data):
        monkeypatch.undo()
        journal.release(gone)
        return real(fd, data)

    monkeypatch.setattr(os, "write", interrupted)
    outer = journal.plan("m:outer", [], {})
    assert states(journal.path) == {kept: "planned", gone: "released", outer: "planned"}
    journal.release(kept)
    assert states(journal.path) == {outer: "planned"}
    assert not read(journal.path).items[outer].doubt


def test_a_large_journal_is_compacted_some_at_a_time(journal, monkeypatch):
    """With contexts, and records longer than what is read at once."""
    monkeypatch.setattr(index, "CHUNK", 300)
    context = journal.context({"cwd": "/"})
    numbers = [journal.plan("m:f", ["x" * (number * 37 % 900)], {}, context=context) for number in range(100)]
    for number in numbers[::2]:
        journal.confirm(number, {"a": number})
    for number in numbers[1::3]:
        journal.release(number)
    before = {item.id: (item.args, item.known, item.context) for item in read(journal.path).pending()}
    journal._compact()
    found = read(journal.path)
    assert {item.id: (item.args, item.known, item.context) for item in found.items.values()} == before
    assert not any(item.doubt for item in found.items.values())


def test_an_interrupt_in_the_middle_of_a_write(journal, monkeypatch):
    """The file is right and the next record too, wherever the exception comes."""
    real = os.write

    def interrupted(fd, data):
        real(fd, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.plan("m:interrupted", [], {})
    monkeypatch.undo()
    second = journal.plan("m:second", [], {})
    assert states(journal.path) == {1: "planned", second: "planned"}
    journal._compact()
    assert states(journal.path) == {1: "planned", second: "planned"}
