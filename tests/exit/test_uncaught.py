"""A SIGINT that nobody catches is silent, as every SystemExit, and has the status that was asked for."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from harness import Programs

PROGRAM = """
import lastly, os, signal, sys, time
lastly.install({arguments})
lastly.defer(print, "cleaned", flush=True)
os.kill(os.getpid(), signal.SIGINT)
time.sleep(60)
"""


@pytest.mark.parametrize(("arguments", "status"), [("", -signal.SIGINT), ('status="code"', 130)])
@pytest.mark.parametrize("how", ["file", "-c", "-m", "stdin"])
def test_it_is_silent(programs: Programs, tmp_path: Path, how: str, arguments: str, status: int) -> None:
    code = PROGRAM.format(arguments=arguments)
    (tmp_path / "program.py").write_text(code)
    rest = {"file": ["program.py"], "-c": ["-c", code], "-m": ["-m", "program"], "stdin": ["-"]}[how]
    with (tmp_path / "program.py").open() as text:
        program = programs.start_command([sys.executable, *rest], cwd=tmp_path, stdin=text)
    result = program.wait()
    assert (result.status, result.lines, result.err) == (status, ["cleaned"], "")


def test_an_error_that_it_overtook_is_shown(programs: Programs) -> None:
    code = PROGRAM.format(arguments="").replace("os.kill", "try: 1 / 0\nfinally: os.kill")
    result = programs.run(code)
    assert result.status == -signal.SIGINT
    assert result.err.count("ZeroDivisionError") == 1
    assert "CaughtSignal" not in result.err
    assert "CaughtInterrupt" not in result.err


def test_excepthook_is_given_back(programs: Programs) -> None:
    """It sees errors of the program's own all the while."""
    code = """
    import lastly, os, signal, sys, time
    def mine(kind, error, trace): print("mine", kind.__name__, flush=True)
    sys.excepthook = mine
    lastly.install()
    for _ in range(2):
        try:
            os.kill(os.getpid(), signal.SIGINT); time.sleep(60)
        except KeyboardInterrupt as error:
            sys.excepthook(ValueError, ValueError(), None)
        print(sys.excepthook is mine)
    lastly.uninstall()
    print(sys.excepthook is mine)
    1 / 0
    """
    result = programs.run(code)
    assert result.lines == ["mine ValueError", "True"] * 2 + ["True", "mine ZeroDivisionError"], result.err
