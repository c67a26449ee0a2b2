"""Children start empty, however they are made; nothing of the parent's runs in them."""

from __future__ import annotations

import pytest


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
