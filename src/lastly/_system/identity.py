"""Who owns a cleanup, and is that process dead?

A pid alone answers neither question: pids are used again (all 4 million of them in 20 seconds, on a bad day),
differ between pid namespaces, and start over at boot. A process is therefore named by four things together:

    boot id        /proc/sys/kernel/random/boot_id: one running kernel
    pid namespace  the inode of /proc/self/ns/pid: where the pid counts
    time namespace the inode of /proc/self/ns/time: where the start time counts; empty on kernels without
    pid
    start time     field 22 of /proc/PID/stat, in clock ticks since boot

These four survive ``exec``: a program that replaces itself is the same process, and goes on owing.

**Everything here fails closed.** A process is dead only on proof: its pid is free or taken by a younger
process, *and* we looked in the right kernel and the right namespace; or its boot is over, on the same host.
What we cannot see is unknown (None), and unknown counts as alive: to clean up late is a nuisance, to remove
what a living program uses is damage.
"""

import errno
import os

from lastly._system import probe, proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Identity:
    """One process, for as long as this machine runs and after that.

    .. versionadded:: 0.1
    """

    __slots__ = ("boot", "host", "machine", "pid", "pidns", "start", "timens", "uid")

    def __init__(
        self,
        *,
        boot: str,
        pidns: str,
        pid: int,
        start: int,
        host: str,
        uid: int = -1,
        machine: str = "",
        timens: str = "",
    ) -> None:
        self.boot = boot
        self.pidns = pidns
        self.pid = pid
        self.start = start
        self.host = host
        self.uid = uid
        self.machine = machine
        self.timens = timens

    @classmethod
    def current(cls) -> "Identity":
        """The process that asks. Read anew in a forked child and for another user, else remembered."""
        global _current
        if _current is None or _current.pid != os.getpid() or _current.uid != os.geteuid():
            _current = cls.of(os.getpid())
        return _current

    @classmethod
    def of(cls, pid: int) -> "Identity":
        """The process that has this pid here and now.

        Raises:
            ProcessLookupError: there is none.
        """
        if why := probe.wrong_proc():
            raise ProcessLookupError(errno.ESRCH, why)
        start = proc.start_time(pid)
        if start is None:
            raise ProcessLookupError(errno.ESRCH, f"/proc shows no process {pid}")
        return cls(
            boot=boot_id(), pidns=pid_namespace(), pid=pid, start=start, host=os.uname().nodename,
            uid=os.geteuid(), machine=machine(), timens=time_namespace(),
        )  # fmt: skip

    @classmethod
    def from_mapping(cls, record: "Mapping[str, Any]") -> "Identity | None":
        """The identity in a journal's header; None when it does not hold one."""
        try:
            found = cls(
                boot=_a(str, record["boot"]), pidns=_a(str, record["pidns"]), pid=_a(int, record["pid"]),
                start=_a(int, record["start"]), host=_a(str, record["host"]), uid=_a(int, record.get("uid",
                -1)), machine=_a(str, record.get("machine", "")), timens=_a(str, record.get("timens", "")),
            )  # fmt: skip
        except (KeyError, TypeError):
            return None
        # Numbers that the kernel would refuse, or that mean "all processes" to it, name no process.
        return found if 0 < found.pid < 1 << 31 and found.start >= 0 else None

    def to_mapping(self) -> "dict[str, Any]":
        """The same as JSON."""
        return {name: getattr(self, name) for name in _NAMES}

    def same_boot(self) -> bool | None:
        """Whether the kernel it ran on is the one that runs now; None for another machine's."""
        here = boot_id()
        if self.boot == here:
            return True if here else None  # without /proc no process can be proved dead
        if not here or not self.boot:
            return None
        if self.host == os.uname().nodename and self.machine == machine():
            return False
        return None

    def alive(self) -> bool | None:
        """Tell whether the process lives: False only on proof, None when it cannot be told from here."""
        same = self.same_boot()
        if not same:
            return same
        if not self.comparable() or probe.wrong_proc():
            return None
        found = proc.look(self.pid)
        if found is None:
            return None if proc.exists(self.pid) else False
        return found.start == self.start and not found.dead

    def comparable(self) -> bool:
        """Whether its pid and its start time mean here what they mean to itself."""
        # A process sees all start times shifted by the boottime of its own time namespace.
        return self.pidns == pid_namespace() and self.timens in {"", time_namespace()}

    def key(self) -> tuple[str, str, int, int]:
        """What tells two processes apart."""
        return (self.boot, self.pidns, self.pid, self.start)

    def __eq__(self, other: object) -> bool:
        return self.key() == other.key() if isinstance(other, Identity) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key())

    def __repr__(self) -> str:
        return f"<process {self.pid} on {self.host}, started {self.start}>"


_NAMES = ("boot", "pidns", "timens", "pid", "start", "host", "uid", "machine")
_current: Identity | None = None
_constant: dict[str, str] = {}


def _a(kind: "type[Any]", value: "Any") -> "Any":
    if value.__class__ is not kind:
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value


def _constant_file(path: str) -> str:
    """Read a file that does not change while the machine runs; empty when there is none.

    Raises:
        OSError: it could not be read just now (no descriptors left). To go on without it would name no
            process, or take the living for dead.
    """
    value = _constant.get(path)
    if value is None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            value = ""
        else:
            try:
                value = os.read(fd, 4096).decode("ascii", "replace").strip()
            finally:
                os.close(fd)
        _constant[path] = value
    return value


def boot_id() -> str:
    """The id of the running kernel's boot, without its dashes."""
    return _constant_file("/proc/sys/kernel/random/boot_id").replace("-", "")


def machine() -> str:
    """A hash of the machine's id (which is not ours to publish), or the empty string where there is none."""
    raw = _constant_file("/etc/machine-id")
    if not raw:
        return ""
    from zlib import crc32

    return f"{crc32(raw.encode()):08x}"


def pid_namespace() -> str:
    """The pid namespace of this process, as the number of its inode; empty when /proc does not tell."""
    return proc.namespace("pid")


def time_namespace() -> str:
    """The time namespace of this process, as the number of its inode; empty on a kernel without."""
    return proc.namespace("time")
