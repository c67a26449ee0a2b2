"""open_process: the child of a coroutine, and all below it, are gone however the program ends."""

import os
import signal

import pytest
from crashing import crash, sweep
from harness import process_gone, wait_process_gone

LIBRARIES = ("asyncio", "anyio on asyncio", "trio", "anyio on trio")  # each backend, where the first tier keeps two

# Runs `main` in the event loop that argv[1] names, and opens processes by its library.
START = """
import functools, os, signal, subprocess, sys
from subprocess import PIPE, DEVNULL, STDOUT
import lastly
from lastly._exit.root import root
from lastly import AsyncScope, Scope
library, _, loop = sys.argv[1].partition(" on ")
loop = loop or library
if loop == "trio":
    import trio
    run, sleep, fail_after = trio.run, trio.sleep, trio.fail_after
    Cancelled, move_on_after, event = trio.Cancelled, trio.move_on_after, trio.Event
else:
    import asyncio
    run, sleep, fail_after = lambda main: asyncio.run(main()), asyncio.sleep, asyncio.timeout
    Cancelled = asyncio.CancelledError
open_process = functools.partial(lastly.open_process, library=library)
class timeout:  # the library's own
    def __init__(self, seconds):
        self.seconds = seconds
    async def __aenter__(self):
        import anyio
        if library == "anyio":
            self.one = anyio.fail_after(self.seconds)
        else:
            self.one = fail_after(self.seconds)
        await self.one.__aenter__() if hasattr(self.one, "__aenter__") else self.one.__enter__()
    async def __aexit__(self, *error):
        one = self.one
        try:
            return await one.__aexit__(*error) if hasattr(one, "__aenter__") else one.__exit__(*error)
        except Exception as caught:
            if type(caught).__name__ not in ("TimeoutError", "TooSlowError"):
                raise
            print("too slow", flush=True)
            return True
async def read(process):
    stream = process.stdout
    if library == "asyncio":
        return await stream.read(65536)
    return await (stream.receive_some() if library == "trio" else stream.receive())
async def write(process, data):
    if library == "asyncio":
        process.stdin.write(data)
        return await process.stdin.drain()
    await (process.stdin.send_all if library == "trio" else process.stdin.send)(data)
def there(pid):
    from lastly._system import proc
    return proc.start_time(pid) is not None and not proc.look(pid).dead
"""

# A tree: a shell, a child of its, and one in a session of its own. All three tell their pid.
TREE = "echo $$; sleep 600 & echo $!; setsid sh -c 'echo $$; exec sleep 600' & wait"
READ_TREE = """
async def tree(process):
    said = b""
    while said.count(b"\\n") < 3:
        said += await read(process)
    print("tree", *said.decode().split(), flush=True)
    return list(map(int, said.split()))
"""


@pytest.fixture(params=LIBRARIES)
def library(request):
    return request.param


def pids_of(program) -> list[int]:
    return [int(word) for word in program.line("tree").split()[1:]]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("scope", ["None", "Scope()", "AsyncScope()"])
@pytest.mark.slow(keep=4)
def test_the_tree_ends_with_its_program(programs, library, how, scope):
    program = programs.start(
        START + READ_TREE + f"""
async def main():
    scope = {scope}
    process = await open_process({TREE!r}, stdout=PIPE, scope=scope, grace=2)
    await tree(process)
    if isinstance(scope, AsyncScope):
        async with scope: await sleep(60)
    elif scope is not None:
        with scope: await sleep(60)
    await sleep(60)
lastly.install()
run(main)
""", library)  # fmt: skip
    pids = pids_of(program)
    program.send(how)
    result = program.wait()
    assert result.status == -how
    assert "Traceback" not in result.err, result.err
    for pid in pids:
        wait_process_gone(pid)


@pytest.mark.parametrize("library", ["asyncio", "trio"])
@pytest.mark.slow(keep=1)
def test_killed_at_every_step(programs, home, tmp_path, library):
    """Before the plan, between plan and start, before it is confirmed, and while it is ended."""
    marks = tmp_path / "pids"
    marks.touch()
    command = f"echo $$ >> {marks}; sleep 600 & echo $! >> {marks}; wait"
    n = crash(
        programs,
        f"def lines(): return open({str(marks)!r}).read().count('\\n')\n"
        f"async def main():\n"
        f"    before = lines()\n"  # an odd number, where one before was killed between its two
        f"    child = await lastly.open_process({command!r}, grace=0)\n"
        f"    while lines() < before + 2: pass\n"
        f"    await child.aclose()\n"
        + ("import trio; trio.run(main)" if library == "trio" else "import asyncio; asyncio.run(main())"),
        names=("write", "rename"),
    )
    assert n >= 4
    sweep()
    for pid in map(int, marks.read_text().split()):
        wait_process_gone(pid)


@pytest.mark.parametrize("end", ["return", "raise ValueError", "sys.exit(3)"])
@pytest.mark.slow(keep=4)
def test_the_tree_ends_with_a_program_that_ends_by_itself(programs, library, end):
    result = programs.run(
        START + READ_TREE + f"""
async def main():
    await tree(await open_process({TREE!r}, stdin=PIPE, stdout=PIPE))
    {end}
run(main)
""", library)  # fmt: skip
    assert result.status == {"r": 0, "s": 3}.get(end[0], 1) if end != "raise ValueError" else 1
    assert "Event loop is closed" not in result.err, result.err
    for word in result.lines[0].split()[1:]:
        wait_process_gone(int(word))


@pytest.mark.slow(keep=2)
def test_streams_communicate_and_signals(programs, library):
    result = programs.run(
        START + """
async def main():
    cat = await open_process(["cat"], stdin=PIPE, stdout=PIPE)
    await write(cat, b"one")
    assert await read(cat) == b"one"
    assert await cat.communicate(b"two") == (b"two", None)
    assert cat.returncode == 0 and await cat.wait() == 0
    cat.terminate()
    both = await open_process("cat; echo three >&2; exit 4", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert await both.communicate() == (b"", b"three\\n") and both.returncode == 4
    big = b"x" * 1_000_000
    cat = await open_process(["cat"], stdin=PIPE, stdout=PIPE)
    assert await cat.communicate(big) == (big, None)
    deaf = await open_process(["true"], stdin=PIPE)
    assert await deaf.communicate(big) == (None, None)
    one = await open_process("echo four >&2", stdout=PIPE, stderr=STDOUT)
    assert await one.communicate() == (b"four\\n", None)
    mute = await open_process(["sleep", "600"])
    assert mute.stdin is mute.stdout is mute.returncode is None
    try:
        await mute.communicate(b"?")
    except ValueError as error:
        assert "stdin=PIPE" in str(error)
    mute.terminate()
    assert await mute.wait() == -15 and mute.returncode == -15
    mute = await open_process(["sleep", "600"], env={"PATH": os.environ["PATH"]}, cwd="/", start_new_session=True)
    assert os.getsid(mute.pid) == mute.pid and repr(mute) == f"<Process {mute.pid} running>"
    mute.kill()
    assert await mute.wait() == -9
    mute.kill()
run(main)
""", library)  # fmt: skip
    assert (result.status, result.out, result.err) == (0, "", "")


@pytest.mark.slow(keep=2)
def test_a_timeout_ends_the_waiting_and_not_the_child(programs, library):
    result = programs.run(
        START + """
async def main():
    child = await open_process(["sleep", "600"], stdout=PIPE)
    async with timeout(0.01):
        await child.wait()
    async with timeout(0.01):
        await child.communicate()
    assert there(child.pid) and child.returncode is None
    await child.aclose()
    assert child.returncode == -15 and await child.wait() == -15
    await child.aclose()
run(main)
""", library)  # fmt: skip
    assert (result.status, result.out, result.err) == (0, "too slow\ntoo slow\n", "")


@pytest.mark.slow(keep=2)
def test_the_block_waits_and_a_cancelled_one_does_not(programs, library):
    result = programs.run(
        START + READ_TREE + f"""
async def main():
    async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as cat:
        await write(cat, b"x")
    assert cat.returncode in (0, -signal.SIGPIPE) and not cat.cleanup.pending
    async with await open_process(["sleep", "0.1"]) as short:
        pass
    assert short.returncode == 0
    process = await open_process({TREE!r}, stdout=PIPE)
    pids = await tree(process)  # before the time begins: on a busy machine that takes longer than any limit
    async with timeout(0.1):
        async with process:
            await sleep(600)
    assert process.returncode == -15 and not any(map(there, pids))
    try:
        async with await open_process(["sleep", "600"]) as process:
            raise KeyError("mine")
    except KeyError as error:
        assert process.returncode == -15 and error.args == ("mine",)
    async with await open_process("setsid sleep 600 >/dev/null & echo $!", stdout=PIPE) as process:
        pid = int(await read(process))
    assert process.returncode == 0 and not there(pid)
run(main)
""", library)  # fmt: skip
    assert (result.status, result.err) == (0, ""), result
    assert result.lines[-1] == "too slow"


@pytest.mark.slow(keep=2)
def test_what_ends_the_child_lets_the_loop_turn(programs, library):
    """The child writes more than a pipe holds before it ends, which only a loop that turns can read."""
    result = programs.run(
        START + r"""
LAST_WORDS = "import os, signal, sys\nsignal.signal(15, lambda *_: sys.exit())\ntry:\n    os.write(1, b'ready')\n    while True: signal.pause()\nfinally:\n    left = 300_000\n    while left: left -= os.write(1, b'x' * left)"
async def all_of(process, said):
    try:
        while chunk := await read(process):
            said.append(len(chunk))
    except Exception as error:
        assert type(error).__name__ == "EndOfStream", error
async def main():
    said = []
    if loop == "asyncio":
        async with AsyncScope() as scope:
            child = await open_process([sys.executable, "-c", LAST_WORDS], stdout=PIPE, scope=scope, grace=30)
            await read(child)
            task = asyncio.ensure_future(all_of(child, said))
        await task
    else:
        async with trio.open_nursery() as nursery:
            async with AsyncScope() as scope:
                child = await open_process([sys.executable, "-c", LAST_WORDS], stdout=PIPE, scope=scope, grace=30)
                await read(child)
                nursery.start_soon(all_of, child, said)
    print(sum(said), await child.wait())
run(main)
""", library)  # fmt: skip
    assert (result.status, result.out, result.err) == (0, "300000 0\n", "")


@pytest.mark.slow(keep=2)
def test_nothing_started_is_nothing_owed(programs, library):
    result = programs.run(
        START + """
async def main():
    for bad in (["/nonexistent/program"], ["sleep", "1\\0"]):
        try:
            await open_process(bad)
        except (OSError, ValueError):
            pass
        else:
            raise AssertionError
    try:
        await open_process(["true"], no_such_option=1)
    except TypeError:
        pass
    scope = Scope()
    scope.close()
    for wrong in ({"scope": scope}, {"grace": "5"}, {"library": "curio"}):
        try:
            await lastly.open_process(["touch", "made"], **wrong)
        except (lastly.ScopeClosed, TypeError, ValueError):
            pass
        else:
            raise AssertionError
    assert len(root) == 0 and not os.path.exists("made")
run(main)
""", library)  # fmt: skip
    assert (result.status, result.out, result.err) == (0, "", "")


@pytest.mark.slow(keep=1)
def test_a_start_that_is_cancelled_at_any_step_leaves_nothing(programs, library):
    """Cancelled after 0, 1, ... 6, 9, 14, ... turns of the loop, until the start is over before that."""
    result = programs.run(
        START + r"""
from lastly._system import proc
if loop == "trio":
    from trio.lowlevel import checkpoint as turn
else:
    turn = functools.partial(sleep, 0)
started = []
async def start():
    command = "setsid sleep 600 & echo $! >> pids; sleep 600 & echo $! >> pids; echo; wait"
    started.append(await open_process(command, stdout=PIPE, grace=0))
async def attempt(turns):
    if loop == "asyncio":
        task = asyncio.ensure_future(start())
        for _ in range(turns):
            await turn()
        task.cancel()
        await asyncio.wait([task])
    else:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            for _ in range(turns):
                await turn()
            nursery.cancel_scope.cancel()
async def main():
    cancelled = 0
    for turns in [*range(6), *(int(6 * 1.5 ** more) for more in range(40))]:
        await attempt(turns)
        if started:
            await read(started[0])
            await started[0].aclose()
            break
        cancelled += 1
        assert not len(root), turns
        assert proc.children(os.getpid()) == [] or all(map(proc.is_reaper, proc.children(os.getpid()))), turns
    else:
        raise AssertionError("never started")
    left = [pid for pid in map(int, open("pids")) if there(pid)]
    print("left", left, "cancelled" if cancelled else "never cancelled")
run(main)
""", library, within=90)  # fmt: skip
    assert (result.status, result.out, result.err) == (0, "left [] cancelled\n", "")


@pytest.mark.slow(keep=2)
def test_a_cancellation_does_not_break_the_end(programs, library):
    """The child ignores SIGTERM; aclose is cancelled while it waits for SIGKILL's turn."""
    result = programs.run(
        START + """
async def main():
    child = await open_process("trap '' TERM; echo; while :; do sleep 0.1; done", stdout=PIPE, grace=1)
    await read(child)
    async with timeout(0.1):
        await child.aclose()
    assert child.returncode == -9, child
    print("ended")
run(main)
""", library)  # fmt: skip
    assert (result.status, result.out, result.err) == (0, "too slow\nended\n", "")


@pytest.mark.slow(keep=2)
def test_a_detached_child_lives(programs, library):
    result = programs.run(
        START + """
async def main():
    async with await open_process(["sleep", "600"], stdin=PIPE, stderr=DEVNULL, stdout=DEVNULL) as child:
        assert child.detach() and not child.detach()
    print(child.pid)
lastly.install()
run(main)
""", library)  # fmt: skip
    pid = int(result.out)
    try:
        assert (result.status, result.err) == (0, "")
        assert not process_gone(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("library", ["trio", "anyio on trio"])
def test_a_child_that_ends_after_the_loop(programs, library):
    """Whoever looks at it then, or drops it, gets no error of trio's: its loop is over."""
    result = programs.run(
        START + """
import gc, select
async def main():
    global child
    child = await open_process(["sleep", "600"], stdin=DEVNULL, stderr=DEVNULL, stdout=DEVNULL)
    child.detach()
run(main)
end = os.pidfd_open(child.pid)
os.kill(child.pid, signal.SIGKILL)
select.select([end], [], [])
print(child.returncode, child)
del child
gc.collect()
print("dropped")
""", library)  # fmt: skip
    assert (result.status, result.out, result.err) == (0, f"-9 <Process {result.out.split()[2]} ended with -9>\ndropped\n", "")
