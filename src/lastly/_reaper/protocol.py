"""What a program and the reaper say to each other, and where.

One message is one packet of a SOCK_SEQPACKET socket: its length is known, a message is read whole or not at
all, and nothing in a path can end it early. Inside is JSON. The socket lies in a folder that only its user
can enter; it is not an abstract one, which every user of the machine could reach. The sender is known by
SO_PEERCRED.

    program → reaper   own       journal         this process owes what stands in this journal
                                 children        and it starts a child: look, there is no answer
                       deadline  signals, grace  (with a descriptor) kill me if a signal stays unanswered
                       calm                      the signal was answered, I live on
                       sweep     force           look again; force: also at what waits for its next attempt
                       status
                       quit                      exit; nothing is lost
                       share    key, url, exe, root   start a shared journal's relay with that interpreter
                                running          it runs already, and it is the sender
                       line                      (with a descriptor) the connection of a program that
                                                 has started a reaper which was not elected
    reaper → program   {"ok": op, …} after it is true, {"no": op, "why": …} and the connection is closed
"""

import os

from lastly import __version__
from lastly._journal.record import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
SOCKET = "reaper.sock"  # bound by the reaper
RUN = "reaper.run"  # the process that holds the flock on it is the reaper, of the version that stands in it
LOCK = "reaper.lock"  # held while one starts or exits idle
LINE = 3  # the descriptor on which a reaper inherits the connection of its starter
LIMIT = 8192  # bytes in one message
IDLE = 30.0  # seconds without an owner after which the reaper exits

SO_PEERPIDFD = 77  # Linux 6.5; not in the socket module of 3.11–3.13


def encode(op: str, **fields: "Any") -> bytes:
    """Make a request."""
    return dumps({"v": VERSION, "op": op, **fields}).encode("ascii")


def decode(raw: bytes) -> "dict[str, Any]":
    """Read a message.

    Raises:
        ValueError: it is not one.
    """
    if len(raw) > LIMIT:
        raise ValueError("too long")
    try:
        message = loads(raw.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one error for all that is not a message
    return message


def reply(message: "dict[str, Any]") -> bytes:
    """Make an answer."""
    return dumps(message).encode("ascii")


def is_outdated(folder: str) -> bool:
    """Whether the reaper that there is, is of an earlier version than this one."""
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(os.path.join(folder, RUN), flags)
    except OSError:
        return False
    try:
        written = os.read(fd, 100).decode("ascii", "replace").strip()
    except OSError:
        return False
    finally:
        os.close(fd)
    return written != __version__ and _numbers(written) < _numbers(__version__)


def _numbers(version: str) -> list[int]:
    """Return the numbers at its beginning; none for what is not a version."""
    found = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
    return found
