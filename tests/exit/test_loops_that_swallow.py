"""Event loops whose tasks swallow their cancellation, and loops that are not where asyncio says.

Each program ends by the signal with its exit functions run, or is left alone because it cleans up: by facts, not by
a clock. How many looks the thread has had is counted, where something must *not* happen.
"""

from __future__ import annotations

import signal

import pytest
from harness import Programs

TERM, INT = signal.SIGTERM, signal.SIGINT

START = """
import asyncio, atexit, os, signal, sys, time
import lastly
from lastly._exit import delivery, swallowed as _swallowed

lastly.install()
atexit.register(print, "exit function", flush=True)

def hit(number=signal.SIGTERM):
    os.kill(os.getpid(), number)

looks = 0
fate = delivery.fate
def counted():
    global looks
    looks += 1
    return fate()
delivery.fate = counted

async def some_looks(sleep=asyncio.sleep):
    "Wait until the thread has looked more often than it needs to be sure."
    before = looks
    while looks < before + 4:
        await sleep(0.01)
"""

IMPATIENT = "from lastly._exit import event_loops; event_loops.PATIENCE = 0.0"

SWALLOW = {
    "everything, for ever": """
async def main():
    while True:
        try:
            print("ready", flush=True)
            await asyncio.sleep(60)
        except BaseException: pass
""",
    "what it keeps in a list": """
kept = []
async def main():
    while True:
        try:
            print("ready", flush=True)
            await asyncio.sleep(60)
        except BaseException as error: kept.append(error)
""",
    "in a wait with a limit": """
async def main():
    queue = asyncio.Queue()
    while True:
        try:
            print("ready", flush=True)
            await asyncio.wait_for(queue.get(), 60)
        except (TimeoutError, asyncio.CancelledError): continue
""",
    "behind a shield": """
async def main():
    while True:
        try:
            print("ready", flush=True)
            await asyncio.shield(asyncio.sleep(60))
        except asyncio.CancelledError: continue
""",
    "in a group's task": """
async def work():
    while True:
        try:
            print("ready", flush=True)
            await asyncio.sleep(60)
        except BaseException: pass
async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(work())
""",
    "in tasks that it gathers": """
async def work():
    while True:
        try:
            print("ready", flush=True)
            await asyncio.sleep(60)
        except BaseException: pass
async def main():
    await asyncio.gather(work(), work())
""",
    "in a task that is left over": """
async def work():
    while True:
        try:
            print("ready", flush=True)
            await asyncio.sleep(60)
        except BaseException: pass
async def main():
    main.left = asyncio.create_task(work())
    await asyncio.sleep(60)
""",
    "in a busy loop": """
async def main():
    print("ready", flush=True)
    while True:
        try: await asyncio.sleep(0)
        except BaseException: pass
""",
    "and takes it back": """
async def main():
    while True:
        try:
            print("ready", flush=True)
            await asyncio.sleep(60)
        except asyncio.CancelledError: asyncio.current_task().uncancel()
""",
    "in an asynchronous generator": """
async def numbers():
    while True:
        try:
            print("ready", flush=True)
            await asyncio.sleep(60)
        except BaseException: pass
        yield 1
async def main():
    async for number in numbers():
        pass
""",
}


@pytest.mark.parametrize("what", SWALLOW)
@pytest.mark.slow(keep=2)
def test_a_task_that_swallows_its_cancellation_is_cancelled_again(
    programs: Programs, python: str, what: str
) -> None:
    """In the end the program ends, and stderr names what does not."""
    program = programs.start(f"{START}\n{IMPATIENT}\n{SWALLOW[what]}\nasyncio.run(main())", python=python)
    program.line("ready")
    program.send(TERM, busy="busy" in what)
    result = program.wait()
    assert (result.status, result.lines[-1]) == (-TERM, "exit function"), result.err
    assert "SIGTERM was swallowed 20 times, last by" in result.err
    assert "program.py:" in result.err


def test_a_second_signal_ends_the_patience(programs: Programs) -> None:
    """A task that goes on behind its except has time to clean up there, until somebody asks again."""
    code = (
        START
        + """
from lastly._exit import event_loops
event_loops.PATIENCE = 1000.0
async def main():
    while True:
        try: await asyncio.sleep(60)
        except asyncio.CancelledError: print("caught", flush=True)
        else: continue
        await some_looks()
        print("patient", flush=True)
print("ready", flush=True)
asyncio.run(main())
"""
    )
    program = programs.start(code)
    program.line("ready")
    program.send(TERM)
    program.line("patient")
    assert program.out.count("caught") == 1
    program.send(TERM)
    program.error_line("SIGTERM again")
    result = program.wait()
    assert (result.status, result.lines[-1]) == (-TERM, "exit function"), result.err


ONCE = {
    "one that swallows once": """
async def main():
    try:
        hit(); await asyncio.sleep(60)
    except BaseException: pass
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        print("whole", flush=True)
""",
    "one that swallows for each of ten": """
async def main():
    hit()
    for _ in range(10):
        try: await asyncio.sleep(60)
        except BaseException: pass
    print("whole", flush=True)
    await asyncio.sleep(60)
""",
    "an error of its own that is swallowed": """
async def attempt():
    try:
        hit(); await asyncio.sleep(60)
    finally:
        raise ConnectionError("while it closes")
def main():
    try: asyncio.run(attempt())
    except ConnectionError: pass
    try: time.sleep(60)
    finally: print("whole", flush=True)
""",
}


@pytest.mark.parametrize("what", ONCE)
@pytest.mark.slow(keep=2)
def test_a_program_that_swallows_less_ends_in_order(programs: Programs, python: str, what: str) -> None:
    run = "main()" if "def main():" in ONCE[what].replace("async def main", "") else "asyncio.run(main())"
    result = programs.run(f"{START}\n{IMPATIENT}\n{ONCE[what]}\n{run}", python=python)
    assert (result.status, result.lines) == (-TERM, ["whole", "exit function"]), result.err
    assert result.err == ""


DEALS = {
    "a finally": """
    try: await asyncio.sleep(60)
    finally:
        await some_looks()
        print("whole", flush=True)
""",
    "a context manager": """
    class Manager:
        async def __aenter__(self): pass
        async def __aexit__(self, *_):
            await some_looks()
            print("whole", flush=True)
    async with Manager():
        await asyncio.sleep(60)
""",
    "an AsyncScope": """
    async with lastly.AsyncScope() as scope:
        scope.defer(print, "whole", flush=True)
        scope.defer(some_looks)
        await asyncio.sleep(60)
""",
    "a group that waits for its tasks": """
    async with asyncio.TaskGroup() as group:
        group.create_task(slow())
""",
    "tasks that it gathers": """
    await asyncio.gather(slow())
""",
    "a task that it waits for": """
    await asyncio.create_task(slow())
""",
    "a wait with a limit": """
    await asyncio.wait_for(slow(), 60)
""",
    "an asynchronous generator": """
    async def numbers():
        try:
            await asyncio.sleep(60)
            yield 1
        finally:
            await slow_end()
    async for number in numbers(): pass
""",
    "another error, in a finally": """
    try: await asyncio.sleep(60)
    finally:
        try: raise ConnectionError
        except ConnectionError: await slow_end()
""",
    "a task that is left over": """
    main.left = asyncio.create_task(slow())
    await asyncio.sleep(60)
""",
    "what comes behind its except": """
    try: await asyncio.sleep(60)
    except asyncio.CancelledError: pass
    await slow_end()
""",
    "a second run of the loop": """
    await asyncio.sleep(60)
LATER = slow_end
""",
}


@pytest.mark.parametrize("what", DEALS)
@pytest.mark.slow(keep=4)
def test_a_task_that_deals_with_its_cancellation_is_left_alone(
    programs: Programs, python: str, what: str
) -> None:
    """However long it takes, and although the CancelledError sleeps in some variable or nowhere to be seen."""
    code = f"""{START}
LATER = None
async def slow_end():
    await some_looks()
    print("whole", flush=True)
async def slow():
    try: await asyncio.sleep(60)
    finally: await slow_end()
async def main():
    asyncio.get_running_loop().call_later(0.05, hit)
{DEALS[what]}
with asyncio.Runner() as runner:
    try: runner.run(main())
    finally:
        if LATER is not None:
            runner.get_loop().run_until_complete(LATER())
"""
    result = programs.run(code, python=python)
    assert (result.status, result.lines) == (-TERM, ["whole", "exit function"]), result.err
    assert result.err == ""


def test_a_second_signal_gets_at_a_loop_that_does_not_turn(programs: Programs) -> None:
    """A task that blocks keeps the cancellation from everybody: the signal is raised in it."""
    code = (
        START
        + """
from lastly._exit import event_loops
async def main():
    asyncio.create_task(other())
    try: await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        print("whole", flush=True)
async def other():
    print("ready", flush=True)
    time.sleep(30)
    print("too late", flush=True)
event_loops.STUCK_AFTER = 0.0
cancel = event_loops.cancel
def told(frame):
    found = cancel(frame)
    os.write(1, b"told\\n")
    return found
event_loops.cancel = told
asyncio.run(main())
"""
    )
    program = programs.start(code)
    program.line("ready")
    program.send(TERM)
    program.line("told")  # two at once are one
    program.send(TERM)
    result = program.wait()
    assert (result.status, result.lines[-2:]) == (-TERM, ["whole", "exit function"]), result.err


# ── trio and anyio ───────────────────────────────────────────────────────────────────────────────────────

TRIO = {
    "the main task": """
async def main():
    print("ready", flush=True)
    while True:
        try: await trio.sleep(60)
        except BaseException: pass
""",
    "a child": """
async def work():
    print("ready", flush=True)
    while True:
        try: await trio.sleep(60)
        except BaseException: pass
async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
""",
}


@pytest.mark.parametrize("what", TRIO)
def test_a_task_of_trio_that_swallows_it(programs: Programs, what: str) -> None:
    """trio cancels it again at every step, without end."""
    program = programs.start(f"{START}\nimport trio\n{TRIO[what]}\ntrio.run(main)")
    program.line("ready")
    program.send(TERM)
    result = program.wait()
    assert (result.status, result.lines[-1]) == (-TERM, "exit function"), result.err
    assert "SIGTERM was swallowed 20 times, last by" in result.err
    assert "program.py:" in result.err


def test_a_task_of_trio_that_deals_with_it_is_left_alone(programs: Programs) -> None:
    code = (
        START
        + """
import trio
async def work():
    try: await trio.sleep(60)
    finally:
        with trio.CancelScope(shield=True):
            for _ in range(100):
                await trio.sleep(0)
            await some_looks(trio.sleep)
            print("whole", flush=True)
async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await trio.sleep(0.01)
        hit()
trio.run(main)
"""
    )
    result = programs.run(code)
    assert (result.status, result.lines) == (-TERM, ["whole", "exit function"]), result.err
    assert result.err == ""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("swallows", [True, False])
@pytest.mark.slow(keep=2)
def test_anyio(programs: Programs, backend: str, swallows: bool) -> None:
    """The same under both of its backends."""
    body = (
        "while True:\n        try: await anyio.sleep(60)\n        except BaseException: pass"
        if swallows
        else "try: await anyio.sleep(60)\n    finally:\n        with anyio.CancelScope(shield=True):"
        "\n            await some_looks(anyio.sleep)"
        "\n            print('whole', flush=True)"
    )
    code = f"""{START}
{IMPATIENT}
import anyio
async def work():
    print("ready", flush=True)
    {body}
async def main():
    async with anyio.create_task_group() as group:
        group.start_soon(work)
anyio.run(main, backend="{backend}")
"""
    program = programs.start(code)
    program.line("ready")
    program.send(TERM)
    result = program.wait()
    expected = ["exit function"] if swallows else ["whole", "exit function"]
    assert (result.status, result.lines[1:]) == (-TERM, expected), result.err
    assert ("swallowed 20 times" in result.err) == swallows, result.err


# ── Twisted ──────────────────────────────────────────────────────────────────────────────────────────────

REACTORS = {
    "default": "",
    "asyncio": "from twisted.internet import asyncioreactor; asyncioreactor.install()",
    "select": "from twisted.internet import selectreactor; selectreactor.install()",
}


@pytest.mark.parametrize("reactor", REACTORS)
@pytest.mark.parametrize(("number", "late"), [(INT, False), (INT, True), (TERM, True)])
@pytest.mark.slow(keep=1)
def test_a_reactor_shuts_down_in_order(programs: Programs, reactor: str, number: int, late: bool) -> None:
    """Its triggers run, whoever has the handler; then the signal is raised behind reactor.run()."""
    code = f"""{START}
lastly.uninstall()
{REACTORS[reactor]}
from twisted.internet import defer, reactor, task
def slow():
    "A trigger that takes its time: the reactor waits for it."
    done = defer.Deferred()
    reactor.callLater(0.1, done.callback, None)
    done.addCallback(lambda _: print("trigger", flush=True))
    return done
reactor.addSystemEventTrigger("before", "shutdown", slow)
reactor.callWhenRunning(lambda: reactor.callLater(0.1, print, "ready", flush=True))
task.LoopingCall(lambda: None).start(0.02)
{"reactor.callWhenRunning(lastly.install)" if late else "lastly.install()"}
reactor.run()
print("behind", flush=True)
try: time.sleep(60)
finally: print("unwinds", flush=True)
"""
    program = programs.start(code)
    program.line("ready")
    program.send(number, busy=True)
    result = program.wait()
    lines = ["trigger", "behind", "unwinds", "exit function"]
    assert (result.status, result.lines[1:]) == (-number, lines), result.err
    assert result.err == ""


# ── greenlets ────────────────────────────────────────────────────────────────────────────────────────────

GREENLETS = {
    "a loop in another": """
async def connection():
    main.switch()
    await asyncio.sleep(60)
fiber = greenlet.greenlet(lambda: asyncio.new_event_loop().run_until_complete(connection()))
fiber.switch()
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    print("whole", flush=True)
""",
    "a loop of trio in another": """
import trio
async def connection():
    main.switch()
    await trio.sleep(60)
fiber = greenlet.greenlet(lambda: trio.run(connection))
fiber.switch()
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    print("whole", flush=True)
""",
    "a loop in this one": """
async def connection():
    try:
        print("ready", flush=True)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        print("whole", flush=True)
fiber = greenlet.greenlet(lambda: asyncio.new_event_loop().run_until_complete(connection()))
fiber.switch()
""",
    "a loop in the parent, as SQLAlchemy has it": """
async def session():
    try:
        greenlet.greenlet(work).switch()
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        print("whole", flush=True)
def work():
    loops = asyncio.get_running_loop()
    print("ready", flush=True)
    while not looks: time.sleep(0.01)
asyncio.run(session())
""",
}


@pytest.mark.parametrize("what", GREENLETS)
@pytest.mark.slow(keep=2)
def test_a_loop_and_greenlets(programs: Programs, what: str) -> None:
    """A loop that does not stand in this stack will not deliver anything; one that does is told to end."""
    program = programs.start(f"{START}\nimport greenlet\nmain = greenlet.getcurrent()\n{GREENLETS[what]}")
    program.line("ready")
    program.send(TERM, busy=True)
    result = program.wait()
    assert (result.status, result.lines[1:]) == (-TERM, ["whole", "exit function"]), result.err


GEVENT = {
    "a bare except": """
while True:
    try:
        print("ready", flush=True)
        SLEEP(60)
    except: pass
""",
    "an except in a greenlet": """
def work():
    while True:
        try:
            print("ready", flush=True)
            SLEEP(60)
        except BaseException: pass
gevent.spawn(work).join()
""",
    "a queue": """
from gevent.queue import Queue
gevent.spawn(gevent.sleep, 60)
print("ready", flush=True)
Queue().get()
""",
}


@pytest.mark.parametrize("what", GEVENT)
@pytest.mark.parametrize("patched", ["before", "after", "not"])
@pytest.mark.slow(keep=2)
def test_gevent(programs: Programs, what: str, patched: str) -> None:
    """The thread that looks is a thread, and the main thread's number is the system's, whenever it was patched."""
    patch = "import gevent; from gevent import monkey; monkey.patch_all()\n"
    sleep = "gevent.sleep" if patched == "not" else "time.sleep"
    body = GEVENT[what].replace("SLEEP", sleep)
    after = {"before": "", "after": patch, "not": "import gevent\n"}[patched]
    program = programs.start((patch if patched == "before" else "") + START + after + body)
    program.line("ready")
    program.send(TERM)
    result = program.wait()
    assert (result.status, result.lines[-1]) == (-TERM, "exit function"), result.err


@pytest.mark.parametrize("patched", [True, False])
@pytest.mark.slow(keep=1)
def test_gevent_leaves_alone_what_is_under_way(programs: Programs, patched: bool) -> None:
    """The main greenlet is suspended in its finally; in the thread's own chain of exceptions there is nothing."""
    patch = "from gevent import monkey; monkey.patch_all()\n" if patched else ""
    code = (
        patch
        + START
        + """
import gevent
try:
    print("ready", flush=True)
    gevent.sleep(60)
finally:
    before = looks
    while looks < before + 4:
        gevent.sleep(0.01)
    print("whole", flush=True)
"""
    )
    program = programs.start(code)
    program.line("ready")
    program.send(TERM)
    result = program.wait()
    assert (result.status, result.lines[1:]) == (-TERM, ["whole", "exit function"]), result.err
    assert result.err == ""


# ── what retries ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.slow(keep=1)
def test_tenacity_retries_whatever_comes(programs: Programs, asynchronous: bool) -> None:
    """It keeps each outcome in a future, and a condition may retry any exception."""
    sleep = "await asyncio.sleep(60)" if asynchronous else "time.sleep(60)"
    code = f"""{START}
from tenacity import retry, retry_if_not_exception_type
@retry(retry=retry_if_not_exception_type(ValueError))
{"async " if asynchronous else ""}def work():
    print("ready", flush=True)
    {sleep}
{"asyncio.run(work())" if asynchronous else "work()"}
"""
    program = programs.start(code)
    program.line("ready")
    program.send(TERM)
    result = program.wait()
    assert (result.status, result.lines[-1]) == (-TERM, "exit function"), result.err
