"""`lastly run` ends with its program: what that left alone on purpose is free; a daemon goes on being the program."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from harness import Programs, gone, process_gone, wait_process_gone, wait_until

RUN = ["lastly", "run", "--grace", "2"]
QUIET = "quiet = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.DEVNULL)"
SERVICE = """
import os, sys, tempfile, time
def tell(name, *words):
    with open(f"{name}.new", "w") as out: out.write(" ".join(map(str, words)))
    os.rename(f"{name}.new", name)
before = tempfile.mkdtemp()
tell("up", os.getpid(), before)
while not os.path.exists("over"): time.sleep(0.01)
if sys.argv[1] == "later": tell("made", tempfile.mkstemp()[1])
else: tell("made", before)
time.sleep(600)
"""
# Each leaves service.py running, in a session of its own, and ends well when it is up.
LEAVE = {
    "python": "import subprocess, sys, time, os\n" + QUIET + """
subprocess.Popen([sys.executable, "service.py", sys.argv[1]], start_new_session=True, **quiet)
while not os.path.exists("up"): time.sleep(0.01)
""",
    "fork": """
import os, runpy, sys, time
if os.fork() == 0:
    null = os.open(os.devnull, os.O_RDWR); [os.dup2(null, fd) for fd in range(3)]
    runpy.run_path("service.py", run_name="__main__")
while not os.path.exists("up"): time.sleep(0.01)
""",
    "shell": 'setsid "$0" service.py "$1" >/dev/null 2>&1 </dev/null & while ! [ -e up ]; do sleep 0.02; done',
}  # fmt: skip


def owed(home: Path) -> list[Path]:
    return sorted(home.glob("owners/*/*.j"))


def read(path: Path) -> list[str]:
    wait_until(path.exists, what=f"{path.name} is there")
    return path.read_text().split()


@pytest.mark.parametrize(
    ("how", "when", "signum"),
    # Below a shell, killed before it does anything more, a service cannot know that the shell has ended: docs say so.
    [(how, when, signum) for how in LEAVE for when in ("before", "later") for signum in (signal.SIGTERM, signal.SIGKILL)
     if (how, when, signum) != ("shell", "before", signal.SIGKILL)],
)  # fmt: skip
@pytest.mark.slow(keep=2)
def test_a_service_that_was_left_keeps_its_files(
    programs: Programs, tmp_path: Path, how: str, when: str, signum: int
) -> None:
    """What it makes later, and what it had made before: after the run's normal end it is a plain program."""
    (tmp_path / "service.py").write_text(SERVICE)
    command = ["sh", "-c", LEAVE[how], sys.executable, when] if how == "shell" else ["-c", LEAVE[how], when]
    assert programs.run_command([*RUN, *command], cwd=tmp_path).status == 0
    pid, before = read(tmp_path / "up")
    (tmp_path / "over").touch()
    (made,) = read(tmp_path / "made")
    os.kill(int(pid), signum)
    wait_process_gone(int(pid))
    wait_until(lambda: owed(programs.home) == [], what="nothing owed")
    assert not gone(made)
    assert not gone(before)


def test_what_is_started_later_is_free(programs: Programs, tmp_path: Path) -> None:
    """A shell that a run has left (in a tmux, say): what is typed there is no program of the run, nor are its children."""
    look = "import os, signal, subprocess, sys; print(int(signal.getsignal(15)), 'lastly' in sys.modules)"
    child = f"{look}\nsys.stdout.flush()\nsubprocess.run([sys.executable, '-c', {look!r}])\n"
    (tmp_path / "child.py").write_text(child)
    (tmp_path / "later.sh").write_text(
        f"while ! [ -e go ]; do sleep 0.02; done; {sys.executable} child.py > seen.new; mv seen.new seen\n"
    )
    code = "import subprocess\n" + QUIET + "\nsubprocess.Popen(['sh', 'later.sh'], start_new_session=True, **quiet)"
    assert programs.run_command([*RUN, "-c", code], cwd=tmp_path).status == 0
    (tmp_path / "go").touch()
    wait_until((tmp_path / "seen").exists, what="the later program has looked")
    first, second = (tmp_path / "seen").read_text().splitlines()
    # The first one lastly has looked into, to find that it is none of its business.
    assert first == "0 True"
    assert second == "0 False"


def test_a_crash_still_takes_the_service_along(programs: Programs, tmp_path: Path) -> None:
    """Not left on purpose: it is ended, and its files go."""
    (tmp_path / "service.py").write_text(SERVICE)
    code = LEAVE["python"] + "os.kill(os.getpid(), 9)"
    assert programs.run_command([*RUN, "-c", code, "later"], cwd=tmp_path).status == -9
    pid, before = read(tmp_path / "up")
    wait_process_gone(int(pid))
    wait_until(lambda: gone(before), what="its folder goes")


def test_made_while_the_program_is_just_ending(programs: Programs, tmp_path: Path) -> None:
    """Between the last look of the program that ends well and its death a worker makes a file, to keep."""
    (tmp_path / "service.py").write_text(SERVICE)
    code = LEAVE["python"] + """
class Last:
    def __del__(self, os=os):  # after all exit functions
        os.write(1, b"ending\\n"); os.read(0, 1)
last = Last()
"""
    program = programs.start_command([*RUN, "-c", code, "later"], cwd=tmp_path, stdin=-1)
    program.line("ending")
    (tmp_path / "over").touch()
    (made,) = read(tmp_path / "made")
    program.write("x")
    assert program.wait().status == 0
    pid, before = read(tmp_path / "up")
    os.kill(int(pid), signal.SIGKILL)
    wait_process_gone(int(pid))
    wait_until(lambda: owed(programs.home) == [], what="nothing owed")
    assert not gone(made)
    assert not gone(before)


# ---- daemons

DAEMON = """
import atexit, os, subprocess, sys, tempfile, time
before = tempfile.mkdtemp()
atexit.register(lambda: os.getpid() == daemon and open("atexit", "w").close())
{become}
daemon = os.getpid()
child = subprocess.Popen(["sleep", "600"])
time.sleep(0.01)
with open("told.new", "w") as out: out.write(f"{{os.getpid()}} {{child.pid}} {{before}}")
os.rename("told.new", "told")
while not os.path.exists("end"):
    {loop}
    time.sleep(0.01)
"""
WRITES = "n = globals().get('n', 0) + 1; open('alive.new', 'w').write(str(n)); os.rename('alive.new', 'alive')"
BECOME = {
    "two forks": "if os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)",
    "two forks and sys.exit": "if os.fork(): sys.exit(0)\nos.setsid()\nif os.fork(): sys.exit(0)",
    "one fork": "if os.fork(): os._exit(0)\nos.setsid()",
    "one fork, waiting for the first": "if (pid := os.fork()): os.waitpid(pid, 0); os._exit(0)\n"
    "os.setsid()\nif os.fork(): os._exit(0)",
    "python-daemon": "import daemon\n"
    "context = daemon.DaemonContext(detach_process=True, working_directory=os.getcwd()); context.open()",
}


def daemon(programs: Programs, tmp_path: Path, how: str, loop: str = WRITES) -> tuple[int, int, str]:
    if how == "python-daemon":
        pytest.importorskip("daemon")
    program = programs.start_command([*RUN, "-c", DAEMON.format(become=BECOME[how], loop=loop)], cwd=tmp_path)
    assert program.wait().status == 0
    pid, child, before = read(tmp_path / "told")
    wait_until(lambda: not _has_its_parent(int(pid)), what="its parent has ended")
    return int(pid), int(child), before


def _has_its_parent(pid: int) -> bool:
    """The first child of two forks leads the session of the second; whoever adopts that is in another one."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    try:
        return os.getsid(parent) == os.getsid(pid)
    except ProcessLookupError:
        return True


@pytest.mark.parametrize(
    ("how", "signum"),
    # python-daemon has a handler of its own for SIGTERM: that is an end of the program's choice.
    [(how, signum) for how in BECOME for signum in (signal.SIGKILL, signal.SIGTERM)
     if (how, signum) != ("python-daemon", signal.SIGTERM)],
)  # fmt: skip
@pytest.mark.slow(keep=2)
def test_a_daemon_is_the_program(programs: Programs, tmp_path: Path, how: str, signum: int) -> None:
    """Killed, its child goes, and the folder of the time before it was a daemon; told to end, its exit functions run."""
    pid, child, before = daemon(programs, tmp_path, how)
    count = int(read(tmp_path / "alive")[0])
    wait_until(lambda: int((tmp_path / "alive").read_text() or 0) > count + 1, what="it has gone on")
    assert not gone(before)
    assert not process_gone(child)
    os.kill(pid, signum)
    wait_process_gone(pid)
    wait_process_gone(child)
    wait_until(lambda: gone(before), what="its folder goes")
    wait_until(lambda: owed(programs.home) == [], what="nothing owed")
    assert (tmp_path / "atexit").exists() == (signum == signal.SIGTERM)


@pytest.mark.parametrize("how", BECOME)
@pytest.mark.slow(keep=2)
def test_a_daemon_that_only_waits(programs: Programs, tmp_path: Path, how: str) -> None:
    """It opens nothing any more from which it could see that its parents have gone: its child goes all the same."""
    pid, child, _ = daemon(programs, tmp_path, how, loop="pass")
    os.kill(pid, signal.SIGKILL)
    wait_process_gone(pid)
    wait_process_gone(child)
    wait_until(lambda: owed(programs.home) == [], what="nothing owed")


@pytest.mark.parametrize("how", ["two forks", "one fork"])
def test_a_daemon_that_ends_well(programs: Programs, tmp_path: Path, how: str) -> None:
    """Then all is kept, as at any normal end."""
    pid, child, before = daemon(programs, tmp_path, how)
    (tmp_path / "end").touch()
    wait_process_gone(pid)
    try:
        wait_until(lambda: owed(programs.home) == [], what="nothing owed")
        assert not gone(before)
        assert not process_gone(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_two_daemons_of_one_program(programs: Programs, tmp_path: Path) -> None:
    """A launcher starts two, and ends: the death of one is not the other's."""
    code = """
import os, subprocess, sys, time
for name in ("one", "two"):
    if os.fork(): continue
    os.setsid()
    if os.fork(): os._exit(0)
    child = subprocess.Popen(["sleep", "600"])
    with open(name + ".new", "w") as out: out.write(f"{os.getpid()} {child.pid}")
    os.rename(name + ".new", name)
    time.sleep(600)
"""
    assert programs.run_command([*RUN, "-c", code], cwd=tmp_path).status == 0
    one, its = map(int, read(tmp_path / "one"))
    two, other = map(int, read(tmp_path / "two"))
    os.kill(one, signal.SIGKILL)
    wait_process_gone(its)
    assert not process_gone(two)
    assert not process_gone(other)
    os.kill(two, signal.SIGKILL)
    wait_process_gone(other)
