"""systemd: told when the program is ready, when it stops, and that it needs longer than its unit gives it.

The protocol is one datagram to the socket that NOTIFY_SOCKET names; no library is needed for it. A program
that was not started by systemd sends nothing, and works as ever.

``STOPPING=1`` goes out where the program learns of its end: in the handler of the first signal. More time is
asked for from a thread, every few seconds, since the main thread runs the cleanups. Each time for little: a
process that hangs so badly that no thread of it runs is not given longer than its unit says.
"""

import _thread
import os
import socket
import threading

from lastly._exit import root, state
from lastly._scope.now import now
from lastly._words import fork
from lastly._words.clock import monotonic
from lastly._words.clock import seconds as _seconds
from lastly.integrations import health

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

__all__ = ["notify", "ready"]
__dir__ = __all__.copy  # dir() shows what is public

ASK = 10.0  # seconds that are asked for at a time
EVERY = 2.0
_PATIENCE = 5.0  # READY=1 must arrive, or the start is taken to have failed


def notify(*lines: str) -> bool:
    """Send lines of the sd_notify protocol, such as ``"STATUS=serving"`` or ``"WATCHDOG=1"``.

    Never blocks, and may be called anywhere, in a signal handler too.

    Returns:
        Whether they were sent; False, too, when systemd did not start this program, or listens on a socket of
        another kind (vsock).

    Raises:
        ValueError: a line is not ``NAME=value``, or is more than one line.

    .. versionadded:: 0.1
    """
    for line in lines:
        name, equals, _ = line.partition("=")
        if not (name and equals) or "\n" in line:
            raise ValueError(f"a line for systemd must be one line NAME=value, not {line!r}")
    return _send(lines, 0.0)


def ready(status: str = "", *, grace: "float | timedelta" = 600.0) -> bool:
    """Tell systemd that the program is ready, and, when it ends, that it stops and how long that takes.

    From the first signal on, or from the beginning of the process's own end, systemd hears ``STOPPING=1``,
    what is running and what is left (``systemctl status`` shows it), and, again and again, that the program
    needs more time (``EXTEND_TIMEOUT_USEC``). A second call says ``READY=1`` again, with its own status.

    For units with ``Type=notify``.

    Args:
        status: a line for ``systemctl status``.
        grace: seconds, or a timedelta, from the end's beginning after which no more time is asked for. With
            ``install(grace=…)`` none is asked for beyond its end.

    Returns:
        Whether systemd was told; False: it did not start this program, and nothing was set up.

    .. versionadded:: 0.1
    """
    lines = ["READY=1"]
    if status:
        lines.append(f"STATUS={_one_line(status)}")
    seconds = _seconds(grace, "grace")
    if not _send(lines, _PATIENCE):
        return False
    global _herald
    if _herald is None:
        _herald = _Herald()
    _herald.limit = seconds
    return True


def _send(lines: "Sequence[str]", patience: float) -> bool:
    """Send them, and wait for a manager that has more to read than it can; return whether they were sent."""
    address = _address()
    if address is None:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(patience)
            sender.sendto("\n".join(lines).encode(errors="replace"), socket.MSG_NOSIGNAL, address)
    except (OSError, ValueError):  # nothing listens there; no descriptor is left; that can be no address
        return False
    return True


def _address() -> "str | bytes | None":
    name = os.environ.get("NOTIFY_SOCKET", "")
    if name.startswith("@"):
        return b"\0" + os.fsencode(name[1:])
    return name if name.startswith("/") else None  # vsock:CID:PORT is for whole machines


def _one_line(text: str) -> str:
    return " ".join(text.split())


class _Herald:
    """Tells of the program's end: at once that it has begun, and then how it goes on."""

    def __init__(self) -> None:
        self.limit = 0.0
        self.told = False
        self.wake = _thread.allocate_lock()
        self.wake.acquire()
        state.subscribe(ending=self.begin)
        root.arm_early()  # an end without a signal, and with nothing deferred, is an end as well
        threading.Thread(target=self.run, name="lastly-systemd", daemon=True).start()
        if health.draining() is not None:  # the signal came first
            self.begin()

    def begin(self) -> None:
        """Say that the program stops; called in a signal handler."""
        if not self.told:
            self.told = True
            notify("STOPPING=1")
        if self.wake.locked():
            self.wake.release()

    def run(self) -> None:
        """Ask for time, once the end has begun, until it is over or the limit is."""
        while True:
            self.wake.acquire()
            begun = monotonic()
            while (why := health.draining()) is not None:
                end = begun + self.limit
                left = min(end, now.deadline or end) - monotonic()
                if left <= 0:
                    return
                doing = _one_line(f"stopping ({why}): {root.describe()}")
                notify(f"EXTEND_TIMEOUT_USEC={int(min(left, ASK) * 1e6)}", f"STATUS={doing}")
                self.wake.acquire(timeout=EVERY)
            self.told = False  # the signal was answered, and the program goes on


_herald: "_Herald | None" = None


def _forked() -> None:
    """Tell nothing in a forked child: it is not what systemd started."""
    global _herald
    if _herald is not None:
        state.unsubscribe(_herald.begin)
        _herald = None


fork.in_child(_forked)
