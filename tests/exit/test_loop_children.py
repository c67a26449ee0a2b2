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
@pytest.mark.slow(keep=2)
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
    program, child = start(programs, tmp_path, "asyncio", child="signal.signal(15, signal.SIG_IGN)", install="grace=4")
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


# ── the program's own end, and whole trees ───────────────────────────────────────────────────────────────

TREE = "sleep 600 & echo $!; setsid sh -c 'echo $$; exec sleep 600' & wait"
LEAVES = """
import asyncio, gc, os, subprocess, sys, lastly
from subprocess import DEVNULL, PIPE
{first}
async def main():
    child = await asyncio.create_subprocess_shell({tree!r}, stdout=PIPE, start_new_session={session})
    said = [int(await child.stdout.readline()) for _ in range(2)]
    print("pids", child.pid, *said, flush=True)
    {end}
lastly.install()
lastly.defer(print, "cleanup", flush=True)
asyncio.run(main())
{after}
"""


def leave(programs: Programs, end: str, *, after: str = "", session: bool = False, first: str = ""):
    code = LEAVES.format(tree=TREE, end=end, after=after, session=session, first=first)
    program = programs.start(code)
    return program, list(map(int, program.line("pids").split()[1:]))


@pytest.mark.parametrize("end", ["return", "raise ValueError", "sys.exit(3)"])
@pytest.mark.parametrize("after", ["", "gc.collect()"])
@pytest.mark.parametrize("session", [False, True])
@pytest.mark.slow(keep=4)
def test_the_tree_ends_with_a_program_that_ends_by_itself(
    programs: Programs, end: str, after: str, session: bool
) -> None:
    """Also a child in a session of its own that has a pipe to us: so MCP's SDK starts its servers."""
    program, pids = leave(programs, end, after=after, session=session)
    got = program.wait()
    assert got.status == {"return": 0, "sys.exit(3)": 3}.get(end, 1)
    assert got.lines[-1] == "cleanup"
    assert f"lastly: process {pids[0]} (" in got.err
    assert "still ran when the program ended" in got.err
    assert [pid for pid in pids if not process_gone(pid)] == []


def test_no_other_object_is_asked_what_it_is(programs: Programs) -> None:
    """A proxy runs code of the program's, or raises, when it is asked for its class."""
    first = """
class Proxy:
    @property
    def __class__(self): print("asked", flush=True); raise RuntimeError("no context")
proxy = Proxy()"""
    program, pids = leave(programs, "return", first=first)
    got = program.wait()
    assert (got.status, got.lines[-1], "asked" in got.out) == (0, "cleanup", False)
    assert [pid for pid in pids if not process_gone(pid)] == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_tree_ends_with_a_signal(programs: Programs, signum: int) -> None:
    program, pids = leave(programs, "await asyncio.sleep(600)", session=True)
    program.send(signum)
    got = program.wait()
    assert got.status == -signum
    assert got.lines[-1] == "cleanup"
    assert "still ran" not in got.err
    assert [pid for pid in pids if not process_gone(pid)] == []


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 15); await asyncio.sleep(600)"])
@pytest.mark.parametrize("kind", ["asyncio.create_subprocess_exec(*words", "trio.lowlevel.open_process(words"])
@pytest.mark.slow(keep=2)
def test_a_detached_child_is_left(programs: Programs, end: str, kind: str) -> None:
    """Its own session, and no pipe to us: a daemon."""
    library = kind.partition(".")[0]
    program = programs.start(f"""
import os, sys, asyncio, lastly
from subprocess import DEVNULL
{"import trio" if library == "trio" else ""}
words = ["sleep", "600"]
async def main():
    child = await {kind}, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)
    print("pid", child.pid, flush=True)
    {end.replace("asyncio.sleep", library + ".sleep")}
lastly.install()
{"trio.run(main)" if library == "trio" else "asyncio.run(main())"}
""")
    pid = int(program.line("pid").split()[1])
    got = program.wait()
    try:
        assert got.status == (0 if end == "pass" else -signal.SIGTERM)
        assert got.err == "" or "lastly" not in got.err
        assert not process_gone(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_without_install_a_normal_end_leaves_it_to_asyncio(programs: Programs) -> None:
    """What lastly does, it does when it is asked to."""
    program = programs.start(LEAVES.format(tree=TREE, end="pass", after="", session=False, first="").replace("lastly.install()", ""))
    pids = list(map(int, program.line("pids").split()[1:]))
    got = program.wait()
    try:
        assert "still ran" not in got.err
        assert not process_gone(pids[1])
    finally:
        for pid in pids:
            if not process_gone(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("library", ["asyncio", "anyio"])
@pytest.mark.slow(keep=1)
def test_what_open_process_started_has_its_own_end(programs: Programs, library: str) -> None:
    """It ends when its cleanup runs, not before; and one that was given away lives."""
    program = programs.start(f"""
import asyncio, lastly
from subprocess import DEVNULL, PIPE
async def main():
    kept = await lastly.open_process(["sleep", "600"], library={library!r}, stdout=PIPE)
    given = await lastly.open_process(["sleep", "600"], library={library!r}, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL)
    given.detach()
    from lastly._system import proc
    lastly.defer(lambda: print("running", proc.lives(kept.pid, proc.start_time(kept.pid)), flush=True))
    print("pids", kept.pid, given.pid, flush=True)
    await asyncio.sleep(600)
lastly.install()
asyncio.run(main())
""")
    kept, given = map(int, program.line("pids").split()[1:])
    program.send(signal.SIGTERM)
    got = program.wait()
    try:
        assert (got.status, got.lines[-1]) == (-signal.SIGTERM, "running True")
        assert process_gone(kept)
        assert not process_gone(given)
    finally:
        os.kill(given, signal.SIGKILL)
