"""The reaper: watches owners, and has their cleanups run when they die.

It keeps no state of its own: everything it knows it read from journals, and a reaper that starts after it was
killed reads the same. One thread, one epoll. Nothing in here may block: no cleanup, no file of an owner
beyond a stat and the first line of its journal, no database. What may block is a job for a worker
(:mod:`lastly._reaper.pool`).
"""

import heapq
import os
import select
from collections import deque
from itertools import count
from time import CLOCK_BOOTTIME, clock_gettime, time

from lastly import __version__
from lastly._journal import home
from lastly._reaper import election, jobs, owners
from lastly._reaper.deadlines import Deadlines
from lastly._reaper.families import Families
from lastly._reaper.log import Log
from lastly._reaper.owners import Owner
from lastly._reaper.peers import Peers
from lastly._reaper.pool import Pool, Worker
from lastly._reaper.relays import Relays
from lastly._settle.settle import FULL, LONGEST
from lastly._system import probe, proc, wait
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

RESCAN = 15.0  # seconds between looks at all journals, for what no message and no pidfd told
SILENCE = 10.0  # seconds that a connection may stay silent
_MET = 20  # journals looked at between two polls
_BATCH = 200  # journals in one transaction of the history
_WAITING = 2000  # journals from which on the history is written although cleanups wait
_QUIET_BEFORE_ARCHIVE = 0.03  # seconds of quiet before the history is written


class Reaper:
    """One reaper, elected and listening; `run` returns when it is idle or told to quit."""

    def __init__(self, runtime: str, idle: float, log: Log, elected: int) -> None:
        self.runtime = runtime
        self.home = home.state_path()
        self.idle = idle
        self.log = log
        self.elected = elected
        self.root = os.path.join(self.home, "owners")
        self.epoll = select.epoll()
        self.deaths: dict[int, Owner] = {}
        self.workers: dict[int, Worker] = {}
        self.others: dict[int, Callable[[], None]] = {}
        self.owners: dict[str, Owner] = {}
        self.unmet: deque[str] = deque()
        self.finished: list[Owner] = []
        self.finished_at = 0.0
        self.archiving = False
        self.filed = 0  # owners that workers have written into the history in this turn
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.order = count()
        self.quit = False
        self.polling = False
        self.served = self.began = monotonic()
        self.peers = Peers(self)
        self.deadlines = Deadlines(self)
        self.families = Families(self)
        self.relays = Relays(self)
        self.pool = Pool(
            jobs.work, watch=self._watch_worker, unwatch=self._unwatch_worker, answer=self._answer,
            keep=lambda: {self.log.fd}, rehearse=jobs.rehearse,
        )  # fmt: skip

    # ---- the loop

    def run(self) -> None:
        """Serve until idle or told to quit."""
        self.log.held = True  # those of one turn are written together
        try:
            self._guarded(self._rescan)
            while not self.quit:
                self._turn()
            self.pool.close()
            self.log("exit", idle=False)
        finally:
            self.log.held = False
            self.log.flush()

    def _turn(self) -> None:
        """Poll once. Deaths are served first, then workers, then everybody else."""
        ready = [fd for fd, _ in self.epoll.poll(self._timeout(), 512)]
        for fd in ready:
            if (owner := self.deaths.get(fd)) is not None:
                self._guarded(self._died, owner)
        self.pool.spread()
        for fd in ready:
            if (worker := self.workers.get(fd)) is not None:
                self.pool.heard(worker)
        self._the_rest(ready)
        if self.filed:
            self.log("archived", owners=self.filed)
            self.filed = 0
        self.log.flush()
        now = monotonic()
        self.next_tick = self.pool.tick()
        if self._at_rest():
            if now - self.served >= self.idle:
                self._leave()
        else:
            self.served = now

    def _the_rest(self, ready: list[int]) -> None:
        for fd in ready:
            if (call := self.others.get(fd)) is not None:
                self._guarded(call)
        for _ in range(min(_MET, len(self.unmet))):
            self._guarded(self._meet, self.unmet.popleft())
        while self.timers and self.timers[0][0] <= monotonic():
            self._guarded(heapq.heappop(self.timers)[2])

    def _guarded(self, call: "Callable[..., object]", *args: object) -> None:
        """One unforeseen journal or peer must not end the reaper of all the others."""
        try:
            call(*args)
        except Exception as error:
            self.log("error", why=f"{type(error).__name__}: {error}", where=getattr(call, "__qualname__", ""))

    next_tick = 0.0

    def _timeout(self) -> float:
        if self.unmet:
            return 0.0
        due = self.next_tick
        if self.timers:
            due = min(due, self.timers[0][0])
        if self._at_rest():
            due = min(due, self.served + self.idle)
        return max(0.0, min(due - monotonic(), 60.0))

    def _at_rest(self) -> bool:
        if self.unmet or self.finished or self.archiving or self.pool.busy or self.relays.busy:
            return False
        return all(owner.state == owners.KEPT for owner in self.owners.values())

    def at(self, seconds: float, call: "Callable[[], None]") -> None:
        """Call something in ``seconds``."""
        heapq.heappush(self.timers, (monotonic() + max(seconds, 0.0), next(self.order), call))

    def watch(self, fd: int, call: "Callable[[], None]") -> None:
        """Call something whenever there is something to read."""
        self.epoll.register(fd, select.EPOLLIN)  # first: what the kernel refuses is not to be forgotten later
        self.others[fd] = call

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; twice is fine."""
        if self.others.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def pause(self, fd: int, call: "Callable[[], None]") -> None:
        """Look away from a descriptor for half a second."""
        self.unwatch(fd)

        def again() -> None:
            if self.peers.listener is not None and self.peers.listener.fileno() == fd:
                self.watch(fd, call)

        self.at(0.5, again)

    def _watch_worker(self, fd: int, worker: Worker) -> None:
        self.workers[fd] = worker
        self.epoll.register(fd, select.EPOLLIN)

    def _unwatch_worker(self, fd: int) -> None:
        if self.workers.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    # ---- meeting owners

    def scan(self, *, force: bool = False) -> None:
        """Look at all journals; ``force``: also run what waits for its next attempt."""
        for path in home.journals():
            name = home.journal_name(path)
            owner = self.owners.get(name)
            if owner is None or (owner.pidfd is None and owner.state == owners.WATCHED):
                self.unmet.append(name)
            elif owner.state == owners.KEPT or (force and owner.state == owners.WAITING):
                self._settle(owner, force=force)

    def _rescan(self) -> None:
        if not election.still(self.elected, self.runtime):
            self.log("error", why="the home was emptied: another reaper may be elected")
            self.quit = True
            return
        try:
            self.scan()
            self.peers.drop_silent_peers(SILENCE)
            self.families.look_at_all()
        finally:  # also when no descriptor was left to look with
            short = any(o.state == owners.WATCHED and o.pidfd is None for o in self.owners.values())
            self.at(1.0 if short and not self.polling else RESCAN, self._rescan)

    def add_owner(self, name: str, pid: int, peer_pidfd: "Callable[[], int | None]") -> Owner:
        """A process says that it owes what stands in this journal.

        Raises:
            ValueError: there is no such journal.
        """
        found = self.owners.get(name)
        if found is not None and found.state != owners.KEPT:
            return found
        pidfd = peer_pidfd() if owners.pid_of(name) == pid else None
        owner = self._meet(name, pidfd)
        if owner is None:
            raise ValueError("no such journal")
        return owner

    def _meet(self, name: str, pidfd: int | None = None) -> Owner | None:
        path = os.path.join(self.root, name)
        known = self.owners.get(name)
        if known is not None and known.state not in {owners.KEPT, owners.WATCHED}:
            return known
        if not os.path.lexists(path):
            if pidfd is not None:
                os.close(pidfd)
            self._forget(known)
            return None
        owner = known or Owner(name, path)
        self.owners[name] = owner
        if pidfd is None and owner.pidfd is None:
            verdict, pidfd = owners.look(path)
            if verdict == owners.KEPT:
                owner.state = owners.KEPT
                return owner
            if verdict == owners.QUEUED:
                self._settle(owner)
                return owner
        owner.state = owners.WATCHED
        self._watch_owner(owner, pidfd)
        if known is None:
            self.log("own", journal=name)
        self.families.adopt(owner)
        self.pool.spare()
        return owner

    def _forget(self, owner: Owner | None) -> None:
        if owner is None:
            return
        self.owners.pop(owner.name, None)
        self._unwatch_owner(owner)
        if owner.pidfd is not None:
            os.close(owner.pidfd)
            owner.pidfd = None
        self.deadlines.drop(owner)

    def _watch_owner(self, owner: Owner, pidfd: int | None) -> None:
        if pidfd is not None:
            try:
                self.epoll.register(pidfd, select.EPOLLIN)
            except OSError:  # it is asked for again soon
                os.close(pidfd)
                raise
            owner.pidfd = pidfd
            self.deaths[pidfd] = owner
        elif not self.polling and not probe.has_pidfd():
            self.polling = True
            self.at(wait.POLL, self._poll)

    def _unwatch_owner(self, owner: Owner) -> None:
        if owner.pidfd is not None and self.deaths.pop(owner.pidfd, None) is not None:
            self.epoll.unregister(owner.pidfd)

    # ---- an owner's end

    def _poll(self) -> None:
        """Look whether those live that have no pidfd, on a kernel without."""
        left = [o for o in self.owners.values() if o.state == owners.WATCHED and o.pidfd is None]
        self.polling = bool(left)
        if left:
            self.at(wait.POLL, self._poll)
        for owner in left:
            key = owner.key()
            if key is not None and not proc.lives(*key):
                self._died(owner)

    def _died(self, owner: Owner) -> None:
        self._unwatch_owner(owner)
        self.deadlines.drop(owner)
        if not os.path.lexists(owner.path):  # it ended well, and owed nothing
            self._forget(owner)
            return
        owner.died = (time(), clock_gettime(CLOCK_BOOTTIME))
        self._settle(owner, urgent=True)
        self.log("dead", journal=owner.name)

    def _settle(self, owner: Owner, *, force: bool = False, urgent: bool = False) -> None:
        owner.state = owners.QUEUED
        owner.epoch += 1
        job = {
            "do": "settle",
            "path": owner.path,
            "name": owner.name,
            "died": owner.died,
            "force": force,
            "unwritten": owner.unwritten,
            "family": owner.family.to_mapping() if owner.family is not None else None,
        }
        self.pool.submit(job, urgent=urgent)

    def _later(self, owner: Owner, seconds: float) -> None:
        owner.state = owners.WAITING
        epoch = owner.epoch = owner.epoch + 1

        def again() -> None:
            if owner.epoch == epoch and owner.state == owners.WAITING:
                self._settle(owner)

        self.at(seconds, again)

    def _answer(self, job: "dict[str, Any]", said: "dict[str, Any]") -> None:
        if job["do"] == "archive":
            self._archived(job, said)
            return
        owner = self.owners.get(job["name"])
        for ran in said.get("ran", ()):
            more = {
                key: ran[key]
                for key in ("id", "action", "error", "seconds")
                if ran.get(key) not in {None, ""}
            }
            self.log(ran["state"], journal=job["name"], **more)
        self.relays.tell(job["name"], said.get("ran", []))
        if said.get("why") and said["state"] not in {"busy", "alive"}:
            self.log("error", journal=job["name"], why=said["why"])
        if owner is None:
            return
        state = said["state"]
        if state == "final":
            owner.state = owners.FINISHED
            self.finished.append(owner)
            self.finished_at = monotonic()
            self.at(_QUIET_BEFORE_ARCHIVE, self._archive)
        elif state in {"gone", "filed"}:
            self.filed += state == "filed"
            self._forget(owner)
        elif state == "wait":
            owner.unwritten = said["unwritten"]
            owner.pause = min(max(owner.pause * 2, FULL), LONGEST) if owner.unwritten else owners.PAUSE
            self._later(owner, max((said["next"] or 0.0) - time(), owner.pause))
        elif state == "kept" or (state == "alive" and owner.died is None):
            owner.state = owners.KEPT
        else:  # busy or lost; or a death that the kernel has announced and /proc does not show yet
            owner.pause = min(owner.pause * 2, 60.0 if state == "lost" else 2.0)
            self._later(owner, owner.pause)

    def _archive(self) -> None:
        """Have the history written, when no cleanup would have to wait for the disk."""
        if self.archiving or not self.finished:
            return
        quiet = monotonic() - self.finished_at
        if quiet < _QUIET_BEFORE_ARCHIVE or (
            self.pool.busy and quiet < 1.0 and len(self.finished) < _WAITING
        ):
            self.at(_QUIET_BEFORE_ARCHIVE, self._archive)
            return
        batch, self.finished = self.finished[:_BATCH], self.finished[_BATCH:]
        self.archiving = True
        items = []
        for owner in batch:
            code = wait.status(owner.pidfd) if owner.pidfd is not None else None
            at = owner.died[0] if owner.died is not None else None
            items.append({"path": owner.path, "name": owner.name, "died": wait.describe(code), "at": at})
        self.pool.submit({"do": "archive", "items": items})

    def _archived(self, job: "dict[str, Any]", said: "dict[str, Any]") -> None:
        self.archiving = False
        done = set(said.get("archived", ()))
        if said.get("why"):
            self.log("error", why=said["why"])
        elif done:
            self.log("archived", owners=len(done))
        for item in job["items"]:
            owner = self.owners.get(item["name"])
            if owner is None:
                continue
            if item["path"] in done:
                self._forget(owner)
            else:  # not written (a full disk, say), or there is something to be done again
                owner.pause = min(owner.pause * 2, 60.0)
                self._later(owner, owner.pause)
        if self.finished:
            self.at(0.0, self._archive)

    # ---- the end

    def _leave(self) -> None:
        """Exit, unless an owner came meanwhile; see election.py for why none is missed."""
        lock = election.lock(self.runtime, wait=0.0)
        if lock is None:  # a reaper is just being started: it will find us
            self.served = monotonic()
            return
        self.peers.close(self.runtime)
        self.scan()
        while self.unmet:
            self._meet(self.unmet.popleft())
        if self._at_rest():
            self.log("exit", idle=True)
            self.log.flush()
            self.pool.close()
            os._exit(0)  # both locks go with the process, together
        self.served = monotonic()
        self.peers.listen(self.runtime)
        os.close(lock)

    def status(self) -> "dict[str, Any]":
        """What ``lastly doctor`` shows."""
        states: dict[str, int] = {}
        for owner in self.owners.values():
            states[owner.state] = states.get(owner.state, 0) + 1
        graces = [owner.grace for owner in self.owners.values() if owner.wakeup is not None]
        return {
            "deadlines": len(graces), "graces": sorted(set(graces))[-10:],
            "pid": os.getpid(), "version": __version__, "seconds": round(monotonic() - self.began, 3),
            "owners": states, "children": self.families.count(),
            "idle": None if self.idle == float("inf") else self.idle,
            "workers": len(self.pool.workers), "jobs": self.pool.busy, "home": os.path.dirname(self.root),
        }  # fmt: skip
