"""The extension for Cement 3: real applications of the real framework, ended in every way."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import Programs, clean_environment, gone, wait_process_gone, wait_until
from suites import NO_MORE

import lastly
from lastly.errors import FrameworkError
from lastly.integrations.cement import load

pytestmark = pytest.mark.filterwarnings("ignore:App.Meta.framework_logging:DeprecationWarning")  # Cement's own

PROGRAM = """
    import os, sys, threading, time
    import lastly
    from cement import App, init_defaults
    from cement.core.exc import CaughtSignal

    how = sys.argv[1]

    def says(word, fails=None):
        def hook(app):
            print(word, flush=True)
            if fails:
                raise fails
        return hook

    def begin(app):
        if not len(app.scope):  # a reload sets up again
            app.scope.defer(print, "scope", flush=True)
        if how == "setup":
            raise LookupError("no such thing")

    class MyApp(App):
        class Meta:
            label = "myapp"
            extensions = EXTENSIONS
            exit_on_close = how.startswith("exit ")
            hooks = [
                ("post_setup", begin),
                ("pre_close", says("pre", LookupError("broken hook") if "broken" in how else None)),
                ("pre_close", says("pre two")),
                ("post_close", says("post")),
            ]

    if how == "argument":
        sys.argv[1:] = ["--nonsense"]
    elif how == "help":
        sys.argv[1:] = ["--help"]
    else:
        sys.argv[1:] = []
    if "by hand" in how:
        app = MyApp()
        app.setup()
        app.run()
        app.exit_code = 3
        sys.exit(0)
    with MyApp() as app:
        app.run()
        if "code 3" in how:
            app.exit_code = 3
        if how == "error":
            raise LookupError("no such thing")
        if how == "sys.exit":
            sys.exit(5)
        if how == "thread":  # which a hook stops
            stop = threading.Event()
            app.hook.register("pre_close", lambda app: stop.set())
            threading.Thread(target=stop.wait).start()
            raise LookupError("no such thing")
        if how == "twice":
            app.close()
            app.close()
        if how == "reload":
            app.reload()
        if how == "wait":
            print("waits", flush=True)
            try:
                while True:
                    time.sleep(0.02)
            except CaughtSignal as caught:
                print(caught)
                app.exit_code = 0
        if how == "uncaught":
            print("waits", flush=True)
            while True:
                time.sleep(0.02)
        if how == "killed":
            with open("work", "w"):
                app.scope.defer(lastly.actions.remove, "work")
            print("waits", flush=True)
            time.sleep(60)
"""
WITH = PROGRAM.replace("EXTENSIONS", "['lastly.integrations.cement']")
CLOSED = ["pre", "pre two", "scope", "post"]

# How it ends: the status, and a word on stderr.
ENDS = {
    "end": (0, ""),
    "error": (1, "LookupError: no such thing"),
    "sys.exit": (5, ""),
    "argument": (2, "unrecognized arguments"),
    "help": (0, ""),
    "setup": (1, "LookupError: no such thing"),
    "thread": (1, "LookupError: no such thing"),
    "twice": (0, ""),
    "reload": (0, ""),
    "exit end": (0, ""),
    "exit code 3": (3, ""),
    "exit broken": (1, "LookupError: broken hook"),
    "exit broken code 3": (3, "broken hook"),
    "broken": (1, "LookupError: broken hook"),
    "by hand": (0, ""),
    "exit by hand": (3, ""),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.slow(keep=2)
def test_closed_once_however_it_ends(how: str, programs: Programs) -> None:
    result = programs.run(WITH, how)
    status, said = ENDS[how]
    assert [line for line in result.lines if line in CLOSED] == CLOSED
    assert result.status == status
    assert said in result.err if said else result.err == ""


@pytest.mark.parametrize("how", ["end", "error", "sys.exit", "argument", "help", "setup", "exit end", "exit code 3"])
@pytest.mark.slow(keep=2)
def test_the_status_is_that_of_cement_alone(how: str, programs: Programs) -> None:
    plain = PROGRAM.replace("EXTENSIONS", "[]").replace("len(app.scope)", "1")
    without, with_it = programs.run(plain, how), programs.run(WITH, how)
    assert without.status == with_it.status
    if "end" not in how and "exit" not in how:
        assert "pre" not in without.lines  # that is why


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.slow(keep=2)
def test_the_signals_are_cements(signum: signal.Signals, programs: Programs) -> None:
    """Caught by the program, as generated ones do, they end it with 0; uncaught, by a traceback."""
    program = programs.start(WITH, "wait")
    program.line("waits")
    program.send(signum)
    result = program.wait()
    assert (result.status, result.lines[1:]) == (0, [f"Caught signal {int(signum)}", *CLOSED])
    program = programs.start(WITH, "uncaught")
    program.line("waits")
    program.send(signum)
    result = program.wait()
    assert (result.status, result.lines[1:]) == (1, CLOSED)
    assert "CaughtSignal" in result.err


@pytest.mark.parametrize("how", ["wait", "exit wait"])
def test_the_signals_are_lastlys_where_the_program_says_so(how: str, programs: Programs) -> None:
    code = WITH.replace('label = "myapp"', 'label = "myapp"; catch_signals = None; lastly.install()')
    program = programs.start(code.replace('how == "wait"', '"wait" in how'), how)
    program.line("waits")
    program.send(signal.SIGTERM)
    result = program.wait()
    assert (result.status, result.lines[1:], result.err) == (-signal.SIGTERM, CLOSED, "")


def test_killed(programs: Programs) -> None:
    program = programs.start(WITH, "killed")
    program.line("waits")
    program.send(signal.SIGKILL)
    program.wait()
    wait_until(lambda: gone(program.cwd / "work"))


def test_a_signal_in_the_middle_of_closing(programs: Programs) -> None:
    """The hook that it cuts is lost; the others run."""
    code = """
        import time
        from cement import App

        def slow(app):
            print("slow", flush=True)
            while True:
                time.sleep(0.02)

        class MyApp(App):
            class Meta:
                label = "myapp"
                extensions = ["lastly.integrations.cement"]
                hooks = [("pre_close", slow), ("pre_close", lambda app: print("next")), ("post_close", lambda app: print("post"))]

        with MyApp(argv=[]) as app:
            app.scope.defer(print, "scope")
            app.run()
    """
    program = programs.start(code)
    program.line("slow")
    program.send(signal.SIGTERM)
    result = program.wait()
    assert (result.status, result.lines) == (1, ["slow", "next", "scope", "post"])
    assert "CaughtSignal" in result.err


def test_a_close_of_its_own_that_fails(programs: Programs) -> None:
    """...before Cement's, or in its middle: the rest is closed all the same."""
    code = """
        from cement import App

        class MyApp(App):
            class Meta:
                label = "myapp"
                extensions = ["lastly.integrations.cement"]
                hooks = [("pre_close", lambda app: print("pre")), ("post_close", lambda app: print("post"))]

            def close(self, code=None):
                print("mine")
                raise LookupError("before super()")

        with MyApp(argv=[]) as app:
            app.run()
    """
    result = programs.run(code)
    assert (result.status, result.lines) == (1, ["mine", "pre", "post"])
    assert "LookupError: before super()" in result.err


def test_several_apps_in_one_process() -> None:
    """As in a test suite: each closes itself; used twice on one app, nothing happens twice."""
    from cement import TestApp

    said: list[str] = []

    class MyApp(TestApp):
        class Meta:
            label = "myapp"
            extensions = ["lastly.integrations.cement"]
            catch_signals = None
            hooks = [("pre_close", lambda app: said.append("closed"))]

    for _ in range(3):
        with MyApp() as app:
            load(app)
            app.run()
            app.scope.defer(said.append, "scope")
    assert said == ["closed", "scope"] * 3


def test_what_is_no_cement_application() -> None:
    with pytest.raises(FrameworkError, match=r"applications of Cement 3 \(pip install 'lastly\[cement\]'\), not for 42"):
        load(42)

    from cement import TestApp

    class MyApp(TestApp):
        class Meta:
            label = "myapp"
            extensions = ["lastly.integrations.cement"]
            catch_signals = None

        scope = "mine"

    with pytest.raises(FrameworkError, match="has an attribute 'scope' already"):
        MyApp().setup()


def test_an_application_of_lastly_needs_none() -> None:
    said: list[str] = []

    class MyApp(lastly.App):
        class Meta:
            label = "myapp"
            argv: list[str] = []
            extensions = ["lastly.integrations.cement"]
            hooks = [("pre_close", lambda app: said.append("closed"))]

    with MyApp() as app:
        app.run()
    assert said == ["closed"]


def test_a_daemon_closes_itself(programs: Programs) -> None:
    """The process that `app.daemonize()` leaves behind is the app, and removes its pid file."""
    code = """
        import os, sys
        from cement import App

        class MyApp(App):
            class Meta:
                label = "myapp"
                extensions = ["daemon", "lastly.integrations.cement"]
                hooks = [("pre_close", lambda app: open("closed", "a").write(f"{os.getpid()}\\n"))]

        here = os.getcwd()
        with MyApp(argv=["--daemon"]) as app:
            app.config.set("daemon", "pid_file", f"{here}/pid")
            app.config.set("daemon", "dir", here)
            app.daemonize()
            app.run()
            sys.exit(7)
    """
    program = programs.start(code)
    assert program.wait().status == 0
    closed = program.cwd / "closed"
    pid = int(wait_until(lambda: closed.exists() and closed.read_text()))
    wait_process_gone(pid)
    assert pid != program.pid
    assert closed.read_text() == f"{pid}\n"
    assert gone(program.cwd / "pid")


# ── an application that `cement generate project` makes ─────────────────────────────────────


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A generated project with one line more: the extension; and a hook and a work file to see it work."""
    pytest.importorskip("jinja2")
    pytest.importorskip("yaml")
    pytest.importorskip("colorlog")
    argv = [str(Path(sys.executable).parent / "cement"), "generate", "project", "-D", "project"]
    subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    folder = tmp_path / "project"
    main = folder / "myapp" / "main.py"
    code = main.read_text()
    changed = code.replace("            'jinja2',\n", "            'jinja2',\n            'lastly.integrations.cement',\n")
    assert changed != code
    main.write_text(changed)
    base = folder / "myapp" / "controllers" / "base.py"
    base.write_text(base.read_text() + COMMAND)
    return folder


COMMAND = """
    @ex(help="wait for a signal")
    def wait(self):
        import time
        from lastly import actions
        open("work", "w").close()
        self.app.scope.defer(actions.remove, "work")
        self.app.scope.defer(print, "closed", flush=True)
        print("waits", flush=True)
        while True:
            time.sleep(0.02)

    @ex(help="fail")
    def fail(self):
        self.app.scope.defer(print, "closed", flush=True)
        raise LookupError("no such thing")
"""


def test_a_generated_project(project: Path, programs: Programs) -> None:
    def start(*args: str) -> Any:
        path = {"PYTHONPATH": str(project)}
        return programs.start_command(["python", "-c", "from myapp.main import main; main()", *args], env=path)

    result = start("command1", "--foo", "bar").wait()
    assert (result.status, result.err) == (0, "")
    assert "Foo => bar" in result.out
    result = start("fail").wait()
    assert (result.status, result.lines[-1:]) == (1, ["closed"])
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        program = start("wait")
        program.line("waits")
        program.send(signum)
        result = program.wait()
        if signum != signal.SIGKILL:  # the project's own choice
            assert (result.status, result.lines[-1]) == (0, "closed")
        wait_until(lambda program=program: gone(program.cwd / "work"))


@pytest.mark.slow
def test_a_generated_project_passes_its_own_tests(project: Path, home: Path) -> None:
    argv = [sys.executable, "-m", "pytest", *NO_MORE, "-q", "-p", "no:cacheprovider", "-o", "addopts=", "tests"]
    env = clean_environment(home, PYTHONPATH=str(project))
    done = subprocess.run(argv, cwd=project, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
