"""Signals in event loops: the main task is cancelled, its async cleanups finish, the process dies of the signal."""

from __future__ import annotations

import signal
import subprocess

import pytest
from harness import Programs

TERM, INT = signal.SIGTERM, signal.SIGINT

START = """
import asyncio, atexit, os, signal, sys, time
import lastly
number = int(sys.argv[1])
def hit():
    os.kill(os.getpid(), number)
lastly.install()
atexit.register(print, "exit function")
async def slow(name):
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.01)
        print(name, flush=True)
"""


@pytest.mark.parametrize("number", [TERM, INT])
def test_main_task_is_cancelled_and_finishes(programs: Programs, python: str, number: int) -> None:
    """Inner tasks first, then the main one's finally, with everything they await; then CaughtSignal."""
    result = programs.run(
        START
        + """
async def main():
    asyncio.get_running_loop().call_soon(hit)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(slow("child"))
            await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.01)
        print("main")
try:
    asyncio.run(main())
except lastly.CaughtSignal as caught:
    print(caught.signum)
    raise
""",
        str(int(number)),
        python=python,
    )
    lines = ["child", "main", str(int(number)), "exit function"]
    assert (result.status, result.lines) == (-number, lines), result.err


def test_second_signal_does_not_cut_async_cleanups(programs: Programs) -> None:
    """Under plain asyncio the second Ctrl-C kills async finally blocks."""
    program = programs.start(
        START
        + """
async def main():
    try:
        print("ready", flush=True)
        await asyncio.sleep(60)
    finally:
        print("cleaning", flush=True)
        await asyncio.to_thread(input)
        print("cleaned")
asyncio.run(main())
""",
        str(int(INT)),
        stdin=subprocess.PIPE,
    )
    program.line("ready")
    program.send(INT)
    program.line("cleaning")
    program.send(INT)
    program.error_line("SIGINT again")
    program.send(TERM)
    program.error_line("SIGTERM again")
    program.write("\n")
    result = program.wait()
    assert (result.status, result.lines[-2:]) == (-INT, ["cleaned", "exit function"]), result.err


BODIES = {
    "own handler": (
        """
async def main():
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(number, asked.set)
    hit()
    await asked.wait()
    print("asked")
asyncio.run(main())
""",
        0,
        ["asked", "exit function"],
    ),
    "own error": (
        """
async def main():
    asyncio.get_running_loop().call_soon(hit)
    try:
        await asyncio.sleep(60)
    finally:
        raise ValueError("my own")
asyncio.run(main())
""",
        -TERM,
        ["exit function"],
    ),
    "while the runner closes": (
        """
async def late():
    try:
        await asyncio.sleep(60)
    finally:
        hit()
        await asyncio.sleep(0.01)
        print("late")
async def main():
    task = asyncio.create_task(late())
    await asyncio.sleep(0)
    main.task = task
asyncio.run(main())
print("not reached")
""",
        -TERM,
        ["late", "exit function"],
    ),
    "run_forever": (
        """
loop = asyncio.new_event_loop()
loop.call_soon(hit)
try:
    loop.run_forever()
finally:
    print("left")
print("not reached")
""",
        -TERM,
        ["left", "exit function"],
    ),
    "run_until_complete": (
        """
loop = asyncio.new_event_loop()
loop.call_later(0.01, hit)
loop.run_until_complete(slow("main"))
print("not reached")
""",
        -TERM,
        ["main", "exit function"],
    ),
    "a loop in another thread": (
        """
import threading
thread = threading.Thread(target=asyncio.run, args=(slow("other"),), daemon=True)
thread.start()
try:
    hit()
    time.sleep(60)
finally:
    print("main")
""",
        -TERM,
        ["main", "exit function"],
    ),
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.slow(keep=3)
def test_asyncio(programs: Programs, case: str) -> None:
    """What has handlers of its own keeps them; an error of the program's own is not lost."""
    body, status, lines = BODIES[case]
    result = programs.run(START + body, str(int(TERM)))
    assert (result.status, result.lines) == (status, lines), result.err
    assert ("my own" in result.err) == (case == "own error")


TRIO = """
import trio
async def child():
    try:
        hit()
        await trio.sleep(60)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.01)
            print("child")
async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        nursery.start_soon(trio.sleep, 60)
try:
    trio.run(main)
except lastly.CaughtSignal:
    print("caught")
    raise
"""


@pytest.mark.parametrize("number", [TERM, INT])
def test_trio(programs: Programs, number: int) -> None:
    """The main task is cancelled; trio.run raises CaughtSignal and nothing of trio's own."""
    result = programs.run(START + TRIO, str(int(number)))
    assert (result.status, result.lines) == (-number, ["child", "caught", "exit function"]), result.err
    assert result.err == ""


STAGED = """
import atexit, os, signal, sys, time
import lastly
lastly.install(signals=["HUP", "INT", "QUIT", "PIPE", "TERM"])
def stage(name, *needs):
    os.mkdir(name)
    print("made", name, flush=True)
def undo(name, *, loud=False):
    os.rmdir(name)
    print("removed", name, "!" if loud else "")
atexit.register(undo, "one")
stage("one")
atexit.register(undo, "two", loud=True)
stage("two")
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "PIPE", "TERM"])
@pytest.mark.slow(keep=2)
def test_a_script_in_stages_undoes_them(programs: Programs, python: str, name: str) -> None:
    """Newest first, by atexit's own register, for each of five signals; nothing is left."""
    number = getattr(signal, f"SIG{name}")
    program = programs.start(STAGED, python=python)
    program.line("ready")
    program.send(number)
    result = program.wait()
    assert (result.status, result.lines[-2:]) == (-number, ["removed two !", "removed one "]), result.err
    assert not (program.cwd / "one").exists()
