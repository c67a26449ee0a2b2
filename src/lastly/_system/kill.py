"""Kill a tree of processes, and no other.

Three things go wrong with `for child in children: kill(child)`. The pid may be another process's by now; a
snapshot of the tree misses processes that start while it is walked; and a grandchild whose parent has died
has another parent.

* A process is named by pid and start time. It is signalled through a pidfd that was opened first and compared
  afterwards, so the signal can only reach the process that was looked at.
* A tree ends from the top down, as it would by itself: its leader gets SIGTERM and ends its children in its
  own way; children that it leaves get a moment to end by themselves (their pipe has closed), then SIGTERM.
* The tree is scanned again and again: TERM, grace, then stop, kill and look until two scans in a row are
  empty. Stopping before killing keeps a fork bomb from outrunning us: what is stopped has no more children
  than the kernel lists for it. Without a grace, known members are killed before the first scan of /proc,
  which takes longer the more processes the machine has.
* Orphans are found by the token that `lastly.Popen` and `lastly run` put into the environment of what they
  start; by pid and start time, if they were seen while their parent lived (see `family`); and by the
  session or process group that the leader of the tree led.

Never hit: ourselves, our ancestors, pid 1, other users' processes, lastly's reaper, multiprocessing's and
loky's resource trackers (they end by themselves, after their own cleaning).

What still fails: a child that leaves the tree (its parent ends) and its session, hides its environment, and
does all of it before anybody saw it. `lastly run --supervise` keeps these too.
"""

import os
import time

from lastly._system import probe, proc, wait
from lastly._system.identity import Identity, boot_id, pid_namespace, time_namespace
from lastly._words import naming
from lastly._words.clock import monotonic
from lastly.errors import NotOurs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable
else:
    import _signal as signal  # without the enums of `signal`, in which every answer is wrapped

_GIVE_UP = 10.0  # seconds for SIGKILL to take effect: longer means a process stuck in the kernel
_RESCAN = 0.02
_QUIET = 10  # empty scans after which the tree counts as empty, although other processes come and go
_LONGEST = 80  # characters of a command line that are kept
_STOPS = 0.05  # seconds for SIGSTOP to take effect
_BY_THEMSELVES = 1.0  # seconds in which the children of a process that has ended may end by themselves


def identity(pid: int) -> dict[str, object]:
    """Return what names this process for ever: pid, start time, boot, namespaces. And what people call it.

    Raises:
        ProcessLookupError: there is no such process.
    """
    found = Identity.of(pid)
    names = ("pid", "start", "boot", "pidns", "timens")
    told = {"name": proc.name(pid), "command": _command(pid)}
    return {**{name: getattr(found, name) for name in names}, **told}


def _command(pid: int) -> str:
    """Its command line, as people tell one process from another by; without the folders of its program."""
    words = [os.fsdecode(word) for word in proc.command(pid)]
    return naming.clip(" ".join([os.path.basename(words[0]), *words[1:]]), _LONGEST) if words else ""


def started() -> int:
    """Return when this process started, in clock ticks since boot."""
    return Identity.current().start


def moment(grace: float) -> float:
    """Return how many seconds of a grace orphans get to end by themselves before they are told to."""
    return min(_BY_THEMSELVES, grace / 4)


class Led:
    """The session and the process group of one process: what is in them was started from it.

    Attributes:
        pid: the process.
        start: when it started, in clock ticks since boot.
        parent: its parent; 0 when that is not known, and then its group does not count.
        until: when it ended, in clock ticks since boot; None while it is there. Its number, and with it that
            of its session, may be another's since.
    """

    __slots__ = ("parent", "pid", "start", "until")

    def __init__(self, pid: int, start: int, parent: int, until: int | None) -> None:
        self.pid = pid
        self.start = start
        self.parent = parent
        self.until = until

    def has(self, process: proc.Process, table: dict[int, proc.Process]) -> bool:
        """Whether that process was started from here.

        A session has no members but descendants of its leader. A group may hold its leader's siblings: a
        shell puts the programs of a pipeline into one.
        """
        if process.start < self.start or (self.until is not None and process.start > self.until):
            return False
        if process.session == self.pid:
            return True
        if process.group != self.pid or not self.parent:
            return False
        while (up := table.get(process.ppid)) and up.group == self.pid and up.start <= process.start:
            if up is process:
                break
            process = up
        return process.ppid != self.parent or process.pid == self.pid


def kill_tree(
    root: "dict[str, object] | None" = None,
    *,
    token: str | None = None,
    grace: float = 5.0,
    only_children: bool = False,
    newborn: float = 0.0,
    orphans: bool = False,
    seen: "Iterable[tuple[int, int]]" = (),
    led: Led | None = None,
    killed: "set[tuple[int, int]] | None" = None,
) -> int:
    """End a process and all below it; return how many were hit. Not there is success, as is a second call.

    Args:
        root: what :func:`identity` said. None: by token and `seen` alone.
        token: also everything whose ``LASTLY_TOKEN`` holds this, and what is below it.
        grace: seconds between SIGTERM and SIGKILL. 0: SIGKILL at once.
        only_children: spare the root itself.
        newborn: seconds to look out for a process with the token when none is there. A process killed while
            it starts a child leaves one that is still on its way to its program, and has its own environment
            only from there on.
        orphans: their parent has died: they get a moment to end by themselves before the first signal.
        seen: also these, each (pid, start time), and what is below them.
        led: also what is in the session or group of a process that has ended.
        killed: gets those that did not end within the grace, each (pid, start time).

    Raises:
        NotOurs: the process belongs to another pid namespace; its number means nothing here.
        TimeoutError: something does not even die of SIGKILL.
        PermissionError: something may not be signalled.
    """
    if why := probe.wrong_proc():
        raise NotOurs(f"no process is signalled by a number read from /proc: {why}")
    killer = TreeKiller(_here(root), token.encode() if token else None, only_children, seen, led)
    at_once = grace <= 0 and killer.find_known()
    if at_once:
        killer.kill()
    if killer.scan() or at_once or killer.wait_for_newborn(newborn):
        if grace > 0:
            killer.ask(grace, orphans=orphans)
        if killed is not None:
            killed.update(killer.hit if at_once else killer.members.items())
        _kill_rest(killer)
    if left := killer.out_of_reach():
        raise PermissionError(f"process {left} lives and belongs to another user: it cannot be ended")
    return len(killer.hit)


def _kill_rest(killer: "TreeKiller") -> None:
    """SIGKILL until two scans in a row find nothing."""
    give_up = monotonic() + _GIVE_UP
    empty = restless = 0
    while empty < 2:
        if not killer.scan():
            # Somebody ended while we looked; with a token to look for, its child may have been born behind
            # our back.
            restless += killer.vanished
            empty += not killer.vanished or restless > _QUIET
            continue
        empty = 0
        if monotonic() > give_up:
            raise TimeoutError(f"SIGKILL does not end {sorted(killer.members)}: stuck in the kernel")
        killer.kill()
        killer.wait(0.25)


def _here(root: "dict[str, object] | None") -> tuple[int, int] | None:
    """Return (pid, start time) of the root when it can be alive in this boot and namespace."""
    if not root:
        return None
    if root.get("boot") != boot_id():
        return None  # that boot is over, and all its processes
    if root.get("pidns") not in (None, pid_namespace()):
        raise NotOurs(f"process {root.get('pid')} lives in another pid namespace")
    if root.get("timens") not in (None, "", time_namespace()):
        raise NotOurs(f"process {root.get('pid')} was started in another time namespace")
    pid, start = root.get("pid"), root.get("start")
    if not isinstance(pid, int) or not isinstance(start, int):
        return None  # it had gone when this was planned
    return pid, start


class TreeKiller:
    """The members of one tree, as far as they are known by now."""

    def __init__(
        self,
        root: tuple[int, int] | None,
        token: bytes | None = None,
        only_children: bool = False,
        seen: "Iterable[tuple[int, int]]" = (),
        led: Led | None = None,
    ) -> None:
        self.root = root
        self.token = token
        self.spare_root = only_children
        self.seen = frozenset(seen)
        self.led = [led] if led is not None else []
        self.members: dict[int, int] = {}  # pid → start time, living
        self.leaders: dict[int, int] = {}  # of these, those whose parent is not a member
        self.once: set[tuple[int, int]] = set(self.seen)  # all that ever were members: their children are
        self.spared: set[tuple[int, int]] = set()
        self.refused: set[tuple[int, int]] = set()  # may not be signalled: another user's by now
        self.hit: set[tuple[int, int]] = set()
        self.stopped: dict[int, int] = {}
        self.first_scan = True
        self.vanished = False  # during the last scan, a process ended before its environment could be read

    def scan(self) -> int:
        """Read /proc once more; returns how many living members there are."""
        if self._root_has_gone():
            return 0  # the usual case, without reading all of /proc
        table = proc.processes()
        self.vanished = False
        self._note_what_root_leads(table)
        ancestors = proc.ancestors()
        parents = proc.by_parent(table)
        self.members = {}
        self.leaders = {}
        queue = [(process, True) for process in table.values() if self._belongs(process, table)]
        while queue:
            process, leads = queue.pop()
            kept_root = self.spare_root and process.key == self.root
            known = process.pid in self.members and not process.dead
            if known and not leads:
                self.leaders.pop(process.pid, None)
            if known or not (kept_root or self._may_be_hit(process, ancestors)):
                continue
            if not process.dead and not kept_root and process.key not in self.refused:
                self.members[process.pid] = process.start
                if leads:
                    self.leaders[process.pid] = process.start
            self.once.add(process.key)
            # A zombie's children are not its own any more; a child is never older than its parent.
            leads = process.dead or kept_root
            queue += [(c, leads) for c in parents.get(process.pid, ()) if c.start >= process.start]
        return len(self.members)

    def find_known(self) -> bool:
        """Take as members those known by pid, with all below them; returns whether there are any."""
        user = os.geteuid()
        for key in (self.root, *self.seen):
            head = proc.look(key[0], user) if key is not None else None
            if head is None or head.key != key or head.dead:
                continue
            if key == self.root:
                self._note_what_root_leads({head.pid: head})
            if self.spare_root and key == self.root:
                self._take(self._children(*key))
            else:
                self._take([head])
        return bool(self.members)

    def kill(self) -> None:
        """Stop all members and what they have started, then SIGKILL."""
        until = monotonic() + _STOPS
        new = list(self.members.items())
        while new:
            self.stopped.update(new)
            self._signal(dict(new), signal.SIGSTOP)
            for pid, _ in new:
                while not proc.is_stopped(pid) and monotonic() < until:
                    time.sleep(0.0002)
            new = [key for member in new for key in self._take(self._children(*member))]
        # Before its exec a tracker looks like its parent.
        for pid in [pid for pid in self.members if proc.is_tracker(pid) or proc.is_reaper(pid)]:
            del self.members[pid]
        self._signal(self.members, signal.SIGKILL)
        for pid, start in self.stopped.items() - self.members.items():
            wait.send(pid, start, signal.SIGCONT)
        self.stopped = {}

    def _take(self, processes: "list[proc.Process]") -> list[tuple[int, int]]:
        """Make these and all below them members, if they may be hit; returns those that are new."""
        ancestors = proc.ancestors()
        found: list[tuple[int, int]] = []
        while processes:
            process = processes.pop()
            if process.dead or process.pid in self.members or process.key in self.refused:
                continue
            if self._may_be_hit(process, ancestors):
                self.members[process.pid] = process.start
                self.once.add(process.key)
                found.append(process.key)
                processes += self._children(*process.key)
        return found

    @staticmethod
    def _children(pid: int, start: int) -> "list[proc.Process]":
        """A child is never older than its parent; a number that was used again is no child of this one."""
        found = (proc.look(child, os.geteuid()) for child in proc.children(pid))
        return [child for child in found if child and child.ppid == pid and child.start >= start]

    def _root_has_gone(self) -> bool:
        if self.token is not None or self.root is None or self.once or self.led:
            return False
        return proc.start_time(self.root[0]) != self.root[1]

    def _note_what_root_leads(self, table: dict[int, proc.Process]) -> None:
        """From the first scan on: when the root has gone, its number proves nothing any more."""
        root = table.get(self.root[0]) if self.root and self.first_scan else None
        self.first_scan = False
        if root is not None and root.key == self.root and root.pid in {root.session, root.group}:
            self.led.append(Led(root.pid, root.start, root.ppid, None))

    def _may_be_hit(self, process: proc.Process, ancestors: set[int]) -> bool:
        if process.pid in ancestors or proc.is_tracker(process.pid) or proc.is_reaper(process.pid):
            self.spared.add(process.key)
            return False
        return True

    def _belongs(self, process: proc.Process, table: dict[int, proc.Process]) -> bool:
        if process.key == self.root or process.key in self.once:
            return True
        if process.dead:
            return False
        if any(led.has(process, table) for led in self.led):
            return True
        if self.token is None:
            return False
        known = proc.has_token(process.pid, self.token)
        self.vanished |= known is None
        return bool(known)

    def wait_for_newborn(self, within: float) -> bool:
        """Whether a new member is found within the next seconds."""
        until = monotonic() + within
        while monotonic() < until:
            time.sleep(within / 12)
            if self.scan():
                return True
        return False

    def out_of_reach(self) -> int:
        """Return the pid of a process that was to be ended, lives, and is another user's; 0 for none."""
        wanted = self.refused | self.seen | ({self.root} if self.root and not self.spare_root else set())
        return next((pid for pid, start in wanted - self.spared if proc.lives(pid, start)), 0)

    def ask(self, grace: float, *, orphans: bool) -> None:
        """SIGTERM from the top down, within the grace."""
        until = monotonic() + grace
        if orphans:
            self.wait(moment(grace))
        self._send_term(self.leaders)
        if len(self.leaders) < len(self.members):
            self.wait(max(0.0, until - monotonic() - grace / 2), leaders=True)
            self.wait(min(moment(grace), max(0.0, until - monotonic())))
            self._send_term(self.members)
        self.wait(max(0.0, until - monotonic()))

    def _send_term(self, processes: dict[int, int]) -> None:
        for signum in (signal.SIGTERM, signal.SIGCONT):  # what is stopped cannot answer
            self._signal(processes, signum)

    def _signal(self, processes: dict[int, int], signum: int) -> None:
        for member in list(processes.items()):
            try:
                if wait.send(*member, signum):
                    self.hit.add(member)
            except PermissionError:  # the others are ended all the same
                self.refused.add(member)
                self.members.pop(member[0], None)

    def wait(self, seconds: float, *, leaders: bool = False) -> None:
        """Wait until all members (also those that appear meanwhile) are dead, at most ``seconds``.

        Args:
            seconds: how long.
            leaders: only until those are dead that lead now.
        """
        until = monotonic() + seconds
        first = set(self.leaders.items())
        while waited_for := (first & self.members.items() if leaders else set(self.members.items())):
            wait.all_end(waited_for, until)
            self.scan()
            if monotonic() >= until:
                return
            if waited_for & self.members.items():
                time.sleep(_RESCAN)  # a zombie leader whose threads live on: its pidfd says nothing yet
