"""The page for Celery: its files, under a worker with a prefork pool, whose processes end in each way of its tables."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pages
import pytest
from harness import Program, Programs, wait_process_gone, wait_until

pytest.importorskip("celery", reason="in the group dev; not in this environment")

# A broker that needs no server. Celery asks it once a second where nothing else is said.
BROKER = """
import workers
workers.app.conf.update(
    broker_url="filesystem://",
    broker_transport_options={name: "queue" for name in ("data_folder_in", "data_folder_out", "control_folder")}
    | {"polling_interval": 0.1},
)
app = workers.app
"""
LONG = 60.0  # seconds; Celery takes two to start on a quiet machine, and a limit of a task must leave it time to begin


@pytest.fixture
def worker(programs: Programs) -> Program:
    """It runs, with one process in its pool."""
    (folder := programs.folder / "app").mkdir()
    for name in ("tasks.py", "workers.py"):
        (folder / name).write_text(pages.code("how-to/celery.md", name))
    (folder / "workers.py").write_text((folder / "workers.py").read_text().replace("print", "open").replace('"closed"', '"closed", "w"'))
    (folder / "served.py").write_text(BROKER)
    (folder / "queue").mkdir()
    (folder / "ffmpeg").write_text("#!/bin/sh\nexec sleep 1000\n")
    (folder / "ffmpeg").chmod(0o755)
    program = programs.start_command(
        ["python", "-m", "celery", "-A", "served", "worker", "--concurrency", "1", "--loglevel", "info"],
        cwd=folder, env={"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    program.error_line("ready.", within=LONG)
    return program


def converts(programs: Programs, worker: Program, **options: float | None) -> tuple[Path, int]:
    """Have it run the task: the folder and the child of it."""
    code = f"import served, workers; workers.app.tasks['tasks.convert'].apply_async(('a.film',), **{options})"
    programs.run_command(["python", "-c", code], cwd=worker.cwd, within=LONG)
    folder = wait_until(lambda: next(worker.tmp.glob("lastly-*"), None), within=LONG, what="the task's folder")
    child = wait_until(lambda: named(worker, b"sleep\x001000"), within=LONG, what="the task's child")
    return folder, child


def named(worker: Program, command: bytes) -> int | None:
    """The process below the worker that has this command line."""
    for pid in below(worker.pid):
        try:
            if command in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        except OSError:  # it has just ended
            continue
    return None


def below(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        try:
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
        except OSError:
            continue
    return found[1:]


def of_the_process(worker: Program) -> Path:
    """The folder that the process of the pool made when it started."""
    return wait_until(lambda: next(worker.tmp.glob("worker-*"), None), within=LONG, what="the folder of the process")


def pool_process(worker: Program) -> int:
    """The process that runs the tasks: it owns the folder of `worker_process_init`."""
    [pid] = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()[:1]
    return int(pid)


def kill_pool_process(worker: Program) -> None:
    os.kill(pool_process(worker), 9)


@pytest.mark.parametrize(
    ("limits", "end", "said"),
    [
        ({"soft_time_limit": 5, "time_limit": 100}, None, "SoftTimeLimitExceeded"),
        ({"soft_time_limit": None, "time_limit": 5}, None, "Hard time limit"),
        ({"soft_time_limit": None, "time_limit": None}, kill_pool_process, "WorkerLostError"),
    ],
    ids=["soft limit", "hard limit", "killed"],
)
@pytest.mark.slow(keep=1)
def test_what_a_task_made_goes_with_it(
    programs: Programs, worker: Program, limits: dict[str, float | None], end: Callable[[Program], None] | None, said: str
) -> None:
    folder, child = converts(programs, worker, **limits)
    if end is not None:
        end(worker)
    wait_process_gone(child, within=LONG)
    wait_until(lambda: not folder.exists(), within=LONG, what="the task's folder is gone")
    worker.error_line(said, within=LONG)


def test_a_warm_shutdown_runs_what_the_processes_owe(worker: Program) -> None:
    folder = of_the_process(worker)
    worker.send(15, busy=True)
    worker.wait(within=LONG)
    wait_until(lambda: not folder.exists(), what="the folder of the process is gone")
    assert (worker.cwd / "closed").exists()


@pytest.mark.slow
def test_when_the_main_process_is_killed(worker: Program) -> None:
    """The pool's processes notice, and end without any exit function; the reaper does the rest."""
    folder = of_the_process(worker)
    worker.send(9, busy=True)
    worker.wait(within=LONG)
    wait_until(lambda: not folder.exists(), within=LONG, what="the folder of the process is gone")
    assert not (worker.cwd / "closed").exists()
    assert re.search(r"ready\.", worker.err)
