"""Signals in event loops written in C: the loop returns, and Python's unwinding goes on from there."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import signal
import subprocess
import sys

import pytest
from harness import SRC, Program, Programs

TERM, INT = signal.SIGTERM, signal.SIGINT
QT = ["PyQt6", "PySide6"]

START = """
import sys, time
import lastly
from {qt}.QtCore import QCoreApplication, QEventLoop, QTimer
app = QCoreApplication([])
lastly.install()
lastly.defer(print, "root", flush=True)
timer = QTimer()
timer.timeout.connect(lambda: None)  # lets Python run
timer.start(50)
def ready(): print("ready", flush=True)
if {first}: QTimer.singleShot(0, ready)
with lastly.Scope("window") as scope:
    scope.defer(print, "scope", flush=True)
    try:
        {body}
        time.sleep(60)
        print("went on", flush=True)
    finally:
        print("finally", flush=True)
"""

# Ways to be in a loop: (code, what it prints on its way out)
LOOPS = {
    "exec": ("app.exec()", []),
    "again": ("while True: app.exec()", []),
    "own loop": ("QEventLoop().exec()", []),
    "nested": (
        (
            "QTimer.singleShot(0, lambda: (QTimer.singleShot(0, ready), QEventLoop().exec(), print('inner over', flush=True)))\n"
            "        app.exec()"
        ),
        ["inner over"],
    ),
    "slow slot of aboutToQuit": (
        (
            "app.aboutToQuit.connect(lambda: [time.sleep(0.02) for _ in range(20)] and print('slot', flush=True))"
            "; app.exec()"
        ),
        ["slot"],
    ),
    "status": ("sys.exit(app.exec())", []),
}


def qt_program(programs: Programs, qt: str, body: str, **options: object) -> Program:
    if importlib.util.find_spec(qt) is None:
        pytest.skip(f"{qt} is not installed")
    code = START.format(qt=qt, body=body, first="ready)" not in body)
    return programs.start(code, env={"QT_QPA_PLATFORM": "offscreen"}, **options)


@pytest.mark.parametrize("signum", [TERM, INT])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("qt", QT)
@pytest.mark.slow(keep=3)
def test_qt(programs: Programs, qt: str, loop: str, signum: int) -> None:
    """Everything runs, from the inside to the outside, whether the loop runs once, again, or in another."""
    body, said = LOOPS[loop]
    program = qt_program(programs, qt, body)
    program.line("ready")
    program.send(signum, busy=True)
    result = program.wait()
    assert (result.status, result.lines[1:]) == (-signum, [*said, "finally", "scope", "root"]), result.err


@pytest.mark.parametrize("qt", QT)
def test_a_window_that_refuses_to_be_closed(programs: Programs, qt: str) -> None:
    """Ignoring the close event, as what lives on in a tray does, is no way to survive SIGTERM."""
    code = START.replace("QCoreApplication, ", "QCoreApplication, QEvent, ").replace(
        "app = QCoreApplication([])",
        "from {qt}.QtWidgets import QApplication, QWidget\napp = QApplication([])\n"
        "class Window(QWidget):\n    def closeEvent(self, event): event.ignore()\n"
        "window = Window()\nwindow.show()",
    )
    if importlib.util.find_spec(qt) is None:
        pytest.skip(f"{qt} is not installed")
    probe = [sys.executable, "-c", f"import {qt}.QtWidgets"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip(f"{qt}.QtWidgets cannot be loaded here")
    program = programs.start(
        code.format(qt=qt, body="app.exec()", first=True), env={"QT_QPA_PLATFORM": "offscreen"}
    )
    program.line("ready")
    program.send(TERM, busy=True)
    result = program.wait()
    assert (result.status, result.lines[1:]) == (-TERM, ["finally", "scope", "root"]), result.err


@pytest.mark.parametrize("qt", QT)
def test_a_second_signal_while_the_loop_ends(programs: Programs, qt: str) -> None:
    """It is answered with words: raised in a slot, it would end the process there."""
    body = (
        "app.aboutToQuit.connect(lambda: (print('slot', flush=True), input(), print('over', flush=True)))\n"
        "        app.exec()"
    )
    program = qt_program(programs, qt, body, stdin=subprocess.PIPE)
    program.line("ready")
    program.send(TERM, busy=True)
    program.line("slot")
    program.send(TERM)
    program.error_line("SIGTERM again")
    program.write("\n")
    result = program.wait()
    assert (result.status, result.lines[2:]) == (-TERM, ["over", "finally", "scope", "root"]), result.err


@pytest.mark.parametrize("qt", QT)
def test_a_signal_that_is_answered_after_the_loop(programs: Programs, qt: str) -> None:
    """The program says by name that it goes on; the next loop and the next signal are as the first ones."""
    body = (
        "for _ in range(2):\n            try: app.exec(); time.sleep(60)\n"
        "            except lastly.CaughtSignal: print('caught', flush=True); timer.singleShot(0, lambda: print('next', flush=True))"
    )
    program = qt_program(programs, qt, body + "\n        sys.exit(0)")
    for line in ("ready", "next"):
        program.line(line)
        program.send(TERM, busy=True)
        program.line("caught")
    result = program.wait()
    assert (result.status, result.lines[-3:]) == (-TERM, ["finally", "scope", "root"]), result.err


@functools.cache
def python_with_gi() -> str:
    """An interpreter with PyGObject: distributions have it for their own only."""
    for python in (sys.executable, shutil.which("python3", path="/usr/bin") or sys.executable):
        code = "import sys; from gi.repository import GLib; sys.exit(sys.version_info < (3, 11))"
        if not subprocess.run([python, "-c", code], capture_output=True, check=False).returncode:
            return python
    pytest.skip("PyGObject is not installed")


GLIB = {
    "loop": "GLib.MainLoop().run()",
    "again": "while True: GLib.MainLoop().run()",
    "nested": "GLib.idle_add(lambda: GLib.MainLoop().run())\n        GLib.MainLoop().run()",
    "application": "from gi.repository import Gio\n        app = Gio.Application()\n"
    "        app.connect('activate', lambda app: app.hold())\n        app.run()",
}


@pytest.mark.parametrize("loop", GLIB)
@pytest.mark.slow(keep=2)
def test_glib(programs: Programs, loop: str) -> None:
    program = programs.start(
        f"""
import time, lastly
from gi.repository import GLib
lastly.install()
lastly.defer(print, "root", flush=True)
GLib.timeout_add(20, lambda: True)
GLib.timeout_add(100, lambda: print("ready", flush=True))
with lastly.Scope("window") as scope:
    scope.defer(print, "scope", flush=True)
    try:
        {GLIB[loop]}
        time.sleep(60)
    finally:
        print("finally", flush=True)
""",
        python=python_with_gi(),
        env={"PYTHONPATH": str(SRC)},
    )
    program.line("ready")
    program.send(TERM, busy=True)
    result = program.wait()
    assert (result.status, result.lines[1:]) == (-TERM, ["finally", "scope", "root"]), result.err


LEAVES = {
    "a slot of PyQt6": "QTimer.singleShot(0, lambda: sys.exit(3)); app.exec()",
    "a slot of PySide6": "QTimer.singleShot(0, lambda: sys.exit(3)); app.exec()",
    "a C program's string": "ctypes.pythonapi.PyRun_SimpleString(b'raise SystemExit(3)')",
}


@pytest.mark.parametrize("where", LEAVES)
def test_an_exit_inside_c_code_names_the_scopes_that_it_leaves_open(programs: Programs, where: str) -> None:
    """Whoever prints a SystemExit ends the process below every ``with``; only the process's own cleanups run."""
    qt = where.rpartition(" ")[2] if "slot" in where else ""
    if qt and importlib.util.find_spec(qt) is None:
        pytest.skip(f"{qt} is not installed")
    result = programs.run(
        f"""
        import ctypes, sys
        import lastly
        {f"from {qt}.QtCore import QCoreApplication, QTimer; app = QCoreApplication([])" if qt else ""}
        lastly.defer(print, "root", flush=True)
        closed = lastly.Scope("closed")
        closed.defer(print, "closed", flush=True)
        closed.close()
        with lastly.Scope("window") as scope:
            scope.defer(print, "never")
            scope.parallel("helpers").defer(print, "never")
            {LEAVES[where]}
        """,
        env={"QT_QPA_PLATFORM": "offscreen"},
    )
    assert (result.lines, result.status) == (["closed", "root"], 3), result.err
    (line,) = [line for line in result.err.splitlines() if line.startswith("lastly: ")]
    assert "not closed: scope 'window' (helpers, print);" in line
    assert ", in <module>);" in line


def test_scopes_that_a_program_forgets_are_no_news_of_its_exit(programs: Programs) -> None:
    result = programs.run(
        """
        import lastly, multiprocessing, sys
        lastly.defer(print, "root")
        kept = lastly.Scope("forgotten")
        kept.defer(print, "never")
        def child():
            global kept
            kept = lastly.Scope("forgotten")
            kept.defer(print, "never")
            lastly.defer(print, "child")
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        sys.exit(3)
        """
    )
    assert (result.lines, result.err, result.status) == (["child", "root"], "", 3)
