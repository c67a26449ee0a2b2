"""temp_dir, temp_file, Popen: killed at every boundary, they leave nothing after one sweep (I1, I2)."""

import os
import signal
import subprocess
import sys

import pytest
from crashing import crash, sweep
from harness import gone, wait_process_gone, wait_until

import lastly
from lastly._journal import home as journal_home
from lastly._journal import locks
from lastly._journal.replay import read


@pytest.fixture
def where(tmp_path):
    """An empty folder for what the programs make."""
    folder = tmp_path / "where"
    folder.mkdir()
    return folder


def test_temp_dir_killed_everywhere(programs, home, where):
    """Made, filled, removed: at every boundary."""
    n = crash(programs, f"with lastly.temp_dir(dir={str(where)!r}) as d:\n    os.mkdir(f'{{d}}/x')")
    assert n >= 10
    leaked = list(where.iterdir())
    assert leaked, "the kills have left something to sweep"
    sweep()
    assert list(where.iterdir()) == []
    assert journal_home.journals() == []


def test_temp_file_and_detach_killed_everywhere(programs, home, where):
    """What was given away stays, what was not goes."""
    crash(
        programs,
        f"f = lastly.temp_file(dir={str(where)!r})\n"
        f"if f.detach(): os.rename(f.path, {str(where)!r} + '/kept-' + str(os.getpid()))",
    )
    sweep()
    assert {path.name.split("-")[0] for path in where.iterdir()} <= {"kept", "lastly"}
    # A file given away and not yet renamed keeps its name: its release was on record.
    for path in where.glob("lastly-*"):
        assert path.stat().st_size == 0
    assert len(list(where.glob("lastly-*"))) <= 4


def test_popen_killed_everywhere(programs, home, where):
    """The child and its own child are gone."""
    marks = where / "pids"
    marks.touch()
    n = crash(
        programs,
        f"def lines(): return open({str(marks)!r}).read().count('\\n')\n"
        f"before = lines()\n"  # an odd number, where one before was killed between its two
        f"p = Popen(['sh', '-c', 'echo $$ >> {marks}; sleep 600 & echo $! >> {marks}; wait'], grace=0)\n"
        f"while lines() < before + 2: pass\n"
        "p.close()",
        names=("write", "rename"),  # killing looks at every process there is, with many an open
    )
    assert n >= 4
    sweep()
    for pid in map(int, marks.read_text().split()):
        wait_process_gone(pid)


def test_temp_dir_is_path_like(programs):
    """Usable wherever a path is."""
    done = programs.run("""
        import os, lastly
        work = lastly.temp_dir(suffix=".d", prefix="p-")
        with open(work / "a", "w") as f: f.write("x")
        assert os.listdir(work) == ["a"] and os.path.join(work, "a") == str(work / "a")
        assert str(work) == os.fspath(work) == work.path and repr(work).startswith("<Temporary")
        assert os.stat(work).st_mode & 0o777 == 0o700
        with lastly.temp_file() as f:
            assert os.stat(f).st_mode & 0o777 == 0o600
        assert not os.path.exists(f)
        kept = lastly.temp_file()
        assert kept.detach() and not kept.detach()
        work.close(); work.close()
        scope = lastly.Scope()
        inner = lastly.temp_dir(scope=scope)
        scope.close()
        assert not os.path.exists(inner)
        print(kept, lastly.temp_dir(), sep="\\n")
    """)
    assert done.status == 0, done.err
    assert done.err == ""
    assert not gone(done.lines[0])
    assert gone(done.lines[1])


def test_hostile_folders(programs, where):
    """Newlines, bytes that are not UTF-8, links among the parents."""
    done = programs.run(
        r"""
        import os, sys, lastly
        strange = os.fsencode(sys.argv[1]) + b"/\xff\n\x01 x"
        os.mkdir(strange)
        os.symlink(strange, os.fsencode(sys.argv[1]) + b"/link")
        for folder in (strange, os.fsdecode(strange), sys.argv[1] + "/link"):
            lastly.temp_dir(dir=folder)
            lastly.temp_file(dir=folder, suffix="\n")
        print(len(os.listdir(strange)), flush=True)
        """,
        str(where),
    )
    assert (done.status, done.out) == (0, "6\n"), done.err
    assert os.listdir(os.fsencode(where) + b"/\xff\n\x01 x") == []


def test_killed_with_the_reaper(programs, home, where):
    """The real one: SIGKILL, and soon all is gone, hostile names included; nothing else is."""
    (where / "bystander").mkdir()
    program = programs.start(
        r"""
        import os, sys, lastly
        folder = os.fsencode(sys.argv[1]) + b"/\xff\n"
        os.mkdir(folder)
        a = lastly.temp_dir(dir=folder)
        open(a / "x\ny", "w").close()
        b = lastly.temp_file(dir=folder)
        c = lastly.Popen(["sleep", "600"])
        print(c.pid, flush=True)
        os.read(0, 1)
        """,
        str(where),
        stdin=subprocess.PIPE,
    )
    pid = int(program.line())
    program.send(signal.SIGKILL)
    program.wait()
    wait_until(lambda: os.listdir(os.fsencode(where) + b"/\xff\n") == [])
    wait_process_gone(pid)
    assert (where / "bystander").exists()


def test_popen_has_subprocess_signature(programs):
    """Positional and keyword arguments, pipes, env, errors of its own."""
    done = programs.run("""
        import os, subprocess, sys, lastly
        with lastly.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
            assert p.communicate("hi")[0] == "hi" and isinstance(p, subprocess.Popen)
        env = {"A": "1", "PATH": os.environ["PATH"]}
        p = lastly.Popen("echo $A; echo $LASTLY_TOKEN", -1, None, None, subprocess.PIPE, None, None, True, True, None, env)
        a, token = p.communicate()[0].decode().split()
        assert a == "1" and len(token) == 24 and "LASTLY_TOKEN" not in env
        inner = "import lastly, subprocess; lastly.Popen('echo $LASTLY_TOKEN', shell=True).wait()"
        chain = subprocess.run([sys.executable, "-c", inner], env={**os.environ, "LASTLY_TOKEN": "outer"},
                               capture_output=True, text=True).stdout
        assert chain.startswith("outer:"), chain
        for bad in (["/nonexistent"], 7):
            try:
                lastly.Popen(bad)
            except (OSError, TypeError): pass
            else: raise SystemExit("started")
        from lastly._durable import own
        from lastly._journal import replay
        assert sorted({i.state for i in replay.read(own.peek().path).items.values()}) == ["active", "done", "released"]
    """)
    assert done.status == 0, done.err


def test_a_popen_nobody_refers_to_is_no_loss(programs):
    """Its end is owed; one that is detached and dropped is lost, and subprocess says so."""
    code = """
        import lastly
        lastly.Popen(["sleep", "1000"])
        kept = lastly.Popen(["true"])
        kept.detach()
        del kept
    """
    result = programs.run(code, flags=("-X", "dev"))
    assert (result.status, result.err.count("ResourceWarning: subprocess")) == (0, 1), result.err


def test_popen_kills_the_tree(programs):
    """At the scope's close, by an exception at once, and grandchildren of a child that has ended."""
    done = programs.run("""
        import subprocess, lastly
        with lastly.Scope() as scope:
            p = lastly.Popen("sleep 600 & echo $!; wait", shell=True, stdout=subprocess.PIPE, scope=scope, grace=2)
            print(p.pid, int(p.stdout.readline()))
        try:
            with lastly.Popen(["sleep", "600"]) as p:
                print(p.pid)
                raise KeyError
        except KeyError:
            assert p.returncode == -15
        with lastly.Popen("setsid sleep 600 >/dev/null 2>&1 & echo $!", shell=True, stdout=subprocess.PIPE) as p:
            print(int(p.stdout.readline()))
        q = lastly.Popen(["sleep", "600"])
        assert q.detach()
        q.terminate(); q.wait()
    """)
    assert done.status == 0, done.err
    pids = [int(word) for word in done.out.split()]
    assert len(pids) == 4
    for pid in pids:
        wait_process_gone(pid)


def test_exec_keeps_owing(programs, home, where):
    """The program replaces itself: owed until the new one ends."""
    program = programs.start(
        """
        import os, sys, lastly
        work = lastly.temp_dir(dir=sys.argv[1])
        print(work, flush=True)
        os.execv("/bin/sh", ["sh", "-c", "echo second; read x"])
        """,
        str(where),
        stdin=subprocess.PIPE,
    )
    work = program.line()
    program.line("second")
    (path,) = journal_home.journals()
    assert not locks.is_locked(path)
    assert read(path).identity.alive() is True
    sweep()
    assert not gone(work)
    program.write("\n")
    program.wait()
    wait_until(lambda: gone(work))


def test_a_forked_child_owes_its_own(programs, where):
    """Parent and child each remove what they made, when they end."""
    program = programs.run(
        """
        import os, sys, lastly
        a = lastly.temp_dir(dir=sys.argv[1])
        if os.fork() == 0:
            b = lastly.temp_dir(dir=sys.argv[1])
            from lastly._durable import own
            print(own.get().path, flush=True)
            sys.exit()
        os.wait()
        from lastly._durable import own
        print(own.get().path, os.path.exists(a), len(os.listdir(sys.argv[1])), flush=True)
        """,
        str(where),
    )
    assert program.status == 0, program.err
    child, parent = program.lines
    path, exists, count = parent.split()
    assert child != path
    assert (exists, count) == ("True", "1")
    assert os.listdir(where) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGALRM])
def test_interrupted_in_the_middle(programs, where, signum):
    """A signal's exception at any moment of temp_dir(): removed at exit or owed, never lost."""
    done = programs.run(
        f"""
        import os, random, signal, sys, lastly
        def handler(signum, frame): raise KeyboardInterrupt
        signal.signal({int(signum)}, handler)
        signal.signal(signal.SIGALRM, handler)
        random.seed(1)
        lastly.temp_dir(dir=sys.argv[1]).close()
        hits = 0
        for _ in range(300):
            try:
                # Again after 1 s, for Python misses a signal that comes just before pause().
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 4e-4), 1.0)
                for _ in range(3):
                    lastly.temp_dir(dir=sys.argv[1])
                while True:
                    signal.pause()
            except KeyboardInterrupt:
                hits += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        print(hits, len(os.listdir(sys.argv[1])))
        """,
        str(where),
    )
    assert done.out.split()[0] == "300", done.err
    wait_until(lambda: os.listdir(where) == [])


def test_full_disk_makes_nothing(programs, where):
    """RLIMIT_FSIZE as a disk that is full: NotRecorded, and no folder."""
    done = programs.run(
        """
        import os, resource, sys, lastly
        first = lastly.temp_dir(dir=sys.argv[1])
        from lastly._durable import own
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(own.get().path) + 10,) * 2)
        try:
            lastly.temp_dir(dir=sys.argv[1])
        except lastly.NotRecorded as error:
            print(error)
        print(os.listdir(sys.argv[1]) == [os.path.basename(first)])
        """,
        str(where),
    )
    assert done.status == 0, done.err
    assert "No space left on device" in done.lines[0]
    assert done.lines[1] == "True"
    assert os.listdir(where) == []


def test_on_each_python(programs, python, where):
    """The same on every interpreter."""
    code = """
        import os, sys, lastly
        a, b = lastly.temp_dir(dir=sys.argv[1]), lastly.temp_file(dir=sys.argv[1])
        c = lastly.Popen(["sleep", "600"])
        with lastly.Scope() as scope, scope.planned(lastly.actions.remove, sys.argv[1] + "/z") as plan:
            os.mkdir(sys.argv[1] + "/z")
        print(len(os.listdir(sys.argv[1])), c.pid)
    """
    done = programs.run(code, str(where), python=python)
    assert done.status == 0, done.err
    count, pid = done.out.split()
    assert count == "2"
    assert os.listdir(where) == []
    wait_process_gone(int(pid))
    assert sys.version_info >= (3, 11)


def test_a_detached_child_is_not_waited_for(home):
    """It lives on: neither the block nor close() waits for its end; its pipes are closed."""
    child = lastly.Popen([sys.executable, "-c", "import signal; signal.pause()"], stdout=subprocess.PIPE)
    try:
        with child:
            assert child.detach()
        child.close()
        assert child.poll() is None
        assert child.stdout.closed
    finally:
        child.kill()
        child.wait()
