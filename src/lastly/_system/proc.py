"""The one reader of /proc/PID: what the kernel says about a process.

A process whose main thread has ended is a zombie in /proc/PID/stat while its other threads run on: it is
*alive*. Each reader of that file has to know this, so there is one reader.

A pid alone does not name a process for long: code that keeps one keeps the start time beside it.
"""

import os
import sys
import time

from lastly._words.clock import monotonic

_TRACKERS = (b"multiprocessing.resource_tracker import main", b"loky.backend.resource_tracker import main")
_LISTINGS = 40  # a machine that forks all the time must not keep us reading for ever
_EXEC = 0.2  # seconds for an exec, in the middle of which a process has no arguments
_WALL = 0x40000000  # __WALL: children of every kind; os has no name for it
_KTHREADD = 2  # the parent of the threads of the kernel
_LISTED = 4096  # bytes of a list of children that are read at once
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


class Process:
    """One process at one moment; ``dead``: it has ended, and its parent has not waited for it yet."""

    __slots__ = ("dead", "group", "pid", "ppid", "session", "start")

    # A plain class: importing typing or dataclasses costs more than all of this module.
    def __init__(  # noqa: PLR0917  # the fields of one file, in its order
        self, pid: int, ppid: int, group: int, session: int, start: int, dead: bool
    ) -> None:
        self.pid = pid
        self.ppid = ppid
        self.group = group
        self.session = session
        self.start = start
        self.dead = dead

    @property
    def key(self) -> tuple[int, int]:
        """What names it until the next boot: pid and start time."""
        return (self.pid, self.start)


# ---- one process


def look(pid: int, user: int = 0) -> Process | None:
    """Look at a process; None when /proc shows none, or another user's than ``user`` (0: anybody's).

    Raises:
        OSError: it cannot be looked at just now (no descriptors left).
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except _GONE:
        return None
    try:
        file_owner = os.fstat(fd).st_uid if user else 0
        if user and file_owner not in {user, 0}:
            return None
        raw = os.read(fd, 4096)
    except ProcessLookupError:  # it ended between open and read
        return None
    finally:
        os.close(fd)
    # The second field is the program's name, in parentheses, and may hold spaces and parentheses of its own.
    fields = raw[raw.rindex(b")") + 2 :].split(maxsplit=20)
    # The kernel counts the threads: those of a zombie leader may live on.
    dead = fields[0] in (b"Z", b"X", b"x") and int(fields[17]) <= 1
    found = Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]), dead)
    return found if not user or file_owner == user or _runs_as(found, user) else None


def _runs_as(process: Process, user: int) -> bool:
    """Whether a process whose files in /proc are root's is this user's all the same.

    They are root's for programs that keep their memory from others (ssh-agent, gpg-agent).
    """
    return process.ppid not in {0, _KTHREADD} and users(process.pid)[:1] == [user]


def users(pid: int) -> list[int]:
    """The user ids a process runs with: real, effective, saved, of its files; empty when not shown."""
    return [int(word) for word in status(pid, b"Uid").split()]


def ignored(pid: int) -> int | None:
    """Return the mask of the signals that a process ignores; None when it is not shown."""
    mask = status(pid, b"SigIgn")
    return int(mask, 16) if mask else None


def status(pid: "int | str", what: bytes) -> bytes:
    """Return one line of /proc/PID/status without its name; empty when it is not shown."""
    try:
        with open(f"/proc/{pid}/status", "rb") as lines:
            for line in lines:
                if line.startswith(what + b":"):
                    return line.partition(b":")[2].strip()
    except OSError:
        pass
    return b""


def start_time(pid: int) -> int | None:
    """Return the start time of a process (zombies too) in clock ticks since boot; None when there is none."""
    found = look(pid)
    return None if found is None else found.start


def lives(pid: int, start: int) -> bool:
    """Whether exactly this process is there and has not ended."""
    found = look(pid)
    return found is not None and found.start == start and not found.dead


def is_stopped(pid: int) -> bool:
    """Whether all threads of a process have stopped or ended: it then starts none."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
                raw = file.read()
            if raw[raw.rindex(b")") + 2 :][:1] not in b"TtZXx":
                return False
    except _GONE:  # a thread, or the process
        return not exists(pid)
    return True


def exists(pid: int) -> bool:
    """Whether the kernel knows the pid, for a /proc that is missing or hides other people's processes."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def ticks(seconds: float) -> int:
    """Return seconds since the boot in clock ticks, as start times are counted."""
    return int(seconds * os.sysconf("SC_CLK_TCK"))


def name(pid: int) -> str:
    """What ps calls it: 15 bytes of its program's name, or what it has called itself; "" for none."""
    try:
        return os.fsdecode(_read(pid, "comm").rstrip(b"\n"))
    except OSError:
        return ""


def program(pid: int) -> str:
    """Return the name of its program's file: the interpreter's for a script; "" when it is not shown."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


def namespace(kind: str, pid: "int | str" = "self") -> str:
    """Return the number of a namespace that a process is in (pid, time, mnt); "" when it is not shown.

    Not remembered: it differs after a fork into a new one, and costs two microseconds.
    """
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}").partition("[")[2][:-1]
    except OSError:
        return ""


def command(pid: int) -> list[bytes]:
    """Return the words of its command line; none when it has gone or hides them."""
    try:
        raw = _read_start(pid, "cmdline")
    except OSError:
        return []
    return raw.rstrip(b"\0").split(b"\0") if raw else []


def environment(pid: int) -> list[bytes]:
    """Return what it was started with, as ``NAME=value``; empty when it has gone or may not be read."""
    try:
        return _read(pid, "environ").split(b"\0")
    except OSError:
        return []


def layout(pid: int) -> list[bytes]:
    """Return where in its memory arguments and environment begin and end: a fork has its parent's layout.

    All zero where permission is missing, empty when it has gone.
    """
    try:
        return _read(pid, "stat").rpartition(b")")[2].split()[45:49]
    except OSError:
        return []


def has_token(pid: int, token: bytes) -> bool | None:
    """Whether the environment the process was started with carries the token; None when it has gone.

    A program that renames itself may have overwritten that environment.
    """
    try:
        raw = _read_start(pid, "environ")
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        return False
    if token not in raw:
        return False
    for line in raw.split(b"\0"):
        if line.startswith(b"LASTLY_TOKEN=") and token in line[13:].split(b":"):
            return True
    return False


def is_tracker(pid: int) -> bool:
    """Whether it is multiprocessing's or loky's resource tracker."""
    try:
        raw = _read_start(pid, "cmdline")
    except _GONE:
        return False
    return any(name in raw for name in _TRACKERS)


def is_reaper(pid: int) -> bool:
    """Whether it is a reaper: one serves all programs of its user, so it belongs to no tree."""
    words = command(pid)
    if words[1:2] == [b"--lastly-reaper"]:  # a frozen program as its own
        return True
    return b"-I" in words and any(b"lastly._reaper" in word for word in words)


def _read_start(pid: int, name: str) -> bytes:
    """Read what a process was started with, waiting while an exec is under way and nothing can be read."""
    until = monotonic() + _EXEC
    while not (raw := _read(pid, name)):
        try:
            os.readlink(f"/proc/{pid}/exe")
        except OSError:
            break  # it has just died, or is a thread of the kernel
        before = _read(pid, "cmdline")
        if (raw := _read(pid, name)) or monotonic() > until:
            break
        if before and before == _read(pid, "cmdline"):
            break  # it has an empty environment
        time.sleep(0.001)
    return raw


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()


# ---- trees


def processes() -> dict[int, Process]:
    """Return this user's processes (root: everybody's), by pid.

    Reading takes milliseconds, and processes that start meanwhile are not in the list that was read: so the
    list is read again until it has nothing new.

    Raises:
        OSError: /proc cannot be read.
    """
    found: dict[int, Process] = {}
    seen: set[int] = set()
    user = os.geteuid()
    for _ in range(_LISTINGS):
        new = pids() - seen
        if not new:
            break
        seen |= new
        for pid in new:
            if (process := look(pid, user)) is not None:
                found[process.pid] = process
    return found


def pids() -> set[int]:
    """Return the pids that /proc shows. Raises OSError when it cannot be read."""
    return {int(name) for name in os.listdir("/proc") if name.isdecimal()}


def by_parent(table: "dict[int, Process]") -> dict[int, list[Process]]:
    """Sort processes by the pid of their parent."""
    found: dict[int, list[Process]] = {}
    for process in table.values():
        found.setdefault(process.ppid, []).append(process)
    return found


def children(pid: int) -> list[int]:
    """Return the children of a process, zombies too; none when it has gone.

    Each thread has its own; a kernel that keeps no lists of them (CONFIG_PROC_CHILDREN) is read as a whole.
    """
    found: list[int] = []
    listed = False
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except _GONE:
        return []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
            listed = True
        except _GONE:  # a thread that has ended
            pass
    if not listed and look(pid) is not None:
        return [process.pid for process in by_parent(processes()).get(pid, ())]
    return found


class Brood:
    """The children of one process that is asked for them again and again: its listing stays open.

    A process with one thread has one list of them, which is read with one call; any other is looked at as
    `children` does.
    """

    __slots__ = ("_list", "_threads", "pid")

    def __init__(self, pid: int) -> None:
        """Begin; the process may have ended."""
        self.pid = pid
        self._threads = self._list = -1
        try:
            self._threads = os.open(f"/proc/{pid}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._list = os.open(f"{pid}/children", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._threads)
        except OSError:  # none are left, or this kernel keeps no lists: `children` finds another way
            pass

    def now(self) -> list[int]:
        """Return what `children` does."""
        if self._list < 0 or os.fstat(self._threads).st_nlink != 3:  # two, and one for each thread
            return children(self.pid)
        listed = os.pread(self._list, _LISTED, 0)
        return children(self.pid) if len(listed) == _LISTED else [int(pid) for pid in listed.split()]

    def close(self) -> None:
        """Give the descriptors back; a second call does nothing."""
        for fd in (self._threads, self._list):
            if fd >= 0:
                os.close(fd)
        self._threads = self._list = -1


def below(root: int) -> list[Process]:
    """Return everything below a process that lives; not lastly's own reaper, nor what is below it."""
    parents = by_parent(processes())
    found, queue = [], [root]
    while queue:
        for process in parents.get(queue.pop(), ()):
            if not is_reaper(process.pid):
                queue.append(process.pid)
                if not process.dead:
                    found.append(process)
    return found


def ancestors() -> set[int]:
    """Return pid 1, ourselves and all above us."""
    found = {1, os.getpid()}
    pid = os.getppid()
    while pid not in found and pid > 0:
        found.add(pid)
        process = look(pid)
        if process is None:
            break
        pid = process.ppid
    return found


# ---- this process


def caught() -> int:
    """Return the mask of the signals that have a handler, as the kernel knows them; 0 without /proc."""
    if sys.platform != "linux":  # under Wine the /proc of the Linux below is shown
        return 0
    return int(status("self", b"SigCgt") or b"0", 16)


def living_children() -> list[int]:
    """Return the children of this process that have not ended."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)  # takes nobody's status away
    except ChildProcessError:
        return []  # there is none: told by one call, without a look into /proc
    return [pid for pid in children(os.getpid()) if (seen := look(pid)) is not None and not seen.dead]
