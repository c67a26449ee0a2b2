"""A main thread that waits for its threads in join() when a signal comes still has them, in every version of Python."""

from __future__ import annotations

import signal

import pytest
from harness import Programs

WORKS = """
import atexit, os, sys, threading, time

stop = threading.Event()

def work():
    try:
        print("ready", flush=True)
        stop.wait()
        time.sleep(0.3)
    finally:
        os.write(1, b"the thread has cleaned up\\n")

"""
INSTALL = """
import lastly
lastly.install()
lastly.defer_early(stop.set)
atexit.register(os.write, 1, b"exit function\\n")
"""
START = """
threads = [threading.Thread(target=work) for _ in range({count})]
for thread in threads:
    thread.start()
"""
JOINS = {
    "a join": "threads[0].join()",
    "a join with a limit": "while threads[0].is_alive(): threads[0].join(60)",
    "several": "for thread in threads: thread.join()",
}


@pytest.mark.parametrize("how", JOINS)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_threads_end_in_order(how: str, signum: int, programs: Programs, python: str) -> None:
    """What a thread does after it was told to stop is done; then come the exit functions."""
    count = 2 if how == "several" else 1
    program = programs.start(WORKS + INSTALL + START.format(count=count) + JOINS[how], python=python)
    for _ in range(count):
        program.line("ready")
    program.send(signum)
    result = program.wait()
    assert result.lines[count:] == ["the thread has cleaned up"] * count + ["exit function"], result.err
    assert result.status == -signum, result.err


def test_a_second_join(programs: Programs, python: str) -> None:
    """A program that catches the signal, tells its thread to stop and joins it again does wait for it."""
    code = """
    try:
        threads[0].join()
    finally:
        stop.set()
        threads[0].join()
        print("joined", threads[0].is_alive(), flush=True)
    """
    code = "\n".join(line.removeprefix("    ") for line in code.splitlines())
    install = INSTALL.replace("lastly.defer_early(stop.set)", "")
    program = programs.start(WORKS + install + START.format(count=1) + code, python=python)
    program.line("ready")
    program.send(signal.SIGTERM)
    result = program.wait()
    assert result.lines[1:] == ["the thread has cleaned up", "joined False", "exit function"], result.err


def test_an_unmodified_program(programs: Programs) -> None:
    code = WORKS + START.format(count=1) + "threads[0].join()\n"
    code = code.replace("stop.wait()", "stop.wait(0.5)")
    script = programs.folder / "works.py"
    script.write_text(code)
    program = programs.start_command(["lastly", "run", str(script)])
    program.line("ready")
    program.send(signal.SIGTERM)
    result = program.wait()
    assert result.lines[1:] == ["the thread has cleaned up"], result.err
    assert result.status == -signal.SIGTERM


def test_many_that_end_just_then(programs: Programs, python: str) -> None:
    """The signal comes while the thread ends, at another moment each time: whatever it was, all is over in the end."""
    code = """
    import _thread, os, signal, threading, time
    import lastly

    lastly.install("USR1")
    caught = 0
    for number in range(300):
        pid = os.getpid()
        thread = threading.Thread(target=lambda: os.kill(pid, signal.SIGUSR1))
        try:
            thread.start()
            thread.join()
            while True:  # it comes now at the latest
                time.sleep(1)
        except lastly.errors.CaughtSignal:
            caught += 1
        while threading.active_count() > 1:
            time.sleep(0)
        thread.join()
        assert not thread.is_alive() and "_stop" not in vars(thread), number
    print(caught, len(threading.enumerate()), flush=True)
    """
    result = programs.run(code, python=python)
    assert result.lines == ["300 1"], result.err
