"""The root scope: what a program that ends prints, leaves, and returns. Real processes, all interpreters."""

from __future__ import annotations

import pytest


def test_everything_runs_newest_first(programs, python):
    code = """
    import atexit
    atexit.register(print, "atexit, before lastly")
    from lastly import defer, register, unregister
    @defer
    def last():
        print("last")
    register(print, "registered", 1, sep="-")
    defer(print, "deferred", end="!\\n")
    handle = defer(print, "detached")
    handle.detach()
    atexit.register(print, "atexit, after lastly")
    """
    result = programs.run(code, python=python)
    assert result.lines == [
        "atexit, after lastly", "deferred!", "registered-1", "last", "atexit, before lastly",
    ]  # fmt: skip
    assert (result.status, result.err) == (0, "")


def test_a_failing_cleanup_is_printed_and_turns_status_0_into_1(programs, python):
    code = """
    from lastly import defer
    def bad():
        raise ValueError("bad")
    defer(print, "still run")
    defer(bad)
    """
    result = programs.run(code, python=python)
    assert result.status == 1
    assert result.lines == ["still run"]
    assert result.err.startswith("Exception in cleanup bad:\nTraceback (most recent call last):\n")
    assert "lastly" not in result.err
    assert result.err.endswith("ValueError: bad\n")


@pytest.mark.parametrize(
    ("ending", "status"),
    [("sys.exit(3)", 3), ("raise KeyError('body')", 1), ("pass", 1), ("raise SystemExit(3)", 1)],
)
@pytest.mark.slow(keep=2)
def test_a_failing_cleanup_changes_no_other_status(programs, ending, status):
    code = f"""
    import sys
    from lastly import defer, Scope
    defer(lambda: 1 / 0)
    with Scope():
        {ending}
    """
    result = programs.run(code)
    assert result.status == status
    assert "ZeroDivisionError" in result.err


@pytest.mark.parametrize(("argument", "status"), [("5", 5), ("0", 0), ("None", 0), ("'text'", 1)])
@pytest.mark.slow(keep=2)
def test_sys_exit_in_a_cleanup_at_exit(programs, python, argument, status):
    code = f"""
    import sys
    from lastly import defer
    defer(print, "older")
    defer(sys.exit, {argument})
    """
    result = programs.run(code, python=python)
    assert (result.status, result.lines) == (status, ["older"])
    assert ("text" in result.err) is (argument == "'text'")


def test_closed_stderr_is_no_reason_to_lose_the_others(programs, python):
    code = """
    import sys
    from lastly import defer
    defer(print, "older")
    defer(lambda: 1 / 0)
    sys.stderr.close()
    """
    result = programs.run(code, python=python)
    assert (result.status, result.lines) == (1, ["older"])


def test_deferring_at_exit(programs, python):
    code = """
    import atexit, lastly
    def late():
        try:
            lastly.defer(print, "never")
        except lastly.ScopeClosed as error:
            print("refused")
    atexit.register(late)
    @lastly.defer
    def one():
        lastly.defer(print, "next")
    """
    assert programs.run(code, python=python).lines == ["next", "refused"]


def test_the_exit_reason(programs, python):
    code = """
    import lastly, sys
    lastly.defer(lambda: print(lastly.exit_reason()))
    print(lastly.exit_reason())
    if "raise" in sys.argv:
        raise ValueError("x")
    if "exit" in sys.argv:
        sys.exit(3)
    """
    assert programs.run(code, "exit", python=python).lines == ["None", "exit code 3"]
    assert programs.run(code, python=python).lines == ["None", "the end"]
    assert programs.run(code, "raise", python=python).lines == ["None", "exception ValueError: x"]


def test_the_report_at_exit(programs):
    code = """
    import atexit, lastly
    @atexit.register
    def tell():
        for entry in lastly.report():
            print(entry.name, entry.outcome)
    lastly.defer(len, 5)
    lastly.defer(print, "hello")
    """
    assert programs.run(code).lines == ["hello", "print done", "len failed"]


def test_an_async_cleanup_at_exit(programs, python):
    code = """
    import asyncio, lastly
    async def later():
        await asyncio.sleep(0)
        print("awaited")
    lastly.defer(later)
    """
    result = programs.run(code, python=python)
    assert (result.lines, result.err, result.status) == (["awaited"], "", 0)


def test_limits_at_exit(programs, python):
    """From 3.12 on no thread can be started in atexit: they are started before."""
    code = """
    import lastly, threading
    event = threading.Event()
    lastly.defer(print, "oldest")
    for number in range(3):
        lastly.defer(event.wait, 60).within(0.1).named(f"hang {number}")
    lastly.defer(print, "limited").within(5)
    with lastly.Scope().parallel() as pool:
        pass
    """
    result = programs.run(code, python=python)
    assert result.lines == ["limited", "oldest"]
    assert result.status == 1
    for number in range(3):
        assert f"hang {number} did not end within 0.1 s" in result.err


def test_ctrl_c_between_and_inside_cleanups_loses_none(programs, python):
    code = """
    import lastly, os, signal
    def hit(number):
        print(number, flush=True)
        if number == 5:
            os.kill(os.getpid(), signal.SIGINT)
        print(number, "whole", flush=True)
    for number in range(10):
        lastly.defer(hit, number)
    """
    result = programs.run(code, python=python)
    started = [int(line) for line in result.lines if "whole" not in line]
    assert started == [*range(10)][::-1]
    assert "KeyboardInterrupt" in result.err
    assert result.status != 0


def test_an_interrupt_at_any_moment_loses_none(programs, python):
    """A handler that raises again and again while 20,000 cleanups run: each is begun, or was the one in hand."""
    code = """
    import signal, sys
    from lastly import Scope
    begun = []
    def handler(signum, frame):
        while frame is not None:
            if frame.f_code.co_name.startswith("drain"):
                raise KeyboardInterrupt
            frame = frame.f_back
    signal.signal(signal.SIGALRM, handler)
    scope = Scope()
    for number in range(20000):
        handle = scope.defer(begun.append, number)
        if number % 50 == 0:
            handle.within(None)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    failures = scope._run_all()
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert begun == [*range(20000)][::-1], len(begun)
    assert failures
    print("ok")
    """
    result = programs.run(code, python=python)
    assert (result.lines, result.err) == (["ok"], "")


def test_a_scope_that_lives_until_the_very_end_says_so(programs, python):
    code = """
    import builtins, lastly
    class Keeper: pass
    builtins.keeper = keeper = Keeper()
    keeper.itself, keeper.scope = keeper, lastly.Scope("forgotten")
    keeper.scope.defer(print, "never")
    """
    quiet, told = programs.run(code, python=python), programs.run(code, python=python, flags=["-W", "always"])
    assert (quiet.status, quiet.err) == (told.status, "") == (0, "")
    assert "ResourceWarning: <Scope 'forgotten' open: 1 pending, 0 run> was never closed" in told.err
    assert "Exception ignored" not in told.err


def test_a_thread_that_never_stops_deferring_keeps_no_program_alive(programs, python):
    code = """
    import threading
    from lastly import defer
    def undo():
        go.release()
        deferred.acquire()
    def work():
        try:
            while True:
                go.acquire()
                defer(undo)
                deferred.release()
        finally:
            deferred.release(2000)
            print("refused", flush=True)
    go, deferred = threading.Semaphore(0), threading.Semaphore(0)
    defer(lambda: thread.join())
    defer(print, "old", flush=True)
    defer(undo)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    """
    result = programs.run(code, python=python)
    assert sorted(result.lines) == ["old", "refused"]
    assert "ScopeClosed: scope 'root' is closing" in result.err
    assert result.status == 0
