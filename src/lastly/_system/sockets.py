"""Unix sockets: a path as the kernel takes it."""

import _socket
import os

_LONGEST = 107  # bytes in an address; a path may have 4,095


def peer(sock: _socket.socket) -> tuple[int, int]:
    """Pid and user of the process at the other end, as the kernel says; pid 0: its namespace is not seen."""
    pid, uid, _gid = memoryview(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)).cast("i")
    return pid, uid


class Address:
    """The path of a socket, whatever its folder is called.

    A path that is too long goes through ``/proc/self/fd/N`` of its folder, held open until the `with` ends.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self.path)) <= _LONGEST:
            return self.path
        folder, name = os.path.split(self.path)
        self._fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{name}"

    def __exit__(self, *_exc: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
