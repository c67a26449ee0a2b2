"""The half that needs no other process, on every Python and system that can be had here.

This one; itself without the names that Windows and macOS do not have (support/another_system.py); and those that
LASTLY_TEST_PYTHONS names, also with arguments ("wine python.exe").
"""

from __future__ import annotations

import ast
import os
import shlex
import signal
import sys
from pathlib import Path

import pytest
from harness import PATIENCE, SRC, Programs

HERE = Path(__file__).parent.parent / "support" / "another_system.py"
PYTHONS = {
    "this": [sys.executable],
    "win32": [sys.executable, str(HERE), "win32"],
    "darwin": [sys.executable, str(HERE), "darwin"],
} | {words: shlex.split(words) for words in filter(None, os.environ.get("LASTLY_TEST_PYTHONS", "").split(os.pathsep))}

BEGIN = "import lastly, sys, os, time, threading, asyncio\nfrom lastly import defer, Scope, register\n"
TERM, INT = signal.SIGTERM, signal.SIGINT
# name: program, signal, what it prints, status
PROGRAMS = {
    "order": ("defer(print,'a'); defer(print,'b'); register(print,'c')", None, "c b a", 0),
    "uncaught": ("defer(print,'a'); 1/0", None, "a", 1),
    "exit-3": ("defer(print,'a'); sys.exit(3)", None, "a", 3),
    "failed": ("defer(print,'a'); defer(lambda: 1/0); defer(print,'b')", None, "b a", 1),
    "failed-late": (
        "import atexit; atexit.register(print,'mine'); lastly.defer_early(lambda: 1/0); defer(print,'b')", None, "b mine", 1
    ),
    "scope": ("with Scope('s') as s:\n s.defer(print,'a'); s.defer(print,'b')\nprint('after')", None, "b a after", 0),
    "hung": ("with Scope('s') as s:\n s.defer(print,'a'); s.defer(time.sleep,60).within(0.3)\n", None, "a", 1),
    "async": (
        ("async def u(x): print(x)\nasync def m():\n async with lastly.AsyncScope('s') as s:\n"
         "  s.defer(u,'a'); s.defer(print,'b')\nasyncio.run(m())"), None, "b a", 0
    ),
    "early": (
        ("ev=threading.Event(); t=threading.Thread(target=ev.wait); t.start()\n"
         "lastly.defer_early(ev.set); defer(print,'a')"), None, "a", 0
    ),
    "closed": (
        "s=Scope('s'); s.close()\ntry: s.defer(print,1)\nexcept lastly.ScopeClosed: print('refused')", None, "refused", 0
    ),
    "parallel": (
        "with Scope('s') as s:\n s.defer(print,'last')\n with s.parallel() as p:\n  [p.defer(time.sleep, 0) for _ in range(4)]\n",
        None, "last", 0,
    ),
    "term": (
        "lastly.install(); defer(print,'a')\ntry:\n print('up',flush=True); time.sleep(60)\nfinally: print('f')",
        TERM, "up f a", -TERM,
    ),
    "int": (
        "lastly.install(); defer(print,'a')\ntry:\n print('up',flush=True); time.sleep(60)\nfinally: print('f')",
        INT, "up f a", -INT,
    ),
    "code": (
        "lastly.install(status='code'); defer(print,'a')\nprint('up',flush=True); time.sleep(60)", TERM, "up a", 128 + TERM
    ),
    "swallowed": (
        ("lastly.install(); defer(print,'a')\nprint('up',flush=True)\n"
         "for i in range(600):\n try: time.sleep(0.1)\n except: pass\n"), TERM, "up a", -TERM
    ),
    "grace": (
        "lastly.install(grace=0.2)\nprint('up',flush=True)\ntry: time.sleep(60)\nfinally:\n for _ in range(600): time.sleep(0.1)",
        TERM, "up", -TERM,
    ),
    "in-a-cleanup": (
        ("lastly.install()\ndef slow():\n print('up',flush=True)\n for _ in range(7): time.sleep(0.1)\n print('whole')\n"
         "defer(print,'a'); defer(slow)"), TERM, "up whole a", -TERM
    ),
    "app": (
        "with lastly.App('x', argv=[]) as app:\n app.scope.defer(print,'a')\n print('up',flush=True); time.sleep(60)",
        TERM, "up a", -TERM,
    ),
    "asyncio": (
        ("lastly.install()\nasync def m():\n async with lastly.AsyncScope('s') as s:\n"
         "  s.defer(print,'a'); print('up',flush=True); await asyncio.sleep(60)\nasyncio.run(m())"), TERM, "up a", -TERM
    ),
    "uninstalled": ("lastly.install(); lastly.uninstall(); defer(print,'a')", None, "a", 0),
}  # fmt: skip
# (what stands in the command, program): why it cannot be there
KNOWN = {
    ("pypy", "swallowed"): "who swallowed an exception is seen when it dies, and there it dies when the collector comes by",
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("which", PYTHONS)
def test_in_the_process(programs: Programs, tmp_path: Path, which: str, name: str) -> None:
    code, signum, out, status = PROGRAMS[name]
    for (part, program), why in KNOWN.items():
        if part in which and program == name:
            pytest.skip(f"{which}: {why}")
    env = {"PYTHONPATH": None if which == "this" else str(SRC)}
    program = programs.start_command([*PYTHONS[which], "-c", BEGIN + code], cwd=tmp_path, env=env)
    if signum:
        program.line("up")
        program.send(signum)
    result = program.wait(within=2 * PATIENCE)
    assert (result.out.split(), result.status) == (out.split(), status), result.err


RESOURCES = """
made = [lastly.temp_dir(dir="."), lastly.temp_file(dir=".")]
os.makedirs(os.path.join(made[0], "a", "b"))
open(os.path.join(made[0], "a", "f"), "w").close()
child = lastly.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"], stdout=-1)
child.stdout.readline()
defer(lambda: print("child", child.wait()))
defer(child.close)
from lastly import actions
defer(actions.remove, os.path.abspath("tree"))
os.makedirs("tree/below")
defer(actions.run, [sys.executable, "-c", "open('ran', 'w').close()"])
print("made", all(os.path.exists(each) for each in made))
"""


@pytest.mark.parametrize("which", [which for which in PYTHONS if which != "this"])
def test_where_there_is_no_reaper(programs: Programs, tmp_path: Path, which: str) -> None:
    """What would be durable is made, and cleaned in the process, after one warning."""
    (work := tmp_path / "work").mkdir()
    command = [*PYTHONS[which], "-c", BEGIN + RESOURCES]
    result = programs.run_command(command, cwd=work, env={"PYTHONPATH": str(SRC), "PYTHONWARNINGS": "always::RuntimeWarning"})
    assert result.status == 0, result.err
    assert result.lines[0] == "made True"
    assert result.lines[1].startswith("child ")
    assert result.err.count("RuntimeWarning") == result.err.count("in this process only, kill -9 leaves them: ") == 1, result.err
    assert os.listdir(work) == ["ran"]


REFUSED = """
from lastly.errors import UnsupportedPlatform
for make in (lambda: lastly.temp_dir(dir="."), lambda: lastly.pid_file("it.pid"), lambda: lastly.lock_file("it.lock"),
             lambda: lastly.unix_socket("it.sock"), lambda: lastly.atomic_write("it")):
    try: make()
    except UnsupportedPlatform as error: print(error)
print(os.listdir("."))
"""


@pytest.mark.parametrize("which", [which for which in PYTHONS if which != "this"])
def test_what_needs_the_judgement_of_linux_is_refused(programs: Programs, tmp_path: Path, which: str) -> None:
    (work := tmp_path / "work").mkdir()
    env = {"PYTHONPATH": str(SRC), "LASTLY_DURABLE": "require"}
    result = programs.run_command([*PYTHONS[which], "-c", BEGIN + REFUSED], cwd=work, env=env)
    assert len(result.lines) == 6, result.err
    assert "LASTLY_DURABLE=require" in result.lines[0]
    assert all("is not to be had here: the reaper " in line for line in result.lines[1:5]), result.lines
    assert result.lines[5] == "[]"


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
