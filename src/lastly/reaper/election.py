"""One reaper per user, and no owner lost between one that goes and one that comes.

Two locks (flock, so the kernel gives them back whatever happens):

    reaper.run    held for life by the one reaper
    reaper.lock   held from before the election until the socket is bound, and from before an idle reaper
                  closes its socket until it has exited

An owner writes its journal, then connects. Either that reaches a bound socket, or it fails. If it fails, the
owner starts a reaper, and that one waits for reaper.lock. When it has it, the holder of reaper.run, if there
is one, *is bound and not about to exit*, and bound itself after the owner's attempt, so its scan, which
follows the binding, sees the journal. If nobody holds reaper.run, the new one is elected and scans itself.

An idle reaper closes its socket first, then takes the connections that came before, then scans once more.
Whoever came too late for that has been refused, and is in the case above.
"""

import fcntl
import os
import stat
import time

from lastly._clock import monotonic
from lastly.reaper import protocol

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_PATIENCE = 10.0  # seconds to wait for reaper.lock: its holder works for milliseconds, unless it is stopped


def lock(folder: str, *, wait: float = _PATIENCE) -> int | None:
    """Take reaper.lock; returns its descriptor, or None when another holds on to it."""
    return _take(os.path.join(folder, protocol.LOCK), wait)


def elect(folder: str) -> int | None:
    """Take reaper.run, holding reaper.lock; returns its descriptor, or None when there is a reaper."""
    return _take(os.path.join(folder, protocol.RUN), 0.0)


def still(fd: int, folder: str) -> bool:
    """Whether the lock held at ``fd`` is the one that others see (the home may have been emptied)."""
    try:
        ours, seen = os.fstat(fd), os.stat(os.path.join(folder, protocol.RUN), follow_symlinks=False)
    except OSError:
        return False
    return (ours.st_dev, ours.st_ino) == (seen.st_dev, seen.st_ino)


def _take(path: str, wait: float) -> int | None:
    until = monotonic() + wait
    while True:
        fd = _open(path)
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() >= until:
                    os.close(fd)
                    return None
                time.sleep(0.002)
        try:
            now, ours = os.stat(path, follow_symlinks=False), os.fstat(fd)
            if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino):
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)  # the file was replaced between open and lock: ours is nobody's any more


def _open(path: str) -> int:
    """Open the lock's file, made when it is missing. Anything else there is not ours, and put aside."""
    try:
        return os.open(path, _FLAGS | os.O_NONBLOCK, 0o600)
    except OSError:
        if stat.S_ISREG(os.stat(path, follow_symlinks=False).st_mode):
            raise
    os.rename(path, f"{path}.{os.getpid()}.aside")
    return os.open(path, _FLAGS, 0o600)
