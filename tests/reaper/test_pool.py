"""The reaper's workers, where the system has nothing left to give."""

from __future__ import annotations

import errno
import json
import os
import socket

import pytest
from reaping import stale

from lastly._reaper import pool
from lastly._settle import child


@pytest.fixture
def workers():
    return pool.Pool(
        lambda todo, announce, answers: None,
        watch=lambda fd, worker: None,
        unwatch=lambda fd: None,
        answer=lambda job, said: None,
        keep=set,
    )


def test_without_descriptors_a_job_waits(workers, monkeypatch):
    """...and the reaper lives on."""

    def none(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(pool._socket, "socketpair", none)
    workers.submit({"do": "something"})
    workers.spare()
    workers.tick()
    assert (workers.busy, workers.workers) == (1, {})


REHEARSAL = """
import gc, os, resource, sys, time
from lastly._reaper import jobs, loop
from lastly._journal import home
from lastly._system import remove

class Answers:
    def add(self, place, answer): print(answer["state"], end=" ")
    def send(self, **how): pass

remove.identity("/")
gc.collect()
gc.freeze()
for path, rehearses in zip(home.journals(), (True, False)):
    if os.fork():
        assert os.wait()[1] == 0
        continue
    before = os.listdir("/proc/self/fd")
    if rehearses:
        jobs.rehearse()
    assert os.listdir("/proc/self/fd") == before
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    died = (time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))
    job = {"do": "settle", "path": path, "died": died, "force": False, "unwritten": []}
    jobs.work([(0, job)], lambda limit: None, Answers())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, flush=True)
    os._exit(0)
"""


def test_a_worker_that_has_rehearsed_has_its_memory(programs, home, tmp_path):
    """The first death that it meets does not wait until the pages are copied that it shares with the reaper."""
    made = tmp_path / "made"
    made.mkdir()
    for number in range(2):
        (made / str(number)).touch()
    stale(2, ("lastly.actions:remove", [str(made / "{}")], {"expect": {}}))
    got = programs.run(REHEARSAL)
    assert (got.status, got.err) == (0, "")
    first, second = (line.split() for line in got.out.splitlines())
    assert first[0] == second[0] == "final"
    assert int(first[1]) * 2 < int(second[1])
    assert os.listdir(made) == []


def test_workers_that_have_ended_do_not_stay_zombies(workers):
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    pool._gone.append(pid)
    workers.tick()
    assert pool._gone == []
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("function", ["fork", "memfd_create"])
def test_an_action_that_cannot_be_started_keeps_no_descriptors(function, monkeypatch):
    def none(*_):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, function, none)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(BlockingIOError):
        child.run(["true"], {}, "/", 5.0, None)
    assert os.listdir("/proc/self/fd") == before


def test_an_action_that_cannot_be_watched_does_not_run_on(programs):
    code = """
    import os
    from lastly._settle import child
    def none(*_):
        raise OSError(24, "no descriptors")
    before = os.listdir("/proc/self/fd")
    os.pidfd_open = none
    try:
        child.run(["sleep", "60"], {"PATH": os.defpath}, "/", 5.0, None)
    except OSError as error:
        print(error)
    assert os.listdir("/proc/self/fd") == before
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("no child")
    """
    result = programs.run(code)
    assert result.lines == ["[Errno 24] no descriptors", "no child"], result.err


def test_a_step_is_announced_where_the_last_word_does_not_cover_it(monkeypatch):
    """A worker with many short removals says little; one with long ones is not taken for hung.

    What it is given covers its first seconds: a limit of 60 s then says nothing new.
    """
    now = 1000.0
    monkeypatch.setattr(pool, "monotonic", lambda: now)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        announce = pool._announcer(its)
        for limit, later in ((60, 0), (60, 1), (5, 1), (120, 0), (60, 1), (60, pool.MARGIN), (60, pool.MARGIN)):
            now += later
            announce(limit)
        its.shutdown(socket.SHUT_WR)
        said = [json.loads(raw)["limit"] for raw in iter(lambda: ours.recv(1000), b"")]
    assert said == [120, 60, 60]
