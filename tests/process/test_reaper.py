"""The reaper: whatever kills the program, or the reaper, or both, what is owed is done; once it is, nothing is left."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from harness import SRC, gone, process_gone, reaper_of, wait_process_gone, wait_until

from lastly.journal import home as homes
from lastly.reaper import api, client, election, protocol
from lastly.reaper.sweep import sweep

OWNER = """
import os, sys, time
import lastly
made = lastly.temp_dir()
for i in range(10):
    open(os.path.join(made, str(i)), "w").close()
print(made, flush=True)
time.sleep(1000)
"""


def owner(programs, code=OWNER, **options):
    """Start an owner; returns it and the folder it owes."""
    program = programs.start(code, **options)
    return program, program.line()


def ready(home):
    """Wait until a reaper serves this home; returns its pid."""
    return wait_until(lambda: (api.status() or {}).get("pid"), what="a reaper")


def watched(home, number=1):
    """Wait until the reaper watches so many owners."""
    return wait_until(
        lambda: (status := api.status()) and status["owners"].get("watched", 0) >= number and status, what="owners"
    )


def touch(path):
    with open(path, "w"):
        pass


def archived(home):
    """Wait until no journal is left."""
    wait_until(lambda: not homes.journals(), what=f"all settled: {[api.owners(), log(home)]}")


def log(home):
    try:
        return (home / "reaper.log").read_text()
    except FileNotFoundError:
        return ""


@pytest.fixture
def quick(home, monkeypatch):
    """A reaper that exits after a moment without owners."""
    monkeypatch.setenv("LASTLY_REAPER_IDLE", "0.2")
    return home


# ---- the main thing


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT])
def test_what_a_dead_program_owes_is_done(programs, home, signum):
    program, made = owner(programs)
    watched(home)
    program.send(signum)
    assert program.wait().status == -signum
    wait_until(lambda: gone(made))
    archived(home)
    [row] = api.past()
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
    [row] = api.past()
    assert row["died"] in {"killed by SIGKILL", ""}  # empty: this kernel does not tell, or nobody had waited yet
    assert row["ended"] is not None
    about = api.why(row["ref"])
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
    code = OWNER.replace("time.sleep(1000)", 'os.execv("/bin/sh", ["sh", "-c", "echo replaced; exec sleep 1000"])')
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
    code = OWNER.replace("time.sleep(1000)", "child = os.fork()\nif child: print(child, flush=True)\ntime.sleep(1000)")
    program, made = owner(programs, code)
    child = int(program.line())
    watched(home)
    program.send(signal.SIGKILL)
    wait_until(lambda: gone(made), within=5)
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
    wait_until(lambda: gone(made))
    assert os.path.isdir(theirs)
    other.send(signal.SIGKILL)
    wait_until(lambda: gone(theirs))


def test_or_a_sweep(programs, home):
    program, made = owner(programs)
    os.kill(ready(home), signal.SIGKILL)
    program.send(signal.SIGKILL)
    program.wait()
    due = sweep(dry_run=True)
    assert [(outcome.state, outcome.ran[0]["action"]) for outcome in due] == [("due", "lastly.actions:remove")]
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
    assert {row["state"] for row in api.past()} == {"done"}


def proc(pid, name):
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read().decode(errors="replace")


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


SLOW = """
import lastly
@lastly.action(backoff=0.01)
def slow(path):
    open(path + ".began", "w").close()
    while not os.path.exists(path + ".go"):
        time.sleep(0.005)
if __name__ == "__main__":
    real = lastly.temp_dir
    def temp_dir():
        path = real()
        lastly.defer(slow, os.fspath(path))
        return path
    lastly.temp_dir = temp_dir
"""


# ---- one reaper, and nobody falls between


def test_two_elected_at_once(programs, home):
    """I6: many started at the same moment, one stays."""
    homes.runtime_dir()
    env = {**os.environ, "LASTLY_REAPER_IDLE": "5"}
    code = f"import sys; sys.path.insert(0, {str(SRC)!r}); from lastly.reaper import client; client.start()"
    starters = [subprocess.Popen([sys.executable, "-c", code], env=env) for _ in range(8)]
    assert [starter.wait() for starter in starters] == [0] * 8
    reaper = ready(home)
    wait_until(lambda: reapers(home) == {reaper})
    assert log(home).count(" start ") == 1


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
    from lastly.reaper import client
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
    assert log(home).count(" exit ") >= 1


def test_the_election_is_held_by_life(home):
    homes.runtime_dir()
    first = election.elect(str(home))
    assert first is not None
    code = f"import sys; sys.path.insert(0, {str(SRC)!r}); from lastly.reaper import election; print(election.elect({str(home)!r}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "None\n"
    assert election.still(first, str(home))
    os.unlink(home / "reaper.run")
    assert not election.still(first, str(home))
    os.close(first)


# ---- who does not play by the rules


def connect(home):
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.settimeout(10)
    made.connect(str(home / "reaper.sock"))
    return made


def test_garbage_floods_and_a_thousand_connections(programs, home):
    """Neither crashes it nor delays a cleanup by more than 100 ms."""
    program, made = owner(programs)
    reaper = ready(home)
    watched(home)
    silent = [connect(home) for _ in range(1000)]
    flood = subprocess.Popen(
        [sys.executable, "-c", FLOOD, str(home / "reaper.sock")], stdout=subprocess.PIPE, text=True
    )
    flood.stdout.readline()
    began = time.perf_counter()
    program.send(signal.SIGKILL)
    wait_until(lambda: gone(made))
    took = time.perf_counter() - began
    flood.kill()
    flood.wait()
    flood.stdout.close()
    for sock in silent:
        sock.close()
    assert (api.status() or {})["pid"] == reaper
    assert took < 0.25, took  # 100 ms of delay, on a machine whose cores the flood and the test share


FLOOD = """
import os, socket, sys
print("flooding", flush=True)
while True:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        sock.connect(sys.argv[1])
        for _ in range(50):
            sock.send(os.urandom(200))
    except OSError:
        pass
    sock.close()
"""


@pytest.mark.parametrize("name", ["reaper.sock", "reaper.run", "reaper.lock"])
def test_a_folder_in_the_way_is_put_aside(programs, home, name):
    (home / name).mkdir(parents=True)
    (home / name / "something").write_text("kept")
    os.chmod(home, 0o700)
    program, made = owner(programs)
    watched(home)
    program.send(signal.SIGKILL)
    wait_until(lambda: gone(made))
    assert len(list(home.glob(f"{name}.*.aside/something"))) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"x", b"[]", b"null", b"{}", b"[" * 4000, b'{"op": 1}', b'{"op": "own"}', b"\xff" * 100, b"x" * 8193, b"1" * 5000,
        b'{"op": "own", "journal": "../../etc/passwd.j"}', b'{"op": "own", "journal": "a/../x.j"}',
        b'{"op": "own", "journal": "\\u0000/x.j"}', b'{"op": "own", "journal": "nobody/1.2.3.j"}',
        b'{"op": "deadline", "signals": [15], "grace": 1}', b'{"op": "own", "journal": {"a": []}}',
    ],
)  # fmt: skip
def test_what_is_no_message_ends_the_connection(programs, home, raw):
    owner(programs)
    reaper = ready(home)
    sock = connect(home)
    sock.send(raw)
    while answer := sock.recv(65536):
        assert b'"no"' in answer
    sock.close()
    assert (api.status() or {})["pid"] == reaper


def test_a_hung_reaper_delays_nobody(programs, home):
    """I10: stopped, with a full queue; owners go on, and end, at their usual pace."""
    first, _ = owner(programs)
    reaper = ready(home)
    watched(home)
    os.kill(reaper, signal.SIGSTOP)
    try:
        code = """
        import lastly, time
        began = time.monotonic()
        made = [lastly.temp_dir() for _ in range(20)]
        for one in made:
            one.close()
        print(time.monotonic() - began)
        """
        for _ in range(3):
            assert float(programs.run(code).lines[0]) < 0.5
    finally:
        os.kill(reaper, signal.SIGCONT)


def test_switched_off(programs, home):
    code = "import lastly\nwith lastly.temp_dir() as made: print(made)\n"
    result = programs.run(code, env={"LASTLY_REAPER": "0"})
    assert result.status == 0
    assert result.err.count("LASTLY_REAPER=0") == 1
    assert not (home / "reaper.run").exists()


def test_a_home_with_a_long_name(programs, home, monkeypatch, tmp_path):
    """A socket's address has 107 bytes; a home may have more."""
    long = home / ("x" * 100) / ("y" * 100)
    long.mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("LASTLY_HOME", str(long))
    program, made = owner(programs, env={"LASTLY_HOME": str(long)})
    ready(long)
    watched(long)
    program.send(signal.SIGKILL)
    wait_until(lambda: gone(made))


def test_the_home_is_emptied_under_a_running_reaper(programs, home):
    """Another one takes over; there are never two for long."""
    program, made = owner(programs)
    first = ready(home)
    for name in ("reaper.sock", "reaper.run", "reaper.lock"):
        os.unlink(home / name)
    other, theirs = owner(programs)
    second = ready(home)
    assert second != first
    other.send(signal.SIGKILL)
    program.send(signal.SIGKILL)
    wait_until(lambda: gone(made) and gone(theirs))


# ---- deadlines kept from outside


def test_a_signal_that_is_not_answered_in_time(programs, home):
    """The main thread sits in C with the GIL held; the reaper reads the wake-up descriptor and keeps the deadline."""
    code = """
    import lastly, os, signal, time
    from lastly.reaper import client
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGTERM, lambda *_: None)
    made = lastly.temp_dir()
    print(client.deadline(reading, (15,), 0.3), flush=True)
    while not client._line.socket:
        time.sleep(0.01)
        lastly.temp_dir()
    print(made, flush=True)
    sum(range(10**13))
    """
    program = programs.start(code)
    program.line()
    made = program.line()
    watched(home)
    wait_until(lambda: (api.status() or {}).get("deadlines") == 1)
    began = time.monotonic()
    program.send(signal.SIGTERM)
    assert program.wait(within=10).status == -signal.SIGKILL
    assert 0.25 < time.monotonic() - began < 3
    wait_until(lambda: gone(made))
    assert " killed " in log(home)


def test_a_signal_that_is_answered(programs, home):
    code = """
    import lastly, os, signal, time
    from lastly.reaper import client
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    def answer(*_):
        client.calm()
        os.write(1, b"answered\\n")
    signal.signal(signal.SIGTERM, answer)
    lastly.temp_dir()
    client.deadline(reading, (15,), 0.2)
    while not client._line.socket:
        time.sleep(0.01)
        lastly.temp_dir()
    print("ready", flush=True)
    while True:
        time.sleep(0.6)
        print("alive", flush=True)
    """
    program = programs.start(code)
    program.line("ready")
    wait_until(lambda: (api.status() or {}).get("deadlines") == 1)
    program.send(signal.SIGTERM)
    program.line("answered")
    program.line("alive")
    program.line("alive")


# ---- many


def test_a_thousand_owners_in_sixteen_megabytes(programs, home):
    """I11, and all of them dead at once. Owners are forked from one program: each has its own journal."""
    code = """
    import lastly, os, sys, signal
    import lastly._remove, lastly._statx, lastly.reaper.client, lastly.resources, lastly.journal.own, tempfile
    pids = []
    for _ in range(1000):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            made = lastly.temp_dir()
            os.write(writing, b"x")
            signal.pause()
            os._exit(0)
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        pids.append(child)
    print("ready", flush=True)
    sys.stdin.readline()
    for pid in pids:
        os.kill(pid, 9)
    print("killed", flush=True)
    for pid in pids:
        os.waitpid(pid, 0)
    """
    program = programs.start(code, stdin=subprocess.PIPE)
    program.line("ready", within=60)
    reaper = watched(home, 1000)["pid"]
    resident = int(proc(reaper, "status").split("VmRSS:")[1].split()[0]) / 1024
    print(f"{resident:.1f} MB resident with 1,000 owners")
    assert resident <= 16
    assert len(os.listdir(program.tmp)) == 1000
    program.write("\n")
    program.line("killed")
    began = time.monotonic()
    wait_until(lambda: not os.listdir(program.tmp))
    print(f"clean after {time.monotonic() - began:.2f} s")
    archived(home)
    assert len(api.past(limit=5000)) == 1000
    resident = int(proc(reaper, "status").split("VmRSS:")[1].split()[0]) / 1024
    assert resident <= 18


def test_a_hanging_cleanup_of_one_owner_delays_no_other(programs, home):
    hung, path = owner(programs, OWNER.replace("import lastly\n", SLOW))
    others = [owner(programs) for _ in range(3)]
    watched(home, 4)
    hung.send(signal.SIGKILL)
    wait_until(lambda: os.path.exists(f"{path}.began"))
    for program, made in others:
        began = time.monotonic()
        program.send(signal.SIGKILL)
        wait_until(lambda made=made: gone(made))
        assert time.monotonic() - began < 1.0
    touch(f"{path}.go")
    wait_until(lambda: gone(path))


def test_the_log_is_rotated(tmp_path):
    from lastly.reaper.log import Log

    log = Log(str(tmp_path), room=1000)
    for i in range(100):
        log("own", journal=f"a name\nwith a line {i}")
    assert (tmp_path / "reaper.log").stat().st_size < 1200
    assert (tmp_path / "reaper.log.1").exists()
    stamp, pid, event, rest = (tmp_path / "reaper.log").read_text().splitlines()[-1].split(" ", 3)
    assert (int(pid), event) == (os.getpid(), "own")
    key, _, value = rest.partition("=")
    assert (key, json.loads(value)) == ("journal", "a name\nwith a line 99")


def test_messages_are_read_whole_or_not_at_all():
    assert protocol.decode(protocol.encode("own", journal="a\nb")) == {"v": 1, "op": "own", "journal": "a\nb"}
