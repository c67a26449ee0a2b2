"""`lastly run --supervise`, and PID 1: nothing outlives the program, and it notices no supervisor."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import struct
import sys
import termios
import time
from pathlib import Path

import pytest
from harness import (
    PATIENCE,
    Programs,
    clean_environment,
    command_of,
    gone,
    process_gone,
    wait_process_gone,
    wait_until,
)

from lastly._system.cgroup import own_group

RUN = ["lastly", "run", "--supervise", "--grace", "2"]
QUICK = ["lastly", "run", "--supervise", "--grace", "0.2"]
LASTLY = [sys.executable, "-m", "lastly", "run", "--supervise"]


@pytest.mark.parametrize("end", ["exit 0", "kill -9 $$"])
def test_no_working_directory_is_kept(programs: Programs, tmp_path: Path, end: str) -> None:
    """The program has the one it was started in; the supervisor stands elsewhere, so that it can be unmounted."""
    program = programs.start_command([*RUN, "sh", "-c", f"pwd; read x; cd /; echo there; read x; {end}"], stdin=-1, cwd=tmp_path)
    assert program.line() == str(tmp_path)
    wait_until(lambda: os.readlink(f"/proc/{program.pid}/cwd") == "/", what="the supervisor is elsewhere")
    program.write("\n")
    program.line("there")
    held = [pid for pid in os.listdir("/proc") if pid.isdecimal() and _cwd(pid) == str(tmp_path)]
    assert held == []
    program.write("\n")
    assert program.wait().status == (0 if end == "exit 0" else -9)


def _cwd(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_status(programs: Programs, code: int) -> None:
    assert programs.run_command([*RUN, "sh", "-c", f"exit {code}"]).status == code


@pytest.mark.parametrize("signum", [1, 2, 3, 6, 9, 10, 11, 13, 15, 24])
@pytest.mark.slow(keep=4)
def test_dies_of_the_same_signal(programs: Programs, signum: int) -> None:
    assert programs.run_command([*RUN, "sh", "-c", f"kill -{signum} $$"]).status == -signum


def test_sigchld_is_ignored(programs: Programs) -> None:
    """By whoever starts it: the end of the program is seen all the same, and it inherits what it would have."""
    ignore = {"popen": {"preexec_fn": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)}}
    line = "grep SigIgn /proc/self/status; exit 3"
    got = programs.run_command([*RUN, "sh", "-c", line], **ignore)
    assert (got.status, got.out) == (3, programs.run_command(["sh", "-c", line], **ignore).out)


@pytest.mark.parametrize("signum", [1, 2, 3, 10, 12, 15, 17 + 11, signal.SIGRTMIN + 1])
@pytest.mark.slow(keep=3)
def test_signals_are_passed_on(programs: Programs, signum: int) -> None:
    """Each arrives once, at the program alone."""
    code = (
        "import signal, os, time\n"
        f"got = []; signal.signal({signum}, lambda *a: got.append(a[0]))\n"
        "print('ready', flush=True)\n"
        "while not got: signal.pause()\n"
        "time.sleep(0.05); print(*map(int, got), flush=True)\n"
    )
    program = programs.start_command([*RUN, "-c", code])
    program.line("ready")
    program.send(signum)
    got = program.wait()
    assert (got.status, got.lines[-1]) == (0, str(int(signum)))


def test_cannot_start(programs: Programs, tmp_path: Path) -> None:
    assert programs.run_command([*RUN, "no-such-program"]).status == 127
    (tmp_path / "bad").write_text("#!/no/such/interpreter\n")
    (tmp_path / "bad").chmod(0o755)
    got = programs.run_command([*RUN, str(tmp_path / "bad")])
    assert (got.status, "cannot run" in got.err) == (127, True)


@pytest.mark.parametrize("end", ["exit 0", "exit 3", "kill -9 $$"])
@pytest.mark.parametrize(
    "start",
    [
        "sleep 600 &",
        "setsid sleep 600 &",
        "(setsid sh -c 'sleep 600 & wait' &);",
        "env -i setsid sleep 600 &",
        "setsid nohup env -i sleep 600 >/dev/null 2>&1 &",
    ],
)
@pytest.mark.slow(keep=3)
def test_nothing_outlives_the_program(programs: Programs, start: str, end: str) -> None:
    """Daemons without a token in their environment as well, after any end."""
    mark = f"600.{os.urandom(4).hex().translate(str.maketrans('abcdef', '123456'))}"
    start = start.replace("600", mark)
    program = programs.start_command([*RUN, "sh", "-c", f"{start} read x; {end}"], stdin=-1)
    (pid,) = wait_until(lambda: [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc")))
                                 if command_of(pid) == f"sleep {mark}"])  # fmt: skip
    program.write("\n")
    program.wait()
    assert process_gone(pid)


def test_term_then_kill(programs: Programs, tmp_path: Path) -> None:
    """What handles TERM has its grace; what ignores it gets KILL."""
    polite = f"trap 'echo bye > {tmp_path}/bye; exit' TERM; echo child $$; while :; do sleep 0.02; done"
    rude = "trap '' TERM; echo child $$; while :; do sleep 600; done"
    program = programs.start_command(
        [*QUICK, "sh", "-c", 'setsid sh -c "$1" & setsid sh -c "$2" & read x', "sh", polite, rude], stdin=-1
    )
    children = [int(program.line("child").split()[1]) for _ in range(2)]
    program.write("\n")
    assert program.wait().status == 0
    assert [process_gone(pid) for pid in children] == [True, True]
    assert (tmp_path / "bye").read_text() == "bye\n"


def test_a_second_term_ends_the_grace(programs: Programs) -> None:
    rude = "trap '' TERM; echo child $$; while :; do sleep 600; done"
    program = programs.start_command(
        ["lastly", "run", "--supervise", "--grace", "600", "sh", "-c", 'echo main $$; setsid sh -c "$1" & read x', "sh", rude],
        stdin=-1,
    )
    main, child = (int(program.line(word).split()[1]) for word in ("main", "child"))
    program.write("\n")
    wait_until(lambda: not Path(f"/proc/{main}").exists(), what="the program has ended and been reaped")
    program.send(signal.SIGTERM)
    assert program.wait().status == 0
    assert process_gone(child)


def test_zombies_are_reaped(programs: Programs) -> None:
    """Orphans that end while the program runs leave no zombie."""
    program = programs.start_command(
        [*RUN, "sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.01 &) ; done; sleep 0.1; echo ready; read x"], stdin=-1
    )
    program.line("ready")
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    # The program, and the reaper: started from here, it is nobody's child.
    wait_until(lambda: len(children.read_text().split()) <= 2, what="only these are left")
    program.write("\n")
    assert program.wait().status == 0


def test_supervisor_killed(programs: Programs) -> None:
    """SIGKILL for the supervisor: the reaper ends what it looked after, and removes its control group."""
    say = "setsid sleep 600 & echo child $!; echo main $$; grep 0:: /proc/self/cgroup; read x"
    program = programs.start_command([*RUN, "sh", "-c", say], stdin=-1)
    pids = [int(program.line(word).split()[1]) for word in ("child", "main")]
    group = f"{own_group()}/{program.line('0::').rpartition('/')[2]}"
    program.send(signal.SIGKILL)
    program.wait()
    for pid in pids:
        wait_process_gone(pid)
    wait_until(lambda: not list(programs.home.glob("owners/*/*.j")), what="nothing owed")
    assert not os.path.exists(group) or "lastly-" not in group


def test_the_reaper_survives(programs: Programs) -> None:
    """A reaper that was started from below is no child of the program's: it goes on, and removes."""
    code = "import tempfile, os; print(tempfile.mkdtemp(), flush=True); os.kill(os.getpid(), 9)"
    program = programs.start_command([*QUICK, "-c", code])
    folder = program.line("tmp")
    assert program.wait().status == -9
    wait_until(lambda: gone(folder))
    wait_until(lambda: not list(programs.home.glob("owners/*/*.j")))


def test_python_under_supervision_is_watched(programs: Programs) -> None:
    """The injected half works below a supervisor as without: kept on a normal end."""
    got = programs.run_command([*RUN, "-c", "import tempfile; print(tempfile.mkdtemp())"])
    assert (got.status, gone(got.out.strip())) == (0, False)
    assert list(programs.home.glob("owners/*/*.j")) == []


def test_cgroup(programs: Programs) -> None:
    """Where a control group can be made the program is in it, and it is gone afterwards."""
    group = own_group()
    if not group or not os.access(f"{group}/cgroup.procs", os.W_OK):
        pytest.skip("no control group to write to")
    got = programs.run_command([*RUN, "grep", "0::", "/proc/self/cgroup"])
    name = got.out.strip().rpartition("/")[2]
    assert name.startswith("lastly-")
    assert not os.path.exists(f"{group}/{name}")


@pytest.mark.root
@pytest.mark.parametrize("how", ["exit", "signal", "orphans"])
def test_pid_one(programs: Programs, tmp_path: Path, how: str) -> None:
    """As PID 1 it supervises by itself: status 128 + N, zombies, TERM from outside, nothing left."""
    if os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    what = {
        "exit": "exit 7",
        "signal": "kill -9 $$",
        "orphans": f"(setsid sh -c 'trap \"echo bye > {tmp_path}/bye; exit\" TERM; while :; do sleep 0.02; done' &); sleep 0.2; exit 4",
    }[how]
    program = programs.start_command(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-m", "lastly", "run",
         "--grace", "2", "--", "sh", "-c", f"echo pid $$; {what}"],
    )  # fmt: skip
    got = program.wait()
    assert got.status == {"exit": 7, "signal": 137, "orphans": 4}[how], got.err
    assert got.lines[0] != "pid 1"
    if how == "orphans":
        assert (tmp_path / "bye").read_text() == "bye\n"


@pytest.mark.root
def test_pid_one_gets_term(programs: Programs) -> None:
    """`docker stop`: TERM for PID 1 reaches the program, a Python that ends in order."""
    if os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    code = "import atexit, signal; atexit.register(print, 'goodbye'); print('ready', flush=True); signal.pause()"
    program = programs.start_command(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "lastly", "run", "--", sys.executable, "-c", code]
    )
    program.line("ready")
    one = int(Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()[0])
    os.kill(one, signal.SIGTERM)
    got = program.wait()
    assert (got.status, got.lines) == (143, ["ready", "goodbye"])


# ---- a terminal


class Terminal:
    """A shell with job control on a terminal of its own."""

    def __init__(self, home: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            env = clean_environment(home, PS1="$ ", TERM="dumb", ENV=None, BASH_SILENCE_DEPRECATION_WARNING="1")
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], env)
        self.seen = b""

    def until(self, text: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while text.encode() not in self.seen:
            assert select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0], self.seen
            self.seen += os.read(self.fd, 4096)
        found, _, self.seen = self.seen.partition(text.encode())
        return found.decode()

    def say(self, line: str) -> None:
        """Type a command, and wait for its echo."""
        self.type(line)
        self.until("\n")

    def type(self, line: str) -> None:
        """Type a line for a program. Until the shell has handed the terminal over nothing echoes it."""
        os.write(self.fd, line.encode() + b"\n")

    def end(self) -> None:
        os.close(self.fd)
        os.kill(self.pid, signal.SIGHUP)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(home: Path):
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    made = Terminal(home)
    made.until("$ ")
    yield made
    made.end()


def command(code: str) -> str:
    return " ".join([*LASTLY, "--", sys.executable, "-uc", f'"{code}"'])


def test_terminal_input_and_ctrl_c(terminal: Terminal) -> None:
    """The program has the terminal: it reads from it, and Ctrl-C reaches it once; then the shell has it back."""
    terminal.say(command("import time; print(input()[::-1]); exec('while True: time.sleep(0.1)')"))
    terminal.type("stressed")
    terminal.until("desserts")
    os.write(terminal.fd, b"\x03")
    terminal.until("KeyboardInterrupt")
    terminal.until("$ ")
    terminal.say("echo status $?")
    terminal.until("status 130")


def test_stop_and_continue(terminal: Terminal) -> None:
    """Ctrl-Z stops program and supervisor, so the shell has its prompt; `fg` gives the terminal back."""
    terminal.say(command("import time; print('go'); time.sleep(0.2); print('typed', input())"))
    terminal.until("go")
    os.write(terminal.fd, b"\x1a")
    terminal.until("Stopped")
    terminal.until("$ ")
    terminal.say("fg")
    terminal.type("text")
    terminal.until("typed text")
    terminal.until("$ ")


def test_terminal_after_a_program_that_is_not_there(terminal: Terminal) -> None:
    """A shell without job control goes on reading from it."""
    line = " ".join([*LASTLY, "no-such-program-here"])
    terminal.say(f"sh -c '{line}; read x; echo got $x'")
    terminal.until("No such file")
    terminal.until("\n")
    terminal.type("text")
    terminal.until("got text")


def test_background(terminal: Terminal) -> None:
    """After `bg` the terminal stays the shell's, also when the program ends."""
    terminal.say(command("import signal; print('go'); signal.pause()"))
    terminal.until("go")
    os.write(terminal.fd, b"\x1a")
    terminal.until("Stopped")
    terminal.until("$ ")
    terminal.say("bg")
    terminal.until("$ ")
    for line in ("echo it is $((40 + 2))", "kill %1; wait; echo it is $((40 + 3))"):
        terminal.say(line)
        terminal.until("it is 4")
        terminal.until("$ ")
    terminal.say("cat")
    terminal.type("read")
    terminal.until("read")


def test_from_the_background_to_the_foreground(terminal: Terminal, tmp_path: Path) -> None:
    """`fg` of a job that was never stopped: the shell tells nobody, and its input is the program's."""
    go = tmp_path / "go"
    wait = f"all(True for _ in iter(lambda: os.path.exists('{go}'), True))"
    terminal.say(command(f"import os; print('here'); {wait}; print('typed', input())") + " &")
    terminal.until("here")
    terminal.say("fg")
    wait_until(lambda: os.tcgetpgrp(terminal.fd) != terminal.pid)
    go.touch()
    terminal.type("text")
    terminal.until("typed text")
    terminal.until("$ ")
    terminal.say("echo it is $((40 + 2))")
    terminal.until("it is 42")


RAW = "import os, tty; tty.setraw(0); print('raw'); input(); {end}"


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(3)", "1/0"])
def test_the_terminal_is_given_back_after_a_crash(terminal: Terminal, end: str) -> None:
    """A program has set it raw and has died: its modes are those of before. (The line is ended by hand: no \\r is \\n.)"""
    before = termios.tcgetattr(terminal.fd)
    # A shell of its own around it, without job control and so without any care for the terminal.
    terminal.say("sh -c '" + command(RAW.format(end=end)).replace("'", "'\\''") + "; stty -a; echo so it is'")
    terminal.until("raw")
    assert not termios.tcgetattr(terminal.fd)[3] & termios.ECHO
    os.write(terminal.fd, b"\n")
    seen = terminal.until("so it is")
    assert " echo " in seen
    assert " icanon " in seen
    terminal.until("$ ")
    assert before[6] == termios.tcgetattr(terminal.fd)[6]


def test_the_terminal_of_a_program_that_ends_well_is_as_it_wants(terminal: Terminal) -> None:
    """`stty` changes it on purpose."""
    terminal.say(" ".join(["sh -c '", *LASTLY, "-- stty -iexten; stty -a; echo so it is'"]))
    assert " -iexten" in terminal.until("so it is")
    terminal.until("$ ")


def test_stopped_and_killed_in_the_background_it_leaves_the_terminal_alone(terminal: Terminal) -> None:
    """The terminal is the shell's by then, with whatever modes that has set."""
    terminal.say(command("import tty, signal; print('go'); signal.pause()"))
    terminal.until("go")
    os.write(terminal.fd, b"\x1a")
    terminal.until("Stopped")
    terminal.until("$ ")
    terminal.say("stty -iexten; kill -9 %1; fg; wait; stty -a; echo so it is")
    assert " -iexten" in terminal.until("so it is")
    terminal.until("$ ")


def test_resize(terminal: Terminal) -> None:
    """A new size of the terminal is told to the program."""
    import fcntl

    terminal.say(command(
        "import signal, os; signal.signal(signal.SIGWINCH, lambda *a: None); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH]);"
        " print('go'); signal.sigwait([signal.SIGWINCH]); print(os.get_terminal_size())"
    ))  # fmt: skip
    terminal.until("go")
    fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    terminal.until("columns=77, lines=33")
    terminal.until("$ ")




def test_a_home_that_fails_in_the_end_changes_no_status(programs: Programs) -> None:
    code = """
    import sys
    from lastly._journal import disk
    from lastly._run.launch import main
    def fail(_path):
        raise OSError(30, "Read-only file system")
    disk.remove = fail
    sys.exit(main(["--supervise", "sh", "-c", "exit 3"]))
    """
    result = programs.run(code)
    assert (result.status, result.err) == (3, "")
