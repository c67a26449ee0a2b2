"""Pid files, lock files, sockets, servers, atomic writes: one holder, nothing stale, nothing partial."""

import errno
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest
from harness import gone, wait_process_gone, wait_until

import lastly
from lastly._journal import locks
from lastly.resources import _holder, _lock_file, _place

HOLD = """
    import os, sys, lastly
    from lastly import resources
    held = getattr(resources, sys.argv[1])(sys.argv[2])
    print("held", os.getpid(), flush=True)
    os.read(0, 1)
"""


@pytest.fixture
def where(tmp_path):
    folder = tmp_path / "where"
    folder.mkdir()
    return folder


@pytest.fixture(params=["pid_file", "lock_file"])
def kind(request):
    return request.param


def hold(programs, kind, path, **options):
    program = programs.start(HOLD, kind, str(path), stdin=subprocess.PIPE, **options)
    program.line("held")
    return program


def attempt(programs, kind, path, arguments="", **options):
    return programs.run(
        f"""
        import os, sys
        from lastly import resources
        try:
            held = resources.{kind}(sys.argv[1], {arguments})
        except FileExistsError as error:
            print("refused", error)
        else:
            print("got it", open(held).read().strip())
        """,
        str(path),
        **options,
    )


def test_one_holder(programs, kind, where):
    """A second one is told who it is; at the end the file goes."""
    path = where / "x"
    first = hold(programs, kind, path)
    done = attempt(programs, kind, path)
    assert done.out.startswith("refused"), done.err
    assert f"process {first.pid}" in done.out
    assert "takeover=True" in done.out
    first.write("\n")
    assert first.wait().status == 0
    assert os.listdir(where) == []


def test_a_pid_file_holds_the_pid_alone(programs, where):
    """`kill $(cat x)` works; a lock file holds the identity."""
    first = hold(programs, "pid_file", where / "x")
    assert (where / "x").read_text() == f"{first.pid}\n"
    second = hold(programs, "lock_file", where / "y")
    assert json.loads((where / "y").read_text())["pid"] == second.pid


def test_killed_and_reaped(programs, kind, where):
    """kill -9: the reaper removes it."""
    first = hold(programs, kind, where / "x")
    first.send(signal.SIGKILL)
    first.wait()
    wait_until(lambda: os.listdir(where) == [])


def test_a_stale_one_is_replaced(programs, kind, where):
    """Nobody has reaped: the next one sees that the holder is dead."""
    first = hold(programs, kind, where / "x", env={"LASTLY_REAPER": "0"})
    first.send(signal.SIGKILL)
    first.wait()
    assert (where / "x").exists()
    done = attempt(programs, kind, where / "x")
    assert done.out.startswith("got it"), done.out + done.err


def test_a_recycled_pid(programs, where, home):
    """The pid in it lives, but is somebody else: known by the start time in the journal."""
    first = hold(programs, "pid_file", where / "x", env={"LASTLY_REAPER": "0"})
    first.send(signal.SIGKILL)
    first.wait()
    (journal,) = home.glob("owners/*/*.j")
    # Its owner's pid is ours now, as it were.
    text = journal.read_bytes().split(b"\n")
    from lastly._journal.record import decode, encode

    header = decode(text[0])
    header["pid"] = os.getpid()
    journal.write_bytes(encode(header) + b"\n".join(text[1:]))
    journal.rename(journal.with_name(f"{os.getpid()}.{header['start']}.abc.j"))
    os.truncate(where / "x", 0)
    with open(where / "x", "w") as file:
        file.write(f"{os.getpid()}\n")
    done = attempt(programs, "pid_file", where / "x")
    assert done.out.startswith("got it"), done.out + done.err


def test_taking_over(programs, kind, where):
    """The older holder ends first, with its children; then the file is ours."""
    program = programs.start(
        """
        import os, subprocess, sys
        from lastly import resources
        held = getattr(resources, sys.argv[1])(sys.argv[2])
        child = subprocess.Popen(["sleep", "600"])
        print(child.pid, flush=True)
        child.wait()
        """,
        kind,
        str(where / "x"),
    )
    child = int(program.line())
    done = attempt(programs, kind, where / "x", "takeover=True, grace=2")
    assert done.out.startswith("got it"), done.out + done.err
    assert program.wait().status == -15
    wait_process_gone(child)


def test_waiting(programs, kind, where):
    """Until the holder ends; by pidfd, so at once."""
    first = hold(programs, kind, where / "x")
    program = programs.start(
        f"""
        import sys
        from lastly import resources
        print("waits", flush=True)
        resources.{kind}(sys.argv[1], wait=60)
        print("got it", flush=True)
        """,
        str(where / "x"),
    )
    program.line("waits")
    first.write("\n")
    program.line("got it")
    assert program.wait().status == 0


def test_a_holder_that_frees_it_and_lives_on(programs, kind, where):
    """Whoever waits has it then, and not when the holder ends, or the wait is over; which may be for ever."""
    first = programs.start(
        """
        import os, sys
        from lastly import resources
        with getattr(resources, sys.argv[1])(sys.argv[2]):
            print("held", flush=True)
            os.read(0, 1)
        print("freed", flush=True)
        os.read(0, 1)
        """,
        kind, str(where / "x"), stdin=subprocess.PIPE,
    )  # fmt: skip
    first.line("held")
    code = """
        import sys
        from lastly import resources
        print("waits", flush=True)
        resources.{kind}(sys.argv[1], wait=float("inf"))
        print("got it", flush=True)
        """
    second = programs.start(code.replace("{kind}", kind), str(where / "x"))
    second.line("waits")
    first.write("\n")
    first.line("freed")
    second.line("got it")
    assert second.wait().status == 0
    first.write("\n")
    assert first.wait().status == 0


@pytest.mark.slow(keep=1)
def test_several_take_over(programs, kind, where):
    """One holder after the other is ended; the last one holds, and nobody is refused."""
    code = """
        import os, sys, lastly
        lastly.install()
        held = getattr(lastly, sys.argv[1])(sys.argv[2], takeover=True)
        print("held", flush=True)
        os.read(0, 1)
    """
    first = programs.start(code, kind, str(where / "x"), stdin=subprocess.PIPE)
    first.line("held")
    others = [programs.start(code, kind, str(where / "x"), stdin=subprocess.PIPE) for _ in range(3)]
    assert first.wait().status == -signal.SIGTERM
    wait_until(lambda: sum(program.popen.poll() is None for program in others) == 1)
    last = next(program for program in others if program.popen.poll() is None)
    last.line("held")
    last.write("\n")
    ended = [program.wait() for program in others]
    assert sorted(end.status for end in ended) == [-signal.SIGTERM] * 2 + [0], [end.err for end in ended]
    assert os.listdir(where) == []


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.slow(keep=2)
def test_freed_while_it_is_looked_at(programs, kind, where, takeover):
    """With the file goes the journal that says whose it was: whoever has just looked is not refused for that."""
    first = programs.start(
        """
        import os, sys, lastly
        held = getattr(lastly, sys.argv[1])(sys.argv[2])
        print("held", flush=True)
        os.read(0, 1)
        held.close()
        print("freed", flush=True)
        os.read(0, 1)
        """, kind, str(where / "x"), stdin=subprocess.PIPE
    )
    first.line("held")
    second = programs.start(
        """
        import os, sys, lastly
        from lastly.resources import _holder
        real = _holder.Holder.refusal if sys.argv[3] == "False" else _holder.Holder.untouchable
        def late(self, **how):
            print("looks", flush=True)
            os.read(0, 1)
            return real(self, **how)
        setattr(_holder.Holder, real.__name__, late)
        getattr(lastly, sys.argv[1])(sys.argv[2], takeover=sys.argv[3] == "True")
        print("got it", flush=True)
        """, kind, str(where / "x"), str(takeover), stdin=subprocess.PIPE
    )
    second.line("looks")
    first.write("\n")
    first.line("freed")
    second.write("\n\n\n")
    second.line("got it")
    assert second.wait().status == 0
    first.write("\n")
    assert first.wait().status == 0


def test_synced_before_it_has_its_name(programs, kind, where):
    """A power cut leaves no empty file there, which would not say whose it is."""
    done = programs.run(
        f"""
        import os, sys
        import lastly
        synced, link = [], os.link
        os.fsync = lambda fd: synced.append(os.fstat(fd).st_ino)
        def linked(old, new, **options):
            print("linked", os.stat(old).st_ino in synced)
            link(old, new, **options)
        os.link = linked
        print(lastly.{kind}(sys.argv[1]).path)
        """,
        str(where / "x"),
    )
    assert done.lines == ["linked True", str(where / "x")], done.err


@pytest.mark.parametrize("what", ["text", "folder", "link", "empty"])
@pytest.mark.slow(keep=4)
def test_what_is_not_ours_is_not_touched(programs, kind, where, what):
    """A file of another kind at the path."""
    path = where / "x"
    {
        "text": lambda: path.write_text("my notes"),
        "folder": path.mkdir,
        "link": lambda: path.symlink_to("/etc/passwd"),
        "empty": path.touch,
    }[what]()
    done = attempt(programs, kind, path, "takeover=True")
    assert ("it is empty" if what == "empty" else "not a pid or lock file") in done.out, done.err
    assert os.path.lexists(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"\0" * 5])
@pytest.mark.slow(keep=3)
def test_an_empty_file_is_nobodys(programs, kind, where, content):
    """A full disk, a power cut, another tool's crash; once nobody can be about to write into it."""
    (where / "x").write_bytes(content)
    ago = time.time() - 60
    os.utime(where / "x", (ago, ago))
    assert attempt(programs, kind, where / "x").out.startswith("got it")


def test_an_empty_file_is_waited_for(programs, kind, where):
    """While its maker may be just about to write its pid into it."""
    (where / "x").touch()
    assert "it is empty" in attempt(programs, kind, where / "x").out
    ago = time.time() - _holder._SETTLED + 1
    os.utime(where / "x", (ago, ago))
    assert attempt(programs, kind, where / "x", "wait=60").out.startswith("got it")


@pytest.mark.parametrize("how", ["flock", "lockf"])
@pytest.mark.slow(keep=2)
def test_an_empty_file_that_is_locked_is_somebodys(programs, kind, where, how):
    """Other tools lock a file and leave it empty: to remove it would give their lock to two of them."""
    with open(where / "x", "w") as file:
        getattr(fcntl, how)(file, fcntl.LOCK_EX)
        os.utime(where / "x", (0, 0))
        assert "holds a lock on it" in attempt(programs, kind, where / "x").out
    assert attempt(programs, kind, where / "x").out.startswith("got it")


def test_frozen_clocks_do_not_stop_the_wait(programs, kind, where):
    """A test tool has replaced the functions of `time`; a holder that does not go is waited for as long as said."""
    hold(programs, kind, where / "x")
    done = programs.run(
        f"""
        import sys, time
        import lastly
        time.time = time.monotonic = lambda: 1.0
        time.sleep = lambda _: None
        try: lastly.{kind}(sys.argv[1], wait=0.5)
        except FileExistsError as error: print("refused")
        """,
        str(where / "x"),
    )
    assert done.out == "refused\n", done.err


def test_a_file_system_without_links(home, where, kind, monkeypatch):
    """A memory stick: the name is given by a rename, after a look."""

    def refused(*_, **__):
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(_place.os, "link", refused)
    held = getattr(lastly, kind)(where / "x")
    with pytest.raises(FileExistsError, match="holds it already"):
        getattr(lastly, kind)(where / "x")
    held.close()
    assert os.listdir(where) == []


def test_a_name_that_is_taken_in_the_last_moment(home, where, kind, monkeypatch):
    """By a program that knows nothing of turns: its file stays, and it is the holder."""
    fsync = os.fsync

    def take(fd):
        fsync(fd)
        (where / "x").write_text(f"{os.getppid()}\n")

    monkeypatch.setattr(_lock_file.os, "fsync", take)
    with pytest.raises(FileExistsError, match=f"process {os.getppid()} holds it"):
        getattr(lastly, kind)(where / "x")
    assert (where / "x").read_text() == f"{os.getppid()}\n"
    assert os.listdir(where) == ["x"]


def test_only_one_of_many_wins(programs, where):
    """A stale file and eight who want it: one gets it, seven see who."""
    first = hold(programs, "lock_file", where / "x", env={"LASTLY_REAPER": "0"})
    first.send(signal.SIGKILL)
    first.wait()
    code = """
        import os, sys
        from lastly import resources
        try:
            held = resources.lock_file(sys.argv[1])
        except FileExistsError:
            print("refused", flush=True)
        else:
            print("got it", flush=True)
        os.read(0, 1)
    """
    many = [programs.start(code, str(where / "x"), stdin=subprocess.PIPE) for _ in range(8)]
    words = sorted(program.line() for program in many)
    assert words == ["got it"] + ["refused"] * 7
    for program in many:
        program.write("\n")
        assert program.wait().status == 0
    assert os.listdir(where) == []


def test_unix_socket(programs, where):
    """Listens where it is connectable, also under a long folder; goes at the end; a stale one is replaced."""
    deep = where / ("d" * 120)
    deep.mkdir()
    code = """
        import os, sys
        from lastly import resources
        with resources.unix_socket(sys.argv[1]) as s:
            print("listens", flush=True)
            for _ in range(3):  # who looks whether somebody listens connects, too
                c, _ = s.accept()
                try: c.sendall(b"hi")
                except OSError: pass
                c.close()
    """
    for _ in range(2):
        program = programs.start(code, str(deep / "s"), env={"LASTLY_REAPER": "0"})
        program.line("listens")
        assert stat.S_IMODE(os.stat(deep / "s").st_mode) == 0o600
        program.send(signal.SIGKILL)
        program.wait()
        assert (deep / "s").exists()
    program = programs.start(code, str(deep / "s"))
    program.line("listens")
    other = programs.run(code, str(deep / "s"))
    assert "another process listens there" in other.err
    fd = os.open(deep, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"/proc/self/fd/{fd}/s")
        assert client.recv(9) == b"hi"
    os.close(fd)
    program.send(signal.SIGTERM)
    program.wait()
    wait_until(lambda: os.listdir(deep) == [])


def test_atomic_write(programs, where):
    """Old or new, never a part; permissions kept; a link followed; nothing left beside it."""
    done = programs.run(
        """
        import os, sys
        from lastly.resources import atomic_write
        os.chdir(sys.argv[1])
        with atomic_write("a") as f: f.write("one")
        os.chmod("a", 0o640)
        os.symlink("a", "link")
        with atomic_write("link", "wb") as f:
            f.write(b"tw"); f.flush()
            assert open("a").read() == "one"
            f.write(b"o")
        assert open("a").read() == "two" and os.stat("a").st_mode & 0o777 == 0o640 and os.path.islink("link")
        try:
            with atomic_write("a", encoding="utf-8") as f:
                f.write("three")
                raise KeyError
        except KeyError: pass
        assert open("a").read() == "two" and sorted(os.listdir()) == ["a", "link"]
        for mode in ("r", "a", "x", "w+"):
            try: atomic_write("a", mode)
            except ValueError: pass
            else: raise SystemExit(mode)
        f = atomic_write("a").__enter__()
        f.write("part")
        f.flush()
        print(len(os.listdir()), flush=True)
        os.kill(os.getpid(), 9)
        """,
        str(where),
    )
    assert done.out == "3\n", done.err
    wait_until(lambda: sorted(os.listdir(where)) == ["a", "link"])
    assert (where / "a").read_text() == "two"


def test_atomic_write_on_a_full_disk(programs, where):
    """The error is the disk's, or the block's own; the old file is as it was, and nothing is beside it."""
    done = programs.run(
        """
        import os, resource, sys
        from lastly.resources import atomic_write
        os.chdir(sys.argv[1])
        with atomic_write("a") as f: f.write("old")
        # The journal has its place.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            with atomic_write("a") as f:
                f.write("x" * 200_000)
        except OSError as error: print(error.strerror)
        print(os.listdir(), open("a").read())
        try:
            with atomic_write("a") as f:
                f.write("x" * 99_999)
                f.flush()
                f.write("more")
                raise KeyError("mine")
        except Exception as error: print(repr(error))
        print(os.listdir(), open("a").read())
        """,
        str(where),
        env={"LASTLY_REAPER": "0"},
    )
    assert done.lines == ["File too large", "['a'] old", "KeyError('mine')", "['a'] old"], done.err


def test_server(programs, where):
    """Waited for, then there; gone with its tree."""
    done = programs.run(
        """
        import socket, sys
        from lastly.resources import server
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
        child = server([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)], ready=("127.0.0.1", port),
                       stderr=-3)
        socket.create_connection(("127.0.0.1", port)).close()
        print(child.pid)
        try: server(["sh", "-c", "exit 3"], ready=1)
        except ChildProcessError as error: print(error)
        try: server(["sleep", "600"], ready=lambda: False, timeout=0.05)
        except TimeoutError as error: print(error)
        for ready in port, ("127.0.0.1", port), 0, 70_000, ("127.0.0.1", 0), (port,), "", None:
            try: server(["touch", sys.argv[1] + "/started"], ready=ready)
            except (OSError, ValueError) as error: print(error)
        """,
        str(where),
    )
    assert done.status == 0, done.err
    pid, ended, late, *refused = done.lines
    assert ["another process listens there already" in line for line in refused] == [True] * 2 + [False] * 6
    assert all(line.startswith("ready must be ") for line in refused[2:]), refused
    assert os.listdir(where) == []
    wait_process_gone(int(pid))
    assert "status 3 before it was ready" in ended
    assert "not ready within 0.05 s" in late


def test_a_server_at_a_socket_with_a_long_path(programs, where):
    """A `Path`, as what a temp_dir's slash gives; longer than a socket's address may be."""
    deep = where / ("d" * 120)
    deep.mkdir()
    done = programs.run(
        """
        import pathlib, sys
        import lastly
        code = "import sys, time, lastly; lastly.unix_socket(sys.argv[1]).accept(); time.sleep(600)"
        path = pathlib.Path(sys.argv[1])
        with lastly.Scope() as scope:
            lastly.server([sys.executable, "-c", code, str(path)], ready=path, scope=scope)
            print("listens")
        """,
        str(deep / "s"),
    )
    assert done.lines == ["listens"], done.err
    assert os.listdir(deep) == []


def test_killed_everywhere(programs, home, where):
    """Made and removed, killed at every boundary, with a foreign file of the same name never touched."""
    from crashing import crash, sweep

    crash(
        programs,
        f"from lastly.resources import lock_file\nf = lock_file({str(where)!r} + '/x')\nf.close()",
        names=("open", "write", "link", "rename", "unlink"),
        limit=300,
    )
    sweep()
    assert os.listdir(where) == []
    assert gone(where / "x")
    assert threading.active_count() >= 1


def test_a_file_that_takes_the_place_of_a_dead_one_is_not_removed(home, where, monkeypatch):
    """Not only who uses lastly makes pid files, and nobody else waits for our lock."""
    path = where / "pid"
    path.write_text("4999999999")
    other = where / "other"
    other.write_text(f"{os.getppid()}")
    plain = os.read

    def read(fd, size):
        found = plain(fd, size)
        if other.exists():
            os.replace(other, path)
        return found

    monkeypatch.setattr(_holder.os, "read", read)
    with pytest.raises(FileExistsError, match=f"process {os.getppid()} holds it"):
        lastly.pid_file(path)
    assert path.read_text() == f"{os.getppid()}"


def test_an_interrupt_while_a_turn_is_waited_for_keeps_no_descriptor(home, where, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(locks.fcntl, "flock", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lastly.pid_file(where / "pid")
    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]
    assert not [name for name in names if "/turns/" in name]


@pytest.mark.parametrize("make", [lastly.lock_file, lastly.pid_file, lastly.unix_socket])
def test_an_error_names_the_path_that_was_asked_for(home, tmp_path, make):
    """Not the hidden name under which it would have been made."""
    path = os.path.realpath(tmp_path / "nowhere" / "shop.x")
    with pytest.raises(FileNotFoundError) as caught:
        make(path)
    assert caught.value.filename == path
