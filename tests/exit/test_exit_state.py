"""How the program itself ended: only what leaves the main module counts for the status and for exit_reason()."""

from __future__ import annotations

import subprocess

import pytest
from harness import Programs

START = """
import sys
import lastly
def why(): print("reason:", lastly.exit_reason(), flush=True)
lastly.defer(why)
lastly.defer(lambda: 1 / 0)
"""
ARGPARSE = "import argparse\ntry: argparse.ArgumentParser().parse_args(['--nope'])\nexcept SystemExit: pass"
SHOWN = "import code; code.InteractiveInterpreter().runsource('1/0')"

# What happened, and was over, long before the program reached its end.
OVER = {
    "argparse": ARGPARSE,
    "in a function": f"def main():\n{ARGPARSE}\nmain()".replace("\nimport", "\n  import")
    .replace("\ntry", "\n  try")
    .replace("\nexcept", "\n  except"),
    "suppressed": "import contextlib\nwith contextlib.suppress(SystemExit): sys.exit(2)",
    "kept": "try: sys.exit(2)\nexcept SystemExit as error: kept = error",
    "thread": "import threading\nthread = threading.Thread(target=sys.exit, args=(2,)); thread.start(); thread.join()",
    "bare thread": "import _thread, time\n_thread.start_new_thread(sys.exit, (2,))\n"
    "while _thread._count(): time.sleep(0.01)",
    "executor": "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor().submit(sys.exit, 2).exception()",
    "task": "import asyncio\nasync def leave(): sys.exit(2)\ntry: asyncio.run(leave())\nexcept SystemExit: pass",
    "runpy": "import runpy, pathlib; pathlib.Path('other.py').write_text('import sys; sys.exit(2)')\n"
    "try: runpy.run_path('other.py', run_name='__main__')\nexcept SystemExit: pass",
    "exec": "try: exec(compile('import sys; sys.exit(2)', 'x', 'exec'))\nexcept SystemExit: pass",
    "runpy shown": "import runpy, pathlib; pathlib.Path('other.py').write_text('1/0')\n"
    "try: runpy.run_path('other.py', run_name='__main__')\nexcept Exception as error: sys.last_exc = sys.last_value = error",
    "shown": SHOWN,
    "shown, syntax": "import code; code.InteractiveInterpreter().runsource('1 +* 1')",
    "console": "import code, io; sys.stdin = io.StringIO('1/0\\n'); code.interact()",
    "doctest": "import doctest; doctest.DebugRunner\ntry: 1 / 0\nexcept Exception as error: sys.last_exc = sys.last_value = error",
    # With our plugin, but not with all others that are installed here: loading them takes a busy machine half a minute.
    "pytest": "import os, pathlib, pytest; pathlib.Path('test_x.py').write_text('def test_x(): 1/0')\n"
    "os.environ['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'\n"
    "pytest.main(['-q', '-p', 'no:cacheprovider', '-p', 'lastly.testing.plugin', 'test_x.py'])",
    "pdb": "import pdb, io; pdb.Pdb(stdin=io.StringIO('q\\n'), stdout=io.StringIO())",
    "unraisable": "class Bad:\n  def __del__(self): sys.exit(2)\nBad()",
    "exit function": "import atexit; atexit.register(sys.exit, 2)",
    "exit function, with threading": "import atexit, threading; atexit.register(sys.exit, 2)",
    "in C, by a callback": "import ctypes\nctypes.CFUNCTYPE(None)(sys.exit)()",
}


def run(programs: Programs, how: str, code: str, python: str):
    """Run it as a script, as a module, by -c, or from standard input."""
    if how == "script":
        return programs.run(code, python=python)
    env = {"PYTHONPATH": None}
    if how == "module":
        import harness

        folder = programs.folder / "modules"
        folder.mkdir()
        (folder / "mine.py").write_text(code)
        env = {"PYTHONPATH": f"{folder}:{harness.SRC}"}
        return programs.start_command([python, "-m", "mine"], env=env).wait()
    import harness

    env = {"PYTHONPATH": str(harness.SRC)}
    if how == "-c":
        return programs.start_command([python, "-c", code], env=env).wait()
    program = programs.start_command([python], env=env, stdin=subprocess.PIPE)
    program.write(code)
    program.popen.stdin.close()
    return program.wait()


@pytest.mark.parametrize("over", OVER)
@pytest.mark.slow(keep=3)
def test_what_was_caught_does_not_hide_a_failed_cleanup(programs: Programs, over: str, python: str) -> None:
    result = programs.run(START + OVER[over], python=python)
    assert (result.status, result.lines[-1].removeprefix(">>> >>> ")) == (1, "reason: the end"), result.err
    assert "ZeroDivisionError" in result.err


@pytest.mark.parametrize("how", ["module", "-c", "stdin"])
@pytest.mark.parametrize("over", ["argparse", "shown"])
@pytest.mark.slow(keep=2)
def test_the_same_however_it_was_started(programs: Programs, how: str, over: str, python: str) -> None:
    result = run(programs, how, START + OVER[over], python)
    assert (result.status, result.lines[-1]) == (1, "reason: the end"), result.err


# What really ends it, after something else was caught: (code, status, reason)
ENDS = {
    "exit": ("sys.exit(3)", 3, "exit code 3"),
    "in a function": ("def main(): sys.exit(3)\nmain()", 3, "exit code 3"),
    "finally": ("try: sys.exit(3)\nfinally: print('a')", 3, "exit code 3"),
    "raised again": ("try: sys.exit(3)\nexcept SystemExit: raise", 3, "exit code 3"),
    "changed": ("try: sys.exit(0)\nexcept SystemExit as e:\n  e.code = 3\n  raise", 3, "exit code 3"),
    "in a scope": ("with lastly.Scope(): sys.exit(3)", 3, "exit code 3"),
    "task": ("import asyncio\nasync def leave(): sys.exit(3)\nasyncio.run(leave())", 3, "exit code 3"),
    "instead of another": ("try: sys.exit(2)\nexcept SystemExit: sys.exit(3)", 3, "exit code 3"),
    "not to be seen, instead of another": (
        "try: sys.exit(2)\nexcept SystemExit: raise SystemExit(0)",
        1,
        "the end",
    ),
    "error instead of another": (
        "try: sys.exit(2)\nexcept SystemExit: 1 / 0",
        1,
        "exception ZeroDivisionError: division by zero",
    ),
    "asked before": (
        "try: sys.exit(2)\nexcept SystemExit as e: print(e.code, getattr(e, 'code'), vars(e))\nraise SystemExit(0)",
        1,
        "the end",
    ),
    "while another was caught": (
        f"try: sys.exit(3)\nfinally:\n  {ARGPARSE}".replace("\ntry", "\n  try").replace(
            "\nexcept", "\n  except"
        ),
        3,
        "exit code 3",
    ),
    "text": ("sys.exit('no')", 1, "exit code 1"),
    "from an excepthook": ("sys.excepthook = lambda *_: sys.exit(3)\n1 / 0", 3, "exit code 3"),
    "error": ("raise ValueError('x')", 1, "exception ValueError: x"),
    "error in a function": ("def main(): raise ValueError('x')\nmain()", 1, "exception ValueError: x"),
    "nothing": ("sys.exit()", 1, "exit code 0"),
    "zero": ("sys.exit(0)", 1, "exit code 0"),
    "not to be seen": ("raise SystemExit(3)", 1, "the end"),
}


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.slow(keep=3)
def test_what_leaves_the_main_module_counts(programs: Programs, ends: str, python: str) -> None:
    code, status, reason = ENDS[ends]
    result = programs.run(f"{START}{SHOWN}\n{ARGPARSE}\n{code}", python=python)
    assert (result.status, result.lines[-1]) == (status, f"reason: {reason}"), result.err


@pytest.mark.parametrize("how", ["module", "-c", "stdin"])
@pytest.mark.parametrize("ends", ["exit", "error"])
@pytest.mark.slow(keep=2)
def test_that_too_however_it_was_started(programs: Programs, how: str, ends: str, python: str) -> None:
    code, status, reason = ENDS[ends]
    result = run(programs, how, START + code, python)
    assert (result.status, result.lines[-1]) == (status, f"reason: {reason}"), result.err


def test_errors_at_the_prompt_are_not_how_it_ends(programs: Programs, python: str) -> None:
    """-i, a startup file that fails, and an error in a line: the end of the input is status 0, or ours."""
    startup = programs.folder / "startup.py"
    startup.write_text("1/0")
    program = programs.start(
        START + "1/0", python=python, flags=["-i"], stdin=subprocess.PIPE, env={"PYTHONSTARTUP": str(startup)}
    )
    program.write("1/0\n")
    program.popen.stdin.close()
    result = program.wait()
    assert (result.status, result.lines[-1]) == (1, "reason: the end"), result.err
    program = programs.start(START, python=python, flags=["-i"], stdin=subprocess.PIPE)
    program.write("1/0\n\nsys.exit(3)\n")
    program.popen.stdin.close()
    result = program.wait()
    assert (result.status, result.lines[-1]) == (3, "reason: exit code 3"), result.err


def test_uninstall_leaves_the_root_scope_its_eyes(programs: Programs) -> None:
    """Both look at sys.exit(); the one that goes first must not blind the other."""
    result = programs.run(START + "with lastly.install(): pass\nsys.exit(3)")
    assert (result.status, result.lines[-1]) == (3, "reason: exit code 3")
    result = programs.run(
        "import sys, lastly\nplain = sys.exit\nwith lastly.install(): pass\nprint(sys.exit is plain)"
    )
    assert result.out == "True\n"


def test_the_exception_is_as_that_of_sys_exit(programs: Programs, python: str) -> None:
    result = programs.run(
        """
        import copy, pickle, sys, threading, traceback, lastly
        def of(call):
            try: call()
            except BaseException as error: return error
        plain = sys.exit
        lastly.defer(int)
        for code in (None, 0, 3, "text", (1, 2), (), SystemExit(3)):
            before = of(lambda: plain(code))
            after = of(lambda: sys.exit(code))
            before.__traceback__ = after.__traceback__ = None
            assert repr(before) == repr(after) and before.code == after.code and before.args == after.args
            assert traceback.format_exception_only(before) == traceback.format_exception_only(after)
            assert isinstance(after, SystemExit) and str(type(after)) == str(SystemExit)
            for twin in (pickle.loads(pickle.dumps(after)), copy.copy(after)):
                assert type(twin) is SystemExit and twin.code == after.code
        thread = threading.Thread(target=sys.exit, args=(3,))
        thread.start()
        thread.join()
        print("same")
        """,
        python=python,
    )
    assert (result.status, result.out, result.err) == (0, "same\n", "")


EIGHT_BITS = {
    "sys.exit(512)": "lastly.defer(lambda: 1 / 0)\nsys.exit(512)",
    "sys.exit(-256)": "lastly.defer(lambda: 1 / 0)\nsys.exit(-256)",
    "in a scope": "with lastly.Scope() as scope:\n  scope.defer(lambda: 1 / 0)\n  sys.exit(512)",
    "a cleanup's own": "lastly.defer(sys.exit, 256)\nlastly.defer(lambda: 1 / 0)",
    "app.exit_code": "from lastly.app import App\nwith App('x', exit_on_close=True) as app: app.exit_code = 256",
    "app.close()": "from lastly.app import App\napp = App('x', exit_on_close=True)\napp.setup()\napp.close(512)",
    "app at exit": "from lastly.app import App\napp = App('x', exit_on_close=True)\napp.setup()\napp.exit_code = 256",
    "app whose hook fails": "from lastly.app import App\nwith App('x') as app:\n"
    "  app.hook.register('pre_close', lambda app: 1 / 0)\n  sys.exit(256)",
}


@pytest.mark.parametrize("what", EIGHT_BITS)
def test_a_failure_is_never_a_status_of_which_the_parent_sees_0(programs: Programs, what: str) -> None:
    """It sees 8 bits."""
    result = programs.run(f"import sys, lastly\n{EIGHT_BITS[what]}")
    assert result.status == 1, result.err


def test_a_signal_that_was_answered_and_an_exit_that_was_caught(programs: Programs, python: str) -> None:
    """The program ends as if nothing had been: by the signal. With an exit of its own: by that."""
    code = """
    import os, signal, sys, lastly
    lastly.install()
    try: os.kill(os.getpid(), signal.SIGTERM)
    except lastly.CaughtSignal: pass
    try: sys.exit(2)
    except SystemExit: pass
    """
    assert programs.run(code, python=python).status == -15
    assert programs.run(code + "sys.exit(256)", python=python).status == -15
    assert programs.run(code + "sys.exit(2)", python=python).status == 2


def test_a_traceback_that_was_shown_is_no_crash_of_a_run(programs: Programs) -> None:
    """`lastly run` removes the temp files of a crash; a program that showed a traceback and went on keeps its."""
    (programs.folder / "shows.py").write_text(
        f"import sys, tempfile\n{SHOWN}\nprint(tempfile.mkdtemp(), flush=True)\n1/int(sys.argv[1])"
    )
    import os

    for argument, kept in ("1", True), ("0", False):
        program = programs.start_command(
            ["lastly", "run", str(programs.folder / "shows.py"), argument], env={"LASTLY_REAPER": "0"}
        )
        folder = program.line()
        program.wait()
        assert os.path.isdir(folder) is kept
