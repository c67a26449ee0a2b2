"""Wait for the end of exactly one process, signal exactly one, and tell how one ended.

A pidfd means one process for ever, and becomes readable at its end. A kernel or a sandbox without pidfd_open
(Linux before 5.3, old seccomp profiles, gVisor) has none: there start times are polled every 0.25 s, and a
signal goes to a pid whose start time was compared an instant before. A pid would have to be used again within
that instant for the signal to reach a stranger.
"""

import os
import select
import struct
import time

from lastly._system import probe, proc
from lastly._words.clock import monotonic
from lastly._words.signal_names import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
    from typing import Final
else:
    import _signal as signal  # without the enums of `signal`, in which every answer is wrapped

POLL: "Final" = 0.25  # seconds between two looks at a process that has no pidfd
LONGEST_POLL: "Final" = 86_400_000  # milliseconds; poll() takes no more than 24 days
# ioctl PIDFD_GET_INFO = _IOWR(0xFF, 11, struct pidfd_info of 64 bytes); mask first, exit code last
_GET_INFO = 0xC040FF0B
_INFO_EXIT = 1 << 3
_INFO = struct.Struct("=Q52xi")

_followed: "dict[int, int]" = {}  # by our own pid, that a forked child begins anew


def pidfd(pid: int, start: int) -> int | None:
    """Open a pidfd of exactly this process (close-on-exec); None when it has gone.

    The start time is compared *after* the descriptor is open: from then on it can only mean the process we
    looked at.

    Raises:
        OSError: the kernel does not give one (no descriptors left, no pidfds), or does not show whose it is.
    """
    if probe.missing("pidfd"):
        raise OSError(38, "a test pretends that there is no pidfd_open")
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        found = proc.start_time(pid)
        if found is None and proc.exists(pid):
            raise PermissionError(f"/proc does not show process {pid}")  # noqa: TRY301  # closed below
    except BaseException:
        os.close(fd)
        raise
    if found == start:
        return fd
    os.close(fd)
    return None


def send(pid: int, start: int, signum: int) -> bool:
    """Signal exactly this process; returns False when it has gone.

    Raises:
        PermissionError: it may not be signalled.
        OSError: no descriptors left.
    """
    if not probe.has_pidfd():
        try:
            if proc.start_time(pid) != start:
                return False
            os.kill(pid, signum)
        except ProcessLookupError:
            return False
        return True
    fd = pidfd(pid, start)
    if fd is None:
        return False
    try:
        return send_to(fd, signum)
    finally:
        os.close(fd)


def send_to(fd: int, signum: int) -> bool:
    """Signal the process that a pidfd means; returns False when it has gone. Raises PermissionError."""
    try:
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False
    return True


class Watch:
    """The end of one process, to be waited for beside other descriptors.

    Register ``fd`` with a poll where it is not None, poll no longer than :meth:`limit` says, then ask
    :meth:`ended`.
    """

    def __init__(self, pid: int, start: int) -> None:
        self._key = (pid, start)
        self.fd = pidfd(pid, start) if probe.has_pidfd() else None

    def limit(self, seconds: float) -> float:
        """Return the milliseconds to poll for when ``seconds`` are left."""
        return min(max(seconds, 0.0) * 1000 + 1, LONGEST_POLL if self.fd is not None else POLL * 1000)

    def ended(self) -> bool:
        """Whether it has ended, all of its threads."""
        if self.fd is None:
            return not proc.lives(*self._key)
        return _readable(self.fd, 0.0)

    def close(self) -> None:
        """Give the descriptor back; a second call does nothing."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def ends(pid: int, start: int, within: float | None = None) -> bool:
    """Wait for the end of a process, for ever or ``within`` seconds; returns False when it lives on.

    Raises:
        OSError: no descriptors left.
    """
    until = None if within is None else monotonic() + within
    watch = Watch(pid, start)
    try:
        if watch.fd is not None:
            return _readable(watch.fd, until)
        while not watch.ended():
            rest = POLL if until is None else min(POLL, until - monotonic())
            if rest <= 0:
                return False
            time.sleep(rest)
        return True
    finally:
        watch.close()


def _readable(fd: int, until: float | None) -> bool:
    poll = select.poll()  # not select(), whose descriptors end at 1,023
    poll.register(fd, select.POLLIN)
    while True:
        rest = None if until is None else max(0.0, until - monotonic())
        if poll.poll(None if rest is None else min(rest * 1000 + 1, LONGEST_POLL)):
            return True
        if rest is not None and rest <= 0:
            return False


def all_end(processes: "Iterable[tuple[int, int]]", until: float) -> None:
    """Wait until all of these have ended, each (pid, start time), at most until that monotonic()."""
    if not probe.has_pidfd():
        left = list(processes)
        while (left := [key for key in left if proc.lives(*key)]) and monotonic() < until:
            time.sleep(max(0.0, min(0.02, until - monotonic())))
        return
    poll = select.poll()
    fds: list[int] = []
    try:
        for pid, start in processes:
            if (fd := pidfd(pid, start)) is not None:
                fds.append(fd)
                poll.register(fd, select.POLLIN)
        left_fds = len(fds)
        while left_fds and (rest := until - monotonic()) > 0:
            for fd, _ in poll.poll(min(rest * 1000, LONGEST_POLL)):
                poll.unregister(fd)
                left_fds -= 1
    finally:
        for fd in fds:
            os.close(fd)


# ---- how it ended


def status(fd: int) -> int | None:
    """Return the exit status behind a pidfd (negative: the signal); None when the kernel does not tell.

    It tells since Linux 6.15, once the process has been waited for by its parent, to a process that held the
    pidfd before.
    """
    import fcntl  # Windows has none, and integrations import this module there too

    buffer = bytearray(_INFO.size)
    _INFO.pack_into(buffer, 0, _INFO_EXIT, 0)
    try:
        fcntl.ioctl(fd, _GET_INFO, buffer)
    except OSError:
        return None
    mask, code = _INFO.unpack(buffer)
    return os.waitstatus_to_exitcode(code) if mask & _INFO_EXIT else None


def describe(code: int | None) -> str:
    """For people: ``killed by SIGKILL``, ``exited with status 3``; empty when it is not known."""
    if code is None:
        return ""
    if code >= 0:
        return f"exited with status {code}"
    return f"killed by {signal_name(-code)}"


# ---- a process that serves for another one ends with it


def follow(parent: int, alive: "Callable[[], bool]", signum: int = signal.SIGTERM) -> None:
    """Have this process get a signal when its parent has ended; a second call for it does nothing.

    A process that starts others to serve (Werkzeug's reloader, uvicorn's and Hypercorn's masters, a pool)
    tells them to end. If it is killed, nobody tells them: they would keep the port and run beside their
    successors. So each has a thread that waits for that end.

    Args:
        parent: its pid.
        alive: whether it lives, asked once: by then its number could be another's.
        signum: the signal.
    """
    import threading

    if _followed.get(os.getpid()) != parent:
        _followed[os.getpid()] = parent
        arguments = (parent, alive, signum)
        threading.Thread(target=_follow, args=arguments, name="lastly-parent", daemon=True).start()


def _follow(parent: int, alive: "Callable[[], bool]", signum: int) -> None:
    import threading

    start = proc.start_time(parent)
    if start is not None and alive():
        ends(parent, start)
    signal.pthread_kill(threading.main_thread().ident or 0, signum)  # there it ends a wait


def follow_parent() -> None:
    """Follow the process that has started this one by multiprocessing, if that is how it began."""
    import sys

    if "multiprocessing" not in sys.modules:
        return
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        follow(parent.pid, parent.is_alive)
