"""Children of asyncio and trio that nobody waits for any more: ended in order when a signal ends the program."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness import Program, Programs, process_gone, wait_process_gone, wait_until

PROGRAM = """
import asyncio, os, subprocess, sys, lastly
{extra}
code = "import signal, sys, time\\n{child}\\nopen(sys.argv[1], 'w').close(); time.sleep(600)"
lastly.install({install})
{defers}
async def main():
    {start}
    while not os.path.exists("up"): await {sleep}(0.01)
    print("child", child.pid, flush=True)
    await {sleep}(600)
words = [sys.executable, "-S", "-c", code, "up"]
{run}
print("after", flush=True)
"""
ASYNCIO = {
    "start": "child = await asyncio.create_subprocess_exec(*words)",
    "sleep": "asyncio.sleep", "run": "asyncio.run(main())", "extra": "",
}  # fmt: skip
SHELL = {**ASYNCIO, "start": "child = await asyncio.create_subprocess_shell('exec ' + __import__('shlex').join(words))"}
TRIO = {
    "start": "child = await trio.lowlevel.open_process(words)",
    "sleep": "trio.sleep", "run": "trio.run(main)", "extra": "import trio",
}  # fmt: skip
KINDS = {"asyncio": ASYNCIO, "asyncio's shell": SHELL, "trio": TRIO}
NOTES = "signal.signal(15, lambda *_: (open('term', 'w').close(), sys.exit()))"


def start(programs: Programs, folder: Path, kind: str, *, child: str = NOTES, defers: str = "", install: str = ""):
    if kind == "trio":
        pytest.importorskip("trio")
    code = PROGRAM.format(**KINDS[kind], child=child, defers=defers, install=install)
    program: Program = programs.start(code, cwd=folder)
    return program, int(program.line("child").split()[1])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_told_to_end(programs: Programs, tmp_path: Path, kind: str, signum: int) -> None:
    """By SIGTERM, before the first cleanup runs."""
    defers = "lastly.defer(lambda: print('told before', os.path.exists('term'), flush=True))"
    program, child = start(programs, tmp_path, kind, defers=defers)
    program.send(signum)
    got = program.wait()
    assert got.status == -signum
    assert got.lines[-1] == "told before True"
    assert process_gone(child)


def test_without_any_cleanup(programs: Programs, tmp_path: Path) -> None:
    program, child = start(programs, tmp_path, "asyncio")
    program.send(signal.SIGTERM)
    assert program.wait().status == -signal.SIGTERM
    assert process_gone(child)


def test_one_that_does_not_end_is_killed(programs: Programs, tmp_path: Path) -> None:
    """In half of the grace that is left, and it is named."""
    program, child = start(programs, tmp_path, "asyncio", child="signal.signal(15, signal.SIG_IGN)", install="grace=1")
    program.send(signal.SIGTERM)
    got = program.wait()
    assert got.status == -signal.SIGTERM
    assert f"lastly: process {child} (" in got.err
    assert "did not end on SIGTERM: killed" in got.err
    assert process_gone(child)


def test_a_child_of_plain_subprocess_is_left(programs: Programs, tmp_path: Path) -> None:
    """It outlives its parent by design, here as without lastly."""
    defers = "other = subprocess.Popen(['sleep', '600']); print('other', other.pid, flush=True)"
    if_started = KINDS["asyncio"]
    code = PROGRAM.format(**if_started, child=NOTES, defers=defers, install="")
    program = programs.start(code, cwd=tmp_path)
    other = int(program.line("other").split()[1])
    child = int(program.line("child").split()[1])
    program.send(signal.SIGTERM)
    program.wait()
    try:
        assert process_gone(child)
        assert not process_gone(other)
    finally:
        os.kill(other, signal.SIGKILL)
    wait_process_gone(other)


def test_under_lastly_run(programs: Programs, tmp_path: Path) -> None:
    """A program that knows nothing of lastly, and one that is killed: nothing is left."""
    (tmp_path / "program.py").write_text(
        PROGRAM.format(**ASYNCIO, child=NOTES, defers="", install="").replace("lastly.install()", "").replace(", lastly", "")
    )
    for signum in (signal.SIGTERM, signal.SIGKILL):
        (tmp_path / "up").unlink(missing_ok=True)
        program = programs.start_command(["lastly", "run", "--grace", "1", "program.py"], cwd=tmp_path)
        child = int(program.line("child").split()[1])
        program.send(signum)
        assert program.wait().status == -signum
        wait_process_gone(child)
    wait_until(lambda: (tmp_path / "term").exists())
