"""Kill a tree of processes, and nobody else.

Three things go wrong with `for child in children: kill(child)`. The pid may be somebody else's by now; a
snapshot of the tree misses who is born while it is walked; and a grandchild whose parent has died is nobody's
child any more.

* A process is named by pid and start time. It is signalled through a pidfd that was opened first and compared
  afterwards, so the signal can only reach the process that was looked at.
* The tree is scanned again and again: TERM, grace, then stop, kill and look until two scans in a row are
  empty. Stopping before killing keeps a fork bomb from outrunning us.
* Orphans are found by the token that `lastly.Popen` and `lastly run` put into the environment of what they
  start.

Never hit: ourselves, our ancestors, pid 1, other users' processes, multiprocessing's and loky's resource
trackers (they end by themselves, after their own cleaning).

What still fails: a child that leaves the tree (its parent ends), clears its environment, and does both before
the first scan. `lastly run --supervise` keeps these too.
"""

import os
import select
import time

from lastly._clock import monotonic
from lastly._system.identity import Identity, boot_id, pid_namespace, start_time
from lastly.errors import NotOurs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums of `signal`, in which every answer is wrapped

_TRACKERS = (b"multiprocessing.resource_tracker import main", b"loky.backend.resource_tracker import main")
_GIVE_UP = 10.0  # seconds for SIGKILL to take effect: longer means a process stuck in the kernel
_RESCAN = 0.02
LONGEST_POLL = 86_400_000  # milliseconds; poll() takes no more than 24 days
_LISTINGS = 40  # a machine that forks all the time must not keep us reading for ever
_QUIET = 10  # scans, at most, before nobody counts as nobody although processes come and go
_EXEC = 0.2  # seconds for an exec, in the middle of which a process has no arguments


def identity(pid: int) -> dict[str, object]:
    """Return what names this process for ever: pid, start time, boot, pid namespace.

    Raises:
        ProcessLookupError: there is no such process.
    """
    found = Identity.of(pid)
    return {"pid": pid, "start": found.start, "boot": found.boot, "pidns": found.pidns}


def started() -> int:
    """Return when this process started, in clock ticks since boot."""
    return Identity.current().start


class Process:
    """One line of a scan."""

    __slots__ = ("dead", "pid", "ppid", "start")

    def __init__(self, pid: int, ppid: int, start: int, dead: bool) -> None:
        self.pid = pid
        self.ppid = ppid
        self.start = start
        self.dead = dead


def kill_tree(
    root: "dict[str, object] | None" = None,
    *,
    token: str | None = None,
    grace: float = 5.0,
    only_children: bool = False,
    newborn: float = 0.0,
) -> int:
    """End a process and all below it; return how many were hit. Not there is success, as is a second call.

    Args:
        root: what :func:`identity` said. None: by token alone.
        token: also everything whose ``LASTLY_TOKEN`` holds this, and what is below it.
        grace: seconds between SIGTERM and SIGKILL. 0: SIGKILL at once.
        only_children: spare the root itself.
        newborn: seconds to look out for somebody with the token when nobody is there. Who was killed while it
            started a child leaves one that is still on its way to its program, and has its own environment
            only from there on.

    Raises:
        NotOurs: the process belongs to another pid namespace; its number means nothing here.
        TimeoutError: something does not even die of SIGKILL.
        PermissionError: something may not be signalled.
    """
    hunt = _Hunt(_here(root), token.encode() if token else None, only_children)
    if not hunt.scan() and not hunt.appears(newborn):
        return 0
    if grace > 0:
        hunt.signal(signal.SIGTERM)
        hunt.signal(signal.SIGCONT)  # what is stopped cannot answer
        hunt.wait(grace)
    _finish(hunt)
    return len(hunt.hit)


def _finish(hunt: "_Hunt") -> None:
    """SIGKILL until two scans in a row find nothing."""
    give_up = monotonic() + _GIVE_UP
    empty = restless = 0
    while empty < 2:
        if not hunt.scan():
            # Somebody ended while we looked; with a token to look for, its child may have been born behind
            # our back.
            restless += hunt.vanished
            empty += not hunt.vanished or restless > _QUIET
            continue
        empty = 0
        if monotonic() > give_up:
            raise TimeoutError(f"SIGKILL does not end {sorted(hunt.members)}: stuck in the kernel")
        known = -1
        while len(hunt.members) != known:  # who is stopped has no more children
            known = len(hunt.members)
            hunt.signal(signal.SIGSTOP)
            hunt.scan()
        hunt.signal(signal.SIGKILL)
        hunt.let_go()
        hunt.wait(0.25)


def _here(root: "dict[str, object] | None") -> tuple[int, int] | None:
    """Return (pid, start time) of the root when it can be alive in this boot and namespace."""
    if not root:
        return None
    if root.get("boot") != boot_id():
        return None  # that boot is over, and all its processes
    if root.get("pidns") not in (None, pid_namespace()):
        raise NotOurs(f"process {root.get('pid')} lives in another pid namespace")
    pid, start = root.get("pid"), root.get("start")
    if not isinstance(pid, int) or not isinstance(start, int):
        return None  # it had gone when this was planned
    return pid, start


class _Hunt:
    """The members of one tree, as far as they are known by now."""

    def __init__(self, root: tuple[int, int] | None, token: bytes | None, only_children: bool) -> None:
        self.root = root
        self.token = token
        self.spare_root = only_children
        self.members: dict[int, int] = {}  # pid → start time, living
        self.once: set[tuple[int, int]] = set()  # everyone who ever was a member: their children are
        self.hit: set[tuple[int, int]] = set()
        self.stopped: dict[int, int] = {}
        self.vanished = False  # during the last scan, somebody went before its environment could be read

    def scan(self) -> int:
        """Read /proc once more; returns how many living members there are."""
        if (
            self.token is None
            and self.root is not None
            and not self.once
            and start_time(self.root[0]) != self.root[1]
        ):
            return 0  # the usual case, without reading all of /proc
        table = processes()
        self.vanished = False
        spared = ancestors()
        children: dict[int, list[int]] = {}
        for process in table.values():
            children.setdefault(process.ppid, []).append(process.pid)
        self.members = {}
        queue = [pid for pid, process in table.items() if self._belongs(process)]
        while queue:
            pid = queue.pop()
            process = table[pid]
            key = (pid, process.start)
            spared_here = pid in spared and not (self.spare_root and key == self.root)
            if (pid in self.members and not process.dead) or spared_here or is_tracker(pid):
                continue
            if not process.dead and not (self.spare_root and key == self.root):
                self.members[pid] = process.start
            self.once.add(key)
            # A zombie's children are not its own any more; a child is never older than its parent.
            queue += [
                c for c in children.get(pid, ()) if c not in self.members and table[c].start >= process.start
            ]
        return len(self.members)

    def appears(self, within: float) -> bool:
        """Whether a member is found in the next seconds."""
        until = monotonic() + within
        while monotonic() < until:
            time.sleep(within / 12)
            if self.scan():
                return True
        return False

    def _belongs(self, process: Process) -> bool:
        key = (process.pid, process.start)
        if key == self.root or key in self.once:
            return True
        if self.token is None or process.dead:
            return False
        known = has_token(process.pid, self.token)
        self.vanished |= known is None
        return bool(known)

    def signal(self, signum: int) -> None:
        if signum == signal.SIGSTOP:
            self.stopped.update(self.members)
        self.hit |= {member for member in self.members.items() if _send(*member, signum)}

    def let_go(self) -> None:
        """Continue who was stopped and is to be spared: before its exec a tracker looks like its parent."""
        for pid, start in self.stopped.items() - self.members.items():
            _send(pid, start, signal.SIGCONT)
        self.stopped = {}

    def wait(self, seconds: float) -> None:
        """Wait until all members (also those that appear meanwhile) are dead, at most ``seconds``."""
        until = monotonic() + seconds
        while self.members:
            fds = [fd for pid, start in self.members.items() if (fd := _pidfd(pid, start)) is not None]
            try:
                _all_dead(fds, until)
            finally:
                for fd in fds:
                    os.close(fd)
            before = set(self.members)
            self.scan()
            if monotonic() >= until:
                return
            if self.members and set(self.members) <= before:
                time.sleep(_RESCAN)  # a zombie leader whose threads live on: its pidfd says nothing yet


def _all_dead(fds: list[int], until: float) -> None:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    left = len(fds)
    while left:
        rest = until - monotonic()
        if rest <= 0:
            return
        for fd, _ in poll.poll(min(rest * 1000, LONGEST_POLL)):
            poll.unregister(fd)
            left -= 1


def _send(pid: int, start: int, signum: int) -> bool:
    fd = _pidfd(pid, start)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def _pidfd(pid: int, start: int) -> int | None:
    """Open the process, then look whether it is the one that was meant; None when it is not, or has gone."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    if start_time(pid) == start:
        return fd
    os.close(fd)
    return None


def processes() -> dict[int, Process]:
    """Return this user's processes (root: everybody's), by pid.

    Reading takes milliseconds, and who is born meanwhile is not in the list that was read: so the list is
    read again until it has nothing new.
    """
    found: dict[int, Process] = {}
    seen: set[str] = set()
    for _ in range(_LISTINGS):
        new = {name for name in os.listdir("/proc") if name.isdecimal()} - seen
        if not new:
            break
        seen |= new
        for name in new:
            if (process := _read(name)) is not None:
                found[process.pid] = process
    return found


def _read(name: str) -> Process | None:
    """One process of this user's; None when it is another's, or has gone."""
    try:
        fd = os.open(f"/proc/{name}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        mine = os.geteuid()
        if mine and os.fstat(fd).st_uid != mine:
            return None
        raw = os.read(fd, 1024)
    except OSError:
        return None
    finally:
        os.close(fd)
    # pid (name, which may hold anything) state ppid … num_threads … starttime
    fields = raw[raw.rindex(b")") + 2 :].split(maxsplit=21)
    dead = fields[0] in {b"Z", b"X"} and fields[17] in {b"0", b"1"}
    return Process(int(name), int(fields[1]), int(fields[19]), dead)


def has_token(pid: int, token: bytes) -> bool | None:
    """Whether the environment the process was started with carries the token; None when it has gone."""
    try:
        raw = _told(pid, "environ")
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError:
        return False
    if token not in raw:
        return False
    for line in raw.split(b"\0"):
        if line.startswith(b"LASTLY_TOKEN=") and token in line[13:].split(b":"):
            return True
    return False


def _told(pid: int, name: str) -> bytes:
    """Read what a process was started with; in the middle of exec it has nothing to tell: waited for."""
    until = monotonic() + _EXEC
    while not (raw := _proc(pid, name)):
        try:
            os.readlink(f"/proc/{pid}/exe")
        except OSError:
            break  # it has just died, or is a thread of the kernel
        before = _proc(pid, "cmdline")
        if (raw := _proc(pid, name)) or monotonic() > until:
            break
        if before and before == _proc(pid, "cmdline"):
            break  # it has an empty environment
        time.sleep(0.001)
    return raw


def _proc(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()


def ancestors() -> set[int]:
    """Return pid 1, ourselves and all above us."""
    found = {1, os.getpid()}
    pid = os.getppid()
    while pid not in found and pid > 0:
        found.add(pid)
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                raw = file.read(1024)
        except OSError:
            break
        pid = int(raw[raw.rindex(b")") + 2 :].split(maxsplit=2)[1])
    return found


def is_tracker(pid: int) -> bool:
    """Whether it is multiprocessing's or loky's resource tracker."""
    try:
        raw = _told(pid, "cmdline")
    except OSError:
        return False
    return any(name in raw for name in _TRACKERS)
