"""After a signal no wait for threads or worker processes is without end: not at exit, not in a library's ``with``."""

from __future__ import annotations

import re
import signal

import pytest

# What is started here is busy until its parent has ended, and ends then: no test leaves anything.
BUSY = """
import asyncio, atexit, concurrent.futures, logging.handlers, multiprocessing, os, queue, sys, threading, time, weakref
def busy(parent, deaf=False):
    if deaf:
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("busy", flush=True)
    while os.getppid() == parent:
        time.sleep(0.02)
def hang():
    threading.Event().wait()
def begin():
    print("ready", flush=True)
    threading.Event().wait()
"""
INSTALL = """
if __name__ == "__main__":
    import lastly
    lastly.install(grace=6)
    atexit.register(print, "exit function", flush=True)
    lastly.defer(print, "cleanup", flush=True)
"""
BARE = """
if __name__ == "__main__":
    atexit.register(print, "exit function", flush=True)
"""
PROCESS = """
    context = multiprocessing.get_context({method!r})
    worker = context.Process(target=busy, args=(os.getpid(),), name="Busy")
    worker.start()
"""
POOL = """
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(busy, os.getpid())
        begin()
"""
# What torch.multiprocessing.spawn does: processes that are no daemons, joined in a loop by their sentinels.
SPAWN = """
    from multiprocessing import connection
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=busy, args=(os.getpid(),), name=f"Busy-{{n}}") for n in range(2)]
    for worker in workers:
        worker.start()
    print("ready", flush=True)
    while not connection.wait([worker.sentinel for worker in workers], timeout=None):
        pass
"""
BODIES = {
    "the body sleeps": PROCESS.format(method="fork") + "    begin()",
    "spawn": PROCESS.format(method="spawn") + "    begin()",
    "the body joins": PROCESS.format(method="fork") + "    print('ready', flush=True); worker.join()",
    "the body is over": PROCESS.format(method="fork") + "    atexit.register(print, 'ready', flush=True)",
    "with ProcessPoolExecutor": POOL,
    "torch": SPAWN.replace("{{", "{").replace("}}", "}"),
    "Pool": """
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply_async(busy, (os.getpid(), True))
        begin()
""",
    "a daemon that is deaf": """
    multiprocessing.get_context("fork").Process(target=busy, args=(os.getpid(), True), daemon=True).start()
    begin()
""",
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.slow(keep=3)
def test_a_busy_worker_process(programs, python, body):
    """The cleanups run, and the program dies of the signal although the child lives on."""
    program = programs.start(BUSY + INSTALL + BODIES[body], python=python, flags=("-W", "ignore"))
    end(program, {"ready", "busy"})
    result = program.wait()
    assert result.status == -signal.SIGTERM, result.err
    assert set(result.lines) >= {"exit function", "cleanup"}
    assert "is no longer waited for" in result.err or body == "the body is over"
    assert "Exception ignored" not in result.err


@pytest.mark.parametrize("options", [[], ["--supervise"]])
@pytest.mark.parametrize("body", ["the body joins", "with ProcessPoolExecutor", "the body is over"])
@pytest.mark.slow(keep=1)
def test_under_lastly_run(programs, options, body):
    (folder := programs.folder / "main").mkdir()
    (folder / "program.py").write_text(BUSY + BARE + BODIES[body])
    program = programs.start_command(["lastly", "run", *options, "--", "python", "program.py"], cwd=folder)
    end(program, {"ready", "busy"})
    result = program.wait()
    assert result.status == -signal.SIGTERM, result.err
    assert "exit function" in result.lines


def end(program, lines):
    """Send SIGTERM when all of these lines have come, in whatever order."""
    while lines:
        lines.discard(program.line().strip())
    program.send(signal.SIGTERM)


THREADS = {
    "a timer": "    threading.Timer(3600, print).start(); begin()",
    "an executor": """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(hang)
        begin()
""",
    "asyncio.to_thread": """
    async def main():
        task = asyncio.ensure_future(asyncio.to_thread(hang))
        await asyncio.sleep(0)
        print("ready", flush=True)
        await asyncio.Event().wait()
    asyncio.run(main())
""",
    "a listener": """
    class Stuck(logging.Handler):
        def emit(self, record):
            hang()
    log = queue.Queue()
    listener = logging.handlers.QueueListener(log, Stuck())
    atexit.register(listener.stop)
    # Its thread has the lock of the handler, which `logging.shutdown` waits for then.
    listener.start()
    log.put(logging.makeLogRecord({}))
    begin()
""",
    "weakref.finalize": """
    thread = threading.Thread(target=hang, daemon=True)
    thread.start()
    weakref.finalize(begin, thread.join)
    begin()
""",
}


@pytest.mark.parametrize("kind", THREADS)
def test_a_thread_does_not_eat_the_grace(programs, python, kind):
    program = programs.start(BUSY + INSTALL + THREADS[kind], python=python)
    end(program, {"ready"})
    result = program.wait()
    assert result.status == -signal.SIGTERM, result.err
    assert sorted(result.lines) == ["cleanup", "exit function", "ready"]
    assert re.search(r"lastly: (thread '.*'|logging.*) did not end and is no longer waited for", result.err), result.err
    assert "are over" not in result.err


def test_an_early_cleanup_does_not_eat_the_grace(programs, python):
    """Nor that of a scope: requests to stop run within it, as all others do."""
    code = """
    import contextlib, os, threading
    import lastly
    with contextlib.suppress(lastly.CleanupFailed), lastly.Scope(grace=2) as scope:
        scope.defer(print, "scope's", flush=True)
        scope.defer_early(threading.Event().wait)
    lastly.install(grace=5)
    lastly.defer(print, "cleanup", flush=True)
    lastly.defer_early(print, "early", flush=True)
    lastly.defer_early(threading.Event().wait)
    os.kill(os.getpid(), 15)
    """
    result = programs.run(code, python=python)
    assert (result.lines, result.status) == (["scope's", "early", "cleanup"], -15), result.err
    assert "Event.wait did not end within" in result.err


def test_cleanups_do_not_wait_for_the_children(programs, python):
    """They run before multiprocessing waits, although its exit function is the newest."""
    code = "import atexit; atexit.register(print, 'the last', flush=True)" + BUSY + INSTALL.replace("grace=6", "")
    code += BODIES["the body sleeps"]
    program = programs.start(code, python=python, flags=("-W", "ignore"))
    end(program, {"ready", "busy"})
    program.line("cleanup", within=4.0)  # the wait itself lasts 5 s
    program.line("the last")
    program.send(signal.SIGTERM)
    assert re.fullmatch(
        r"lastly: SIGTERM again: still cleaning up: waiting for process 'Busy' \(pid \d+\)\. Ctrl-C twice forces",
        program.error_line("SIGTERM again"),
    )
    assert program.wait().status == -signal.SIGTERM


def test_children_that_end_in_time_are_waited_for(programs, python):
    """And what multiprocessing does after that is done: a queue's last word is written."""
    code = """
    import multiprocessing, os, sys, time
    def work(parent, numbers):
        while sys.stdin.readline() != "go\\n":
            pass
        print("got", numbers.get(), numbers.get(), flush=True)
    if __name__ == "__main__":
        import lastly
        lastly.install()
        context = multiprocessing.get_context("fork")
        numbers = context.Queue()
        numbers.put(6)  # from 3.12 on, its thread could not be started at exit any more
        reader, writer = os.pipe()
        sys.stdin = open(reader)
        def tell():
            numbers.put(7)
            os.write(writer, b"go\\n")
        lastly.defer(tell)
        multiprocessing.util._close_stdin = lambda: None
        worker = context.Process(target=work, args=(os.getpid(), numbers))
        worker.start()
        print("ready", flush=True)
        time.sleep(600)
    """
    program = programs.start(code, python=python, flags=("-W", "ignore"))
    end(program, {"ready"})
    result = program.wait()
    assert (result.status, result.lines, result.err) == (-signal.SIGTERM, ["ready", "got 6 7"], "")


@pytest.mark.parametrize("where", ["finally", "exit function", "cleanup"])
def test_the_programs_own_join_is_left_alone(programs, python, where):
    """Ten times as long as a library's would last."""
    ways = {
        "finally": "try: begin()\n    finally: thread.join()",
        "exit function": "atexit.register(lambda: thread.join()); begin()",
        "cleanup": "lastly.defer(thread.join); begin()",
    }
    code = f"""{BUSY}
if __name__ == "__main__":
    import lastly, lastly._exit.joins
    lastly._exit.joins.LIMIT = 0.1
    lastly.install()
    def work():
        stop.wait()
        time.sleep(1)
        print("whole", flush=True)
    stop = threading.Event()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    lastly._exit.state.subscribe(ending=stop.set)
    {ways[where]}
"""
    program = programs.start(code, python=python)
    end(program, {"ready"})
    result = program.wait()
    assert (result.status, result.lines, result.err) == (-15, ["ready", "whole"], "")


def test_no_signal_no_limit(programs, python):
    """A normal end waits for its children as long as it takes."""
    code = """
    import multiprocessing, sys, time
    def work():
        time.sleep(1)
        print("whole", flush=True)
    if __name__ == "__main__":
        import lastly, lastly._exit.joins
        lastly._exit.joins.LIMIT = 0.1
        lastly.install()
        multiprocessing.get_context("fork").Process(target=work).start()
    """
    result = programs.run(code, python=python, flags=("-W", "ignore"))
    assert (result.status, result.lines, result.err) == (0, ["whole"], "")
