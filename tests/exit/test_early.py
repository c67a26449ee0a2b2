"""Requests to stop run before CPython waits for threads and shuts executors down (traps 1 and 2)."""

from __future__ import annotations

import importlib.util

import pytest


def test_a_thread_that_waits_to_be_stopped(programs, python):
    code = """
    import threading, lastly
    stop = threading.Event()
    def work():
        stop.wait()
        print("stopped", flush=True)
    threading.Thread(target=work).start()
    lastly.defer(print, "deferred")
    lastly.defer_early(stop.set)
    """
    result = programs.run(code, python=python)
    assert (result.lines, result.status, result.err) == (["stopped", "deferred"], 0, "")


@pytest.mark.parametrize("first", ["lastly", "executor"])
def test_an_executor_still_takes_work(programs, python, first):
    """Also when it was imported after the request was deferred, and so would be shut first."""
    executor = "from concurrent.futures import ThreadPoolExecutor; pool = ThreadPoolExecutor(1); pool.submit(int)"
    ours = "import lastly; lastly.defer_early(lambda: print(pool.submit(lambda: 'last job').result()))"
    code = "\n".join([ours, executor] if first == "lastly" else [executor, ours])
    result = programs.run(code, python=python)
    assert (result.lines, result.err) == (["last job"], "")


def test_a_process_pool_whose_job_waits_for_us(programs, python):
    code = """
    import lastly
    lastly.defer_early(lambda: open(path, "w").close())
    import os, tempfile, time
    from concurrent.futures import ProcessPoolExecutor
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "stop")
    def work(path):
        while not os.path.exists(path):
            time.sleep(0.01)
    if __name__ == "__main__":
        pool = ProcessPoolExecutor(1)
        future = pool.submit(work, path)
    """
    result = programs.run(code, python=python, flags=("-W", "ignore"))
    assert (result.status, result.err) == (0, "")


def test_errors_are_told_once_and_the_rest_runs(programs, python):
    code = """
    import lastly
    lastly.defer(print, "deferred")
    lastly.defer_early(print, "early 1")
    lastly.defer_early(lambda: 1 / 0)
    """
    result = programs.run(code, python=python)
    assert result.lines == ["early 1", "deferred"]
    assert result.err.count("ZeroDivisionError") == 1
    assert result.status == 1


def test_deferred_early_by_a_cleanup_at_exit(programs, python):
    code = """
    import lastly
    lastly.defer(print, "older")
    lastly.defer(lambda: lastly.defer_early(print, "next"))
    """
    assert programs.run(code, python=python).lines == ["next", "older"]


@pytest.mark.parametrize("kept", [True, False])
def test_where_the_private_list_is_missing(programs, python, kept):
    """Another Python may have only the function, or neither: then a thread waits for the main thread's end."""
    code = f"""
    import sys, threading, types
    other = types.ModuleType("threading")
    other.Thread, other.main_thread = threading.Thread, threading.main_thread
    if {kept}:
        other._register_atexit = threading._register_atexit
    import lastly
    stop = threading.Event()
    threading.Thread(target=lambda: (stop.wait(), print("stopped", flush=True))).start()
    sys.modules["threading"] = other
    lastly.defer_early(stop.set)
    sys.modules["threading"] = threading
    lastly.defer(print, "deferred")
    """
    result = programs.run(code, python=python)
    assert (result.lines, result.status, result.err) == (["stopped", "deferred"], 0, "")


@pytest.mark.skipif(importlib.util.find_spec("apscheduler") is None, reason="apscheduler is not installed")
def test_apscheduler(programs):
    code = """
    import lastly, threading
    from apscheduler.schedulers.background import BackgroundScheduler
    ran = threading.Event()
    scheduler = BackgroundScheduler()
    scheduler.add_job(ran.set, "interval", seconds=0.01)
    scheduler.start()
    lastly.defer_early(scheduler.shutdown)
    ran.wait(20)
    """
    result = programs.run(code)
    assert (result.status, result.err) == (0, "")


def test_a_signal_does_not_cut_an_early_cleanup(programs, python):
    code = """
    import lastly, os, signal
    lastly.install()
    lastly.defer(print, "deferred", flush=True)
    def early():
        os.kill(os.getpid(), signal.SIGTERM)
        print("whole", flush=True)
    lastly.defer_early(print, "older", flush=True)
    lastly.defer_early(early)
    """
    result = programs.run(code, python=python)
    assert result.lines == ["whole", "older", "deferred"]
    assert result.status == -15
