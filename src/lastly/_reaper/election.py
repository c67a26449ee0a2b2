"""One reaper per user, and no owner is missed when one exits and another starts.

Two locks (flock, so the kernel gives them back whatever happens):

    reaper.run    held for life by the one reaper
    reaper.lock   held from before the election until the socket is bound, and from before an idle reaper
                  closes its socket until it has exited

An owner writes its journal, then connects. Either that reaches a bound socket, or it fails. If it fails, the
owner starts a reaper, and that one waits for reaper.lock. When it has it, the holder of reaper.run, if there
is one, *is bound and not about to exit*, and bound itself after the owner's attempt, so its scan, which
follows the binding, sees the journal. If no process holds reaper.run, the new one is elected and scans
itself.

An idle reaper closes its socket first, then takes the connections that came before, then scans once more.
An owner that came too late for that was refused, and is in the case above.

**Versions that meet.** A reaper lives as long as there are owners, and would never run what a later version
plans. It writes its version into reaper.run. A program of a later version starts a reaper of its own all the
same; that one asks the earlier one to leave, waits until it has, and takes its place. Nothing is lost: what
an earlier version has planned a later one can run.
"""

import _socket
import os
from array import array

from lastly import __version__
from lastly._journal import locks
from lastly._reaper import protocol
from lastly._system.sockets import Address

_PATIENCE = 10.0  # seconds to wait for reaper.lock: its holder works for milliseconds, unless it is stopped


def lock(folder: str, *, wait: float = _PATIENCE) -> int | None:
    """Take reaper.lock; returns its descriptor, or None when another holds on to it."""
    return locks.exclusive(os.path.join(folder, protocol.LOCK), wait)


def elect(folder: str) -> int | None:
    """Take reaper.run, holding reaper.lock; returns its descriptor, or None when there is a reaper."""
    return locks.exclusive(os.path.join(folder, protocol.RUN), 0.0)


def note_version(fd: int) -> None:
    """Write into reaper.run of what version its holder is."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{__version__}\n".encode(), 0)


def succeed(folder: str) -> int | None:
    """Ask the reaper to leave and take reaper.run when it has; None when it does not. Holding reaper.lock."""
    _tell(folder, protocol.encode("quit"), [])
    return locks.exclusive(os.path.join(folder, protocol.RUN), _PATIENCE)


def pass_on(folder: str, line: int) -> None:
    """Give the connection of our starter to the reaper that there is: it may never ask for another."""
    _tell(folder, protocol.encode("line"), [line])


def _tell(folder: str, message: bytes, fds: list[int]) -> None:
    made = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        made.settimeout(_PATIENCE)
        with Address(os.path.join(folder, protocol.SOCKET)) as path:
            made.connect(path)
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", fds).tobytes())
        made.sendmsg([message], [rights] if fds else [])
    except OSError:  # it is leaving just now
        pass
    finally:
        made.close()


def still(fd: int, folder: str) -> bool:
    """Whether the lock held at ``fd`` is the one that others see (the home may have been emptied)."""
    return locks.is_at(fd, os.path.join(folder, protocol.RUN))
