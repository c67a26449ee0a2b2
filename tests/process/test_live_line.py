"""The line that a person sees while closing takes long: on a terminal only, and never mixed into the output."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

PROGRAM = """
import sys, time
from lastly import Scope, defer
def talk():
    for number in range(4):
        print("half a line", number, end=" ", flush=True)
        time.sleep(0.25)
        print("and its rest", flush=True)
{}
"""
CASES = {
    "root": "defer(print, 'older', flush=True)\ndefer(talk).named('talking')",
    "scope": "with Scope() as scope:\n    scope.defer(print, 'older', flush=True)\n    scope.defer(talk).named('talking')",
    "async": (
        "import asyncio\nfrom lastly import AsyncScope\nasync def main():\n    async with AsyncScope() as scope:\n"
        "        scope.defer(print, 'older', flush=True)\n        scope.defer(asyncio.to_thread, talk).named('talking')\n"
        "asyncio.run(main())"
    ),
}
OUTPUT = "".join(f"half a line {number} and its rest\r\n" for number in range(4)) + "older\r\n"


def resize(terminal, size):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))


def on_a_terminal(argv, env=None, size=(24, 100)):
    """Run on a pseudo-terminal; return (status, all that came out of it)."""
    controller, terminal = pty.openpty()
    resize(terminal, size)
    process = subprocess.Popen(argv, stdin=terminal, stdout=terminal, stderr=terminal, env=env, start_new_session=True)
    os.close(terminal)
    out, end = b"", time.monotonic() + 30
    try:
        while time.monotonic() < end:
            if select.select([controller], [], [], 0.5)[0]:
                try:
                    data = os.read(controller, 65536)
                except OSError:
                    break
                if not data:
                    break
                out += data
        return process.wait(10), out.decode()
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def without_the_line(out):
    """What the program itself printed: everything but our sequences, each of which gives the cursor back."""
    out = out.replace("\x1bD\x1b[A", "")
    return re.sub("\x1b7.*?\x1b8", "", out, flags=re.DOTALL)


def late_threads(python):
    code = "import threading as t; t._register_atexit(lambda: t.Thread(target=print, args=('yes',)).start())"
    return "yes" in subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False).stdout


@pytest.mark.parametrize("case", CASES)
def test_on_a_terminal(tmp_path, python, case):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(CASES[case]))
    src = os.path.join(os.path.dirname(__file__), "..", "..", "src")
    status, out = on_a_terminal([python, str(program)], {**os.environ, "PYTHONPATH": os.path.abspath(src)})
    assert status == 0
    assert without_the_line(out) == OUTPUT
    if case == "root" and not late_threads(python):
        return  # 3.12.0 and 3.12.1 start no thread once the main thread has ended: no line there
    assert "running talking; 1 left: print" in out
    assert "Ctrl-C" in out
    # The row is given back at the end.
    assert out.index("\x1b[1;23r") < out.index("\x1b[r")


def test_a_quick_close_draws_nothing(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("from lastly import Scope, defer\ndefer(print, 'x')\nwith Scope() as s: s.defer(print, 'y')\n")
    assert on_a_terminal([sys.executable, str(program)]) == (0, "y\r\nx\r\n")


@pytest.mark.parametrize("case", CASES)
def test_nothing_on_a_pipe(programs, case):
    result = programs.run(PROGRAM.format(CASES[case]))
    assert (result.status, result.err) == (0, "")
    assert result.out == OUTPUT.replace("\r\n", "\n")


def test_forced_out_the_terminal_gets_its_row_back(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import lastly, threading\nlastly.install()\n"
        "lastly.defer(threading.Event().wait, 60).named('hanging')\n"
    )
    controller, terminal = pty.openpty()
    resize(terminal, (24, 100))
    process = subprocess.Popen([sys.executable, str(program)], stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    out = b""
    try:
        end = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < end:
            if b"running hanging" in out:
                process.send_signal(signal.SIGINT)
            try:
                if select.select([controller], [], [], 0.2)[0]:
                    out += os.read(controller, 65536)
            except OSError:  # EIO: nobody has the terminal open any more
                break
        assert process.wait(10) == -signal.SIGINT
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    assert out.rindex(b"\x1b[r") > out.rindex(b"\x1b[1;23r")
