"""The reaper's workers: forked processes that do what may block, one job at a time each.

A cleanup may hang (a dead NFS server, a program that waits for ever), and no other cleanup may wait for it.
So the reaper itself only watches; jobs go to workers. One worker is kept forked and idle, so that a death
costs no fork. A job that takes longer than a moment does not count any more: another worker is forked for the
jobs behind it. A job that says nothing for longer than it announced is killed with its worker; the kernel
gives back the worker's locks, and the journal tells the next one what had been begun.

Where many jobs wait, a worker is given several with one message, and answers all with one. It shows in shared
memory which of them it is at: when that one takes longer than a moment, those behind it are taken back.
Urgent jobs go first, and there is always a worker for them beside those that do the others.
"""

import _socket  # `socket` adds enums and selectors: half a megabyte that nothing here needs
import os
from collections import deque
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

from lastly._journal.record import dumps, loads
from lastly._system import descriptors
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums of `signal`, in which every answer is wrapped
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Job = dict[str, Any]
    # Does the jobs that it is given with their places. Says before something may take long, and for how many
    # seconds; and what became of each job.
    Work = Callable[[Iterator[tuple[int, Job]], Callable[[float], None], "Answers"], None]

MOMENT = 0.05  # seconds after which a job is no longer expected to end soon
SILENCE = 90.0  # seconds without a word (a worker announces what takes longer) after which it is killed
MARGIN = 15.0  # seconds on top of what was announced
MOST = 48  # workers for what is not urgent
MESSAGE = 1 << 18
TOGETHER = 64  # jobs in one message, at most
_ROOM = 100_000  # bytes of jobs, or of answers, in one message: less than what the kernel takes
_REST = 5.0  # seconds that more than one idle worker are kept


class Mark:
    """What the reaper and one worker tell each other without a message."""

    def __init__(self) -> None:
        self._shared = mmap(-1, 8)

    @property
    def at(self) -> int:
        """The place of the job that the worker is at."""
        return int.from_bytes(self._shared[:4], "little")

    @at.setter
    def at(self, place: int) -> None:
        self._shared[:4] = place.to_bytes(4, "little")

    @property
    def stop(self) -> bool:
        """Whether the worker must not begin another of its jobs."""
        return self._shared[4] == 1

    @stop.setter
    def stop(self, wanted: bool) -> None:
        self._shared[4] = wanted


class Worker:
    """The parent's view of one worker."""

    __slots__ = ("idle_since", "jobs", "limit", "mark", "pid", "seen_at", "since", "socket")

    def __init__(self, pid: int, sock: _socket.socket, mark: Mark) -> None:
        self.pid = pid
        self.socket = sock
        self.mark = mark
        self.jobs: list[Job | None] = []  # None: answered for, or taken back
        self.since = 0.0  # when it began its present job, as far as it was looked at
        self.limit = 0.0  # when it will be killed
        self.seen_at = 0  # the job that it was at when looked at last
        self.idle_since = monotonic()

    def is_quick(self, now: float) -> bool:
        """Whether its present job may still be expected to end soon."""
        if self.mark.at != self.seen_at:
            self.seen_at = self.mark.at
            self.since = now
            self.limit = max(self.limit, now + SILENCE)
        return now - self.since < MOMENT


class Pool:
    """Hands jobs to workers; ``watch``, ``unwatch`` hear of their sockets, ``answer`` of each ended job."""

    def __init__(
        self,
        work: "Work",
        *,
        watch: "Callable[[int, Worker], None]",
        unwatch: "Callable[[int], None]",
        answer: "Callable[[Job, Job], None]",
        keep: "Callable[[], set[int]]",
        rehearse: "Callable[[], None]" = lambda: None,
    ) -> None:
        self.work = work
        self.rehearse = rehearse  # done by a worker that is forked before there is a job for it
        self.watch = watch
        self.unwatch = unwatch
        self.answer = answer
        self.keep = keep  # the descriptors that a worker may inherit
        self.urgent: deque[Job] = deque()
        self.queue: deque[Job] = deque()
        self.workers: dict[int, Worker] = {}
        self.idle: list[Worker] = []
        self.at_once = max(2, len(os.sched_getaffinity(0)))

    @property
    def busy(self) -> int:
        """How many jobs are under way or waiting."""
        given = sum(len(worker.jobs) - worker.jobs.count(None) for worker in self.workers.values())
        return given + len(self.urgent) + len(self.queue)

    def submit(self, job: "Job", *, urgent: bool = False) -> None:
        """Have a job done; `spread` begins it."""
        job["urgent"] = urgent
        (self.urgent if urgent else self.queue).append(job)

    def spread(self) -> float | None:
        """Hand out what can be handed out; returns when to call again (monotonic), if anything waits."""
        while self.urgent or self.queue:
            if not self._room():
                now = monotonic()
                return min(
                    (w.since + MOMENT for w in self.workers.values() if w.since + MOMENT > now),
                    default=now + 1,
                )
            worker = self.idle.pop() if self.idle else self._fork()
            if worker is None:
                return monotonic() + 0.5  # no process, memory or descriptor to be had now
            self._give(worker)
        return None

    def spare(self) -> None:
        """Have one idle worker ready for the next death."""
        waiting = self.urgent or self.queue
        if not self.idle and not waiting and self._room() and (worker := self._fork(spare=True)) is not None:
            self.idle.append(worker)

    def heard(self, worker: Worker) -> None:
        """Read what a worker says; an ended job is answered for."""
        try:
            raw = _receive(worker.socket, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            raw = b""
        if not raw:
            self._lost(worker, "the worker died")
            return
        said = loads(raw.decode())
        if "limit" in said:
            worker.limit = monotonic() + said["limit"] + MARGIN
            return
        answers = []
        for place, answer in said["answers"]:
            job, worker.jobs[place] = worker.jobs[place], None
            if job is not None:
                answers.append((job, answer))
        if said["last"]:
            self._take_back(worker, 0)  # what it was told not to begin
            worker.jobs = []
            worker.idle_since = monotonic()
            self.idle.append(worker)
        for job, answer in answers:
            self.answer(job, answer)

    def tick(self) -> float:
        """Kill overdue workers and dismiss surplus idle ones; returns when to come again (monotonic)."""
        now = monotonic()
        due = now + 60.0
        for worker in list(self.workers.values()):
            if not worker.jobs:
                continue
            due = min(due, self._look_at(worker, now))
            if worker.limit <= now:
                os.kill(worker.pid, signal.SIGKILL)  # our child, not waited for: the pid is its own
                self._lost(worker, "the worker hung and was killed")
        while len(self.idle) > 1:
            if self.idle[0].idle_since + _REST > now:
                due = min(due, self.idle[0].idle_since + _REST)
                break
            self._dismiss(self.idle.pop(0))
        reap_zombies()
        again = self.spread()
        return due if again is None else min(due, again)

    def close(self) -> None:
        """Dismiss all workers; one that is working finishes its job first."""
        for worker in list(self.workers.values()):
            self._dismiss(worker)

    def _room(self) -> bool:
        """Whether one more worker may begin now: a job that takes long occupies a worker of its own."""
        now = monotonic()
        quick = sum(1 for w in self.workers.values() if w.jobs and w.is_quick(now))
        urgent = bool(self.urgent)
        if quick >= self.at_once + urgent:
            return False
        return bool(self.idle) or len(self.workers) < MOST + urgent * self.at_once

    def _give(self, worker: Worker) -> None:
        """Give it what waits first: one job, or several where many wait."""
        source = self.urgent or self.queue
        most = min(TOGETHER, 1 + len(source) // 8)
        texts: list[str] = []
        size, several = 0, True
        while source and several and len(texts) < most and size < _ROOM:
            if texts and source[0]["do"] != "settle":
                break
            job = source.popleft()
            several = job["do"] == "settle"
            worker.jobs.append(job)
            texts.append(dumps(job))
            size += len(texts[-1])
        worker.since = monotonic()
        worker.limit = worker.since + SILENCE
        worker.mark.at, worker.mark.stop, worker.seen_at = 0, False, 0
        try:
            worker.socket.send(f"[{','.join(texts)}]".encode("ascii"))
        except OSError:
            self._lost(worker, "the worker died")

    def _look_at(self, worker: Worker, now: float) -> float:
        """See how far it is; when it is slow, others do what it has not begun. Returns when to look again."""
        if worker.is_quick(now):
            return worker.since + MOMENT
        at = worker.mark.at
        if not any(worker.jobs[at + 1 :]):
            return worker.limit
        # The one behind `at` it may just be about to begin: that is certain at the next look.
        self._take_back(worker, at + 1 if worker.mark.stop else at + 2)
        worker.mark.stop = True
        return now + MOMENT

    def _take_back(self, worker: Worker, start: int) -> None:
        for place in range(len(worker.jobs) - 1, start - 1, -1):
            job, worker.jobs[place] = worker.jobs[place], None
            if job is not None:
                (self.urgent if job["urgent"] else self.queue).appendleft(job)

    def _lost(self, worker: Worker, why: str) -> None:
        """The worker has ended, and with it the job that it was at; other workers do the rest."""
        at = worker.mark.at
        job = worker.jobs[at] if at < len(worker.jobs) else None
        if job is not None:
            worker.jobs[at] = None
        self._take_back(worker, 0)
        worker.jobs = []
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
        reap_zombies()

    def _fork(self, *, spare: bool = False) -> Worker | None:
        try:
            ours, its = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        except OSError:  # no descriptors left
            return None
        try:
            mark = Mark()
            pid = os.fork()
        except OSError:
            ours.close()
            its.close()
            return None
        if pid == 0:
            _worker(its, self.work, self.keep(), mark, self.rehearse if spare else None)
        its.close()
        worker = self.workers[pid] = Worker(pid, ours, mark)
        self.watch(ours.fileno(), worker)
        return worker


# One for all messages: a new buffer of this size is memory mapped and unmapped, 20 µs for each message.
_received = mmap(-1, MESSAGE, MAP_PRIVATE | MAP_ANONYMOUS)


def _receive(sock: _socket.socket, flags: int = 0) -> bytes:
    return _received[: sock.recv_into(_received, MESSAGE, flags)]


_gone: list[int] = []


def reap_zombies() -> None:
    """Take the status of workers that have ended, so that they are no zombies."""
    for pid in list(_gone):
        try:
            done, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            done = pid
        if done:
            _gone.remove(pid)


def _worker(
    its: _socket.socket, work: "Work", keep: "set[int]", mark: Mark, rehearse: "Callable[[], None] | None"
) -> None:
    """The life of a worker. Never returns."""
    status = 1
    try:
        # Everything of the reaper's is closed: a client must see its line end when the reaper dies, a lock
        # must be free.
        descriptors.close_all_but({0, 1, 2, its.fileno(), *keep} - {-1})  # -1: no log could be opened
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        if rehearse is not None:
            rehearse()
        while raw := _receive(its):
            answers = Answers(its)
            work(_begun(loads(raw.decode()), mark), _announcer(its), answers)
            answers.send(last=True)
        status = 0
    except OSError:
        status = 0  # the reaper has gone
    finally:
        os._exit(status)


def _begun(jobs: "list[Job]", mark: Mark) -> "Iterator[tuple[int, Job]]":
    """The jobs of one message, as they are begun."""
    for place, job in enumerate(jobs):
        if mark.stop:
            return
        mark.at = place
        yield place, job


class Answers:
    """What a worker has to say of the jobs of one message: kept until it is much, or told to be sent."""

    def __init__(self, its: _socket.socket) -> None:
        self._its = its
        self._texts: list[str] = []
        self._size = 0

    def add(self, place: int, answer: "Job") -> None:
        """What became of the job at this place."""
        text = dumps([place, answer])
        if self._texts and self._size + len(text) > _ROOM:
            self.send()
        self._texts.append(text)
        self._size += len(text)

    def send(self, *, last: bool = False) -> None:
        """Send what is kept; ``last``: there will be no more."""
        if last or self._texts:
            answers, self._texts, self._size = ",".join(self._texts), [], 0
            self._its.send(
                f'{{"answers": [{answers}], "last": {"true" if last else "false"}}}'.encode("ascii")
            )


def _announcer(its: _socket.socket) -> "Callable[[float], None]":
    """What tells the reaper how long one job's next step may take; silent while its last word covers that."""
    # The first seconds of each message are covered by SILENCE.
    last, until = SILENCE - MARGIN, monotonic() + MARGIN / 3

    def announce(limit: float) -> None:
        nonlocal last, until
        now = monotonic()
        if limit > last or now > until:
            last, until = limit, now + MARGIN / 3
            _say(its, {"limit": limit})

    return announce


def _say(its: _socket.socket, what: "Job") -> None:
    its.send(dumps(what).encode("ascii"))
