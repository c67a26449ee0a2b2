"""`lastly run` and children: after a crash all are gone with their own children, after a normal end none is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Program, Programs, process_gone, wait_process_gone, wait_until

RUN = ["lastly", "run", "--grace", "2"]
SLEEP = [sys.executable, "-S", "-c", "import os, time; print('child', os.getpid(), flush=True); time.sleep(600)"]

STARTS = {
    "subprocess": "subprocess.Popen(SLEEP)",
    "copied environment": "subprocess.Popen(SLEEP, env={**os.environ, 'MORE': '1'})",
    "posix_spawn": "os.posix_spawn(SLEEP[0], SLEEP, os.environ)",
    "setsid": "subprocess.Popen(['setsid', *SLEEP])",
    "session": "subprocess.Popen(SLEEP, start_new_session=True)",
    "shell": "os.system(shlex.join(SLEEP) + ' &')",
    "grandchild of a shell": "subprocess.Popen(['sh', '-c', shlex.join(['setsid', *SLEEP]) + ' & exit 0']).wait()",
    "fork": "os.fork() or sleep()",
    "double fork": "os.fork() or (os.setsid(), os.fork() and os._exit(0), sleep())",
    "pty": "pty.fork()[0] or sleep(sys.stderr)",
    "asyncio": "asyncio.run(asyncio.create_subprocess_exec(*SLEEP))",
}
PROGRAM = """
import asyncio, os, pty, shlex, subprocess, sys, time, json
SLEEP = json.loads(sys.argv[1])
def sleep(out=sys.stdout):
    os.write(1 if out is sys.stdout else int(sys.argv[2]), b"child %d\\n" % os.getpid()); time.sleep(600); os._exit(0)
if __name__ == "__main__":
    {start}
    {wait}
    {end}
"""


def start(programs: Programs, how: str, end: str, *, ends: bool = False) -> tuple[Program, int]:
    """Start a program with a child; with `ends` it ends as soon as the child is there."""
    import json

    out = os.dup(1)
    wait = "sys.stdin.readline()" if ends else "time.sleep(600)"
    program = programs.start_command(
        [*RUN, "-c", PROGRAM.format(start=STARTS[how], wait=wait, end=end), json.dumps(SLEEP), "1"],
        stdin=subprocess.PIPE if ends else None,
    )
    os.close(out)
    child = int(program.line("child").split()[1])
    if ends:
        program.write("\n")
    return program, child


@pytest.fixture
def _ended() -> list[int]:
    return []


@pytest.mark.parametrize("how", [how for how in STARTS if how != "pty"])
@pytest.mark.slow(keep=2)
def test_gone_after_sigkill(programs: Programs, how: str) -> None:
    program, child = start(programs, how, "pass")
    program.send(signal.SIGKILL)
    assert program.wait().status == -9
    wait_process_gone(child)


@pytest.mark.parametrize("how", ["setsid", "double fork", "posix_spawn"])
@pytest.mark.parametrize("end", ["1/0", "os.abort()", "os._exit(3)"])
@pytest.mark.slow(keep=2)
def test_gone_after_other_crashes(programs: Programs, how: str, end: str) -> None:
    program, child = start(programs, how, end, ends=True)
    assert program.wait().status != 0
    wait_process_gone(child)


@pytest.mark.parametrize("how", ["setsid", "double fork", "session"])
@pytest.mark.parametrize("end", ["pass", "sys.exit(2)", "os._exit(0)"])
@pytest.mark.slow(keep=3)
def test_daemons_of_a_normal_end_live_on(programs: Programs, how: str, end: str) -> None:
    """Daemonized on purpose: the program chose its end, and owes nothing. (A daemon that is the program's own code does.)"""
    program, child = start(programs, how, end, ends=True)
    program.wait()
    try:
        wait_until(
            lambda: all(path.name.startswith(f"{child}.") for path in programs.home.glob("owners/*/*.j")),
            what="nothing owed",
        )
        assert not process_gone(child)
    finally:
        os.kill(child, signal.SIGKILL)
    wait_process_gone(child)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.slow(keep=2)
def test_multiprocessing(programs: Programs, tmp_path: Path, python: str, method: str) -> None:
    """Workers that do not end by themselves, on every start method; the resource tracker does its own work."""
    (tmp_path / "prog.py").write_text(f"""
import multiprocessing as mp, os, time, signal
from multiprocessing import shared_memory
def work():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("child", os.getpid(), flush=True); time.sleep(600)
if __name__ == "__main__":
    mp.set_start_method("{method}")
    memory = shared_memory.SharedMemory(create=True, size=10)
    print("memory", memory.name, flush=True)
    workers = [mp.Process(target=work) for _ in range(2)]
    for w in workers: w.start()
    time.sleep(600)
""")
    program = programs.start_command(["lastly", "run", "--grace", "0.3", "--", python, "prog.py"], cwd=tmp_path)
    memory = program.line("memory").split()[1]
    workers = [int(program.line("child").split()[1]) for _ in range(2)]
    program.send(signal.SIGKILL)
    program.wait()
    for pid in workers:
        wait_process_gone(pid)
    wait_until(lambda: not os.path.exists(f"/dev/shm/{memory}"), what="the tracker has removed the memory")


def test_terminate_works_as_ever(programs: Programs, tmp_path: Path) -> None:
    """Workers have the default SIGTERM: `terminate()` ends them at once, with -15, on every start method."""
    (tmp_path / "prog.py").write_text("""
import multiprocessing as mp, time, sys
def work(): time.sleep(600)
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        for _ in range(10 if method == "fork" else 1):
            p = mp.get_context(method).Process(target=work)
            p.start(); p.terminate(); p.join(20); print(p.exitcode); p.kill()
""")
    assert programs.run_command([*RUN, "prog.py"], cwd=tmp_path).lines == ["-15"] * 12


def test_a_stubborn_child_gets_kill(programs: Programs) -> None:
    code = "trap '' TERM; echo child $$; while :; do sleep 600; done"
    program = programs.start_command(
        ["lastly", "run", "--grace", "0.2", "-c",
         f"import subprocess, time; subprocess.Popen(['setsid', 'sh', '-c', {code!r}]); time.sleep(600)"],
    )  # fmt: skip
    child = int(program.line("child").split()[1])
    program.send(signal.SIGKILL)
    program.wait()
    wait_process_gone(child)


def test_a_child_may_clean_up(programs: Programs, tmp_path: Path) -> None:
    """TERM comes first: a child with a handler has its grace."""
    code = f"trap 'echo bye > {tmp_path}/bye; exit' TERM; echo child $$; while :; do sleep 0.05; done"
    program = programs.start_command(
        [*RUN, "-c", f"import subprocess, time; subprocess.Popen(['sh', '-c', {code!r}]); time.sleep(600)"]
    )
    child = int(program.line("child").split()[1])
    program.send(signal.SIGKILL)
    program.wait()
    wait_process_gone(child)
    assert (tmp_path / "bye").read_text() == "bye\n"


def test_siblings_below_a_shell_are_spared(programs: Programs) -> None:
    """One Python below a shell crashes: its own children go (forked ones, too), the shell and its others stay."""
    crash = (
        "import os, time\n"
        "if not os.fork():\n os.setsid(); os.write(1, b'child %d\\n' % os.getpid()); time.sleep(600)\n"
        "time.sleep(0.2); os.kill(os.getpid(), 9)"
    )
    program = programs.start_command(
        ["lastly", "run", "sh", "-c", 'sleep 600 & echo sibling $!; "$0" -c "$1"; echo last; read x; kill $!',
         sys.executable, crash], stdin=-1,
    )  # fmt: skip
    sibling = int(program.line("sibling").split()[1])
    child = int(program.line("child").split()[1])
    program.line("last")
    wait_process_gone(child)
    assert not process_gone(sibling)
    program.write("\n")
    assert program.wait().status == 0


def test_the_reaper_is_no_child(programs: Programs) -> None:
    """os.wait() of the program never sees the reaper that was started for it."""
    code = """
import os, tempfile
tempfile.mkdtemp()
try: print(os.wait())
except ChildProcessError: print("none")
"""
    assert programs.run_command([*RUN, "-c", code]).out == "none\n"


def test_nested_run(programs: Programs) -> None:
    """A run inside a run: the inner one's children go with the inner program, the outer lives on."""
    inner = "import subprocess, os, time; p = subprocess.Popen(['setsid', 'sleep', '600']); print('child', p.pid, flush=True); time.sleep(.1); os.kill(os.getpid(), 9)"
    outer = f"import subprocess, sys; print(subprocess.call([sys.executable, '-m', 'lastly', 'run', '-c', {inner!r}]), flush=True); input()"
    program = programs.start_command([*RUN, "-c", outer], stdin=-1)
    child = int(program.line("child").split()[1])
    program.line("-9")
    wait_process_gone(child)
    program.write("\n")
    assert program.wait().status == 0
