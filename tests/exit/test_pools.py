"""Workers that end by `os._exit`: what they deferred runs, and a death by a signal looks like one."""

from __future__ import annotations

import importlib.util
import shutil
import sys

import pytest

LIBRARIES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed"),
    )
    for name in ("multiprocessing", "multiprocess", "billiard")
]
REDIS = shutil.which("redis-server")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.slow(keep=2)
def test_a_process(programs, library):
    code = f"""
    import sys
    import {library} as library
    import lastly
    def work():
        lastly.defer(print, "worker's")
    if __name__ == "__main__":
        lastly.defer(print, "parent's", flush=True)
        worker = library.get_context("fork").Process(target=work)
        worker.start()
        worker.join()
        print("joined", worker.exitcode, flush=True)
    """
    result = programs.run(code, flags=("-W", "ignore"))
    assert (result.lines, result.err) == (["worker's", "joined 0", "parent's"], "")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.slow(keep=2)
def test_a_pool(programs, library):
    """Each worker runs it once, at its end."""
    code = f"""
    import os, sys
    import {library} as library
    import lastly
    def job(number):
        lastly.defer(print, "cleanup", number)
        return number
    if __name__ == "__main__":
        pool = library.get_context("fork").Pool(2)
        print(sum(pool.map(job, range(4))), flush=True)
        pool.close()
        pool.join()
    """
    result = programs.run(code, flags=("-W", "ignore"))
    assert sorted(result.lines) == ["6", *(f"cleanup {number}" for number in range(4))]
    assert (result.status, result.err) == (0, "")


# billiard's forkserver tells its parent a number through a pipe: no death by a signal is seen there, with or without us.
WAYS = [("multiprocessing", method) for method in ("fork", "spawn", "forkserver")]
WAYS += [("multiprocess", "fork"), ("multiprocess", "forkserver"), ("billiard", "fork"), ("billiard", "spawn")]


@pytest.mark.parametrize(("library", "method"), [way for way in WAYS if importlib.util.find_spec(way[0])])
@pytest.mark.parametrize("where", ["work", "cleanup"])
@pytest.mark.slow(keep=2)
def test_a_terminated_worker_that_called_install(programs, library, method, where):
    """Its cleanups run, and its parent sees that it died of the signal, also where that came while it cleaned up."""
    code = f"""
    import os, signal, time
    import {library} as library
    def work(ready, where):
        import lastly
        kept.write("the worker's")
        lastly.install()
        lastly.defer(print, "cleanup")
        if where == "work":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        lastly.defer(os.kill, os.getpid(), signal.SIGTERM)
    kept = open("kept", "a")
    if __name__ == "__main__":
        kept.write("the parent's ")
        context = library.get_context("{method}")
        worker = context.Process(target=work, args=(None, "{where}"))
        worker.start()
        worker.join()
        print("exitcode", worker.exitcode, flush=True)
    """
    program = programs.start(code, flags=("-W", "ignore"))
    result = program.wait()
    assert (result.lines, result.err) == (["cleanup", "exitcode -15"], "")
    assert (program.cwd / "kept").read_text().count("the parent's") == 1  # a forked worker has it in its buffer, too


def test_a_terminated_worker_with_a_thread_that_does_not_end(programs):
    """The parent's exit functions do not run in it, however it ends."""
    code = """
    import atexit, multiprocessing, os, signal, threading, time
    def work():
        import lastly
        lastly.install(grace=5)
        lastly.defer(print, "cleanup")
        threading.Thread(target=threading.Event().wait).start()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    if __name__ == "__main__":
        atexit.register(print, "the parent's", flush=True)
        worker = multiprocessing.get_context("fork").Process(target=work)
        worker.start()
        worker.join()
        print("exitcode", worker.exitcode, flush=True)
    """
    result = programs.run(code, flags=("-W", "ignore"))
    assert result.lines == ["cleanup", "exitcode -15", "the parent's"]
    assert "is no longer waited for" in result.err


def test_an_exit_of_the_programs_own_stays_one(programs):
    """`os._exit` called by anybody else skips everything, in a worker as elsewhere."""
    code = """
    import multiprocessing, os
    def work():
        import lastly
        lastly.install()
        lastly.defer(print, "cleanup", flush=True)
        os._exit(3)
    if __name__ == "__main__":
        worker = multiprocessing.get_context("fork").Process(target=work)
        worker.start()
        worker.join()
        print("exitcode", worker.exitcode, flush=True)
    """
    assert programs.run(code, flags=("-W", "ignore")).lines == ["exitcode 3"]


@pytest.mark.skipif(importlib.util.find_spec("rq") is None or REDIS is None, reason="rq or redis-server is missing")
@pytest.mark.parametrize("ending", ["returns", "fails", "is terminated"])
@pytest.mark.slow(keep=1)
def test_work_horses_of_rq(programs, ending):
    """With its real worker and a redis of our own."""
    (folder := programs.folder / "rq").mkdir()
    (folder / "jobs.py").write_text("""
import os, signal, time
import lastly
def job(ending):
    lastly.defer(print, "cleanup of the job")
    if ending == "fails":
        1 / 0
    if ending == "is terminated":
        lastly.install()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
""")
    (folder / "worker.py").write_text("""
import sys, redis, rq, lastly, jobs
lastly.defer(print, "cleanup of the worker")
connection = redis.Redis(unix_socket_path="redis.sock")
queue = rq.Queue(connection=connection)
queue.enqueue(jobs.job, sys.argv[1])
rq.Worker([queue], connection=connection).work(burst=True, logging_level="CRITICAL")
""")
    server = programs.start_command(
        [REDIS, "--port", "0", "--unixsocket", "redis.sock", "--save", "", "--daemonize", "no"], cwd=folder
    )
    server.line("eady to accept connections")
    result = programs.run_command([sys.executable, "worker.py", ending], cwd=folder)
    assert result.lines == ["cleanup of the job", "cleanup of the worker"], result.err
