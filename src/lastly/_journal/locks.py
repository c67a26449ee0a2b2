"""The POSIX lock that says: the owner of this journal lives (or a process works on it).

Why this kind of lock: the kernel drops it the moment the process is gone, whatever killed it, and a forked
child does not inherit it, so a daemon that a dead program left behind does not keep the program alive in our
eyes (an `flock` would). What is awkward about it:

* **Closing any descriptor of the file drops the lock**, also one that was opened for reading in between.
  Hence the table of held files: `replay.read` reads a journal of its own process through the descriptor that
  holds the lock.
* It goes with its descriptor at ``exec`` (ours is close-on-exec). The process is still the owner, by pid and
  start time: an owner is dead when the lock is free *and* the identity says so.
* A process does not see its own lock with F_GETLK. The same table answers.

The other kind, `exclusive`, is an `flock` on a file that holds nothing: the reaper's election, and turns.
"""

import fcntl
import os
import select
import stat
import struct

from lastly._words.clock import monotonic

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
    except (BlockingIOError, PermissionError):  # POSIX allows either for "it is locked"
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
        return is_locked_at(fd)
    finally:
        os.close(fd)


def is_locked_at(fd: int) -> bool:
    """Whether another process has a POSIX lock on the open file."""
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    return _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK  # type: ignore[no-any-return]  # struct gives Any


_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_SOON, _LATER = 0.002, 0.05  # seconds between two attempts to lock: at first, and when that takes long


def exclusive(path: str, wait: float) -> int | None:
    """Lock the file at `path`, made when it is missing; the descriptor that holds the lock.

    Args:
        path: in a folder that no other user may open.
        wait: seconds to wait for another holder.

    Returns:
        None when another process holds it all that time.
    """
    until = monotonic() + wait
    pause = _SOON
    while True:
        fd = _open(path)
        try:
            while not _locked(fd):
                left = until - monotonic()
                if left <= 0:
                    os.close(fd)
                    return None
                select.select((), (), (), min(pause, left))
                pause = min(pause * 1.5, _LATER)
            if is_at(fd, path):
                return fd
        except BaseException:  # a signal's, while it is waited for
            os.close(fd)
            raise
        os.close(fd)  # the file was replaced between open and lock: ours locks a name that is gone


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(fd: int, path: str) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        at, is_ = os.stat(path, follow_symlinks=False), os.fstat(fd)
    except OSError:
        return False
    return (at.st_dev, at.st_ino) == (is_.st_dev, is_.st_ino)


def _open(path: str) -> int:
    """Open the lock's file, made when it is missing. Anything else there is not ours, and put aside."""
    try:
        fd = os.open(path, _FLAGS | os.O_NONBLOCK, 0o600)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)  # a fifo can be locked, but nothing can be written down in it
    except OSError:
        if stat.S_ISREG(os.stat(path, follow_symlinks=False).st_mode):
            raise
    os.rename(path, f"{path}.{os.getpid()}.aside")
    return os.open(path, _FLAGS, 0o600)
