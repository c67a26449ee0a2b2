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
import threading
import time
import types

import pytest
from harness import PATIENCE, SRC, clean_environment

from lastly._scope import progress

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


def without_the_lines(out):
    """What the program itself printed: ours begin with a row of spaces, and end with a newline of their own."""
    return re.sub(" {100}\r[^\r\n]*\r\r\n", "", out)


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
    assert without_the_lines(out) == OUTPUT
    if case == "root" and not late_threads(python):
        return  # 3.12.0 and 3.12.1 start no thread once the main thread has ended: no line there
    assert "running talking; 1 left: print" in out
    assert ("Ctrl-C interrupts it" in out) is (case != "async")  # there it cancels the main task, not the cleanup


def test_a_quick_close_draws_nothing(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("from lastly import Scope, defer\ndefer(print, 'x')\nwith Scope() as s: s.defer(print, 'y')\n")
    assert on_a_terminal([sys.executable, str(program)]) == (0, "y\r\nx\r\n")


@pytest.mark.parametrize("case", CASES)
def test_nothing_on_a_pipe(programs, case):
    result = programs.run(PROGRAM.format(CASES[case]))
    assert (result.status, result.err) == (0, "")
    assert result.out == OUTPUT.replace("\r\n", "\n")


class Terminal:
    """A program on a pseudo-terminal of its own; what it shows is waited for."""

    def __init__(self, python, code, tmp_path, before=None):
        (tmp_path / "program.py").write_text(code)
        self.controller, terminal = pty.openpty()
        resize(terminal, (24, 100))
        self.process = subprocess.Popen(
            [python, str(tmp_path / "program.py")],
            stdin=terminal, stdout=terminal, stderr=terminal, cwd=tmp_path, preexec_fn=before,
            env=clean_environment(tmp_path / "home", PYTHONPATH=str(SRC)),
        )  # fmt: skip
        os.close(terminal)
        self.out = b""

    def wait_for(self, text):
        """Wait until the text is shown, from here on; or for the program's end, which is no text."""
        end = time.monotonic() + PATIENCE
        start = len(self.out)
        while text not in self.out[start:].decode(errors="replace"):
            assert time.monotonic() < end, self.out
            if select.select([self.controller], [], [], 0.5)[0]:
                self.out += os.read(self.controller, 65536)

    def wait(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            dead = self.process.poll() is not None  # before the look: what it said last is still to be read
            if select.select([self.controller], [], [], 0 if dead else 0.1)[0]:
                try:
                    self.out += os.read(self.controller, 65536)
                except OSError:  # EIO: it has gone
                    break
            elif dead:
                break
        return self.process.wait(PATIENCE)

    def press(self, number=signal.SIGINT):
        self.process.send_signal(number)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.controller)


HANGING = """
import threading, lastly
{}
with lastly.Scope() as scope:  # not at exit: in 3.12.1 no thread can be started there
    scope.defer(print, "older", flush=True)
    scope.defer(threading.Event().wait, 60).named("hanging")
"""


def test_the_line_says_how_to_force_at_that_second(tmp_path, python):
    """Nothing came yet: three; a first one: two; later than 2 s after it: one. And so it is."""
    with Terminal(python, HANGING.format("lastly.install()"), tmp_path) as terminal:
        terminal.wait_for("; Ctrl-C three times forces)")
        terminal.press()
        terminal.wait_for("; Ctrl-C twice forces)")
        terminal.wait_for("; Ctrl-C forces)")
        terminal.press()
        assert terminal.wait() == -signal.SIGINT
        assert b"leaving at once" in terminal.out
        assert b"older" not in terminal.out


def test_the_line_of_the_root_scope_after_a_signal(tmp_path, python):
    """With 3.12.0 and 3.12.1, too: its thread is started when the signal comes, for at exit it could not be."""
    code = """
import threading, lastly
lastly.install()
lastly.defer(threading.Event().wait, 60).named("hanging")
print("ready", flush=True)
threading.Event().wait(60)
"""
    with Terminal(python, code, tmp_path) as terminal:
        terminal.wait_for("ready")
        terminal.press()
        terminal.wait_for("running hanging")
        terminal.wait_for("; Ctrl-C forces)")
        terminal.press()
        assert terminal.wait() == -signal.SIGINT


def test_after_another_signal_two_are_needed(tmp_path, python):
    """The first Ctrl-C explains, and says what the next one does."""
    with Terminal(python, HANGING.format("lastly.install()"), tmp_path) as terminal:
        terminal.wait_for("three times")
        terminal.press(signal.SIGTERM)
        terminal.wait_for("; Ctrl-C twice forces)")
        terminal.press(signal.SIGTERM)
        terminal.wait_for(
            "SIGTERM again: still cleaning up: running hanging; 1 left: print. Ctrl-C twice forces"
        )
        terminal.press()
        terminal.wait_for("SIGINT again: still cleaning up: running hanging; 1 left: print. Ctrl-C forces")
        terminal.press()
        assert terminal.wait() == -signal.SIGTERM


def test_without_install_it_interrupts(tmp_path, python):
    """Python's own handler: the cleanup that runs is cut, the others run."""
    with Terminal(python, HANGING.format(""), tmp_path) as terminal:
        terminal.wait_for("; Ctrl-C interrupts it)")
        terminal.press()
        terminal.wait()
        assert b"KeyboardInterrupt" in terminal.out
        assert b"older" in terminal.out


@pytest.mark.parametrize("how", ["ignored", "theirs", "in a thread"])
def test_what_is_not_known_is_not_said(tmp_path, how):
    """SIGINT is ignored, belongs to the program, or does not reach the thread that is closing."""
    code = HANGING.format("")
    if how == "theirs":
        code = "import signal; signal.signal(signal.SIGINT, print)" + code
    if how == "in a thread":
        code = (
            "import threading, lastly\ndef close():\n    with lastly.Scope() as scope:\n"
            "        scope.defer(threading.Event().wait, 60).named('hanging')\n"
            "thread = threading.Thread(target=close)\nthread.start()\nthread.join()\n"
        )

    def ignore():
        if how == "ignored":
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    with Terminal(sys.executable, code, tmp_path, before=ignore) as terminal:
        terminal.wait_for("running hanging")
        terminal.wait_for(" s)")
        assert b"Ctrl-C" not in terminal.out


def test_what_is_said_is_what_happens(programs):
    """Each order of up to four signals, early and late: as many presses as said force, and not one less."""
    result = programs.run(
        """
        import itertools, signal, sys
        import lastly
        from lastly._exit import ending, signals as _signals, state
        from lastly._exit.state import end
        class Forced(Exception): pass
        def force(why): raise Forced
        ending.force, ending.say = force, lambda text: None
        lastly.install()
        def press(number):
            _signals._handler(number, sys._getframe())
        count = 0
        def cleanup():
            global count
            INT, TERM, HUP, late = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, 0
            for length in range(5):
                for order in itertools.product((INT, TERM, late), repeat=length):
                    state.answered()
                    try:
                        for number in order:
                            if number: press(number)
                            elif end.first_press: end.first_press -= 3
                    except Forced: continue
                    said = _signals.presses_to_force()
                    for number in range(1, 5):
                        try: press(INT)
                        except Forced: break
                    assert number == said, (order, number, said)
                    count += 1
            state.answered()
            end.handled = 0
        with lastly.Scope() as scope: scope.defer(cleanup)
        print(count)
        """
    )
    assert int(result.out) > 50, result.err


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_however_it_ends_the_terminal_is_as_it_was(tmp_path, python, signum):
    """Killed while a line is there, or forced out: nothing was changed that somebody had to change back."""
    with Terminal(python, HANGING.format("lastly.install()"), tmp_path) as terminal:
        terminal.wait_for("running hanging")
        terminal.press(signum)
        if signum == signal.SIGINT:
            terminal.wait_for("; Ctrl-C forces)")
            terminal.press(signum)
        assert terminal.wait() == -signum
        assert b"\x1b" not in terminal.out


def test_what_does_not_change_is_said_less_and_less_often(monkeypatch):
    """One line at once, then after 2, 4, 8, 16, 16 s; what changes, after 2 s again; the way out, at once."""
    lines, facts = [], {"what": "running x", "out": ""}
    monkeypatch.setattr(progress, "describe", lambda: facts["what"])
    monkeypatch.setattr(progress, "_way_out", lambda: facts["out"])
    monkeypatch.setattr(progress, "now", types.SimpleNamespace(closing={None: threading.main_thread().ident}))
    moment = 100.0
    monkeypatch.setattr(progress, "_write", lambda line: lines.append((moment - 100, line)))
    said = progress._Lines()
    changes = {600: ("what", "running y"), 605: ("out", "Ctrl-C forces")}
    for tick in range(700):
        if tick in changes:
            key, facts[key] = changes[tick]
        moment = 100 + tick / 10
        said.say(moment, moment - 100)
    assert [when for when, _ in lines] == [0, 2, 6, 14, 30, 46, 60, 60.5, 62.5, 66.5]
    assert lines[-1] == (66.5, "lastly: running y (66 s; Ctrl-C forces)")
