"""The reaper: whatever kills the program, or the reaper, or both, what is owed is done; once it is, nothing is left."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from harness import SRC, gone, process_gone, reaper_of, wait_process_gone, wait_until
from reaping import OWNER, SLOW, archived, log, owner, proc, ready, touch, watched

from lastly._journal import home as homes
from lastly._reaper import client, desk, election
from lastly._settle.sweep import sweep


@pytest.fixture
def quick(home, monkeypatch):
    """A reaper that exits after a moment without owners."""
    monkeypatch.setenv("LASTLY_REAPER_IDLE", "0.2")
    return home


# ---- the main thing


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT])
@pytest.mark.slow(keep=2)
def test_what_a_dead_program_owes_is_done(programs, home, signum):
    program, made = owner(programs)
    watched(home)
    program.send(signum)
    assert program.wait().status == -signum
    wait_until(lambda: gone(made))
    archived(home)
    [row] = desk.past()
    assert (row["action"], row["state"], row["attempts"]) == ("lastly.actions:remove", "done", 1)


def test_on_every_interpreter(programs, home, python):
    program, made = owner(programs, python=python)
    ready(home)
    program.send(signal.SIGKILL)
    wait_until(lambda: gone(made))


def test_a_program_that_dies_before_its_reaper_is_up(programs, home):
    program, made = owner(programs)
    program.send(signal.SIGKILL)
    wait_until(lambda: gone(made))
    archived(home)


def test_how_it_died_is_in_the_history(programs, home):
    program, made = owner(programs)
    watched(home)
    program.send(signal.SIGKILL)
    program.wait()
    wait_until(lambda: gone(made))
    archived(home)
    [row] = desk.past()
    assert row["died"] in {
        "killed by SIGKILL",
        "",
    }  # empty: this kernel does not tell, or nobody had waited yet
    assert row["ended"] is not None
    about = desk.why(row["ref"])
    assert [event["kind"] for event in about["events"]] == ["plan", "confirm", "run", "done"]
    assert about["events"][-1]["by"] == "reaper"


def test_a_live_owner_s_cleanups_are_run_by_nobody(programs, home):
    """I4, for the reaper and for a sweep, while the owner lives."""
    program, made = owner(programs)
    watched(home)
    assert client.ask("sweep", force=True)
    assert sweep() == []
    assert os.path.isdir(made)
    program.send(signal.SIGKILL)
    wait_until(lambda: gone(made))


def test_newest_first_and_phases(programs, home):
    code = """
    import os, sys, time
    from lastly import action, defer
    @action
    def note(word):
        with open(sys.argv[1] if len(sys.argv) > 1 else os.environ["HOME"] + "/order", "a") as file:
            file.write(word + "\\n")
    if __name__ == "__main__":
        for word in ("one", "two", "three"):
            defer(note, word)
        print("ready", flush=True)
        time.sleep(1000)
    """
    program = programs.start(code, env={"HOME": str(home)})
    program.line("ready")
    program.send(signal.SIGKILL)
    wait_until(lambda: (home / "order").exists() and len((home / "order").read_text().split()) == 3)
    assert (home / "order").read_text().split() == ["three", "two", "one"]


def test_exec_goes_on_owing_until_the_new_program_ends(programs, home):
    code = OWNER.replace(
        "time.sleep(1000)", 'os.execv("/bin/sh", ["sh", "-c", "echo replaced; exec sleep 1000"])'
    )
    program, made = owner(programs, code)
    program.line("replaced")
    ready(home)
    client.ask("sweep", force=True)
    assert sweep() == []
    assert os.path.isdir(made)
    program.send(signal.SIGKILL)
    wait_until(lambda: gone(made))


def test_a_forked_child_that_lives_on_delays_nothing(programs, home):
    """It holds every descriptor of its parent's, the connection to the reaper too."""
    code = OWNER.replace(
        "time.sleep(1000)", "child = os.fork()\nif child: print(child, flush=True)\ntime.sleep(1000)"
    )
    program, made = owner(programs, code)
    child = int(program.line())
    watched(home)
    program.send(signal.SIGKILL)
    wait_until(lambda: gone(made))
    assert not process_gone(child)
    os.kill(child, signal.SIGKILL)


def test_the_program_sees_no_child(programs, home):
    """Neither os.wait() nor a zombie: the reaper is nobody's child."""
    code = """
    import os, lastly
    made = lastly.temp_dir()
    try:
        print(os.waitpid(-1, os.WNOHANG), flush=True)
    except ChildProcessError:
        print("none", flush=True)
    """
    assert programs.run(code).lines == ["none"]


def test_nothing_of_the_starter_s_is_held(programs, home, tmp_path):
    """No terminal, no working directory, no pipe, no environment, no process group."""
    code = """
    import os, sys, lastly, time
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    os.chdir(sys.argv[1])
    made = lastly.temp_dir()
    os.close(writing)
    print(os.read(reading, 1) == b"", flush=True)   # the end of the pipe: nobody else has it
    time.sleep(1000)
    """
    folder = tmp_path / "cwd"
    folder.mkdir()
    program = programs.start(code, str(folder), env={"SECRET": "x"})
    assert program.line() == "True"
    reaper = ready(home)
    wait_until(lambda: os.readlink(f"/proc/{reaper}/cwd") == "/")
    assert os.getsid(reaper) != os.getsid(program.pid)
    assert "SECRET" not in proc(reaper, "environ")
    assert {os.readlink(f"/proc/{reaper}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
    assert "Threads:\t1\n" in proc(reaper, "status")


def test_the_starter_is_connected_at_once(programs, home):
    """It does not have to find its reaper later: one defer, and the death of the reaper is noticed."""
    code = """
    import lastly, os, sys, time
    from lastly._reaper import client
    os.closerange(0, 3) if "closed" in sys.argv else None
    made = lastly.temp_dir()
    connected = client._line.socket is not None
    with open(sys.argv[1] + ".new", "w") as file:
        file.write(f"{connected} {made}")
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    time.sleep(1000)
    """
    for n, words in enumerate(([], ["closed"])):
        out = home / f"out{n}"
        program = programs.start(code, str(out), *words)
        wait_until(out.exists)
        connected, made = out.read_text().split()
        assert connected == "True"
        watched(home)
        program.send(signal.SIGKILL)
        wait_until(lambda made=made: gone(made))
        os.kill(ready(home), signal.SIGKILL)  # so that the second one is a starter too


def test_python_s_development_mode_finds_nothing_to_say(programs, home):
    """...of the connection that stays open to the end: neither the starter's nor the next one's."""
    code = "import lastly; lastly.temp_dir()"
    found = [programs.run(code, flags=("-X", "dev", "-W", "error")) for _ in range(2)]
    assert [(result.status, result.err) for result in found] == [(0, ""), (0, "")]


def test_killed_with_its_whole_process_group(programs, home):
    program, made = owner(programs, session=True)
    ready(home)
    os.killpg(program.pid, signal.SIGKILL)
    wait_until(lambda: gone(made))


# ---- the reaper dies


def test_the_reaper_is_killed_and_the_owner_starts_another(programs, home):
    code = """
    import lastly, sys, time
    print(lastly.temp_dir(), flush=True)
    sys.stdin.readline()
    print(lastly.temp_dir(), flush=True)
    sys.stdin.readline()
    print(lastly.temp_dir(), flush=True)
    time.sleep(1000)
    """
    program = programs.start(code, stdin=subprocess.PIPE)
    made = [program.line()]
    first = ready(home)
    program.write("\n")  # with this defer it connects to the reaper it started
    made.append(program.line())
    watched(home)
    os.kill(first, signal.SIGKILL)
    wait_process_gone(first)
    program.write("\n")
    made.append(program.line())
    second = ready(home)
    assert second != first
    watched(home)
    program.send(signal.SIGKILL)
    for path in made:
        wait_until(lambda path=path: gone(path))


def test_reaper_and_program_killed_together_then_anybody_s_next_start(programs, home):
    program, made = owner(programs)
    reaper = ready(home)
    os.kill(reaper, signal.SIGKILL)
    program.send(signal.SIGKILL)
    wait_process_gone(reaper)
    program.wait()
    other, theirs = owner(programs)
    wait_until(lambda: gone(made), within=10)  # it looks as it starts, not only every 15 s
    assert os.path.isdir(theirs)
    other.send(signal.SIGKILL)
    wait_until(lambda: gone(theirs))


def test_or_a_sweep(programs, home):
    program, made = owner(programs)
    os.kill(ready(home), signal.SIGKILL)
    program.send(signal.SIGKILL)
    program.wait()
    due = sweep(dry_run=True)
    assert [(outcome.state, outcome.ran[0]["action"]) for outcome in due] == [
        ("due", "lastly.actions:remove")
    ]
    assert os.path.isdir(made)
    assert [outcome.state for outcome in sweep()] == ["final"]
    assert gone(made)
    assert homes.journals() == []
    assert sweep() == []


def test_killed_at_every_moment_of_its_work(programs, home):
    """A reaper and its workers are killed at many moments of a settlement: one sweep, and nothing is left."""
    for step in range(12):
        program, made = owner(programs)
        reaper = ready(home)
        watched(home)
        program.send(signal.SIGKILL)
        until = time.perf_counter() + step * 0.0007
        while time.perf_counter() < until:
            pass
        for pid in family(reaper):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        program.wait()
        wait_process_gone(reaper)
        wait_until(lambda: (sweep(), gone(made) and not homes.journals())[1])
    assert {row["state"] for row in desk.past()} == {"done"}


def family(pid):
    """A process and its children, the process first: so it makes no more."""
    children = proc(pid, f"task/{pid}/children").split()
    return [pid, *map(int, children)]


def test_a_killed_worker_s_job_is_done_by_another(programs, home):
    code = OWNER.replace("import lastly\n", SLOW) + ""
    program, made = owner(programs, code)
    watched(home)
    program.send(signal.SIGKILL)
    wait_until(lambda: os.path.exists(f"{made}.began"))
    reaper = reaper_of(home)
    busy = wait_until(lambda: [pid for pid in family(reaper)[1:] if len(family(pid)) > 1])
    os.unlink(f"{made}.began")
    for pid in busy:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: os.path.exists(f"{made}.began"))
    touch(f"{made}.go")
    wait_until(lambda: gone(made))


# ---- started without a shell


NO_SHELL = """
import os, sys, lastly
from lastly._reaper import spawn
spawn.SHELL = sys.argv[1]
print("made", lastly.temp_dir(), flush=True)
{more}
try: print("child", os.wait(), flush=True)
except ChildProcessError: print("no child", flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("shell", ["/no/such/shell", "/dev/null", "/bin/false"])
@pytest.mark.slow(keep=2)
def test_no_shell(programs, home, python, shell):
    """A container without one, or with something else in its place: the interpreter starts the reaper, no child is seen."""
    program = programs.start(NO_SHELL.format(more=""), shell, python=python)
    made = program.line("made").split()[1]
    program.line("no child")
    assert program.wait().status == -9
    wait_until(lambda: not os.path.exists(made), what="removed by a reaper")
    assert reapers(home)


def test_a_shell_that_does_nothing(programs, home):
    """It ends well, and there is no reaper: the next durable defer starts one without it."""
    more = "import time; time.sleep(0.05); second = lastly.temp_dir()"
    program = programs.start(NO_SHELL.format(more=more), "/bin/true")
    made = program.line("made").split()[1]
    program.line("no child")
    wait_until(lambda: not os.path.exists(made), what="removed by a reaper")


def test_no_shell_in_a_mount_namespace(programs, home):
    """The real thing: something else is mounted over /bin/sh."""
    unshare = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    sh = os.path.realpath("/bin/sh")
    mount = "['mount', '--bind', '/dev/null', sys.argv[1]]"
    hide = f"import os, subprocess, sys; subprocess.run({mount}, check=True); os.execv(sys.argv[2], sys.argv[2:])"
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace")
    code = "import lastly, os; print('made', lastly.temp_dir(), flush=True); os.kill(os.getpid(), 9)"
    program = programs.start_command(
        [*unshare, sys.executable, "-c", hide, sh, sys.executable, "-W", "error", "-c", code]
    )
    made = program.line("made").split()[1]
    assert program.wait().status == -9
    wait_until(lambda: not os.path.exists(made), what="removed by a reaper")


# ---- one reaper, and nobody falls between


def test_two_elected_at_once(programs, home):
    """I6: many started at the same moment, one stays."""
    homes.runtime_dir()
    env = {**os.environ, "LASTLY_REAPER_IDLE": "5"}
    code = f"import sys; sys.path.insert(0, {str(SRC)!r}); from lastly._reaper import spawn; spawn.start()"
    starters = [subprocess.Popen([sys.executable, "-c", code], env=env) for _ in range(8)]
    assert [starter.wait() for starter in starters] == [0] * 8
    reaper = ready(home)
    wait_until(lambda: reapers(home) == {reaper})
    assert log(home).count(" start ") == 1


def test_the_line_of_a_reaper_that_was_not_elected(programs, home):
    """Its starter never asks for another one, and is served all the same: here, by a deadline in one long C call."""
    code = """
    import ctypes, os, sys
    import lastly, lastly._exit.stuck
    from lastly._reaper import client
    lastly._exit.stuck.ANSWER = 0.3
    lastly.install()
    # Somebody else's reaper is just starting: it listens a moment later than this process tries to connect.
    client._connect = lambda: None
    print("made", lastly.temp_dir(), flush=True)
    libc = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
    """
    keeper, _ = owner(programs)
    ready(home)
    program = programs.start(code)
    made = program.line("made").split()[1]
    wait_until(lambda: (client.ask("status") or {}).get("deadlines") == 1, what="the deadline has arrived")
    wait_until(lambda: len(reapers(home)) == 1, what="the other one has gone")
    program.send(signal.SIGTERM)
    assert program.wait().status == -signal.SIGKILL
    wait_until(lambda: gone(made))
    keeper.end()


def reapers(home):
    """Pids of the processes that are called as reapers of this home, without their workers."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                words = proc(name, "cmdline").split("\0")
                stat = proc(name, "stat")
            except OSError:
                continue
            if "-I" in words and str(home) in words and " Z " not in stat:
                found.add(int(name))
    return {pid for pid in found if int(proc(pid, "stat").rpartition(")")[2].split()[1]) not in found}


def test_exits_when_idle(programs, quick):
    program, made = owner(programs, env={"LASTLY_REAPER_IDLE": "0.2"})
    reaper = ready(quick)
    watched(quick)
    program.send(signal.SIGKILL)
    wait_process_gone(reaper)
    assert gone(made)
    assert not (quick / "reaper.sock").exists()
    assert homes.journals() == []


def test_no_owner_is_lost_while_one_exits(programs, home):
    """I6: an owner registers at the very moment at which the reaper finds itself idle."""
    code = """
    import lastly, os, sys, time
    from lastly._reaper import client
    for i in range(40):
        time.sleep(0.02 + (i % 10) * 0.001)      # around the idle time: the reaper is just leaving
        child = os.fork()
        if not child:
            mine = lastly.temp_dir()
            sys.stdout.write(os.fspath(mine) + "\\n")
            sys.stdout.flush()
            os.kill(os.getpid(), 9)
        os.waitpid(child, 0)
    print("end", flush=True)
    os._exit(0)
    """
    program = programs.start(code, env={"LASTLY_REAPER_IDLE": "0.02"})
    program.wait(within=60)
    paths = [line for line in program.out.splitlines() if line.startswith("/")]
    assert len(paths) == 40
    for path in paths:
        wait_until(lambda path=path: gone(path), what=f"{path} {log(home)[-2000:]}")
    wait_until(lambda: " exit " in log(home), what="the idle reaper's exit in its log")


def test_the_election_is_held_by_life(home):
    homes.runtime_dir()
    first = election.elect(str(home))
    assert first is not None
    code = f"import sys; sys.path.insert(0, {str(SRC)!r}); from lastly._reaper import election; print(election.elect({str(home)!r}))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "None\n"
    )
    assert election.still(first, str(home))
    os.unlink(home / "reaper.run")
    assert not election.still(first, str(home))
    os.close(first)


def test_a_look_that_fails_is_not_the_last_one(programs, home):
    """Every now and then the reaper looks at all journals, for those of which nobody has told it."""
    code = """
    from lastly._journal import home
    from lastly._reaper import loop
    from lastly._reaper.__main__ import serve
    loop.RESCAN = 0.05
    plain, left = home.journals, 3
    def journals():
        global left
        left -= 1
        if left >= 0:
            raise OSError(24, "no descriptors")
        return plain()
    loop.home.journals = journals
    serve(home.state_dir(), home.runtime_dir(), 1000.0, foreground=True)
    """
    program = programs.start(code)
    for _ in range(3):
        program.error_line("no descriptors")
    killed = "import lastly, os; print(lastly.temp_dir(), flush=True); os.kill(os.getpid(), 9)"
    made = programs.run(killed, env={"LASTLY_REAPER": "0"}).lines[0]
    wait_until(lambda: gone(made), what="found by itself")


def test_a_deadline_on_what_cannot_be_watched(programs, home):
    """It is refused, and its owner's cleanups are run all the same."""
    code = """
    import os, sys, time, socket
    import lastly
    from lastly._reaper import client, protocol
    made = lastly.temp_dir()
    with open("file", "w") as file:
        message = protocol.encode("deadline", signals=[15], grace=5.0)
        socket.send_fds(socket.socket(fileno=os.dup(client._line.socket.fileno())), [message], [file.fileno()])
    print(made, flush=True)
    time.sleep(1000)
    """
    program, made = owner(programs, code)
    wait_until(lambda: "not a descriptor that can be watched" in log(home), what="refused")
    program.send(signal.SIGKILL)
    wait_until(lambda: gone(made))
    archived(home)


def test_a_file_that_has_the_wake_up_s_number_is_not_handed_over(programs, home):
    code = """
    import os, sys, time
    import lastly
    from lastly._reaper import client
    lastly.install(grace=60)
    lastly.temp_dir()
    while client.ask("status") is None:
        time.sleep(0.01)
    os.closerange(3, 100)
    files = [open(os.devnull) for _ in range(20)]
    print(lastly.temp_dir(), flush=True)
    time.sleep(1000)
    """
    program, made = owner(programs, code)
    wait_until(lambda: watched(home)["deadlines"] == 0, what="the end of the pipe")
    program.send(signal.SIGKILL)
    wait_until(lambda: gone(made))
    archived(home)
    assert " refused " not in log(home) and " error " not in log(home)


def test_two_threads_notice_at_once_that_the_reaper_has_gone(programs):
    """The other one forgets the connection while this one still reads from it."""
    code = """
        import lastly
        from lastly._reaper import client
        lastly.defer(lastly.actions.remove, "a")

        class Connection:
            def ours(self): return True
            def close(self): pass
            def recv(self, size):
                client._line.socket, first = None, client._line.socket
                return b"acknowledged" if first else b""

        client._line.socket = Connection()
        lastly.defer(lastly.actions.remove, "b")
        print("deferred")
    """
    result = programs.run(code)
    assert (result.out, result.status, result.err) == ("deferred\n", 0, "")
