"""The POSIX lock that says: the owner of this journal lives (or somebody works on it).

Why this kind of lock: the kernel drops it the moment the process is gone, whatever killed it, and a forked
child does not inherit it, so a daemon that a dead program left behind does not keep the program alive in our
eyes (an `flock` would). What is awkward about it:

* **Closing any descriptor of the file drops the lock**, also one that was opened for reading in between.
  Hence the table of held files: `replay.read` reads a journal of its own process through the descriptor that
  holds the lock.
* It goes with its descriptor at ``exec`` (ours is close-on-exec). The process is still the owner, by pid and
  start time: an owner is dead when the lock is free *and* the identity says so.
* A process does not see its own lock with F_GETLK. The same table answers.
"""

import fcntl
import os
import struct

TYPE_CHECKING = False

# struct flock of 64-bit Linux: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")

# (device, inode) of the journals that this process holds → descriptor.
_held: dict[tuple[int, int], int] = {}
_held_by = os.getpid()


def _table() -> dict[tuple[int, int], int]:
    global _held_by
    if _held_by != os.getpid():  # forked: the locks stayed with the parent
        _held_by = os.getpid()
        _held.clear()
    return _held


def take(fd: int) -> bool:
    """Lock the journal open at `fd` for this process; False when another process has it."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either for "somebody has it"
        return False
    found = os.fstat(fd)
    _table()[found.st_dev, found.st_ino] = fd
    return True


def drop(fd: int) -> None:
    """Forget a held descriptor that is about to be closed (which is what drops the lock)."""
    table = _table()
    for key in [key for key, held in table.items() if held == fd]:
        del table[key]


def held(path: str) -> int | None:
    """The descriptor through which this process holds the journal at `path`, if it does."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return _table().get((found.st_dev, found.st_ino))


def is_locked(path: str) -> bool:
    """Whether any process, this one included, holds the journal.

    Raises:
        OSError: it cannot be opened (a symbolic link, for one).
    """
    if held(path) is not None:
        return True
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(fd)
    return _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK  # type: ignore[no-any-return]  # struct gives Any
