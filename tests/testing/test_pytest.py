"""The pytest plugin: scopes close however the run ends, with and without xdist, and a later run says what was left."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from harness import Programs, Result, gone, wait_until
from suites import NO_MORE, Suite, events, kill, told

from lastly._reaper import desk

ONE = """
    import os
    import lastly, pytest

    def say(text):
        os.write(2, f"{text}\\n".encode())

    def waits():
        # Once: xdist starts the test of a dead worker again.
        try:
            open(os.environ.get("WAIT", "/"), "x").close()
        except OSError:
            return False
        return True

    def test_one(lastly_scope, lastly_session_scope):
        made = [lastly.temp_dir(scope=lastly_scope), lastly.temp_dir(scope=lastly_session_scope)]
        for name, scope in (("function", lastly_scope), ("session", lastly_session_scope)):
            scope.defer(say, f"closed {name}")
        if waits():
            say(f"ready {os.getpid()} {made[0]} {made[1]}")
            import time
            time.sleep(1000)

    def test_two(lastly_scope):
        lastly_scope.defer(say, "closed two")
"""


@pytest.fixture
def suite(programs: Programs, tmp_path: Path) -> Suite:
    made = Suite(programs, tmp_path / "suite")
    made.write("test_it.py", ONE)
    return made


def test_a_scope_closes_with_what_it_is_named_after(suite: Suite) -> None:
    suite.write(
        "inner/test_scopes.py",
        """
        import os
        KINDS = "session module class function".split()

        class TestIt:
            def test_one(self, lastly_session_scope, lastly_module_scope, lastly_class_scope, lastly_scope):
                found = [lastly_session_scope, lastly_module_scope, lastly_class_scope, lastly_scope]
                for kind, scope in zip(KINDS, found):
                    scope.defer(os.write, 2, f"closed {kind} {scope.name.rpartition('suite/')[2]}\\n".encode())

            def test_same(self, lastly_class_scope):
                os.write(2, b"closed none but the first\\n")
                assert len(lastly_class_scope) == 1

        def test_behind():
            os.write(2, b"closed the class's\\n")
        """,
    )
    suite.write("test_later.py", "import os\ndef test_last(): os.write(2, b'closed all but one\\n')")
    result = suite.run("inner/test_scopes.py", "test_later.py")
    here = "inner/test_scopes.py"
    assert result.status == 0, result.out
    assert events(result) == [
        f"closed function {here}::TestIt::test_one",
        "closed none but the first",
        f"closed class {here}::TestIt",
        "closed the class's",
        f"closed module {here}",
        "closed all but one",
        "closed session ",
    ]
    assert told(result) == []


@pytest.mark.parametrize("name", ["TERM", "HUP", "QUIT"])
@pytest.mark.slow(keep=1)
def test_a_signal_ends_the_run_in_order(name: str, suite: Suite) -> None:
    """Through every teardown and pytest's summary, and then the process dies of it; no other test begins."""
    signum = signal.Signals[f"SIG{name}"]
    run, _, made = suite.started()
    run.send(signum)
    result = run.wait(within=60)
    assert (result.status, events(result)) == (-signum, ["closed function", "closed session"])
    assert f"Caught signal {int(signum)} (SIG{name})" in result.out
    assert all(map(gone, made))


def test_ctrl_c_is_what_it_is_without_us(suite: Suite) -> None:
    run, _, made = suite.started()
    run.send(signal.SIGINT)
    result = run.wait(within=60)
    assert (result.status, events(result)) == (2, ["closed function", "closed session"])
    assert "! KeyboardInterrupt !" in result.out
    assert all(map(gone, made))


def test_what_a_killed_run_left_is_reaped_and_told_once(suite: Suite) -> None:
    run, _, made = suite.started()
    run.send(signal.SIGKILL)
    assert run.wait(within=60).status == -signal.SIGKILL
    wait_until(lambda: all(map(gone, made)), what="reaped")
    wait_until(lambda: len(desk.past()) == 2, what="in the history")
    suite.write("test_other.py", "def test_other(): pass")
    assert told(suite.run("test_other.py")) == []  # who does not use it does not hear of it
    result = suite.run()
    assert told(result) == ["lastly: reaped 2 cleanups that killed test runs owed (test_it.py::test_one, session)"]
    assert (result.status, told(suite.run())) == (0, [])


def test_what_nobody_has_reaped_yet_is_told_as_well(suite: Suite) -> None:
    run = suite.start("-q", "-W", "ignore", env={**suite.waiting, "LASTLY_REAPER": "0"})
    made = run.error_line("ready", within=60).split()[2:]
    run.send(signal.SIGKILL)
    run.wait(within=60)
    assert not any(map(gone, made))
    result = suite.run("-W", "ignore", "--deselect", "test_it.py::test_one", env={"LASTLY_REAPER": "0"})
    assert told(result) == ["lastly: 2 still owed (test_it.py::test_one, session; see `lastly ls`)"]


@pytest.mark.slow
def test_another_projects_leftovers_are_not_told_here(suite: Suite, programs: Programs, tmp_path: Path) -> None:
    other = Suite(programs, tmp_path / "suite2")
    other.write("test_it.py", ONE)
    run, _, made = other.started()
    run.send(signal.SIGKILL)
    run.wait(within=60)
    wait_until(lambda: all(map(gone, made)) and len(desk.past()) == 2, what="reaped")
    assert told(suite.run()) == []
    assert len(told(other.run("-p", "no:cacheprovider"))) == 1
    assert len(told(other.run("-p", "no:cacheprovider"))) == 1  # without a memory it is told for a day


def test_a_damaged_history_fails_no_test(suite: Suite, home: Path) -> None:
    (home / "history.db").write_bytes(b"no database" * 1000)
    result = suite.run()
    assert result.status == 0
    assert [line[:51] for line in told(result)] == ["lastly: what earlier runs have left cannot be told:"]


# ── xdist ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_killed_worker_is_reaped_while_the_run_goes_on(suite: Suite) -> None:
    run, worker, made = suite.started("-n", "2", "--dist", "loadgroup")
    kill(worker)
    result = run.wait(within=60)
    assert result.status == 1
    assert "crashed while running 'test_it.py::test_one'" in result.out
    wait_until(lambda: all(map(gone, made)), what="reaped")


@pytest.mark.parametrize(
    ("name", "how"), [("TERM", ["--dist", "worksteal"]), ("KILL", ["--dist", "loadfile"])], ids=["TERM", "KILL"]
)
@pytest.mark.slow(keep=1)
def test_workers_end_in_order_when_their_controller_dies(name: str, how: list[str], suite: Suite) -> None:
    signum = signal.Signals[f"SIG{name}"]
    run, worker, made = suite.started("-n", "2", *how)
    run.send(signum, busy=True)
    result = run.wait(eof=True, within=60)
    assert result.status == -signum
    assert set(events(result)) >= {"closed function", "closed session"}
    assert all(map(gone, made))


def test_the_controller_tells_what_was_reaped(suite: Suite) -> None:
    run, _, made = suite.started()
    run.send(signal.SIGKILL)
    run.wait(within=60)
    wait_until(lambda: all(map(gone, made)) and len(desk.past()) == 2, what="reaped")
    result = suite.run("-n", "2", "--dist", "loadscope")
    assert [re.sub(r" \(.*", "", line) for line in told(result)] == [
        "lastly: reaped 2 cleanups that killed test runs owed"
    ]


# ── whoever does not use it ──────────────────────────────────────────────────────────────────────────────

UNUSED = """
    import signal, sys, threading, unittest

    def test_signals():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_imports():
        assert not {"lastly._exit.signals", "lastly._durable.seam", "lastly._reaper", "sqlite3"} & set(sys.modules)

    def test_threads(tmp_path, capsys, monkeypatch):
        assert threading.active_count() == 1

    class TestOld(unittest.TestCase):
        def test_old(self):
            self.assertEqual(1, 1)
"""


def shape(result: Result) -> str:
    """Output without times and without the list of plugins."""
    text = re.sub(r"in \d+\.\d+s", "in …", result.out)
    return re.sub(r"^plugins:.*$", "", text, flags=re.MULTILINE)


def test_nothing_changes_for_who_does_not_use_it(suite: Suite, home: Path) -> None:
    suite.write("test_it.py", UNUSED)
    flags = ["-v", "--strict-markers", "--strict-config", "-W", "error", "-p", "no:xdist"]
    with_us, without = suite.run(*flags), suite.run(*flags, "-p", "no:lastly")
    assert "lastly-" in with_us.out
    assert (with_us.status, with_us.err, shape(with_us)) == (without.status, without.err, shape(without))
    assert with_us.status == 0, with_us.out
    assert list(home.iterdir()) == []


def test_warnings_as_errors_strict_markers_and_unittest(suite: Suite) -> None:
    """Also for the interpreter itself, and with a test that leaves a signal handler of its own behind."""
    suite.write(
        "test_it.py",
        """
        import signal, unittest
        import lastly, pytest

        @pytest.mark.usefixtures("lastly_scope", "lastly_class_scope")
        class TestOld(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _scope(self, lastly_scope):
                self.scope = lastly_scope

            def test_old(self):
                self.scope.defer(self.addCleanup, print)
                lastly.temp_dir(scope=self.scope)
                signal.signal(signal.SIGTERM, lambda *_: None)
        """,
    )
    argv = ["python", "-W", "error", "-m", "pytest", *NO_MORE, "-s", "-W", "error", "--strict-markers", "--strict-config"]
    result = suite.programs.run_command(argv, cwd=suite.folder)
    assert (result.status, result.err) == (0, ""), result.out


def test_a_failing_cleanup_is_an_error_of_the_test(suite: Suite) -> None:
    suite.write(
        "test_it.py",
        """
        def test_it(lastly_scope):
            lastly_scope.defer(open, "/not/there")
        """,
    )
    result = suite.run()
    assert result.status == 1
    assert "ERROR at teardown of test_it" in result.out
    assert "FileNotFoundError" in result.out
    assert "1 passed, 1 error" in result.out


def test_a_handler_of_the_project_stays(suite: Suite) -> None:
    suite.write(
        "conftest.py",
        """
        import os, signal
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
        """,
    )
    run, _, _ = suite.started()
    run.send(signal.SIGTERM)
    assert run.wait(within=60).status == 7


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.slow(keep=1)
def test_a_signal_in_a_running_event_loop(backend: str, suite: Suite) -> None:
    """The test's task is cancelled, and its ``finally`` runs; then the fixtures close."""
    suite.write(
        "test_it.py",
        f"""
        import os
        import anyio, pytest

        @pytest.fixture
        def anyio_backend():
            return {backend!r}

        async def later():
            await anyio.sleep(0)
            os.write(2, b"closed async\\n")

        @pytest.mark.anyio
        async def test_it(lastly_scope):
            lastly_scope.defer(os.write, 2, b"closed scope\\n")
            try:
                os.write(2, b"ready 0\\n")
                await anyio.sleep(1000)
            finally:
                with anyio.CancelScope(shield=True):
                    await later()

        def test_next():
            os.write(2, b"closed never\\n")
        """,
    )
    run, _, _ = suite.started("-p", "anyio")
    run.send(signal.SIGTERM)
    result = run.wait(within=60)
    assert (result.status, events(result)) == (-signal.SIGTERM, ["closed async", "closed scope"]), result.out


def test_a_run_under_lastly_run_ends_in_order(suite: Suite) -> None:
    """Whether it uses the fixtures or not."""
    suite.write(
        "test_it.py",
        """
        import os, time
        import pytest

        @pytest.fixture
        def thing():
            yield
            os.write(2, b"closed thing\\n")

        def test_it(thing):
            os.write(2, b"ready 0\\n")
            time.sleep(1000)

        def test_next():
            os.write(2, b"closed never\\n")
        """,
    )
    run = suite.programs.start_command(["lastly", "run", "-m", "pytest", *NO_MORE, "-s", "-q"], cwd=suite.folder)
    run.error_line("ready", within=60)
    run.send(signal.SIGTERM)
    result = run.wait(within=60)
    assert (result.status, events(result)) == (-signal.SIGTERM, ["closed thing"]), result.out


def test_runs_inside_a_program(suite: Suite) -> None:
    """pytest.main() twice, then in a thread: signals are given back each time, and taken by none in a thread."""
    code = """
        import json, os, signal, sys, threading
        import pytest

        def run():
            found.append([int(pytest.main(["-q", "-p", "no:cacheprovider"])), after()])

        def after():
            return signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

        found = []
        run()
        run()
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        print("found", json.dumps(found))
    """
    program = suite.programs.start(code, cwd=suite.folder)
    found = json.loads(program.line("found", within=60).partition(" ")[2])
    assert found == [[0, True]] * 3, program.out
    assert program.wait(within=60).status == 0


def test_a_run_inside_a_test_takes_no_signal_away(suite: Suite) -> None:
    suite.write("inner/test_inner.py", "def test_inner(lastly_scope): pass")
    suite.write(
        "test_it.py",
        """
        import os, time
        import pytest

        def test_it(lastly_scope):
            lastly_scope.defer(os.write, 2, b"closed it\\n")
            assert pytest.main(["-q", "-p", "no:cacheprovider", "inner"]) == 0
            os.write(2, b"ready 0\\n")
            time.sleep(1000)

        def test_next():
            os.write(2, b"closed never\\n")
        """,
    )
    run, _, _ = suite.started("test_it.py")
    run.send(signal.SIGTERM)
    result = run.wait(within=60)
    assert (result.status, events(result)) == (-signal.SIGTERM, ["closed it"]), result.out


def test_an_old_pytest(programs: Programs) -> None:
    """It loads the plugin as any other does: where it is not used, it must not be noticed."""
    done = programs.run(
        """
        import sys
        import pytest
        for name in ("Config", "Parser", "StashKey", "version_tuple"):
            delattr(pytest, name)  # what 6.2 does not have
        with open("test_it.py", "w") as file:
            file.write("def test_it(lastly_scope): lastly_scope.defer(print, 'closed')")
        arguments = ["-q", "-s", "-p", "no:cacheprovider", "-p", "lastly.testing.plugin", "test_it.py"]
        assert pytest.main(arguments) == 0
        sys.exit(pytest.main([*arguments, "--lastly-leaks"]))
        """,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert "closed" in done.out, done.err
    assert (done.status, done.err.strip()) == (4, "ERROR: --lastly-leaks needs pytest 8 or later: pip install -U pytest")
