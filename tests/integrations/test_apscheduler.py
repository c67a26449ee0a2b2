"""APScheduler: stopped in time, running jobs waited for, and nothing left of a job that was killed."""

from __future__ import annotations

import importlib.metadata
import resource
import signal
import sqlite3
import subprocess
import textwrap
from contextlib import closing
from pathlib import Path

import pytest
from harness import ROOT, Programs, command_of, gone, process_gone, wait_process_gone, wait_until
from serving import Server, children, files, send

pytest.importorskip("apscheduler")
VERSION = int(importlib.metadata.version("apscheduler").split(".")[0])
old = pytest.mark.skipif(VERSION != 3, reason="for APScheduler 3")
TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL
NEVER = "cannot schedule new futures"

# Jobs are in a module of their own: worker processes import it.
JOBS = """
    import os, time
    import lastly

    def until_told():
        print("begins", os.getpid(), flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
        print("ends", flush=True)

    def with_files():
        work = lastly.temp_dir(prefix="job-")
        print("made", os.getpid(), work, flush=True)
        while True:
            time.sleep(0.02)
"""

START = """
    import os, sys, time
    import lastly
    import jobs
    from apscheduler.executors.pool import ProcessPoolExecutor
    from apscheduler.schedulers.background import BackgroundScheduler
    from apscheduler.schedulers.blocking import BlockingScheduler
    from lastly.integrations.apscheduler import manage

    def sleep():
        while True:
            time.sleep(0.02)

    if __name__ == "__main__":
        scheduler = BackgroundScheduler(job_defaults={"misfire_grace_time": None})  # late, not never
"""


def program(folder: Path, code: str) -> Path:
    files(folder, jobs=JOBS, program=textwrap.dedent(START) + textwrap.indent(textwrap.dedent(code), "    "))
    return folder


def run(programs: Programs, folder: Path, code: str, **options: object):
    return programs.start_command(["python", "program.py"], cwd=program(folder, code), **options)


@old
@pytest.mark.parametrize("executor", ["", "scheduler.add_executor(ProcessPoolExecutor(1))\n"], ids=["threads", "processes"])
@pytest.mark.parametrize("how", ["end", "TERM"])
@pytest.mark.slow(keep=2)
def test_a_running_job_is_waited_for_and_none_begins(how: str, executor: str, programs: Programs, tmp_path: Path) -> None:
    code = executor + """
scheduler.add_job(jobs.until_told, "interval", seconds=0.05, max_instances=1)
scheduler.start()
manage(scheduler)
lastly.install()
lastly.defer(print, "deferred", flush=True)
{wait}
""".replace("{wait}", "sys.stdin.readline()" if how == "end" else "sleep()")
    running = run(programs, tmp_path / "app", code, stdin=subprocess.PIPE)
    running.line("begins")
    if how == "end":
        running.write("\n")
    else:
        running.send(TERM)
    (tmp_path / "app" / "go").touch()
    result = running.wait()
    assert result.lines[-2:] == ["ends", "deferred"]
    assert result.status == (0 if how == "end" else -TERM)
    assert NEVER not in result.err and "Traceback" not in result.err, result.err


@old
def test_a_job_that_takes_too_long_is_named(programs: Programs, tmp_path: Path) -> None:
    """...and the process that it runs in is killed."""
    code = """
scheduler.add_executor(ProcessPoolExecutor(1))
scheduler.add_job(jobs.until_told, id="slow job", next_run_time=__import__("datetime").datetime.now(), misfire_grace_time=None)
scheduler.start()
manage(scheduler, timeout=60)
manage(scheduler, timeout=0.1)
sys.stdin.readline()
"""
    running = run(programs, tmp_path / "app", code, stdin=subprocess.PIPE)
    worker = int(running.line("begins").split()[1])
    running.write("\n")
    result = running.wait()
    assert result.status == 1
    assert "jobs did not end within 0.1 s: slow job; their processes were killed" in result.err
    assert process_gone(worker)


@old
def test_stopped_already_or_never_started_or_stopped_again(programs: Programs, tmp_path: Path) -> None:
    code = """
import atexit
manage(BackgroundScheduler())
stopped = manage(BackgroundScheduler())
stopped.start()
stopped.shutdown()
scheduler.start()
atexit.register(scheduler.shutdown)  # as tutorials have it; it comes after ours
manage(scheduler)
with lastly.Scope("inner") as scope:
    inner = manage(BackgroundScheduler(), scope=scope)
    inner.start()
print(inner.running, scheduler.running)
for wrong in (object(), __import__("apscheduler.schedulers.asyncio").schedulers.asyncio.AsyncIOScheduler()):
    try:
        manage(wrong)
    except TypeError as error:
        print(str(error)[:57])
"""
    result = run(programs, tmp_path / "app", code).wait()
    wrong = "manage() takes a scheduler that runs in a thread, not <obj"
    assert (result.status, result.err) == (0, "")
    assert result.lines[0] == "False True"
    assert [line[:40] for line in result.lines[1:]] == [wrong[:40]] * 2


@old
def test_too_old(programs: Programs) -> None:
    code = """
        import apscheduler, lastly
        from apscheduler.schedulers.background import BackgroundScheduler
        from lastly.integrations.apscheduler import manage
        apscheduler.version_info = (3, 10, 4)
        try:
            manage(BackgroundScheduler())
        except lastly.LastlyError as error:
            print(error)
    """
    text = 'APScheduler 3.10.4 is too old, 3.11 is needed: pip install --upgrade "lastly[apscheduler]"'
    assert programs.run(code).lines == [text]


@old
def test_a_blocking_scheduler(programs: Programs, tmp_path: Path) -> None:
    code = """
scheduler = BlockingScheduler(job_defaults={"misfire_grace_time": None})
scheduler.add_job(print, "interval", ["tick"], seconds=0.02)
scheduler.add_job(print, "interval", ["\\n", "flushed"], {"flush": True}, seconds=0.05)
manage(scheduler)
lastly.install()
lastly.defer(print, "deferred")
scheduler.start()
"""
    running = run(programs, tmp_path / "app", code)
    running.line("flushed")
    running.send(TERM)
    result = running.wait()
    assert (result.status, result.lines[-1]) == (-TERM, "deferred")
    assert NEVER not in result.err


@old
@pytest.mark.parametrize("context", ["spawn", "fork"])
@pytest.mark.slow(keep=1)
def test_kill_of_the_program_leaves_nothing_of_a_job(context: str, programs: Programs, tmp_path: Path) -> None:
    """Neither its worker processes, idle ones included, nor what the job made."""
    code = f"""
import multiprocessing
context = {{"mp_context": multiprocessing.get_context("{context}")}}
scheduler.add_executor(ProcessPoolExecutor(2, context))
scheduler.add_job(jobs.with_files)
scheduler.add_job(print, args=["idle", "worker"], kwargs={{"flush": True}})
manage(scheduler)
scheduler.start()
sleep()
"""
    running = run(programs, tmp_path / "app", code)
    _, worker, work = running.line("made").split()
    tasks = Path(f"/proc/{running.pid}/task").glob("*/children")  # the scheduler's thread has started them
    workers = [int(pid) for task in tasks for pid in task.read_text().split()]
    workers = [pid for pid in workers if "resource_tracker" not in command_of(pid)]
    assert int(worker) in workers
    running.send(KILL)
    running.wait()
    for pid in workers:
        wait_process_gone(pid)
    wait_until(lambda: not Path(work).exists(), what="reaped")


@old
def test_workers_with_many_descriptors_end_with_the_program(programs: Programs, tmp_path: Path) -> None:
    """More than select() can look at."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2000:
        pytest.skip("needs a hard limit of 2,000 descriptors")
    code = """
import multiprocessing, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (2000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
scheduler.add_executor(ProcessPoolExecutor(1, {"mp_context": multiprocessing.get_context("fork")}))
scheduler.add_job(jobs.until_told)
manage(scheduler)
scheduler.start()
sleep()
"""
    running = run(programs, tmp_path / "app", code)
    _, worker = running.line("begins").split()
    running.send(KILL)
    running.wait()
    wait_process_gone(int(worker))


@old
@pytest.mark.slow
def test_kill_of_a_worker_leaves_nothing_and_the_next_job_runs(programs: Programs, tmp_path: Path) -> None:
    """Jobs in SQLite, by SQLAlchemy; the pool is replaced, and its workers end with the program, too."""
    pytest.importorskip("sqlalchemy")
    code = """
scheduler.add_executor(ProcessPoolExecutor(1))
scheduler.add_jobstore("sqlalchemy", url="sqlite:///jobs.sqlite")
scheduler.add_job(jobs.with_files, "interval", seconds=0.2, id="made", misfire_grace_time=None, coalesce=True)
manage(scheduler, timeout=0)
scheduler.start()
sleep()
"""
    running = run(programs, tmp_path / "app", code)
    _, first, work = running.line("made").split()
    send(int(first), KILL)
    _, second, other = running.line("made").split()
    assert second != first
    wait_until(lambda: not Path(work).exists(), what="reaped")
    running.send(KILL)
    running.wait()
    wait_process_gone(int(second))
    wait_until(lambda: not Path(other).exists(), what="reaped")
    with closing(sqlite3.connect(tmp_path / "app" / "jobs.sqlite")) as jobs:
        assert jobs.execute("SELECT id FROM apscheduler_jobs").fetchall() == [("made",)]


# ---- with Flask, in the shape of the tutorials: a sensor, read again and again, and an exit function

SENSOR = """
    import atexit, os
    import lastly
    from apscheduler.schedulers.background import BackgroundScheduler
    from flask import Flask
    from lastly.integrations.apscheduler import manage
    from lastly.integrations.flask import Lastly

    def sensor():
        print("sensor", os.getpid(), flush=True)

    def leave(user):
        scheduler.shutdown()
        print(user, "leaves", os.getpid(), flush=True)

    scheduler = BackgroundScheduler(job_defaults={"misfire_grace_time": None})
    scheduler.add_job(sensor, "interval", seconds=0.05)
    scheduler.start()
    manage(scheduler)
    app = Flask(__name__)
    Lastly(app, signals=True)
    atexit.register(leave, user="Ada")

    if __name__ == "__main__":
        app.run(port=0, debug={debug})
"""


@old
@pytest.mark.parametrize("signum", [INT, TERM, KILL])
@pytest.mark.parametrize("debug", [False, True], ids=["", "reloader"])
@pytest.mark.slow(keep=1)
def test_a_sensor_beside_flask(debug: bool, signum: int, programs: Programs, tmp_path: Path) -> None:
    """Never a second scheduler, never a job after the end, and no process is left."""
    pytest.importorskip("flask")
    files(tmp_path / "app", app=SENSOR.replace("{debug}", str(debug)))
    running = programs.start_command(["python", "app.py"], cwd=tmp_path / "app")
    server = Server(running, "Running on http://127")
    assert server.get("/").status == 404
    (serving,) = children(running.pid) if debug else (running.pid,)
    running.line(f"sensor {serving}")
    running.line(f"sensor {serving}")
    running.line(f"sensor {serving}")
    running.send(signum)
    if signum == KILL and debug:
        send(serving, KILL)
    result = running.wait(eof=True)
    since = result.out.partition(f"sensor {serving}\n")[2]  # before, the reloader may have had a job, too
    assert {line for line in since.splitlines() if line.startswith("sensor")} == {f"sensor {serving}"}
    assert NEVER not in result.err and "Traceback" not in result.err, result.err
    if signum != KILL:
        assert f"Ada leaves {serving}" in result.lines
        assert "sensor" not in result.out.partition("Ada leaves")[2]
    wait_process_gone(serving)  # its output is closed an instant before


@old
def test_the_example(programs: Programs, tmp_path: Path) -> None:
    pytest.importorskip("flask")
    running = programs.start_command(["python", str(ROOT / "examples" / "flask_sensor.py"), "0"])
    server = Server(running, "Running on http://127")
    wait_until(lambda: '"readings":0' not in server.get("/").text, what="a reading")
    (work,) = running.tmp.glob("sensor-*")
    running.send(TERM)
    result = running.wait()
    assert result.status == -TERM
    assert result.lines[-1].endswith(" readings, the last one is in"), result.err
    assert gone(work)


@pytest.mark.skipif(VERSION != 4, reason="for APScheduler 4")
@pytest.mark.parametrize("how", ["end", "TERM"])
def test_version_4_is_stopped_in_time(how: str, programs: Programs, tmp_path: Path) -> None:
    code = f"""
import os, signal, time
import jobs, lastly
from apscheduler import Scheduler
from apscheduler.triggers.interval import IntervalTrigger
from lastly.integrations.apscheduler import manage
lastly.install()
lastly.defer(print, "deferred")
scheduler = manage(Scheduler())
scheduler.add_schedule(jobs.until_told, IntervalTrigger(seconds=1), id="one")
scheduler.start_in_background()
while not os.path.exists("go"):
    time.sleep(0.02)
if "{how}" == "TERM":
    os.kill(os.getpid(), signal.SIGTERM)
"""
    files(tmp_path / "app", jobs=JOBS, program=code)
    running = programs.start_command(["python", "program.py"], cwd=tmp_path / "app")
    running.line("begins")
    (tmp_path / "app" / "go").touch()
    result = running.wait()
    assert result.lines[-2:] == ["ends", "deferred"]
    assert result.status == (0 if how == "end" else -TERM)
