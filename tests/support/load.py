"""A load generator: clients that ask a server on this machine without a pause, until it lets nobody in."""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType
from typing import Self

ROUND = 30.0  # seconds for one answer


class Load:
    """Clients that each connect, ask, read the answer to its end, and begin again.

    Refused before a connection exists, a request was never accepted: then the client is done. Whoever is connected
    counts: an answer that does not come, or not whole, is ``lost``.
    """

    def __init__(self, port: int, path: str = "/", *, clients: int = 8) -> None:
        self.address = ("127.0.0.1", port)
        self.request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        self.answered = 0
        self.lost: list[str] = []
        self.stop = False
        self._threads = [threading.Thread(target=self._ask_again) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop = True
        for thread in self._threads:
            thread.join()

    def _ask_again(self) -> None:
        while not self.stop:
            try:
                made = socket.create_connection(self.address, timeout=ROUND)
            except OSError:  # refused: nobody listens any more
                return
            with made:
                self._ask(made)

    def _ask(self, made: socket.socket) -> None:
        begun = time.monotonic()
        answer = bytearray()
        try:
            made.sendall(self.request)
            while data := made.recv(65536):
                answer += data
        except OSError as error:
            self.lost.append(f"{error!r} after {time.monotonic() - begun:.3f} s: {bytes(answer)!r}")
            return
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        lengths = [int(line[15:]) for line in head.splitlines() if line.lower().startswith(b"content-length:")]
        if not head.startswith(b"HTTP/1.") or lengths != [len(body)]:
            self.lost.append(f"cut off: {bytes(answer)!r}")
        else:
            self.answered += 1
