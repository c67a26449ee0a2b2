"""The seam: what the rooms above `_system` rely on, on each system that has it. Nine guarantees, each with its cases.

Collected on Linux, and by `make test-windows` on Windows. What only the reaper relies on is there where the reaper is.
What it is tested with here are real processes and files; each case has a bystander that must come to no harm.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from lastly._system import children, host
from lastly._words import pythons
from lastly.errors import NotOurs, UnsupportedPlatform

LINUX = sys.platform == "linux"
if LINUX:
    import signal
    import socket

    from lastly._journal import locks
    from lastly._reaper import spawn
    from lastly._system import file, kill, proc, sockets, wait
    from lastly._system.identity import Identity

on_linux = pytest.mark.skipif(not LINUX, reason="the reaper alone relies on it, and it runs on Linux")
PATIENCE = 30.0
WHY = "a test asks"
TOKEN = "0123456789abcdef0123"  # noqa: S105  # no secret
CHAIN = """
import os, subprocess, sys, time
depth = int(sys.argv[1])
if depth:
    detached = {"start_new_session": True} if os.name == "posix" else {"creationflags": 0x208}
    subprocess.Popen([sys.executable, "-S", "-c", sys.argv[2], str(depth - 1), sys.argv[2]], stdout=sys.stdout, **detached)
print(os.getpid(), flush=True)
time.sleep(600)
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python code as a child, which has said a line when this returns."""
    started: list[subprocess.Popen[str]] = []

    def begin(code: str = "", *args: str, lines: int = 1, **options: Any) -> subprocess.Popen[str]:
        code = code or "import time; print('up', flush=True); time.sleep(600)"
        waits = children.suspend([], options) if options.pop("held", False) else False
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", code, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
        )
        started.append(child)
        if waits:
            children.keep(child, WHY, TOKEN)
            children.resume(child.pid)
        child.said = [line_of(child.stdout) for _ in range(lines)]  # type: ignore[attr-defined]
        return child

    yield begin
    for child in started:
        child.kill()
        child.communicate()


def line_of(pipe: IO[str] | None) -> str:
    assert pipe is not None
    return pipe.readline().strip()


def lives(child: subprocess.Popen[str]) -> bool:
    return child.poll() is None


# ── G1: dead only on proof ───────────────────────────────────────────────────────────────────────────────


@on_linux
def test_a_process_is_alive_until_it_has_ended(start: Start) -> None:
    """Also dead before anybody has waited for it."""
    child = start()
    identity = Identity.of(child.pid)
    assert identity.alive() is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert identity.alive() is False
    child.wait()
    assert identity.alive() is False


@on_linux
def test_a_number_that_is_another_process_by_now(start: Start) -> None:
    """The one that had it before is dead, and what is meant for it reaches nobody."""
    child = start()
    found = Identity.of(child.pid)
    before = Identity(**{**found.to_mapping(), "start": found.start - 1})
    assert before.alive() is False
    assert wait.send(before.pid, before.start, signal.SIGKILL) is False
    assert lives(child)


@on_linux
@pytest.mark.parametrize("unknown", ["boot", "pidns", "timens"])
def test_what_cannot_be_seen_from_here_counts_as_alive(unknown: str) -> None:
    me = Identity.of(os.getpid()).to_mapping()
    other = Identity(**{**me, unknown: "somewhere else", "host": "another"})
    assert other.alive() is None


@on_linux
def test_two_observers_agree(start: Start) -> None:
    child = start()
    code = f"import sys; sys.path[:] = {sys.path!r}; from lastly._system import proc; print(proc.start_time({child.pid}))"
    assert start(code).said == [str(proc.start_time(child.pid))]  # type: ignore[attr-defined]


# ── G2: bound to exactly one process ─────────────────────────────────────────────────────────────────────


def test_a_child_is_ended_and_no_other(start: Start) -> None:
    """By the handle that this process holds. A second time is fine."""
    child, bystander = start(), start()
    kept = children.keep(child, WHY)
    for _ in range(2):
        children.end_kept(kept, None, 0.0, WHY)
    assert not lives(child)
    assert lives(bystander)


def test_no_process_is_ended_by_its_number_alone(start: Start) -> None:
    child = start()
    with pytest.raises(UnsupportedPlatform):
        children.keep(child.pid, WHY)
    with pytest.raises(NotOurs):
        children.end_kept(child.pid, None, 0.0, WHY)
    assert lives(child)


def test_a_wait_for_a_child_has_a_bound(start: Start) -> None:
    child = start("import sys; print('up', flush=True); sys.stdin.readline()")
    assert not children.child_ends(child, 0.05)
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    assert children.child_ends(child, PATIENCE)


@on_linux
def test_the_end_of_what_is_no_child_is_seen(start: Start) -> None:
    top = start(CHAIN, "1", CHAIN, lines=2)
    below = next(int(pid) for pid in top.said if int(pid) != top.pid)  # type: ignore[attr-defined]
    begun = proc.start_time(below)
    assert begun is not None
    watch = wait.Watch(below, begun)
    assert not watch.ended()
    assert wait.send(below, begun, signal.SIGKILL)
    assert wait.ends(below, begun, PATIENCE)
    assert watch.ended()
    watch.close()


# ── G3: all that carries the token, and only that ────────────────────────────────────────────────────────


@pytest.fixture
def tree(start: Start) -> tuple[subprocess.Popen[str], Callable[[], None]]:
    """Three processes, each in a session (on Windows without a console) of its own, and what ends them all."""
    if LINUX:
        top = start(CHAIN, "2", CHAIN, lines=3, env={**os.environ, "LASTLY_TOKEN": TOKEN})
        return top, lambda: kill.kill_tree(None, token=TOKEN, grace=0.0) and None
    top = start(CHAIN, "2", CHAIN, lines=3, held=True)
    return top, lambda: children.end_kept(None, TOKEN, 0.0, WHY)


def test_a_whole_tree_ends(start: Start, tree: tuple[subprocess.Popen[str], Callable[[], None]]) -> None:
    """Seen by the pipe that all of them hold open: its end is the end of the last one."""
    top, end = tree
    bystander = start()
    end()
    assert top.stdout is not None
    assert not top.stdout.read()
    assert lives(bystander)


def test_what_its_leader_left_ends_as_well(tree: tuple[subprocess.Popen[str], Callable[[], None]]) -> None:
    top, end = tree
    top.kill()
    top.wait()
    end()
    assert top.stdout is not None
    assert not top.stdout.read()


# ── G4: a lock is given back by the system ───────────────────────────────────────────────────────────────

HOLDS = """
import fcntl, os, subprocess, sys, time
fd = os.open(sys.argv[1], os.O_RDWR); os.set_inheritable(fd, True)
fcntl.lockf(fd, fcntl.LOCK_EX)
child = subprocess.Popen(["sleep", "600"], close_fds=False) if "inherits" in sys.argv else None
print(child.pid if child else "held", flush=True)
time.sleep(600)
"""
TAKES = """
import fcntl, os, sys
fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
print('mine')
"""


@on_linux
@pytest.mark.parametrize("more", ["", "inherits"])
def test_a_lock_ends_with_its_holder(start: Start, tmp_path: Path, more: str) -> None:
    """Whatever ended it. Its children do not have it, and to ask does not take it."""
    path = tmp_path / "journal"
    path.touch()
    holder = start(HOLDS, str(path), more)
    assert locks.is_locked(str(path))
    fd = os.open(path, os.O_RDWR)
    try:
        assert not locks.take(fd)
        holder.kill()
        holder.wait()
        assert not locks.is_locked_at(fd)
        asked = start(TAKES, str(path))
        assert asked.said == ["mine"]  # type: ignore[attr-defined]
    finally:
        if more:
            os.kill(int(holder.said[0]), signal.SIGKILL)  # type: ignore[attr-defined]
        os.close(fd)


@on_linux
def test_a_lock_for_life_is_one_processs(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "reaper.run")
    fd = locks.exclusive(path, 0.0)
    assert fd is not None
    assert locks.exclusive(path, 0.0) is None
    child = start(close_fds=False)
    os.close(fd)  # the child does not have it: it is close-on-exec
    again = locks.exclusive(path, 0.0)
    assert again is not None
    assert lives(child)
    os.close(again)


# ── G5: the kernel says who speaks ───────────────────────────────────────────────────────────────────────


@on_linux
def test_who_speaks_and_whole_messages(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "line")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    child = start(
        f"import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect({path!r})\n"
        "s.send(b'one'); s.send(b'two'); print('sent', flush=True); sys.stdin.read()"
    )
    line, _ = listener.accept()
    assert sockets.peer(line) == (child.pid, os.geteuid())
    assert [line.recv(100), line.recv(100)] == [b"one", b"two"]
    line.close()
    listener.close()


# ── G6: not our child, nothing of ours ───────────────────────────────────────────────────────────────────


@on_linux
@pytest.mark.parametrize("shell", [True, False])
def test_what_is_spawned_is_on_its_own(tmp_path: Path, shell: bool) -> None:
    """Not our child, in no session of ours, without our descriptors and our environment."""
    told = tmp_path / "told"
    os.mkfifo(told)
    ours = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(ours, True)
    code = (
        f"import os; f = open({str(told)!r}, 'w'); print(os.getppid(), os.getsid(0), sorted(os.environ), "
        f"os.path.exists('/proc/self/fd/{ours}'), file=f)"
    )
    words = [sys.executable, "-S", "-c", code]
    argv = [spawn.SHELL, "-c", 'cd /; exec "$@" &', "lastly", *words] if shell else words
    if not shell:
        argv[3] = "import posix; posix.fork() and posix._exit(0); " + code
    assert spawn._spawn(argv, None)
    parent, session, *rest = told.read_text().split(" ", 2)
    os.close(ours)
    assert int(parent) != os.getpid()
    assert int(session) != os.getsid(0)
    assert "PATH" not in rest[0]
    assert rest[0].endswith("False\n")


# ── G7: two files with one name, or one number, are told apart ───────────────────────────────────────────


def test_only_the_file_that_was_made_is_removed(tmp_path: Path) -> None:
    """Another one with its name by now stays."""
    removal, path = host.removal(), str(tmp_path / "it")
    Path(path).write_text("mine")
    mine = removal.identity(path)
    os.rename(path, path + ".kept")  # so that its number is not free
    Path(path).write_text("another's")
    with pytest.raises(NotOurs):
        removal.remove(path, expect=mine)
    assert Path(path).read_text() == "another's"
    removal.remove(path, expect=removal.identity(path))
    removal.remove(path + ".kept", expect=mine)  # it is the same under another name
    removal.remove(path, expect=mine)  # nothing there is success
    assert os.listdir(tmp_path) == []


@on_linux
def test_two_files_with_one_number(tmp_path: Path) -> None:
    """By the time of its birth, where the file system gives the number of a removed file again."""
    folder = os.open(tmp_path, os.O_RDONLY)
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found.append(file.entry(name, dir_fd=folder))
        (tmp_path / name).rmdir()
    os.close(folder)
    assert (found[0].ino, found[0].btime) != (found[1].ino, found[1].btime)


def test_a_tree_is_removed_and_no_link_is_followed(tmp_path: Path) -> None:
    removal, made, outside = host.removal(), tmp_path / "made", tmp_path / "outside"
    (made / "a" / "b").mkdir(parents=True)
    (made / "a" / "file").write_text("x")
    outside.mkdir()
    (outside / "kept").write_text("x")
    (made / "link").symlink_to(outside, target_is_directory=True)
    removal.remove(str(made), expect=removal.identity(str(made)))
    assert not made.exists()
    assert (outside / "kept").exists()


# ── this process ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_pipe_that_never_blocks_and_that_nobody_inherits() -> None:
    reads, writes = pythons.pipe()
    try:
        assert not os.get_inheritable(reads)
        assert not os.get_inheritable(writes)
        with pytest.raises(BlockingIOError):
            os.read(reads, 1)
        assert os.write(writes, b"x") == 1
        assert os.read(reads, 1) == b"x"
    finally:
        os.close(reads)
        os.close(writes)
