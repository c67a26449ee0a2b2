"""The half that needs no other process, on every Python and system that can be had here.

This one; itself without the names that Windows and macOS do not have (support/another_system.py); and those that
LASTLY_TEST_PYTHONS names, also with arguments. Windows has no such signals: there on_windows.py runs the same programs.
"""

from __future__ import annotations

import ast
import os
import shlex
import sys
from pathlib import Path

import in_process
import pytest
from harness import PATIENCE, SRC, Programs

HERE = Path(__file__).parent.parent / "support" / "another_system.py"
PYTHONS = {
    "this": [sys.executable],
    "win32": [sys.executable, str(HERE), "win32"],
    "darwin": [sys.executable, str(HERE), "darwin"],
} | {words: shlex.split(words) for words in filter(None, os.environ.get("LASTLY_TEST_PYTHONS", "").split(os.pathsep))}

# (what stands in the command, program): why it cannot be there
KNOWN = {
    ("pypy", "swallowed"): "who swallowed an exception is seen when it dies, and there it dies when the collector comes by",
}


@pytest.mark.parametrize("name", in_process.PROGRAMS)
@pytest.mark.parametrize("which", PYTHONS)
@pytest.mark.slow(keep=15)
def test_in_the_process(programs: Programs, tmp_path: Path, which: str, name: str) -> None:
    code, signum, out, status = in_process.PROGRAMS[name]
    for (part, program), why in KNOWN.items():
        if part in which and program == name:
            pytest.skip(f"{which}: {why}")
    env = {"PYTHONPATH": None if which == "this" else str(SRC)}
    program = programs.start_command([*PYTHONS[which], "-c", in_process.BEGIN + code], cwd=tmp_path, env=env)
    if signum:
        program.line("up")
        program.send(signum)
    result = program.wait(within=2 * PATIENCE)
    assert (result.out.split(), result.status) == (out.split(), status), result.err


@pytest.mark.parametrize("which", [which for which in PYTHONS if which != "this"])
def test_where_there_is_no_reaper(programs: Programs, tmp_path: Path, which: str) -> None:
    """What would be durable is made, and cleaned in the process, after one warning."""
    (work := tmp_path / "work").mkdir()
    command = [*PYTHONS[which], "-c", in_process.BEGIN + in_process.RESOURCES]
    result = programs.run_command(command, cwd=work, env={"PYTHONPATH": str(SRC), "PYTHONWARNINGS": "always::RuntimeWarning"})
    assert result.status == 0, result.err
    assert result.lines[0] == "made True"
    assert result.lines[1].startswith("child ")
    assert result.err.count("RuntimeWarning") == result.err.count("in this process only, kill -9 leaves them: ") == 1, result.err
    assert os.listdir(work) == ["ran"]


@pytest.mark.parametrize("which", [which for which in PYTHONS if which != "this"])
def test_what_needs_the_judgement_of_linux_is_refused(programs: Programs, tmp_path: Path, which: str) -> None:
    (work := tmp_path / "work").mkdir()
    env = {"PYTHONPATH": str(SRC), "LASTLY_DURABLE": "require"}
    result = programs.run_command([*PYTHONS[which], "-c", in_process.BEGIN + in_process.REFUSED], cwd=work, env=env)
    assert len(result.lines) == 6, result.err
    assert "LASTLY_DURABLE=require" in result.lines[0]
    assert all("is not to be had here: the reaper " in line for line in result.lines[1:5]), result.lines
    assert result.lines[5] == "[]"


@pytest.mark.parametrize(
    ("code", "out"), [(in_process.NAMES, ["all"]), (in_process.OPEN_PROCESS, in_process.OPENED)], ids=["names", "open_process"]
)
@pytest.mark.parametrize("which", PYTHONS)
@pytest.mark.slow(keep=2)
def test_what_is_public_is_there(programs: Programs, tmp_path: Path, which: str, code: str, out: list[str]) -> None:
    env = {"PYTHONPATH": None if which == "this" else str(SRC)}
    result = programs.run_command([*PYTHONS[which], "-c", in_process.BEGIN + code], cwd=tmp_path, env=env, within=2 * PATIENCE)
    assert (result.out.split(), result.status) == (out, 0), result.err


@pytest.mark.parametrize("which", [which for which in PYTHONS if which != "this"])
def test_commands_say_in_one_line_that_there_is_no_reaper(programs: Programs, tmp_path: Path, which: str) -> None:
    command = [*PYTHONS[which], "-c", in_process.BEGIN + in_process.COMMANDS]
    result = programs.run_command(command, cwd=tmp_path, env={"PYTHONPATH": str(SRC)})
    assert (result.out.split(), result.status) == (in_process.ANSWERS, 0), result.err
    assert [line.partition(": the reaper ")[0] for line in result.err.splitlines()] == [
        f"lastly: `lastly {name}` does not work here" for name in ("doctor", "ls", "run")
    ]


# Modules that not every Python or system has, and where they may be named on the way of what runs in the process.
ABSENT = {"posix", "fcntl", "pwd", "grp", "resource", "termios", "_functools", "_posixsubprocess", "_ctypes"}
IN_PROCESS = ("_words", "_scope", "_exit", "app", "errors.py", "_action.py", "__init__.py", "actions.py")


def test_private_and_systems_names_stand_in_one_place() -> None:
    found = []
    for path in sorted((SRC / "lastly").rglob("*.py")):
        name = path.relative_to(SRC / "lastly")
        if name.parts[0] not in IN_PROCESS or str(name) == "_words/pythons.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found += [f"{name}:{node.lineno}: {module}" for module in modules if module in ABSENT]
    assert found == [], "take it from lastly._words.pythons"
