"""Python that a C program calls: no main module, no frame below the calls, and ends in the middle of C code."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import SRC, Program, Programs

TERM = signal.SIGTERM

# Calls the functions that it is given, in order; an error is printed as C programs do: that ends them on SystemExit.
HOST = r"""
#include <Python.h>
int main(int argc, char **argv) {
  int status = 0;
  Py_Initialize();
  PyRun_SimpleString("import sys; sys.path.insert(0, '.')");
  for (int i = 1; i < argc; i++) {
    if (strchr(argv[i], '=') || strchr(argv[i], '(')) { PyRun_SimpleString(argv[i]); continue; }
    if (isdigit(argv[i][0])) { status = atoi(argv[i]); continue; }
    int clears = argv[i][0] == '-';
    PyObject *app = PyImport_ImportModule("app");
    PyObject *result = app ? PyObject_CallMethod(app, argv[i] + clears, NULL) : NULL;
    if (!result) { if (clears) PyErr_Clear(); else PyErr_Print(); }
  }
  if (Py_FinalizeEx() < 0) return 120;
  return status;
}"""
APP = """
import atexit, sys, time, lastly
def setup():
    atexit.register(print, "oldest", flush=True)
    lastly.install(); lastly.defer(print, "root", flush=True)
    atexit.register(print, "newest", flush=True)
def bad(): lastly.defer(lambda: 1 / 0)
def why(): lastly.defer(lambda: print("reason:", lastly.exit_reason(), flush=True))
def fails(): 1 / 0
def leave(): sys.exit(3)
def caught():
    try: sys.exit(3)
    except SystemExit: pass
def serve():
    with lastly.Scope("serve") as scope:
        scope.defer(print, "scope", flush=True)
        print("ready", flush=True)
        time.sleep(60)
def end(): print("end", flush=True)
"""


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the host program that is linked with an interpreter."""
    built: dict[str, Path] = {}

    def host(python: str) -> Path:
        if python not in built:
            folder = tmp_path_factory.mktemp("host")
            (folder / "host.c").write_text(HOST)
            ask = "import sysconfig; get = sysconfig.get_config_var; print(sysconfig.get_path('include'), get('LIBDIR'), get('LDVERSION'), get('LIBS'))"
            include, libraries, version, *more = subprocess.run(
                [python, "-c", ask], capture_output=True, text=True, check=True
            ).stdout.split()
            cc = shutil.which("cc") or pytest.skip("no C compiler")
            argv = [cc, "host.c", "-o", "host", f"-I{include}", f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
            done = subprocess.run([*argv, f"-lpython{version}", *more], cwd=folder, check=False)
            if done.returncode:
                pytest.skip(f"no library of {python} to link with")
            built[python] = folder / "host"
        return built[python]

    return host


def start(programs: Programs, host: Path, python: str, *calls: str) -> Program:
    folder = programs.folder / "app"
    folder.mkdir(exist_ok=True)
    (folder / "app.py").write_text(APP)
    ask = "import sys; print(sys.base_prefix)"
    home = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    env = {"PYTHONPATH": str(SRC), "PYTHONHOME": home}
    return programs.start_command([str(host), *calls], env=env, cwd=folder)


def test_install_in_one_call_and_serve_in_another(programs: Programs, hosts, python: str) -> None:
    """Neither has the program's main module below it, nor has the end begun."""
    program = start(programs, hosts(python), python, "setup", "serve", "end")
    program.line("ready")
    program.send(TERM)
    result = program.wait()
    assert (result.status, result.lines[1:]) == (-TERM, ["scope", "newest", "root", "oldest"]), result.err


def test_an_error_that_was_printed_is_not_the_end(programs: Programs, hosts, python: str) -> None:
    """The host goes on, calls again, and is told to stop then."""
    calls = ("setup", "fails", "x = 1 / 0", "caught", "serve", "end")
    program = start(programs, hosts(python), python, *calls)
    program.line("ready")
    program.send(TERM)
    result = program.wait()
    assert (result.status, result.lines[1:]) == (-TERM, ["scope", "newest", "root", "oldest"]), result.err


def test_a_host_that_clears_the_signal_goes_on(programs: Programs, hosts, python: str) -> None:
    """Nobody tells it from one that ends. The next signal is raised as the first one was; the end is by the signal."""
    program = start(programs, hosts(python), python, "setup", "-serve", "serve", "end")
    for _ in range(2):
        program.line("ready")
        program.send(TERM)
        program.line("scope")
    result = program.wait()
    assert (result.status, result.lines[-3:]) == (-TERM, ["newest", "root", "oldest"]), result.err


@pytest.mark.parametrize(
    ("calls", "status", "reason"),
    [
        (("end",), 0, "the end"),
        (("end", "7"), 7, "the end"),
        (("bad", "end"), 1, "the end"),
        (("bad", "caught", "fails", "x = 1 / 0", "end"), 1, "the end"),
        (("bad", "leave", "end"), 3, "exit code 3"),
        (("bad", "import app; app.leave()", "end"), 3, "exit code 3"),
    ],
)
@pytest.mark.slow(keep=3)
def test_the_status(
    programs: Programs, hosts, python: str, calls: tuple[str, ...], status: int, reason: str
) -> None:
    """Errors that the host printed are not how it ends; sys.exit() is, for printing it ends the process."""
    result = start(programs, hosts(python), python, "why", *calls).wait()
    assert (result.status, result.lines[-1]) == (status, f"reason: {reason}"), result.err


PRINTED = """
import atexit, ctypes, os, signal, sys, time
import lastly
def run(text):
    api = ctypes.pythonapi.PyRun_SimpleStringFlags
    api.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    api(text.encode(), None)
atexit.register(print, "oldest", flush=True)
lastly.install()
lastly.defer(print, "root", flush=True)
atexit.register(print, "newest", flush=True)
def slot():
    os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)
"""


@pytest.mark.parametrize("where", ["plainly", "in a function", "with a thread", "in an exit function"])
@pytest.mark.slow(keep=2)
def test_an_exception_that_c_code_prints_ends_in_order(programs: Programs, where: str, python: str) -> None:
    """PyErr_Print of a SystemExit ends the process in the middle of the C call, on top of the program's frames."""
    code = {
        "plainly": 'run("slot()")',
        "in a function": 'def main():\n    run("slot()")\nmain()',
        "with a thread": "import threading\nstop = threading.Event()\nlastly.defer_early(stop.set)\n"
        'threading.Thread(target=stop.wait).start()\nrun("slot()")',
        "in an exit function": '@atexit.register\ndef late():\n    run("slot()")\n    print("late", flush=True)',
    }[where]
    code = code.replace("time.sleep(60)", "time.sleep(0)") + "\nprint('not reached', flush=True)"
    if where == "in an exit function":  # there nothing is raised, and nothing to wait for
        code = "def slot(): os.kill(os.getpid(), signal.SIGTERM)\n" + code.rpartition("\n")[0]
    result = programs.run(PRINTED + code, python=python)
    late = ["late"] if where == "in an exit function" else []
    assert (result.status, result.lines) == (-TERM, [*late, "newest", "root", "oldest"]), result.err


def test_a_signal_in_the_exit_functions_that_follow(programs: Programs, python: str) -> None:
    """The end has begun, though the main module's frame still stands below."""
    code = (
        PRINTED
        + """
def cleanup():
    os.kill(os.getpid(), signal.SIGTERM)
    print("whole", flush=True)
atexit.register(cleanup)
run("import sys; sys.exit(3)")
"""
    )
    result = programs.run(code, python=python)
    assert (result.status, result.lines) == (-TERM, ["whole", "newest", "root", "oldest"]), result.err


def test_the_programs_own_error_is_printed_whole(programs: Programs, python: str) -> None:
    """A signal while an excepthook written in Python prints it."""
    result = programs.run(
        """
        import os, signal, sys, traceback, lastly
        lastly.install()
        def hook(*error):
            os.kill(os.getpid(), signal.SIGTERM)
            traceback.print_exception(*error)
        sys.excepthook = hook
        1 / 0
        """,
        python=python,
    )
    assert result.status == -TERM
    assert "ZeroDivisionError" in result.err


def test_a_subinterpreter_has_no_signals(programs: Programs, python: str) -> None:
    """And says so; a thread of the main interpreter is another matter."""
    result = programs.run(
        """
        import _thread, threading
        code = '''if True:
            import lastly
            try: lastly.install()
            except RuntimeError as error: print(error, flush=True)
            lastly.uninstall()
            with lastly.Scope() as scope: scope.defer(print, "closed", flush=True)'''
        try:
            from concurrent.interpreters import create
            create().exec(code)
        except ImportError:
            try: import _interpreters as low
            except ImportError: import _xxsubinterpreters as low
            (getattr(low, "exec", None) or low.run_string)(low.create(), code)
        thread = threading.Thread(target=exec, args=(code, {}))
        thread.start()
        thread.join()
        """,
        python=python,
    )
    assert [line.partition(":")[0] for line in result.lines] == [
        "install() and uninstall() work in the main interpreter only", "closed",
        "install() and uninstall() work in the main thread only", "closed",
    ], result.err  # fmt: skip


def test_lastly_run_loads_no_threading(programs: Programs) -> None:
    """install() does, to be told of the end; an unmodified program shall see no difference."""
    (programs.folder / "plain.py").write_text("import sys; print('threading' in sys.modules)")
    script = str(programs.folder / "plain.py")
    env = {"PYTHONPATH": str(SRC)}
    assert programs.run_command(["lastly", "run", script], env=env).out == "False\n"
    assert (
        programs.run("import sys, lastly; lastly.install(); print('threading' in sys.modules)").out
        == "True\n"
    )
