"""The reaper's log: one line per event, appended to ``reaper.log`` in the state directory, rotated by size.

**Contract**: tools may parse the lines. A line is ``<UTC time> <pid> <event> key=value …``; values are JSON;
keys and events are only ever added. Events: ``start``, ``own``, ``dead``, ``done``, ``failed``,
``abandoned``, ``void``, ``killed`` (a deadline passed), ``archived``, ``refused``, ``error``, ``exit``,
``relay``; of a relay also ``joined`` and ``lost``.
"""

import os
import time
from itertools import starmap

from lastly._journal.record import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "reaper.log"
ROOM = 1 << 20  # bytes; one older file is kept as reaper.log.1


class Log:
    """An open log. What cannot be written (a full disk) is dropped: a log must not stop a cleanup.

    Attributes:
        held: lines are kept until `flush`.
    """

    def __init__(self, folder: str, *, room: int = ROOM, echo: bool = False) -> None:
        self.path = os.path.join(folder, NAME)
        self.room = room
        self.echo = echo
        self.fd = -1
        self.held = False
        self._waiting: list[tuple[float, str, dict[str, Any]]] = []
        self._open()

    def __call__(self, event: str, **more: "Any") -> None:
        """Add one line."""
        self._waiting.append((time.time(), event, more))
        if not self.held:
            self.flush()

    def flush(self) -> None:
        """Write the lines that are held back, with one write."""
        lines, self._waiting = "".join(starmap(_line, self._waiting)).encode(), []
        if not lines:
            return
        if self.echo:
            try:
                os.write(2, lines)
            except OSError:  # nobody reads it any more
                pass
        try:
            os.write(self.fd, lines)
            if os.fstat(self.fd).st_size > self.room:
                os.replace(self.path, f"{self.path}.1")
                self._open()
        except OSError:
            pass

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        before = self.fd
        try:
            self.fd = os.open(self.path, flags, 0o600)
        except OSError:
            return
        if before >= 0:
            os.close(before)


def _line(at: float, event: str, more: "dict[str, Any]") -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}Z"
    words = "".join(f" {key}={dumps(value)}" for key, value in more.items() if value is not None)
    return f"{stamp} {os.getpid()} {event}{words}\n"
