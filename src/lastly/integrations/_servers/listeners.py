"""The door of a server: which sockets listen, what waits in their queues, and how to let nothing new in.

A server that stops closes its listening socket, and with it the kernel resets every connection that it had
taken for the server and that the server had not fetched yet. Their clients are connected, have sent a request
maybe, and hear "connection reset": under load these are the requests that a restart loses.

Closing later does not help, for as long as one listens others come. So the door is shut first: a filter on
the listening socket drops what opens a connection (a segment with SYN and without ACK) and lets everything
else pass, the handshakes that have begun as well. Then those in the queue are served, and then the socket is
closed. A client whose SYN was dropped has lost nothing: its kernel repeats it after a second, and finds the
next server there, or none.

The filter belongs to the socket, not to the process: never shut a door that another process keeps open as
well, as systemd does, or a new server that took the socket over.
"""

import os
import socket
import stat
import struct
from array import array

from lastly._system import descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_ATTACH_FILTER = 26  # SO_ATTACH_FILTER to set, SO_GET_FILTER to get

# Classic BPF; the packet begins with the TCP header, whose 14th byte holds the flags.
_PASS, _DROP = 0xFFFFFFFF, 0
_PROGRAM = (
    (0x30, 0, 0, 13),  # load the flags
    (0x54, 0, 0, 0x12),  # of them SYN (2) and ACK (16)
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, _DROP),
    (0x06, 0, 0, _PASS),
)
_FILTER = array("B", b"".join(struct.pack("HBBI", *step) for step in _PROGRAM))

# Offsets in struct tcp_info. Of a listening socket the "unacknowledged" are those in its queue.
_UNACKED, _LAST_SENT, _LAST_RECEIVED, _RECEIVED, _SENT = 24, 44, 52, 128, 200


def sockets(ports: "Iterable[int]") -> "tuple[list[socket.socket], list[socket.socket]]":
    """Return this process's TCP sockets with these local ports: those that listen, those that are connected.

    They are duplicates: close them. A socket that another thread closes meanwhile is not among them.
    """
    wanted = set(ports)
    listening: list[socket.socket] = []
    connected: list[socket.socket] = []
    ours: set[int] = set()  # duplicates may get the number that listing the folder had
    for number in descriptors.numbers():
        if number in ours:
            continue
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            duplicate = os.dup(number)
        except OSError:
            continue
        try:
            found = socket.socket(fileno=duplicate)
        except OSError:  # closed meanwhile, and the number is another file's
            os.close(duplicate)
            continue
        ours.add(found.fileno())
        if not _is_tcp(found) or _port(found) not in wanted:
            found.close()
        elif found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listening.append(found)
        else:
            connected.append(found)
    return listening, connected


def _is_tcp(found: socket.socket) -> bool:
    return found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM


def _port(found: socket.socket) -> int:
    try:
        return int(found.getsockname()[1])
    except OSError:
        return 0


def shut(listening: socket.socket) -> bool:
    """Let no new connection in; return whether that was possible. A second call does nothing.

    Only TCP has such a door; one that has a filter already keeps it.
    """
    if not _is_tcp(listening) or is_shut(listening):
        return is_shut(listening)
    argument = struct.pack("HP", len(_PROGRAM), _FILTER.buffer_info()[0])
    try:
        listening.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, argument)
    except OSError:
        return False
    return True


def is_shut(listening: socket.socket) -> bool:
    """Whether our filter is on it: set here, or by a process that shares the socket."""
    try:
        # Asked with a length in instructions; it is answered in them, so that Python sees too few bytes.
        found = listening.getsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, 255)
    except OSError:
        return False
    return len(found) == len(_PROGRAM)


def waiting(listening: socket.socket) -> int:
    """Return how many connections wait to be accepted; 0 where that cannot be known."""
    info = _info(listening)
    return int(struct.unpack_from("I", info, _UNACKED)[0]) if len(info) > _UNACKED + 4 else 0


def is_busy(connection: socket.socket, *, patient: bool) -> bool:
    """Whether a connection holds a request that has not been answered, as far as the kernel can tell.

    It cannot tell what a program has read and not begun to work on, when that came within the same few
    milliseconds as the last answer. Look more than once.

    Args:
        connection: a connected TCP socket.
        patient: count one on which nothing came yet, too: its request may be on the way.
    """
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""  # unread; or the other's end
    except BlockingIOError:
        pass
    except OSError:
        return False
    info = _info(connection)
    if len(info) < 208:  # an old kernel
        return False
    (received,), (sent,) = struct.unpack_from("Q", info, _RECEIVED), struct.unpack_from("Q", info, _SENT)
    if not received or not sent:
        return bool(received) or patient
    # In milliseconds ago.
    (since_sent,) = struct.unpack_from("I", info, _LAST_SENT)
    (since_received,) = struct.unpack_from("I", info, _LAST_RECEIVED)
    return bool(since_received < since_sent)


def _info(tcp: socket.socket) -> bytes:
    try:
        return tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    except OSError:
        return b""
