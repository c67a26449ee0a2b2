"""A service manager of the test's own, which speaks systemd's protocol."""

from __future__ import annotations

import socket

from harness import PATIENCE


class Manager:
    """Where a service manager listens. `next(name)`: the value of the next line with this name."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self.socket.settimeout(PATIENCE)
        self.heard: list[list[str]] = []

    def message(self) -> list[str]:
        lines = self.socket.recv(4096).decode().split("\n")
        self.heard.append(lines)
        return lines

    def next(self, name: str) -> str:
        while True:
            for line in self.message():
                if line.startswith(f"{name}="):
                    return line.partition("=")[2]

    def rest(self) -> list[list[str]]:
        """What lies there; the sender has ended."""
        self.socket.setblocking(False)
        try:
            while True:
                self.message()
        except BlockingIOError:
            return self.heard
