"""The few steps on the disk that a journal's file is made of."""

import errno
import fcntl
import os
import stat

from lastly._journal import locks

OPEN = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


def open_file(path: str, flags: int) -> int:
    """As `os.open`, but never 0, 1 or 2, which a program may have been started without.

    A C library writes its messages to 2 whatever that is, and text in front of a record destroys it.
    """
    fd = os.open(path, flags, 0o600)
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def check_ours(fd: int, path: str) -> None:
    """See that no other user has written the journal open at `fd`, or put it there: it is executed.

    Raises:
        PermissionError: it is not a plain file of this user, with one name, in a folder of this user's own.
    """
    found, folder = os.fstat(fd), os.stat(os.path.dirname(path))
    me = os.geteuid()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != me or found.st_mode & 0o022:
        raise PermissionError(f"{path!r} is not a journal of this user's own: left alone")
    if found.st_nlink > 1:
        raise PermissionError(f"{path!r} has a second name (a hard link): left alone")
    if folder.st_uid != me or folder.st_mode & 0o022:
        raise PermissionError(f"{path!r} is in a folder that others may write to: left alone")


def full() -> OSError:
    """The error of a disk that took a part of a write."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def new_file(path: str, content: bytes) -> int:
    """Make a file that begins with `content`; its descriptor, or OSError and no file."""
    try:
        fd = open_file(path, OPEN | os.O_CREAT | os.O_EXCL)
    except FileExistsError:  # of a compaction that failed half-way: the name is this process's own
        os.unlink(path)
        fd = open_file(path, OPEN | os.O_CREAT | os.O_EXCL)
    try:
        if os.write(fd, content) != len(content):
            raise full()  # noqa: TRY301  # discarded below
    except BaseException:
        discard(fd, path)
        raise
    return fd


def discard(fd: int, path: str) -> None:
    """Remove a file that came to nothing."""
    try:
        os.unlink(path)
    except OSError:
        pass
    close(fd)


def close(fd: int) -> None:
    """Close a journal's descriptor, which drops its lock."""
    locks.drop(fd)
    os.close(fd)


def key(fd: int) -> tuple[int, int] | None:
    """Which file a descriptor stands for; None for none."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def open_same(path: str, wanted: tuple[int, int] | None) -> int:
    """Open a journal again. Raises FileNotFoundError when another file is at its path."""
    fd = open_file(path, OPEN)
    if key(fd) != wanted:
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return fd


def sync_directory(path: str) -> None:
    """Put the names in a directory onto the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str) -> None:
    """Remove a journal that owes nothing, with what a killed compaction may have left of it."""
    for name in (path, f"{path[:-2]}.tmp"):
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass
