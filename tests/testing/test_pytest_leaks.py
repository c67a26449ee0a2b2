"""pytest --lastly-leaks: what a test leaves is an error at its teardown, with the line that made it."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from harness import ROOT, Programs, Result, wait_process_gone, wait_until
from suites import NO_MORE, Suite


@pytest.fixture
def suite(programs: Programs, tmp_path: Path) -> Suite:
    made = Suite(programs, tmp_path / "suite")
    made.write("conftest.py", HELPERS)
    return made


HELPERS = """
    import subprocess

    import pytest

    def sleeper():
        return subprocess.Popen(["sleep", "1000"], stdin=-3, stdout=-3, stderr=-3)

    @pytest.fixture
    def start():
        return sleeper

    @pytest.fixture(scope="module")
    def server():
        return sleeper()

    @pytest.fixture(scope="module")
    def daemon():
        # Starts another one, and ends.
        subprocess.run(["sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 & exit 0"])
        yield
        subprocess.run(["sleep", "0"])
"""


def left(result: Result) -> dict[str, list[str]]:
    """What each test has left, without numbers and folders."""
    found: dict[str, list[str]] = {}
    for line in result.out.split("short test summary")[0].splitlines():
        if title := re.match(r"_+ ERROR at teardown of (\S+) _+", line):
            found[title[1]] = []
        elif text := re.match(r"(?:E\s+)?left behind: (.*)", line):
            found[list(found)[-1]].append(re.sub(r"process \d+|/tmp/\S+/", lambda m: m[0].split()[0].split("/")[0], text[1]))
    return found


def test_what_a_test_leaves_is_named_with_its_line(suite: Suite, home: Path) -> None:
    suite.write(
        "test_it.py",
        """
        import os, socket, subprocess, tempfile, threading, time
        import lastly, pytest

        def test_all(start):
            start()
            threading.Thread(target=time.sleep, args=(1000,), name="worker", daemon=True).start()
            open(tempfile.mkdtemp(prefix="made") + "/inside", "w").close()
            open(os.path.join(tempfile.gettempdir(), "plain"), "w").close()
            lastly.temp_file(prefix="ours")
            lastly.Scope("deploy").defer(print)

        def test_daemon():
            subprocess.run(["sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 & exit 0"])

        def test_forked():
            if not os.fork():
                time.sleep(1000)

        def test_fails_too():
            lastly.Scope("broken").defer(print)
            assert 0

        class TestTeardown:
            def teardown_method(self):
                lastly.Scope("torn").defer(print)
                raise ValueError("in teardown")

            def test_it(self):
                pass

        def test_none_of_it():
            pass
        """,
    )
    result = suite.run("-q", "--lastly-leaks", "--strict-markers", "-W", "error")
    found = left(result)
    everything = found["test_all"]
    assert [re.sub(r"(made|ours)\w*-?\w*,", r"\1…,", line) for line in everything] == [
        "child process (sleep 1000), started at conftest.py:7, called at test_it.py:6",
        "thread 'worker', started at test_it.py:7",
        "folder made…, made at test_it.py:8",
        "file plain, made at test_it.py:9",
        "file ours…, made at test_it.py:10",
        "scope 'deploy', not closed (print), made at test_it.py:11",
    ], result.out
    assert [line.rpartition(", ")[2] for line in found["test_daemon"]] == [
        "started by a child started at test_it.py:14"
    ]
    assert found["test_forked"][0].endswith("started at test_it.py:17")
    assert found["test_fails_too"] == ["scope 'broken', not closed (print), made at test_it.py:21"]
    assert found["TestTeardown.test_it"] == ["scope 'torn', not closed (print), made at test_it.py:26"]
    assert len(found) == 5
    assert "ValueError: in teardown" in result.out
    assert result.status == 1
    assert "ERROR test_it.py::test_daemon - Failed: left behind: child process" in result.out


CLEAN = """
    import asyncio, multiprocessing, os, sqlite3, subprocess, tempfile, threading, time, unittest
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
    import anyio, lastly, pytest

    def test_files(tmp_path):
        (tmp_path / "kept").write_text("")
        tempfile.mkdtemp(dir=tmp_path)
        with tempfile.NamedTemporaryFile(), tempfile.TemporaryDirectory(), lastly.temp_dir():
            pass
        sqlite3.connect(":memory:").close()

    def test_lastly(lastly_scope):
        lastly.temp_dir(scope=lastly_scope)
        lastly.Popen(["sleep", "1000"], scope=lastly_scope)
        lastly_scope.enter(lastly.Scope("inner")).defer(print)
        lastly_scope.parallel().defer(print)

    def test_pools():
        with ThreadPoolExecutor(2) as pool:
            pool.submit(time.sleep, 0.01)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
            assert pool.submit(abs, -1).result() == 1
        process = multiprocessing.get_context("spawn").Process(target=abs, args=(1,))
        process.start()
        process.join()

    def test_threads_that_nobody_can_wait_for():
        import _thread, trio
        met = threading.Event()
        _thread.start_new_thread(lambda: (threading.current_thread(), met.set()), ())
        met.wait()
        trio.run(trio.to_thread.run_sync, time.sleep, 0.01)

    def test_on_its_way_out():
        threading.Thread(target=time.sleep, args=(0.2,)).start()
        subprocess.Popen(["sleep", "0.2"]).returncode = 0

    @pytest.mark.anyio
    async def test_anyio():
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, time.sleep, 0.01)

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    def test_asyncio():
        asyncio.run(asyncio.to_thread(abs, 1))

    @pytest.mark.lastly_may_leave("threads", "scopes")
    def test_allowed():
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        lastly.Scope().defer(print)

    @pytest.mark.lastly_may_leave
    def test_allowed_all(start):
        start()

    class TestOld(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            cls.folder = tempfile.mkdtemp()

        @classmethod
        def tearDownClass(cls):
            os.rmdir(cls.folder)

        def test_one(self):
            pass

        def test_two(self):
            pass

    def test_kept(lastly_module_scope, lastly_session_scope, start):
        # Deferred to whom it shall live as long as: on purpose.
        lastly.temp_dir(scope=lastly_module_scope)
        lastly.Popen(["sleep", "1000"], scope=lastly_session_scope)
        child = start()
        lastly_session_scope.defer(child.wait)
        lastly_session_scope.defer(child.kill)
        lastly_session_scope.enter(lastly.Scope("inner")).defer(print)

    def test_behind_it():
        subprocess.run(["true"])
"""


@pytest.mark.parametrize("how", [["-p", "no:xdist"], ["-n", "1", "--timeout=60"]], ids=["alone", "xdist"])
@pytest.mark.slow(keep=1)
def test_who_leaves_nothing_passes(how: list[str], suite: Suite) -> None:
    suite.write("test_it.py", CLEAN)
    with (suite.folder / "conftest.py").open("a") as out:  # nothing is left, however long that takes
        out.write("from lastly.testing._pytest import leaks as _leaks\n_leaks._PATIENCE = 60.0\n")
    argv = ["python", "-m", "pytest", *NO_MORE, "-q", "-s", "--lastly-leaks", "--strict-markers", *how]
    result = suite.programs.run_command(argv, cwd=suite.folder, within=60)
    assert (result.status, left(result)) == (0, {}), result.out


def test_a_fixture_is_judged_when_it_is_torn_down(suite: Suite) -> None:
    """...and what its server starts meanwhile is its own, too."""
    suite.write(
        "test_a.py",
        """
        import subprocess

        def test_one(server, daemon):
            pass

        def test_two():
            subprocess.run(["true"])

        def test_three(server, daemon):
            subprocess.run(["true"])
        """,
    )
    suite.write("test_b.py", "def test_last(): __import__('subprocess').run(['true'])")
    suite.write(
        "test_c.py",
        """
        import lastly, pytest

        @pytest.fixture(scope="module", params=[1, 2])
        def scope(request):
            made = lastly.Scope(f"of {request.param}")
            made.defer(print)
            yield made
            if request.param == 2:
                made.close()

        def test_one(scope):
            pass
        """,
    )
    result = suite.run("-q", "--lastly-leaks")
    assert left(result) == {
        "test_three": [
            "child process (sleep 1000), started at conftest.py:7, called at conftest.py:15 (fixture 'server')",
            "child process (sleep 1000), and where from is not known (fixture 'daemon')",
        ],
        "test_one[2]": ["scope 'of 1', not closed (print), made at test_c.py:6 (fixture 'scope')"],
    }, result.out


def test_a_mark_that_names_no_kind(suite: Suite) -> None:
    suite.write("test_it.py", "import pytest\n@pytest.mark.lastly_may_leave('sockets')\ndef test_it(): pass")
    result = suite.run("-q", "--lastly-leaks")
    assert result.status == 1
    assert "lastly_may_leave('sockets'): use children, threads, files, scopes" in result.out
    assert suite.run("-q").status == 0


def test_afterwards_everything_is_put_back(suite: Suite) -> None:
    """Also when one run goes on inside another."""
    code = """
        import json, os, subprocess, threading
        import pytest
        from lastly import Scope

        def state():
            return [os.fork, subprocess._fork_exec, threading.Thread.start, Scope.__init__, os.environ.get("LASTLY_TOKEN")]

        before = state()
        os.mkdir("inner")
        open("inner/test_leak.py", "w").write("import lastly\\ndef test_it(): lastly.Scope('in').defer(print)")
        open("test_it.py", "w").write('''
        import pytest, lastly
        def test_it():
            assert pytest.main(["-q", "--lastly-leaks", "-p", "no:cacheprovider", "inner"]) == 1
            lastly.Scope("out").defer(print)
        '''.replace("\\n        ", "\\n"))
        status = pytest.main(["-q", "--lastly-leaks", "-p", "no:cacheprovider", "test_it.py"])
        print()
        print("found", json.dumps([int(status), state() == before]))
    """
    program = suite.programs.start(code, cwd=suite.folder)
    assert json.loads(program.line("found", within=60).partition(" ")[2]) == [1, True]
    result = program.wait(within=60)
    # The inner run's is in the outer one's captured output.
    assert re.findall(r"^left behind: scope '(\w+)'", result.out, re.MULTILINE) == ["out", "in"]


@pytest.mark.slow
def test_the_example_leaves_nothing_however_it_is_killed(programs: Programs, tmp_path: Path) -> None:
    """...in processes or in folders; and its own tests pass, with an eye on leaks, and with xdist."""
    example = str(ROOT / "examples" / "test_shop.py")
    argv = ["python", "-m", "pytest", *NO_MORE, "-s", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), example]
    for how in (["--lastly-leaks", "-W", "error"], ["-n", "2"]):
        result = programs.run_command([*argv, *how], within=60)
        assert (result.status, "2 passed" in result.out) == (0, True), result.out
    for signum in (signal.SIGTERM, signal.SIGKILL):
        run = programs.start_command(argv, env={"WAIT": "1000"})
        run.line("waiting", within=60)
        server = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        assert len(server) == 1
        assert len(os.listdir(run.tmp)) == 2
        run.send(signum)
        assert run.wait(within=60).status == -signum
        wait_process_gone(int(server[0]))
        wait_until(lambda tmp=run.tmp: os.listdir(tmp) == [], what="no folder")
