"""On Windows itself, or on its CPython under Wine: `make test-windows`. Not collected elsewhere.

Here is what Windows has instead of signals: Ctrl-C, Ctrl-Break, a console that is closed, a user that logs off. Each
program has a console of its own, without a window, so that no event reaches anything but that program.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from ctypes import wintypes
from pathlib import Path
from typing import Any

import in_process
import pytest

PATIENCE = 60.0  # seconds: far more than anything takes
CTRL_C, CTRL_BREAK, CLOSE, LOGOFF, SHUTDOWN = 0, 1, 2, 5, 6
EVENTS = {CTRL_C: "ctrl-c", CTRL_BREAK: "ctrl-break", CLOSE: "close", LOGOFF: "logoff", SHUTDOWN: "shutdown"}
CONTROL_C_EXIT = 0xC000013A  # what Windows itself ends such a program with
SIGBREAK = 21
SRC = Path(__file__).resolve().parents[2] / "src"

kernel: Any = ctypes.WinDLL("kernel32", use_last_error=True)
kernel.OpenProcess.restype = kernel.GetModuleHandleW.restype = kernel.CreateRemoteThread.restype = wintypes.HANDLE
kernel.GetProcAddress.restype = ctypes.c_void_p
kernel.GetProcAddress.argtypes = (wintypes.HMODULE, ctypes.c_char_p)
kernel.CreateRemoteThread.argtypes = (
    wintypes.HANDLE, wintypes.LPVOID, ctypes.c_size_t, wintypes.LPVOID, wintypes.LPVOID, wintypes.DWORD, wintypes.LPVOID,
)  # fmt: skip
kernel.CloseHandle.argtypes = (wintypes.HANDLE,)

# Ctrl-C reaches all programs of one console: so it is sent by one that attaches itself to it, and goes with it.
SEND = "import ctypes, sys; k = ctypes.WinDLL('kernel32'); k.FreeConsole(); k.AttachConsole(int(sys.argv[1])); k.GenerateConsoleCtrlEvent(0, 0)"


class Program:
    """A started program; `line` waits for what it prints, `wait` for its end."""

    def __init__(self, code: str, folder: Path, env: dict[str, str]) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", code], cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, creationflags=subprocess.CREATE_NO_WINDOW,
        )  # fmt: skip
        self.pid = self.popen.pid
        self._bound = threading.Timer(PATIENCE, self.popen.kill)
        self._bound.start()
        self.out = ""

    def line(self, text: str) -> None:
        assert self.popen.stdout is not None
        while text not in (line := self.popen.stdout.readline()):
            assert line, f"no {text!r}: {self.wait()}"
            self.out += line
        self.out += line

    def send(self, event: int) -> None:
        """Let Windows call the program's handlers of console events."""
        if event == CTRL_C:
            subprocess.run([sys.executable, "-c", SEND, str(self.pid)], creationflags=subprocess.CREATE_NO_WINDOW, check=False)
            return
        # What Windows does: a new thread in that process, which begins here.
        process = kernel.OpenProcess(0x1FFFFF, False, self.pid)
        begin = kernel.GetProcAddress(kernel.GetModuleHandleW("kernelbase"), b"CtrlRoutine")
        thread = kernel.CreateRemoteThread(process, None, 0, begin, event, 0, None)
        assert thread, ctypes.get_last_error()
        kernel.CloseHandle(thread)
        kernel.CloseHandle(process)

    def wait(self) -> tuple[list[str], int, str]:
        """What it printed, its status, and what it said on stderr."""
        out, err = self.popen.communicate()
        assert self._bound.is_alive(), f"{self.out}{out}: it did not end within {PATIENCE} s: {err}"
        self._bound.cancel()
        return (self.out + out).split(), self.popen.returncode, err

    def end(self) -> None:
        self._bound.cancel()
        self.popen.kill()  # nothing happens when it has ended
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def begin(code: str, **env: str) -> Program:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LASTLY_"))}
        started.append(Program(code, tmp_path, {**clean, "PYTHONPATH": str(SRC), **env}))
        return started[-1]

    yield begin
    for program in started:
        program.end()


def status_of(wanted: int) -> int:
    """Windows' status for that of Linux: there is no death by a signal."""
    return CONTROL_C_EXIT if wanted < 0 else 128 + SIGBREAK if wanted > 128 else wanted


def events(name: str, signum: int | None) -> tuple[int | None, ...]:
    if signum is None:
        return (None,)
    if signum == in_process.INT:
        return (CTRL_C,)
    return (CTRL_BREAK, CLOSE, LOGOFF, SHUTDOWN) if name == "term" else (CTRL_BREAK, CLOSE)


CASES = [(name, event) for name, (_, signum, *_) in in_process.PROGRAMS.items() for event in events(name, signum)]


@pytest.mark.parametrize(("name", "event"), CASES, ids=[f"{name}-{EVENTS.get(event, 'end')}" for name, event in CASES])
def test_in_the_process(start: Callable[..., Program], name: str, event: int | None) -> None:
    """For SIGTERM stands each of the events by which Windows asks a program to end."""
    code, _, out, status = in_process.PROGRAMS[name]
    program = start(in_process.BEGIN + code)
    if event is not None:
        program.line("up")
        program.send(event)
    printed, ended, err = program.wait()
    assert (printed, ended) == (out.split(), status_of(status)), err


SLOW = """
lastly.install()
def slow():
    print("up", flush=True)
    for _ in range(600): time.sleep(0.1)
defer(print, "last")
defer(slow)
"""


@pytest.mark.parametrize("ending", ["", "import _thread; _thread.interrupt_main()\n"], ids=["at-exit", "after-ctrl-c"])
def test_a_program_that_is_ending_already_is_told_by_when(start: Callable[..., Program], ending: str) -> None:
    """Windows kills it 5 s after the event: what lasts longer is given up, and the rest still runs."""
    program = start(in_process.BEGIN + SLOW + ending)
    program.line("up")
    program.send(CLOSE)
    printed, status, err = program.wait()
    assert status == CONTROL_C_EXIT, (printed, err)
    assert "slow" in err


GOES_ON = """
lastly.install()
print("up", flush=True)
try:
    time.sleep(600)
except lastly.errors.CaughtSignal:
    print("answered", flush=True)
def brings():
    return any(frame.f_code.co_name == "_tell" for frame in sys._current_frames().values())
for _ in range(100):
    if not brings(): break
    time.sleep(0.1)
print("quiet", not brings())
"""


def test_a_program_that_answers_ctrl_break_goes_on(start: Callable[..., Program]) -> None:
    """The thread in which Windows told it has returned."""
    program = start(in_process.BEGIN + GOES_ON)
    program.line("up")
    program.send(CTRL_BREAK)
    printed, status, err = program.wait()
    assert (printed, status) == (["up", "answered", "quiet", "True"], CONTROL_C_EXIT), err


def test_events_that_are_not_taken_are_left_to_windows(start: Callable[..., Program]) -> None:
    for install in ("lastly.install('INT')", "lastly.install(); lastly.uninstall()"):
        program = start(in_process.BEGIN + f"{install}; defer(print,'a'); print('up', flush=True); time.sleep(600)")
        program.line("up")
        program.send(CLOSE)
        assert program.wait()[0] == ["up"]


def test_where_there_is_no_reaper(start: Callable[..., Program], tmp_path: Path) -> None:
    printed, status, err = start(in_process.BEGIN + in_process.RESOURCES, PYTHONWARNINGS="always::RuntimeWarning").wait()
    assert (printed[:3], status) == (["made", "True", "child"], 0), err
    assert err.count("RuntimeWarning") == err.count("in this process only, kill -9 leaves them: ") == 1, err
    assert os.listdir(tmp_path) == ["ran"]


def test_what_needs_the_judgement_of_linux_is_refused(start: Callable[..., Program]) -> None:
    program = start(in_process.BEGIN + in_process.REFUSED, LASTLY_DURABLE="require")
    out, err = program.popen.communicate()
    lines = out.splitlines()
    assert len(lines) == 6, err
    assert "LASTLY_DURABLE=require" in lines[0]
    assert all("is not to be had here: the reaper " in line for line in lines[1:5]), lines
    assert lines[5] == "[]"


@pytest.mark.parametrize(
    ("code", "out"),
    [
        (in_process.NAMES, ["all"]), (in_process.OPEN_PROCESS, in_process.OPENED),
        (in_process.COMMANDS, in_process.ANSWERS),
    ],
    ids=["names", "open_process", "commands"],
)  # fmt: skip
def test_what_is_public_is_there(start: Callable[..., Program], code: str, out: list[str]) -> None:
    printed, status, err = start(in_process.BEGIN + code).wait()
    assert (printed, status) == (out, 0), err


# ── trees of processes ───────────────────────────────────────────────────────────────────────────────────

TREE = """
import os, subprocess, sys, time
depth = int(sys.argv[1])
if depth:
    flags = int(sys.argv[2]) if depth == 1 else 0
    subprocess.Popen([sys.executable, __file__, str(depth - 1), *sys.argv[2:]], creationflags=flags, stdout=sys.stdout)
print("pid", os.getpid(), flush=True)
time.sleep(0 if "leaves" in sys.argv and depth == 2 else 600)
"""
DETACHED_PROCESS, NEW_GROUP, BREAKAWAY = 0x8, 0x200, 0x01000000


class Handle:
    """A process, seen from outside: its number is given to no other while this is held."""

    def __init__(self, pid: int) -> None:
        self._handle = wintypes.HANDLE(kernel.OpenProcess(0x100001, False, pid))  # to wait for it, and to end it
        assert self._handle, f"process {pid} is gone already"

    def ends(self, within: float) -> bool:
        return bool(kernel.WaitForSingleObject(self._handle, int(within * 1000)) == 0)

    def end(self) -> None:
        kernel.TerminateProcess(self._handle, 9)
        kernel.CloseHandle(self._handle)


@pytest.fixture
def tree(start: Callable[..., Program], tmp_path: Path) -> Iterator[Callable[..., tuple[Program, list[Handle]]]]:
    """Start a program that starts a tree of three with `lastly.Popen`, then runs the rest of its code."""
    (tmp_path / "tree.py").write_text(TREE)
    seen: list[Handle] = []

    def plant(rest: str, flags: int = 0, more: str = "") -> tuple[Program, list[Handle]]:
        program = start(
            f"{in_process.BEGIN}child = lastly.Popen([sys.executable, 'tree.py', '2', '{flags}', {more!r}])\n"
            f"sys.stdin.readline()\n{rest}",
        )
        for _ in range(3):
            program.line("pid")
        pids = [int(word) for word in program.out.split() if word.isdigit()]
        seen.extend(map(Handle, pids))
        assert program.popen.stdin is not None
        program.popen.stdin.write("\n")
        program.popen.stdin.flush()
        return program, list(seen)

    yield plant
    for each in seen:
        each.end()


def all_end(handles: list[Handle]) -> bool:
    return all(handle.ends(PATIENCE) for handle in handles)


@pytest.mark.parametrize("flags", [0, DETACHED_PROCESS | NEW_GROUP], ids=["plain", "detached"])
def test_a_tree_ends_with_its_scope(tree: Callable[..., tuple[Program, list[Handle]]], flags: int) -> None:
    """Also what has no console and a group of its own; the program itself goes on."""
    program, handles = tree("child.close(); print('on', child.returncode, flush=True); time.sleep(600)", flags)
    program.line("on 1")
    assert all_end(handles)
    assert program.popen.poll() is None


def test_a_tree_whose_leader_has_left(tree: Callable[..., tuple[Program, list[Handle]]]) -> None:
    program, handles = tree("child.wait(); print('left', flush=True)", more="leaves")
    program.line("left")
    assert program.wait()[1] == 0
    assert all_end(handles)


@pytest.mark.parametrize("death", ["time.sleep(600)", "os._exit(3)", "os.abort()", "pass"], ids=["killed", "_exit", "abort", "end"])
def test_a_tree_ends_however_the_program_ends(tree: Callable[..., tuple[Program, list[Handle]]], death: str) -> None:
    """Windows ends it: nothing of the program has to run for that."""
    program, handles = tree(f"print('up', flush=True); {death}")
    program.line("up")
    if "sleep" in death:
        program.popen.kill()
    program.popen.wait()
    assert all_end(handles)


@pytest.mark.parametrize("detach", ["child.detach()", "child.cleanup.detach()"])
def test_what_is_detached_lives(tree: Callable[..., tuple[Program, list[Handle]]], detach: str) -> None:
    program, handles = tree(f"{detach}; print('let go', flush=True)")
    program.line("let go")
    program.popen.wait()
    assert not any(handle.ends(0.3) for handle in handles)


def test_who_breaks_away_lives(tree: Callable[..., tuple[Program, list[Handle]]]) -> None:
    """A program that asks Windows for it is not hindered."""
    program, handles = tree("child.close(); print('closed', flush=True)", BREAKAWAY)
    program.line("closed")
    program.popen.wait()
    lives = [not handle.ends(0.3) for handle in handles]
    assert sum(lives) == 1
