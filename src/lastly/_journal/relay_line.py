"""The line to the relay of a shared journal: one question, one answer, each a packet of JSON.

    program → relay   plan     journal, token, about, cleanup, wait, keep   answered when it is committed
                      confirm  journal, id, known                           answered when it is committed
                      word     journal, id, state, error, reason            no answer
                      may      journal, id          may this host run it, or what became of it elsewhere
                      status
    reaper → relay    settled  journal, ran         what became of a dead owner's cleanups; no answer
    relay → all       {"ok": …}, {"no": why, "lasting": whether asking again is in vain}, {"lost": {id: …}}

The socket lies in the runtime directory, which only its user can enter.
"""

import _socket
import os
import select

from lastly._journal import home, record
from lastly._system.sockets import Address
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMIT = 1 << 17  # bytes in one packet: twice the largest arguments


def path(key: str) -> str:
    """Where the relay of this shared journal listens."""
    return os.path.join(home.runtime_path(), f"relay-{key}.sock")


def connect(key: str) -> "_socket.socket":
    """Connect to the relay.

    Raises:
        OSError: nothing listens.
    """
    made = _socket.socket(
        _socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
    )
    try:
        with Address(path(key)) as where:
            made.connect(where)
    except BaseException:
        made.close()
        raise
    return made


def encode(message: "dict[str, Any]") -> bytes:
    """Make a packet."""
    return record.dumps(message).encode("ascii")


def ask(line: "_socket.socket", message: bytes, until: float) -> "dict[str, Any] | None":
    """Ask, and wait for the answer; None: there was none until then.

    Raises:
        OSError: the relay has gone.
        ValueError: what came is no answer.
    """
    while True:
        try:
            line.send(message)
            break
        except BlockingIOError:
            if not _ready(line, select.POLLOUT, until):
                return None
    while True:
        if not _ready(line, select.POLLIN, until):
            return None
        try:
            raw = line.recv(LIMIT)
        except BlockingIOError:  # woken for nothing
            continue
        if not raw:
            raise ConnectionResetError(104, "the relay has gone")
        answer = record.loads(raw.decode())
        if not isinstance(answer, dict):
            raise ValueError("not an answer")  # noqa: TRY004 - one error for all that is no answer
        return answer


def _ready(line: "_socket.socket", what: int, until: float) -> bool:
    poll = select.poll()
    poll.register(line.fileno(), what)
    rest = until - monotonic()
    return rest > 0 and bool(poll.poll(rest * 1000 + 1))


def tell(key: str, message: "dict[str, Any]") -> bool:
    """Say something that has no answer; whether it was taken. Never waits."""
    try:
        line = connect(key)
    except OSError:
        return False
    try:
        line.send(encode(message))
    except OSError:
        return False
    finally:
        line.close()
    return True


def may(key: str, journal: str, number: int, within: float) -> "dict[str, Any] | None":
    """Ask whether this host may run a cleanup; None: no answer."""
    try:
        line = connect(key)
    except OSError:
        return None
    try:
        return ask(line, encode({"op": "may", "journal": journal, "id": number}), monotonic() + within)
    except (OSError, ValueError):
        return None
    finally:
        line.close()
