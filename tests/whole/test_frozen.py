"""A frozen program has no Python beside it: it is its own reaper, by a hidden switch, or it says that there is none."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest
from harness import SRC, Programs, gone, wait_until

ACTIONS = """
import lastly

@lastly.action
def say(path: str) -> None:
    with open(path, "a") as file:
        file.write("acted\\n")
"""
PROGRAM = """
import os, sys
import lastly, actions_of_it
with open("starts", "a") as file: file.write("start\\n")
try: lastly.defer(actions_of_it.say, os.path.abspath("acted"))
except TypeError as error: print("refused:", error, flush=True)
print("made", lastly.temp_dir(), flush=True)
try: print("child", os.wait(), flush=True)
except ChildProcessError: print("no child", flush=True)
os.kill(os.getpid(), 9)
"""
# What the boot loader of a freezer does: one executable, whatever its arguments, runs the hooks and then the program.
STUB = """#!{python}
import os, sys
sys.frozen, sys.executable = True, os.path.abspath(sys.argv[0])
sys._base_executable, sys.base_prefix = sys.executable, os.path.dirname(sys.executable)
sys.path.insert(0, sys.base_prefix)
{hook}
exec(compile(open(os.path.join(sys.base_prefix, "main.py")).read(), "main.py", "exec"))
"""
HOOK = SRC / "lastly" / "_pyinstaller" / "rthooks" / "pyi_rth_lastly.py"


def freeze(folder: Path, hook: str, python: str = sys.executable) -> str:
    (folder / "actions_of_it.py").write_text(ACTIONS)
    (folder / "main.py").write_text(PROGRAM)
    program = folder / "program"
    program.write_text(STUB.format(python=python, hook=hook))
    program.chmod(0o755)
    return str(program)


def judge(programs: Programs, command: str, folder: Path, **env: str) -> None:
    """Killed: what it owed is done by its own reaper, the program has run once, and had no child."""
    program = programs.start_command([command], cwd=folder, env=env)
    made = program.line("made").split()[1]
    program.line("no child")
    got = program.wait()
    assert (got.status, got.err) == (-signal.SIGKILL, "")
    wait_until(lambda: gone(made), what="its folder is removed")
    wait_until(lambda: (folder / "acted").exists(), what="its action has run")
    wait_until(lambda: not list(programs.home.glob("owners/*/*.j")), what="all is archived")
    assert (folder / "acted").read_text() == "acted\n"
    assert (folder / "starts").read_text() == "start\n"


@pytest.mark.parametrize("shell", ["", "sh"])
def test_its_own_reaper(programs: Programs, tmp_path: Path, shell: str) -> None:
    """With a shell and without one: the program starts itself, as its reaper and for its actions."""
    hook = f"exec(compile(open({str(HOOK)!r}).read(), 'hook', 'exec'))"
    judge(programs, freeze(tmp_path, hook), tmp_path, LASTLY_PRETEND_NO=shell)


def test_the_supervisor_spares_it(programs: Programs, tmp_path: Path) -> None:
    """`lastly run --supervise` ends what a program leaves, but not the reaper that it has started."""
    from lastly._system import proc

    hook = f"exec(compile(open({str(HOOK)!r}).read(), 'hook', 'exec'))"
    command = freeze(tmp_path, hook)
    program = programs.start_command(["lastly", "run", "--supervise", "--grace", "0.2", "--", command], cwd=tmp_path)
    made = program.line("made").split()[1]
    assert program.wait().status == -signal.SIGKILL
    wait_until(lambda: gone(made), what="its folder is removed")
    assert any(proc.is_reaper(process.pid) for process in proc.processes().values())


def test_a_freezer_that_we_do_not_know(programs: Programs, tmp_path: Path) -> None:
    """It says that there is no reaper, refuses what could never be run, and is never started a second time."""
    program = programs.start_command([freeze(tmp_path, "")], cwd=tmp_path)
    assert "frozen" in program.line("refused")
    made = program.line("made").split()[1]
    got = program.wait()
    assert "no reaper could be started" in got.err
    assert "PyInstaller" in got.err
    assert (tmp_path / "starts").read_text() == "start\n"
    assert not gone(made)
    # What it owes stays in its journal: any lastly of this user settles it.
    assert programs.run_command(["lastly", "reap"]).status == 0
    assert gone(made)


def test_a_program_in_an_archive(programs: Programs, tmp_path: Path) -> None:
    """zipapp, shiv, pex: an interpreter is there, and lastly may be in the archive; its reaper comes from there."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "__main__.py").write_text(PROGRAM)
    (source / "actions_of_it.py").write_text(ACTIONS)
    for path in (SRC / "lastly").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            target = source / path.relative_to(SRC)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    archive = tmp_path / "program.pyz"
    zipapp.create_archive(source, archive, interpreter=f"{sys.executable} -I")
    judge(programs, str(archive), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)  # it looks at all that is installed
def test_pyinstaller(programs: Programs, tmp_path: Path) -> None:
    """The real thing, found through the entry point; nothing comes along that the program does not use itself."""
    if importlib.util.find_spec("PyInstaller") is None:
        pytest.skip("needs pyinstaller")
    (tmp_path / "actions_of_it.py").write_text(ACTIONS)
    (tmp_path / "program.py").write_text(PROGRAM)
    built = subprocess.run(
        [sys.executable, "-m", "PyInstaller", "--noconfirm", "--onedir", "--log-level", "ERROR", "program.py"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    if built.returncode and "shared library" in built.stderr + built.stdout:
        pytest.skip("PyInstaller needs a Python that was built with its shared library")
    assert built.returncode == 0, built.stderr
    inside = {path.name for path in (tmp_path / "dist" / "program" / "_internal").iterdir()}
    assert not inside & {"IPython", "django", "rich"}
    judge(programs, str(tmp_path / "dist" / "program" / "program"), tmp_path)
