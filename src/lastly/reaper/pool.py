"""The reaper's workers: forked processes that do what may block, one job at a time each.

A cleanup may hang (a dead NFS server, a program that waits for ever), and nobody else's may wait for it. So
the reaper itself only watches; jobs go to workers. One worker is kept forked and idle, so that a death costs
no fork. A job that takes longer than a moment does not count any more: another worker is forked for the jobs
behind it. A job that says nothing for longer than it announced is killed with its worker; the kernel gives
back the worker's locks, and the journal tells the next one what had been begun.
"""

import _socket  # `socket` adds enums and selectors: half a megabyte that nothing here needs
import json
import os
from collections import deque

from lastly._clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums of `signal`, in which every answer is wrapped
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Job = dict[str, Any]

MOMENT = 0.05  # seconds after which a job is no longer expected to end soon
SILENCE = 90.0  # seconds without a word (a worker announces what takes longer) after which it is killed
MARGIN = 15.0  # seconds on top of what was announced
MOST = 48  # workers
MESSAGE = 1 << 18
_REST = 5.0  # seconds that more than one idle worker are kept


class Worker:
    """The parent's view of one worker."""

    __slots__ = ("idle_since", "job", "limit", "pid", "since", "socket")

    def __init__(self, pid: int, sock: _socket.socket) -> None:
        self.pid = pid
        self.socket = sock
        self.job: Job | None = None
        self.since = 0.0  # when it was given its job
        self.limit = 0.0  # when it will be killed
        self.idle_since = monotonic()


class Pool:
    """Hands jobs to workers; ``watch``, ``unwatch`` hear of their sockets, ``answer`` of each ended job."""

    def __init__(
        self,
        work: "Callable[[Job, Callable[[float], None]], Job]",
        *,
        watch: "Callable[[int, Worker], None]",
        unwatch: "Callable[[int], None]",
        answer: "Callable[[Job, Job], None]",
        keep: "Callable[[], set[int]]",
    ) -> None:
        self.work = work
        self.watch = watch
        self.unwatch = unwatch
        self.answer = answer
        self.keep = keep  # the descriptors that a worker may inherit
        self.queue: deque[Job] = deque()
        self.workers: dict[int, Worker] = {}
        self.idle: list[Worker] = []
        self.at_once = max(2, len(os.sched_getaffinity(0)))

    @property
    def busy(self) -> int:
        """How many jobs are under way or waiting."""
        return len(self.workers) - len(self.idle) + len(self.queue)

    def submit(self, job: "Job") -> None:
        """Have a job done as soon as possible."""
        self.queue.append(job)
        self.spread()

    def spread(self) -> float | None:
        """Hand out what can be handed out; returns when to call again (monotonic), if anything waits."""
        while self.queue:
            if not self.idle and not self._room():
                now = monotonic()
                return min(
                    (w.since + MOMENT for w in self.workers.values() if w.since + MOMENT > now),
                    default=now + 1,
                )
            worker = self.idle.pop() if self.idle else self._fork()
            if worker is None:
                return monotonic() + 0.5  # no process, memory or descriptor to be had now
            self._give(worker, self.queue.popleft())
        return None

    def spare(self) -> None:
        """Have one idle worker ready for the next death."""
        if not self.idle and not self.queue and self._room() and (worker := self._fork()) is not None:
            self.idle.append(worker)

    def heard(self, worker: Worker) -> None:
        """Read what a worker says; an ended job is answered for."""
        try:
            raw = worker.socket.recv(MESSAGE, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            raw = b""
        if not raw:
            self._lost(worker, "the worker died")
            return
        said = json.loads(raw)
        if "limit" in said:
            worker.limit = monotonic() + said["limit"] + MARGIN
            return
        job, worker.job = worker.job, None
        worker.idle_since = monotonic()
        self.idle.append(worker)
        if job is not None:
            self.answer(job, said)

    def tick(self) -> float:
        """Kill who is overdue, send home who is superfluous; returns when to come again (monotonic)."""
        now = monotonic()
        due = now + 60.0
        for worker in list(self.workers.values()):
            if worker.job is None:
                continue
            if worker.limit <= now:
                os.kill(worker.pid, signal.SIGKILL)  # our child, not waited for: the pid is its own
                self._lost(worker, "the worker hung and was killed")
            else:
                due = min(due, worker.limit)
        while len(self.idle) > 1:
            if self.idle[0].idle_since + _REST > now:
                due = min(due, self.idle[0].idle_since + _REST)
                break
            self._dismiss(self.idle.pop(0))
        bury()
        again = self.spread()
        return due if again is None else min(due, again)

    def close(self) -> None:
        """Send all home; who works finishes its job first."""
        for worker in list(self.workers.values()):
            self._dismiss(worker)

    def _room(self) -> bool:
        now = monotonic()
        quick = sum(1 for w in self.workers.values() if w.job is None or now - w.since < MOMENT)
        return quick < self.at_once and len(self.workers) < MOST

    def _give(self, worker: Worker, job: "Job") -> None:
        worker.job = job
        worker.since = monotonic()
        worker.limit = worker.since + SILENCE
        try:
            worker.socket.send(json.dumps(job).encode("ascii"))
        except OSError:
            self._lost(worker, "the worker died")

    def _lost(self, worker: Worker, why: str) -> None:
        job, worker.job = worker.job, None
        if worker in self.idle:
            self.idle.remove(worker)
        self._dismiss(worker)
        if job is not None:
            self.answer(job, {"state": "lost", "why": why})

    def _dismiss(self, worker: Worker) -> None:
        self.workers.pop(worker.pid, None)
        self.unwatch(worker.socket.fileno())
        worker.socket.close()  # it ends when it reads this end
        _gone.append(worker.pid)
        bury()

    def _fork(self) -> Worker | None:
        try:
            ours, its = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        except OSError:  # no descriptors left
            return None
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            its.close()
            return None
        if pid == 0:
            _worker(its, self.work, self.keep())
        its.close()
        worker = self.workers[pid] = Worker(pid, ours)
        self.watch(ours.fileno(), worker)
        return worker


_gone: list[int] = []


def bury() -> None:
    """Take the status of workers that have ended, so that they are no zombies."""
    for pid in list(_gone):
        try:
            done, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            done = pid
        if done:
            _gone.remove(pid)


def _worker(
    its: _socket.socket, work: "Callable[[Job, Callable[[float], None]], Job]", keep: "set[int]"
) -> None:
    """The life of a worker. Never returns."""
    status = 1
    try:
        # Everything of the reaper's is closed: a client must see its line end when the reaper dies, a lock
        # must be free.
        kept = sorted({0, 1, 2, its.fileno(), *keep} - {-1})  # -1: no log could be opened
        top = max(map(int, os.listdir("/proc/self/fd")))
        for low, high in zip(kept, [*kept[1:], top + 1], strict=True):
            os.closerange(low + 1, high)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        while raw := its.recv(MESSAGE):
            _say(its, work(json.loads(raw), _announcer(its)))
        status = 0
    except OSError:
        status = 0  # the reaper has gone
    finally:
        os._exit(status)


def _announcer(its: _socket.socket) -> "Callable[[float], None]":
    """What tells the reaper how long one job's next step may take; silent while its last word covers that."""
    last, until = 0.0, 0.0

    def announce(limit: float) -> None:
        nonlocal last, until
        now = monotonic()
        if limit > last or now > until:
            last, until = limit, now + MARGIN / 3
            _say(its, {"limit": limit})

    return announce


def _say(its: _socket.socket, what: "Job") -> None:
    its.send(json.dumps(what).encode("ascii"))
