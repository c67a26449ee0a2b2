"""Children start empty, however they are made; nothing of the parent's runs in them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness import wait_until

UWSGI = Path(sys.prefix, "bin", "uwsgi")


def test_a_forked_child_runs_its_own_cleanups_only(programs, python):
    code = """
    import os, sys
    from lastly import Scope, defer, defer_early, report
    defer(print, "parent's", flush=True)
    early = defer_early(print, "parent's early", flush=True)
    with Scope() as scope:
        handle = scope.defer(print, "scope's", flush=True)
        pid = os.fork()
        if pid == 0:
            assert handle.run() is None and not handle.detach() and len(scope) == 0
            defer(print, "child's", flush=True)
            scope.defer(print, "child's in the scope", flush=True)
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    """
    result = programs.run(code, python=python, flags=("-W", "ignore"))
    assert result.lines == [
        "child's in the scope", "child's", "scope's", "parent's early", "parent's",
    ]  # fmt: skip
    assert (result.status, result.err) == (0, "")


def test_fork_inside_a_cleanup(programs, python):
    code = """
    import os
    from lastly import Scope
    def fork():
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        else:
            print("in the child", flush=True)
    with Scope() as scope:
        scope.defer(print, "oldest", flush=True)
        scope.defer(fork)
    """
    assert programs.run(code, python=python).lines == ["in the child", "oldest"]


def test_fork_while_another_thread_closes_the_scope(programs, python):
    code = """
    import os, threading
    from lastly import Scope
    inside, go = threading.Event(), threading.Event()
    scope = Scope()
    scope.defer(print, "parent's", flush=True)
    scope.defer(lambda: (inside.set(), go.wait(20)))
    thread = threading.Thread(target=scope.close)
    thread.start()
    inside.wait(20)
    pid = os.fork()
    if pid == 0:
        scope.defer(print, "child's", flush=True)
        scope.close()
        os._exit(0)
    os.waitpid(pid, 0)
    go.set()
    thread.join()
    """
    result = programs.run(code, python=python, flags=("-W", "ignore"))
    assert result.lines == ["child's", "parent's"]


OLD_KERNEL = "import lastly._words.fork; lastly._words.fork._WIPE_ON_FORK = 12345"


@pytest.mark.parametrize("kernel", ["import lastly", OLD_KERNEL], ids=["wipes", "old kernel"])
def test_a_fork_by_a_c_library(programs, python, kernel):
    """None of Python's own hooks runs in the child: the same holds."""
    code = f"""
    {kernel}
    import ctypes, os, sys
    from lastly import Scope, defer, defer_early, temp_dir
    defer(print, "parent's", flush=True)
    early = defer_early(print, "parent's early", flush=True)
    kept = temp_dir()
    with Scope() as scope:
        handle = scope.defer(print, "scope's", flush=True)
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            scope.defer(print, "child's in the scope", flush=True)
            assert handle.run() is None and not handle.detach() and not early.detach() and len(scope) == 1
            defer(print, "child's", flush=True)
            defer_early(print, "child's early", flush=True)
            open("path", "w").write(os.fspath(temp_dir()))
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert not os.path.exists(open("path").read()) and os.path.isdir(kept)
    """
    result = programs.run(code, python=python)
    assert result.lines == [
        "child's in the scope", "child's early", "child's", "scope's", "parent's early", "parent's",
    ]  # fmt: skip
    assert (result.status, result.err) == (0, "")


@pytest.mark.parametrize("way", ["handle.run()", "scope.close()", "asyncio.run(ascope.close())", "sys.exit()"])
def test_a_fork_by_a_c_library_whose_child_takes_nothing_first(programs, python, way):
    code = f"""
    import asyncio, ctypes, os, sys
    import lastly
    scope, ascope = lastly.Scope(), lastly.AsyncScope()
    handle = scope.defer(print, "scope's", flush=True)
    ascope.defer(print, "ascope's", flush=True)
    lastly.install()
    lastly.defer(print, "parent's", flush=True)
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        {way}
        os._exit(0)
    os.waitpid(pid, 0)
    print("now the parent", flush=True)
    scope.close()
    asyncio.run(ascope.close())
    """
    result = programs.run(code, python=python)
    assert result.lines == ["now the parent", "scope's", "ascope's", "parent's"]
    assert result.err == ""


def test_a_c_fork_under_lastly_run(programs):
    """The child's temporary folder is planned in a journal of its own; the parent's stays until the parent ends."""
    code = """
import ctypes, os, sys, tempfile
kept = tempfile.mkdtemp()
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    tempfile.mkdtemp()
    sys.exit(0)
os.waitpid(pid, 0)
print(os.path.isdir(kept), flush=True)
os.abort()
"""
    program = programs.start_command(["lastly", "run", "--", "python", "-c", code])
    result = program.wait()
    assert (result.lines, result.status) == (["True"], -6), result.err
    wait_until(lambda: not list(program.tmp.iterdir()), what="the reaper removes both folders")


@pytest.mark.skipif(not UWSGI.exists(), reason="uwsgi is not installed")
def test_workers_of_uwsgi(programs):
    """Each worker runs what it has deferred itself; uWSGI runs no exit functions in its master."""
    (folder := programs.folder / "app").mkdir()
    (folder / "app.py").write_text("""
import lastly, os, uwsgi
def say(text):
    with open("said", "a") as file:
        print(text, MASTER == os.getpid(), file=file)
def forked():
    lastly.defer(say, "worker's")
    say(f"a worker {os.getpid()}")
MASTER = os.getpid()
lastly.defer(say, "master's")
uwsgi.post_fork_hook = forked
def application(environ, start): return []
""")
    argv = [str(UWSGI), "--http-socket", "127.0.0.1:0", "--wsgi-file", "app.py", "--master", "--processes", "2"]
    program = programs.start_command([*argv, "--die-on-term", "-H", sys.prefix], cwd=folder)
    said = folder / "said"
    workers = wait_until(lambda: len(found := read(said, "worker")) == 2 and [int(w.split()[2]) for w in found])
    for pid in workers:  # what comes before it listens is lost
        wait_until(lambda pid=pid: "poll" in Path(f"/proc/{pid}/wchan").read_text(), what=f"worker {pid} listens")
    program.send(15, busy=True)
    program.wait(eof=True)
    assert read(said, "'s ") == ["worker's False", "worker's False"]


def read(path, word):
    """The lines of a file in which a word stands, sorted; none when there is no file yet."""
    return sorted(line for line in path.read_text().splitlines() if word in line) if path.exists() else []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_workers(programs, python, method):
    code = f"""
    import multiprocessing, os
    import lastly
    def work():
        lastly.defer(print, "worker's", flush=True)
    if __name__ == "__main__":
        lastly.defer(print, "parent's", flush=True)
        context = multiprocessing.get_context("{method}")
        with lastly.Scope() as scope:
            scope.defer(print, "scope's", flush=True)
            process = context.Process(target=work)
            process.start()
            process.join()
            assert process.exitcode == 0
    """
    result = programs.run(code, python=python, flags=("-W", "ignore"))
    assert result.lines == ["worker's", "scope's", "parent's"]
    assert result.err == ""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_terminate_runs_nothing_of_the_parents(programs, method):
    code = f"""
    import multiprocessing, time
    import lastly
    def work(ready):
        ready.set()
        time.sleep(60)
    if __name__ == "__main__":
        lastly.install()
        lastly.defer(print, "parent's", flush=True)
        context = multiprocessing.get_context("{method}")
        ready = context.Event()
        process = context.Process(target=work, args=(ready,))
        process.start()
        ready.wait()
        process.terminate()
        process.join(20)
        print("ended", process.exitcode, flush=True)
    """
    result = programs.run(code, flags=("-W", "ignore"))
    assert result.lines == ["ended -15", "parent's"]
    assert result.status == 0


def test_process_pool_executor(programs, python):
    code = """
    from concurrent.futures import ProcessPoolExecutor
    import lastly
    def work(number):
        return number, len(lastly.report()), lastly.defer.__self__._stack == {}
    if __name__ == "__main__":
        lastly.defer(print, "parent's", flush=True)
        with ProcessPoolExecutor(2) as pool:
            assert list(pool.map(work, range(4))) == [(n, 0, True) for n in range(4)]
    """
    result = programs.run(code, python=python, flags=("-W", "ignore"))
    assert (result.lines, result.err) == (["parent's"], "")


@pytest.mark.parametrize("how", ["fork", "end"])
def test_numbers_that_are_other_files_by_now_are_left_alone(programs, how):
    """A program closes all descriptors, ours too, and goes on to open its own."""
    code = """
    import os, sys
    import lastly
    lastly.install()
    kept = lastly.temp_dir()
    os.closerange(3, 100)
    files = [open(os.devnull, "w") if number else open("text", "w") for number in range(20)]
    files[0].write("whole")
    def look():
        for file in files:
            assert os.readlink(f"/proc/self/fd/{file.fileno()}") in (os.devnull, os.path.abspath("text"))
    if sys.argv[1] == "fork":
        pid = os.fork()
        if pid == 0:
            look()
            lastly.temp_dir()
            look()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    kept.close()
    lastly.uninstall()
    look()
    """
    program = programs.start(code, how)
    result = program.wait()
    assert (result.status, result.err) == (0, "")
    assert (program.cwd / "text").read_text() == "whole"
