"""`lastly run` and signals: an unmodified program runs its exit functions, and dies of the signal."""

from __future__ import annotations

import signal

import pytest
from harness import Programs

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


def test_sys_exit_is_the_real_one(programs: Programs) -> None:
    assert programs.run_command([*RUN, "-c", "import sys; print(sys.exit)"]).out == "<built-in function exit>\n"


def _words() -> list[str]:
    import sys

    return [sys.executable, "-m", "lastly", "run"]
