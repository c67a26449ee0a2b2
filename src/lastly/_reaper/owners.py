"""The owners that the reaper knows of, and the first look at one."""

import os

from lastly._journal.record import decode
from lastly._system import probe, wait
from lastly._system.identity import Identity, boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal

    from lastly._system.family import Family
else:
    import _signal as signal  # without the enums of `signal`, in which every answer is wrapped

WATCHED = "watched"  # it lives
QUEUED = "queued"  # it is dead; a worker has it or will have it
WAITING = "waiting"  # for the next attempt, or for another process's lease
FINISHED = "finished"  # nothing owed; waits to be written into the history
KEPT = "kept"  # not ours to judge: looked at again from time to time

PAUSE = 0.02  # seconds to wait for a lease, doubled each time


class Owner:
    """One journal, and the process it belongs to as far as it can be watched."""

    __slots__ = (
        "died", "due", "epoch", "family", "grace", "looked_at", "name", "path", "pause", "pidfd", "signals",
        "state", "unwritten", "wakeup",
    )  # fmt: skip

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.state = WATCHED
        self.pidfd: int | None = None
        self.died: tuple[float, float] | None = None  # unix time, and seconds since the boot
        self.pause = PAUSE
        self.unwritten: list[dict[str, object]] = []  # records that its journal did not take
        self.epoch = 0  # tells a timer whether it is still meant
        self.wakeup: int | None = None
        self.signals: frozenset[int] = frozenset()
        self.grace = 0.0
        self.due: object = None
        self.family: Family | None = None  # its children, once it is known to have some
        self.looked_at = 0.0  # until when they are not looked at again

    def key(self) -> tuple[int, int] | None:
        """Pid and start time of the process, as the name of its journal has them; None for another boot's."""
        words = self.name.rpartition("/")[2].split(".")
        pid = pid_of(self.name)
        return (pid, int(words[1])) if pid is not None and words[1].isdecimal() else None

    def kill(self) -> bool:
        """SIGKILL, to exactly this process."""
        if self.state != WATCHED:
            return False
        if self.pidfd is None:
            key = self.key()
            return key is not None and wait.send(*key, signal.SIGKILL)
        return wait.send_to(self.pidfd, signal.SIGKILL)


def pid_of(name: str) -> int | None:
    """The pid in the name of a journal of this boot; None for another's."""
    folder, _, file = name.partition("/")
    pid = file.partition(".")[0]
    return int(pid) if pid.isdecimal() and folder.endswith(f"-{boot_id()}") else None


def look(path: str) -> tuple[str, int | None]:
    """Decide about a journal by its first line: WATCHED (with a pidfd if there is one), QUEUED or KEPT."""
    identity = _identity(path)
    if identity is None:
        return QUEUED, None  # a worker reads the rest, and keeps what it cannot read
    if identity.boot != boot_id():
        return QUEUED, None  # dead on this machine, unknown on another: settle() knows
    if not identity.comparable():
        return KEPT, None
    try:
        if not probe.has_pidfd():
            return (QUEUED if identity.alive() is False else WATCHED), None
        pidfd = wait.pidfd(identity.pid, identity.start)
    except OSError:
        return WATCHED, None  # no descriptors left: asked again soon
    return (QUEUED, None) if pidfd is None else (WATCHED, pidfd)


def _identity(path: str) -> Identity | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        raw = os.read(fd, 16384)  # a regular file, or refused when the lease is taken
    except OSError:
        return None
    finally:
        os.close(fd)
    try:
        record = decode(raw.partition(b"\n")[0])
    except ValueError:
        return None
    return Identity.from_mapping(record) if record["kind"] == "owner" else None
