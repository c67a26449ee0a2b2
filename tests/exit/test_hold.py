"""A signal that is held back until somebody says that the program may unwind."""

from __future__ import annotations

import signal

import pytest
from harness import Programs

TERM, INT = signal.SIGTERM, signal.SIGINT

# Says what it is asked; a file lets the signal go on, from another thread.
CODE = """
    import os, sys, threading, time
    import lastly
    from lastly._exit import hold as _hold, state

    def hold():
        os.write(1, b"asked\\n")
        return {answer}

    def let_go():
        while not os.path.exists("go"):
            time.sleep(0.01)
        _hold.go_on()
        _hold.go_on()

    state.subscribe(hold=hold)
    lastly.install()
    lastly.defer(print, "deferred", flush=True)
    threading.Thread(target=let_go, daemon=True).start()
    {body}
"""
WAIT = """
    print("ready", flush=True)
    try:
        while True:
            time.sleep(0.02)
    finally:
        print("unwinds", flush=True)
"""


def program(programs: Programs, answer: object, body: str = WAIT):
    # the body's lines stand as deep as the code's
    return programs.start(CODE.replace("{answer}", str(answer)).replace("    {body}\n", body))


@pytest.mark.parametrize("again", [None, TERM])
def test_it_waits_until_it_is_let_go(again: int | None, programs: Programs) -> None:
    """...also when a supervisor repeats itself."""
    running = program(programs, True)
    running.line("ready")
    running.send(TERM)
    running.line("asked")
    if again:
        running.send(again)
        running.error_line("SIGTERM again")
    assert "unwinds" not in running.out
    (running.cwd / "go").touch()
    result = running.wait()
    assert (result.status, result.lines) == (-TERM, ["ready", "asked", "unwinds", "deferred"])


def test_ctrl_c_does_not_wait_any_longer(programs: Programs) -> None:
    running = program(programs, True)
    running.line("ready")
    running.send(TERM)
    running.line("asked")
    running.send(INT)
    result = running.wait()
    assert (result.status, result.lines) == (-TERM, ["ready", "asked", "unwinds", "deferred"])


def test_it_does_not_wait_when_nobody_wants_it_to(programs: Programs) -> None:
    running = program(programs, False)
    running.line("ready")
    running.send(TERM)
    result = running.wait()
    assert (result.status, result.lines) == (-TERM, ["ready", "asked", "unwinds", "deferred"])


def test_a_signal_that_was_answered_is_asked_for_again(programs: Programs) -> None:
    body = """
    for number in range(2):
        try:
            print("ready", flush=True)
            while True:
                time.sleep(0.02)
        except KeyboardInterrupt:
            print("answered", flush=True)
    """
    running = program(programs, False, body)
    for _ in range(2):
        running.line("ready")
        running.send(INT)
        running.line("answered")
    result = running.wait()
    assert result.lines == [*["ready", "asked", "answered"] * 2, "deferred"]


def test_a_forked_child_is_not_held(programs: Programs) -> None:
    """It has neither the signals nor the requests of its parent."""
    body = """
    child = os.fork()
    if child == 0:
        while True:
            time.sleep(0.02)
    import signal
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    result = program(programs, True, body).wait()
    assert (result.status, result.lines) == (0, [str(-TERM), "deferred"])
