"""Which process holds a pid file or a lock file: known by identity, never by pid alone.

A lock file of ours holds the identity as JSON. A pid file holds the pid and nothing else, for the tools that
read it; but a process that made it with lastly owes its removal, so the identity stands in a journal, beside
the file's own (device, inode, birth time). A pid file that no journal knows is believed while its pid is
alive.

**What a file says is not a reason to kill.** In a shared folder any user can write one, copy one of ours, or
give ours another name. A holder is ended only when the file is ours, the process is ours, and a journal of
ours says that this very process made this very file at this very path.
"""

import errno
import os
import select

from lastly._journal import home, locks, turns
from lastly._journal.replay import read
from lastly._system import probe, proc, wait
from lastly._system.identity import Identity
from lastly.errors import NotRecorded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

_SETTLED = 10.0  # seconds after which no process is still about to write a pid into an empty file
# Seconds, at least, to wait for a process of ours that looks at the same name: it takes milliseconds.
TURN = 5.0
_EMPTY = b"\0 \t\r\n"  # a power cut leaves zeros


class Holder:
    """What a file says about its holder: an identity, or a pid that may mean any process."""

    __slots__ = ("file", "identity", "path", "pid", "uid")

    def __init__(
        self, path: str, file: "dict[str, Any]", uid: int, pid: int, identity: Identity | None
    ) -> None:
        self.path = path
        self.file = file
        self.uid = uid  # the owner of the file
        self.pid = pid
        self.identity = identity

    def alive(self) -> bool:
        """Whether it may still be there; in doubt it is."""
        if self.identity is not None:
            return self.identity.alive() is not False
        return self.pid > 0 and proc.exists(self.pid)

    def untouchable(self) -> str:
        """Why it must not be ended by `takeover`; empty when it may."""
        me = os.geteuid()
        if self.identity is None:
            return "only a pid is known, which may be another process's by now"
        if self.uid != me:
            return f"the file was written by user {self.uid}"
        if self.identity.alive() is not True:
            return "it cannot be seen from here"
        if (found := set(proc.users(self.pid))) != {me}:
            return f"it runs as user {max(found, default=-1)}"
        if _owner_by_journal(self.path, self.file, self.pid) != self.identity:
            return "no journal in this home says that it made the file"
        return ""

    def target(self) -> "dict[str, Any]":
        """What `actions.kill` takes."""
        return {name: getattr(self.identity, name) for name in ("pid", "start", "boot", "pidns")}

    def refusal(self, *, takeover: bool) -> str:
        """Why the name cannot be had, and what to do."""
        if self.pid == os.getpid():
            return "this process holds it already"
        if self.identity is None:
            return (
                f"process {self.pid} holds it, or another one that got its pid: look, and remove the file if "
                "so"
            )
        advice = "takeover=True ends it, wait= waits for it"
        if takeover and (why := self.untouchable()):
            advice = f"it is not ended from here: {why}; end it yourself, or wait for it (wait=)"
        elif takeover:
            advice = "it cannot be ended from here"
        return f"process {self.pid} on {self.identity.host} holds it; {advice}"

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, or for so long."""
        if self.identity is None or not self.identity.alive():
            select.select((), (), (), min(seconds, 0.05))  # the kernel has no event for this
            return
        wait.ends(self.identity.pid, self.identity.start, seconds)


class Unwritten(Holder):
    """The holder of an empty file: a process that is about to write into it, or has locked it."""

    __slots__ = ()

    def alive(self) -> bool:
        """It is there: `of` has looked."""
        return True

    def refusal(self, *, takeover: bool) -> str:  # noqa: ARG002  # as the other kind's
        """Why the name cannot be had, and what to do."""
        return (
            f"it is empty: the process that makes it has not written a pid yet, or holds a lock on it. After "
            f"{_SETTLED:g} s without either it is replaced (wait=)"
        )


class Turn(turns.Turn):
    """Our turn at a name. Without a home there is none to take: what is planned then is planned in this
    process only, after a warning, or the journal refuses.

    Raises:
        FileExistsError: another process of this user has the turn for longer than `wait`.
    """

    def __enter__(self) -> "Self":
        try:
            return super().__enter__()
        except TimeoutError:
            what = "another process of this user is about to take it, and does not get on: is one stopped?"
            raise FileExistsError(errno.EEXIST, what, self.path) from None
        except NotRecorded:
            return self


def me() -> "dict[str, Any]":
    """Return how a lock file names this process. Where that is unknown, it cannot be proved dead."""
    if probe.wrong_proc():
        import socket

        unknown = Identity(boot="", pidns="", pid=os.getpid(), start=0, host=socket.gethostname())
        return unknown.to_mapping()
    return Identity.current().to_mapping()


def of(path: str, file: "dict[str, Any]", fd: int) -> Holder | None:
    """Read who holds the file that is open at `fd`; None when it is not a pid or lock file.

    Args:
        path: where it is.
        file: its own identity.
        fd: the open file.
    """
    found = os.fstat(fd)
    content = os.read(fd, 4096)
    if not content.strip(_EMPTY):
        empty = Unwritten if _is_awaited(fd, found.st_mtime) else Holder
        return empty(path, file, found.st_uid, 0, None)
    if content.startswith(b"{"):
        import json

        try:
            identity = Identity.from_mapping(json.loads(content))
        except (ValueError, RecursionError, AttributeError):
            return None
        if identity is None or identity.pid <= 0:
            return None
        return Holder(path, file, found.st_uid, identity.pid, identity)
    word = content.strip()
    if not word.isdigit() or len(word) > 10:
        return None
    pid = int(word)
    return Holder(path, file, found.st_uid, pid, _owner_by_journal(path, file, pid))


def _is_awaited(fd: int, written: float) -> bool:
    """Whether a process is about to write into an empty file, or holds a lock of either kind on it."""
    import fcntl
    import time

    # By the system's own clock: a test tool may have replaced time.time().
    if abs(time.clock_gettime(time.CLOCK_REALTIME) - written) < _SETTLED:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back with the descriptor, in a moment
        return locks.is_locked_at(fd)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False


def _owner_by_journal(path: str, file: "dict[str, Any]", pid: int) -> Identity | None:
    for journal in home.journals():
        if not os.path.basename(journal).startswith(f"{pid}."):
            continue
        try:
            found = read(journal, trusted=True)
        except OSError:
            continue
        for item in found.items.values():
            if item.args[:1] == [path] and item.kwargs.get("expect") == file:
                return found.identity
    return None
