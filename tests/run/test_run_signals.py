"""`lastly run` and signals: an unmodified program runs its exit functions, and dies of the signal."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness import Programs, asleep, gone, wait_process_gone, wait_until

RUN = ["lastly", "run"]
PROGRAM = """
import atexit, time, sys
atexit.register(print, "exit function")
out = open("out", "w"); out.write("buffered")
try:
    print("ready", flush=True)
    time.sleep(600)
finally:
    print("finally")
"""


@pytest.mark.parametrize("name", ["TERM", "HUP", "QUIT", "INT"])
def test_exit_functions(programs: Programs, python: str, tmp_path, name: str) -> None:
    """finally blocks, exit functions, open files: as at any end; and the parent sees the signal."""
    program = programs.start_command([*RUN, "--", python, "-c", PROGRAM], cwd=tmp_path)
    program.line("ready")
    program.send(getattr(signal, f"SIG{name}"))
    got = program.wait()
    assert got.status == -getattr(signal, f"SIG{name}")
    assert got.lines == ["ready", "finally", "exit function"]
    assert (tmp_path / "out").read_text() == "buffered"
    assert ("KeyboardInterrupt" in got.err) == (name == "INT")


@pytest.mark.parametrize("name", ["USR1", "ALRM", "KILL"])
def test_others_as_ever(programs: Programs, name: str) -> None:
    program = programs.start_command([*RUN, "-c", PROGRAM])
    program.line("ready")
    program.send(getattr(signal, f"SIG{name}"))
    got = program.wait()
    assert (got.status, got.lines) == (-getattr(signal, f"SIG{name}"), ["ready"])


def test_ignored_stays_ignored(programs: Programs) -> None:
    """nohup: SIGHUP goes on being ignored."""
    program = programs.start_command(["nohup", *_words(), "-c", PROGRAM])
    program.line("ready")
    program.send(signal.SIGHUP)
    program.send(signal.SIGTERM)
    assert program.wait().status == -signal.SIGTERM


def test_its_own_handler(programs: Programs) -> None:
    """A program that handles a signal itself is not disturbed."""
    code = "import signal, sys; signal.signal(15, lambda *a: sys.exit(5)); print('ready', flush=True); signal.pause()"
    program = programs.start_command([*RUN, "-c", code])
    program.line("ready")
    program.send(signal.SIGTERM)
    assert program.wait().status == 5


def test_asyncio(programs: Programs) -> None:
    """SIGTERM lets async cleanup run."""
    code = """
import asyncio
async def main():
    try:
        print("ready", flush=True); await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0.01); print("async cleanup")
asyncio.run(main())
"""
    program = programs.start_command([*RUN, "-c", code])
    program.line("ready")
    program.send(signal.SIGTERM)
    got = program.wait()
    assert (got.status, got.lines[-1]) == (-15, "async cleanup")


def test_a_program_that_uses_lastly(programs: Programs) -> None:
    """Its own install() and defer() work as without `lastly run`, one life below the other."""
    code = """
import lastly, os, time
lastly.install(status="code")
lastly.defer(print, "deferred")
folder = lastly.temp_dir()
print("ready", folder, flush=True); time.sleep(600)
"""
    program = programs.start_command([*RUN, "-c", code])
    program.line("ready")
    program.send(signal.SIGTERM)
    got = program.wait()
    assert (got.status, got.lines[-1], got.err) == (143, "deferred", "")


LONG = {
    "GIL free": "libc = ctypes.CDLL(None)",
    "GIL held": "libc = ctypes.PyDLL(None)",
}
IN_C = """
import atexit, ctypes, os, subprocess, sys, tempfile
import lastly._exit.stuck
lastly._exit.stuck.ANSWER = 0.5  # else the test takes ten seconds
{make}
{become}
atexit.register(print, "exit function", flush=True)
{libc}
mutex = ctypes.create_string_buffer(64)  # a lock that is taken twice: no signal interrupts this wait
libc.pthread_mutex_lock(mutex)
with open("ready.new", "w") as out: out.write(f"{{os.getpid()}} {{made}}")
os.rename("ready.new", "ready")
libc.pthread_mutex_lock(mutex)
"""


@pytest.mark.parametrize("name", ["TERM", "HUP"])
@pytest.mark.parametrize("libc", LONG)
@pytest.mark.slow(keep=2)
def test_one_long_c_call(programs: Programs, tmp_path: Path, libc: str, name: str) -> None:
    """No exit function can run; without lastly it would die at once: the reaper ends it, and removes what it made."""
    code = IN_C.format(libc=LONG[libc], make="made = tempfile.mkdtemp()", become="")
    program = programs.start_command([*RUN, "-c", code], cwd=tmp_path)
    wait_until((tmp_path / "ready").exists, what="ready")
    _, made = (tmp_path / "ready").read_text().split()
    program.send(getattr(signal, f"SIG{name}"))
    got = program.wait()
    assert (got.status, got.out) == (-signal.SIGKILL, "")
    wait_until(lambda: gone(made), what="its folder goes")


def test_one_long_c_call_of_a_daemon(programs: Programs, tmp_path: Path) -> None:
    """The daemon is the program: the same holds for it, and for its child."""
    become = "if os.fork(): os._exit(0)\nos.setsid()\nmade = subprocess.Popen(['sleep', '600']).pid"
    code = IN_C.format(libc=LONG["GIL free"], make="", become=become)
    assert programs.run_command([*RUN, "--grace", "0.2", "-c", code], cwd=tmp_path).status == 0
    wait_until((tmp_path / "ready").exists, what="ready")
    daemon, child = map(int, (tmp_path / "ready").read_text().split())
    wait_until(lambda: asleep(daemon))
    os.kill(daemon, signal.SIGTERM)
    wait_process_gone(daemon)
    wait_process_gone(child)


def test_a_slow_exit_function_has_its_time(programs: Programs) -> None:
    """The signal was answered: from there on nobody ends the program."""
    code = """
import atexit, tempfile, time
import lastly._exit.stuck
lastly._exit.stuck.ANSWER = 0.3
tempfile.mkdtemp()
def slow():
    until = time.monotonic() + 1.5
    while time.monotonic() < until: time.sleep(0.01)
    print("done", flush=True)
atexit.register(slow)
print("ready", flush=True)
time.sleep(600)
"""
    program = programs.start_command([*RUN, "-c", code])
    program.line("ready")
    program.send(signal.SIGTERM)
    got = program.wait()
    assert (got.status, got.lines) == (-signal.SIGTERM, ["ready", "done"])


def test_sys_exit_is_the_real_one(programs: Programs) -> None:
    assert programs.run_command([*RUN, "-c", "import sys; print(sys.exit)"]).out == "<built-in function exit>\n"


def _words() -> list[str]:
    import sys

    return [sys.executable, "-m", "lastly", "run"]
