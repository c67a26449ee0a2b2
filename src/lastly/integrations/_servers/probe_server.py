"""The small server behind `Health.serve`.

One thread, started when the server is: from Python 3.12 on none can be started any more while the process's
cleanups run at exit, which is just when it is asked. So one thread serves all, and a client that connects and
says nothing cannot keep the others waiting.
"""

import selectors
import socket
import threading
import weakref
from time import sleep

from lastly._words import fork
from lastly._words.clock import monotonic
from lastly.integrations._servers.answers import PHRASES, headers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from lastly.integrations.health import Health

_PATIENCE = 5.0  # seconds for a request to be whole
_MOST = 4096  # bytes of a request's head
_TOGETHER = 100  # connections; the next ones wait in the kernel's queue

_servers: "weakref.WeakSet[HealthServer]" = weakref.WeakSet()


class HealthServer:
    """Answers probes on a port of its own until `close`, or the end of the process.

    Attributes:
        port: the TCP port that it listens on.

    .. versionadded:: 0.1
    """

    def __init__(self, answers: "Health", port: int, host: str = "") -> None:
        self._answers = answers
        self._socket = _listen(host, port)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._wake, asleep = socket.socketpair()
        self._selector.register(asleep, selectors.EVENT_READ)
        self._open: dict[socket.socket, tuple[bytearray, float]] = {}
        self._thread = threading.Thread(target=self._serve, name=f"lastly-health-{self.port}", daemon=True)
        _servers.add(self)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        _servers.discard(self)
        self._wake.close()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<HealthServer on port {self.port}>"

    def _serve(self) -> None:
        while self._wake.fileno() >= 0:
            for key, _ in self._selector.select(1.0 if self._open else None):
                found = key.fileobj
                if found is self._socket:
                    self._accept()
                elif found in self._open:
                    self._read(found)
            late = monotonic() - _PATIENCE
            for connection in [c for c, (_, since) in self._open.items() if since < late]:
                self._drop(connection)
        self.abandon()

    def abandon(self) -> None:
        """Close all that is open, without a word."""
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # sockets all
        self._selector.close()
        self._wake.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:  # gone again
            return
        except OSError:  # no descriptor is left: it waits in the queue, and we do not spin meanwhile
            sleep(0.1)
            return
        if len(self._open) >= _TOGETHER:
            self._drop(min(self._open, key=lambda c: self._open[c][1]))
        connection.setblocking(False)
        self._open[connection] = bytearray(), monotonic()
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        head = self._open[connection][0]
        try:
            data = connection.recv(_MOST)
            head += data
            if data and b"\r\n\r\n" not in head and len(head) < _MOST:
                return
            if data:
                connection.send(self._response(bytes(head)))  # a few bytes: they fit
                connection.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            pass
        self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        del self._open[connection]
        self._selector.unregister(connection)
        connection.close()

    def _response(self, head: bytes) -> bytes:
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            return b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        status, text = self._answers.answer(words[0], words[1].partition("?")[0]) or (404, "not found\n")
        lines = [f"HTTP/1.1 {status} {PHRASES[status]}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers(text)]
        body = "" if words[0] == "HEAD" else text
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def _listen(host: str, port: int) -> socket.socket:
    """Listen on this address; on all, of both families where the machine has both."""
    if host:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in (97, 99):  # EAFNOSUPPORT, EADDRNOTAVAIL: IPv6 is switched off
                raise
    return socket.create_server(("0.0.0.0", port))  # noqa: S104  # that is what an empty host asks for


def _forked() -> None:
    """Close the parent's sockets in a forked child: nothing would answer there once the parent is gone."""
    for server in list(_servers):
        server.abandon()
    _servers.clear()


fork.in_child(_forked)
