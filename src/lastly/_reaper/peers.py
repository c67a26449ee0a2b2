"""The connections of the reaper: which process speaks, and how far its messages are trusted.

Any process of this user may connect, and may write anything. A message is trusted only as far as what the
kernel says of the sender (SO_PEERCRED, SO_PEERPIDFD): ``own`` merely makes the reaper watch a process;
whether it is dead, and what is owed, is decided by its journal's lock, its identity and its content. The
first thing that is not understood ends the connection. Connections are taken and read in small portions,
deaths first, so that a flood delays nothing by more than one portion.
"""

import _socket  # `socket` adds enums and selectors: half a megabyte that nothing here needs
import os
import stat
from array import array

from lastly._reaper import protocol
from lastly._system import probe, sockets
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._reaper.loop import Reaper
    from lastly._reaper.owners import Owner

PORTION = 32  # connections taken, or messages of one connection read, at a time
SILENT = 256  # connections that have not said whose they are: the oldest is closed for the next one


class Peer:
    """One connection."""

    __slots__ = ("owner", "pid", "since", "socket")

    def __init__(self, sock: _socket.socket, pid: int) -> None:
        self.socket = sock
        self.pid = pid  # 0 when it lives in a pid namespace that we cannot see into
        self.since = monotonic()
        self.owner: Owner | None = None


class Peers:
    """All connections, and the socket they come through."""

    def __init__(self, reaper: "Reaper") -> None:
        self.reaper = reaper
        self.listener: _socket.socket | None = None
        self.silent: dict[int, Peer] = {}
        self.deaf_until = 0.0

    def listen(self, folder: str) -> None:
        """Bind the socket: from here on owners reach us."""
        made = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK)
        with sockets.Address(os.path.join(folder, protocol.SOCKET)) as path:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            except IsADirectoryError:  # not made by lastly
                os.rename(path, f"{path}.{os.getpid()}.aside")
            before = os.umask(0o177)
            try:
                made.bind(path)
            finally:
                os.umask(before)
        made.listen(4096)
        self.listener = made
        self.reaper.watch(made.fileno(), self.accept)

    def close(self, folder: str) -> None:
        """Refuse new connections, then take those that had come before."""
        if self.listener is None:
            return
        with sockets.Address(os.path.join(folder, protocol.SOCKET)) as path:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
        self.listener.shutdown(_socket.SHUT_RDWR)
        while self._accept_one():
            pass
        self.reaper.unwatch(self.listener.fileno())
        self.listener.close()
        self.listener = None

    def accept(self) -> None:
        """Accept some of the connections that wait."""
        for _ in range(PORTION):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        assert self.listener is not None
        try:
            fd, _ = self.listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - accept() of the module `socket`
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno == 22:  # EINVAL: shut down, and nothing was left in the queue
                return False
            # No descriptors left. The queue stays readable: look away for a moment instead of spinning.
            self.reaper.pause(self.listener.fileno(), self.accept)
            self.reaper.log("error", why=f"accept: {error}")
            return False
        self.welcome(fd)
        return True

    def welcome(self, fd: int) -> None:
        """Take a connected socket."""
        sock = _socket.socket(fileno=fd)
        sock.setblocking(False)
        pid, uid = sockets.peer(sock)
        if uid != os.geteuid():
            self.reaper.log("refused", why="another user", uid=uid)
            sock.close()
            return
        peer = Peer(sock, pid)
        if len(self.silent) >= SILENT:
            self.drop(next(iter(self.silent.values())))
        self.silent[sock.fileno()] = peer
        self.reaper.watch(sock.fileno(), lambda: self.hear(peer))
        self.hear(peer)  # what connects has usually spoken already

    def hear(self, peer: Peer) -> None:
        """Read some of what a peer says."""
        for _ in range(PORTION):
            try:
                raw, ancillary, flags, _ = peer.socket.recvmsg(
                    protocol.LIMIT, _socket.CMSG_SPACE(16), _socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                self.drop(peer)
                return
            fds = _descriptors(ancillary)
            try:
                if not raw or flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
                    self.drop(peer)
                    return
                message = protocol.decode(raw)
                answer = self._obey(peer, message, fds)
            except ValueError as error:
                self._refuse(peer, str(error))
                return
            finally:
                for fd in fds:
                    os.close(fd)
            if answer is not None:
                try:
                    peer.socket.send(protocol.reply(answer))
                except OSError:  # it does not read, or has gone: its journal speaks for it
                    pass

    def drop(self, peer: Peer) -> None:
        """Close a connection; twice is fine."""
        fd = peer.socket.fileno()
        if fd < 0:
            return
        self.silent.pop(fd, None)
        self.reaper.unwatch(fd)
        peer.socket.close()

    def drop_silent_peers(self, older: float) -> None:
        """Close the connections that have not introduced themselves within ``older`` seconds."""
        now = monotonic()
        for peer in list(self.silent.values()):
            if peer.since + older < now:
                self.drop(peer)

    def _refuse(self, peer: Peer, why: str) -> None:
        self.reaper.log("refused", why=why, peer=peer.pid)
        try:
            peer.socket.send(protocol.reply({"no": "message", "why": why}))
        except OSError:
            pass
        self.drop(peer)

    def _obey(self, peer: Peer, message: "dict[str, Any]", fds: list[int]) -> "dict[str, Any] | None":
        op = message.get("op")
        if op == "own":
            return self._own(peer, message)
        if op == "deadline":
            return self._deadline(peer, message, fds)
        if op == "calm":
            if peer.owner is not None:
                self.reaper.deadlines.answered(peer.owner)
            return None
        if op == "sweep":
            self.reaper.scan(force=message.get("force") is True)
            return {"ok": op}
        if op == "status":
            return {"ok": op, **self.reaper.status()}
        if op == "share":
            self.reaper.relays.share(message, peer.pid)
            return {"ok": op}
        if op == "line":
            return self._line(fds)
        if op == "quit":
            self.reaper.quit = True
            return {"ok": op}
        raise ValueError(f"unknown message {op!r:.40}")

    def _own(self, peer: Peer, message: "dict[str, Any]") -> "dict[str, Any] | None":
        name = message.get("journal")
        if not isinstance(name, str) or name.count("/") != 1 or "\0" in name or not name.endswith(".j"):
            raise ValueError("not the name of a journal")
        if ".." in name.split("/"):
            raise ValueError("not the name of a journal")
        owner = self.reaper.add_owner(name, peer.pid, lambda: _peer_pidfd(peer.socket))
        if message.get("children") is True:
            self.reaper.families.expect(owner)
            return None
        peer.owner = owner
        self.silent.pop(peer.socket.fileno(), None)
        # The line to say it on may be closed by the program at any time: it is not what we watch.
        return {"ok": "own"}

    def _line(self, fds: list[int]) -> "dict[str, Any]":
        if len(fds) != 1 or not stat.S_ISSOCK(os.fstat(fds[0]).st_mode):
            raise ValueError("a line is one connected socket")
        self.welcome(os.dup(fds[0]))  # the kernel says which process it is
        return {"ok": "line"}

    def _deadline(self, peer: Peer, message: "dict[str, Any]", fds: list[int]) -> "dict[str, Any]":
        signals, grace = message.get("signals"), message.get("grace")
        if peer.owner is None or len(fds) != 1:
            raise ValueError("a deadline needs an owner and one descriptor")
        if not isinstance(signals, list) or not all(isinstance(n, int) and 0 < n < 65 for n in signals):
            raise ValueError("not a list of signals")
        if not isinstance(grace, (int, float)) or not 0 <= grace < 1e9:
            raise ValueError("not a grace")
        self.reaper.deadlines.keep(peer.owner, os.dup(fds[0]), frozenset(signals), float(grace))
        return {"ok": "deadline"}


def _descriptors(ancillary: "list[tuple[int, int, bytes]]") -> list[int]:
    found = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _peer_pidfd(sock: _socket.socket) -> int | None:
    """Ask for the process that connected, whatever its pid means by now; None before Linux 6.5."""
    if probe.missing("pidfd"):
        return None
    try:
        return sock.getsockopt(_socket.SOL_SOCKET, protocol.SO_PEERPIDFD)
    except OSError:
        return None
