"""The relay: one process per user and shared journal, between this host's programs and PostgreSQL.

Programs speak to its socket; its lease commits what they say, and then they are answered. It holds the only
connection to the database, and the only copy of its password. The reaper starts it; if the reaper dies first,
the relay starts another one and makes itself known to it.
"""

import _socket
import fcntl
import os
import select
import sys

from lastly._journal import home, record, relay_line
from lastly._journal.shared_url import SharedUrl
from lastly._reach import local
from lastly._reach.lease import Lease, Plan, now
from lastly._reaper import protocol, spawn
from lastly._reaper.log import Log
from lastly._system import libc, proc, sockets, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TICK = 0.05  # seconds between two looks at whose time is over, while somebody waits
_TURN = 0.0005  # seconds that a thread may keep the other one waiting: 5 ms would be half of a commit
_LOOK = 1.0  # seconds between two looks at the reaper
_PORTION = 64  # messages of one connection read at a time


def main(argv: list[str]) -> None:
    """Be the relay of a home.

    Args:
        argv: state directory, runtime directory, key of the journal, seconds after which it exits when
            nothing is owed. The address of the journal is read from standard input.
    """
    state, runtime, key, idle = argv
    with os.fdopen(0, "rb", closefd=False) as given:
        text = given.read().decode("utf-8", "surrogateescape")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.environ["LASTLY_HOME"] = state
    os.chdir("/")
    os.umask(0o077)
    libc.name_process("lastly-relay")
    sys.setswitchinterval(_TURN)
    log = Log(state)
    lock = os.open(os.path.join(runtime, f"relay-{key}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # there is one; when it dies its reaper starts another
        sys.exit(0)
    try:
        url = SharedUrl(text)
        Relay(url, log, float(idle)).run()
    except Exception as error:
        log("error", why=f"relay: {type(error).__name__}: {error}", fatal=True)
        sys.exit(1)


class Peer:
    """One connection of a program's."""

    __slots__ = ("socket",)

    def __init__(self, sock: _socket.socket) -> None:
        self.socket = sock

    def say(self, answer: "dict[str, Any]") -> bool:
        """Answer; whether it can still be read."""
        try:
            self.socket.send(relay_line.encode(answer))
        except OSError:
            return False
        return True


class Relay:
    """The socket, and who speaks there."""

    def __init__(self, url: SharedUrl, log: Log, idle: float) -> None:
        self.url, self.log, self.idle = url, log, idle
        self.poll = select.poll()
        self.peers: dict[int, Peer] = {}
        self.lease = Lease(url, log)
        self.heard = now()
        self.waiting = 0.0  # until when somebody may wait for an answer
        self.reaper: wait.Watch | None = None
        self.reaper_at = 0.0
        self.listener = self._listen()

    def _listen(self) -> _socket.socket:
        made = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
        )
        with sockets.Address(relay_line.path(self.url.key)) as path:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            made.bind(path)
        made.listen(1024)
        self.poll.register(made.fileno(), select.POLLIN)
        return made

    def run(self) -> None:
        """Serve until nothing is owed for a while."""
        self.lease.start()
        looked = 0.0
        while True:
            for fd, _ in self.poll.poll(self._timeout() * 1000):
                if fd == self.listener.fileno():
                    self._accept()
                elif fd in self.peers:
                    self._hear(self.peers[fd])
            # Not after each message: with many programs that would be most of what this thread does.
            if now() < looked + TICK:
                continue
            looked = now()
            self.lease.expire()
            self.lease.punish()
            if looked >= self.reaper_at + _LOOK:
                self.reaper_at = looked
                self._look_at_reaper()
            if self._is_idle():
                self._leave()
                return

    def _timeout(self) -> float:
        return TICK if now() < self.waiting else min(_LOOK, self.url.ttl / 12)

    # ---- who speaks

    def _accept(self) -> None:
        for _ in range(_PORTION):
            try:
                fd, _address = self.listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - accept() of the module `socket`
            except OSError:
                return
            sock = _socket.socket(fileno=fd)
            sock.setblocking(False)
            _pid, uid = sockets.peer(sock)
            if uid != os.geteuid():
                self.log("refused", why="another user", uid=uid)
                sock.close()
                continue
            self.peers[fd] = Peer(sock)
            self.poll.register(fd, select.POLLIN)

    def _hear(self, peer: Peer) -> None:
        for _ in range(_PORTION):
            try:
                raw = peer.socket.recv(relay_line.LIMIT)
            except BlockingIOError:
                return
            except OSError:
                raw = b""
            if not raw:
                self._drop(peer)
                return
            try:
                message = record.loads(raw.decode())
                self._obey(peer, message)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                self.log("refused", why=f"relay: {type(error).__name__}: {error}")
                peer.say({"no": "the relay does not understand that"})
                self._drop(peer)
                return

    def _drop(self, peer: Peer) -> None:
        fd = peer.socket.fileno()
        self.poll.unregister(fd)
        del self.peers[fd]
        peer.socket.close()

    def _obey(self, peer: Peer, message: "dict[str, Any]") -> None:
        op = message["op"]
        if op == "plan":
            self._plan(peer, message)
        elif op == "confirm":
            row = {"journal": message["journal"], "id": message["id"], "known": message["known"]}
            self._put(peer, row, message, word=True)
        elif op == "word":
            self._word(message["journal"], message)
        elif op == "settled":
            for word in message["ran"]:
                self._word(message["journal"], word)
        elif op == "may":
            peer.say(self.lease.verdict(message["journal"], message["id"]))
        elif op == "status":
            peer.say(self.status())
        else:
            raise ValueError(f"unknown message {op!r:.40}")
        self.heard = now()

    def _plan(self, peer: Peer, message: "dict[str, Any]") -> None:
        name, given = message["journal"], message["cleanup"]
        row = {field: given[field] for field in local.FIELDS if field in given}
        row |= {
            "journal": name,
            "queue": self.url.queue,
            "token": message["token"],
            "about": message["about"],
        }
        self._put(peer, row, message, word=False)

    def _put(self, peer: Peer, row: "dict[str, Any]", message: "dict[str, Any]", *, word: bool) -> None:
        until = now() + float(message["wait"])
        self.waiting = max(self.waiting, until + TICK)
        self.lease.put(Plan(row, peer.say, until, keep=message.get("keep") is True, word=word))

    def _word(self, journal: str, said: "dict[str, Any]") -> None:
        if said.get("state") not in ("done", "released", "abandoned", "void", "failed"):
            raise ValueError(f"unknown state {said.get('state')!r:.40}")
        if journal in self.lease.owed:
            self.lease.word(journal, int(said["id"]), state=said["state"], error=said.get("error") or None)

    def status(self) -> "dict[str, Any]":
        """What `lastly doctor` shows."""
        lease = self.lease
        return {
            "ok": lease.epoch, "pid": os.getpid(), "journal": self.url.label, "queue": self.url.queue,
            "good": lease.good,
            "why": lease.why, "owed": sum(map(len, lease.owed.values())), "flushes": lease.flushes,
            "flushed": lease.flushed, "ttl": self.url.ttl, "silent": round(now() - lease.sent, 3),
        }  # fmt: skip

    # ---- the reaper, and the end

    def _look_at_reaper(self) -> None:
        """Start another reaper when ours has gone, and make this process known to it."""
        if self.reaper is not None and not self.reaper.ended():
            return
        if self.reaper is not None:
            self.reaper.close()
            self.reaper = None
        found = _reaper(self.url)
        if found is not None:
            try:
                self.reaper = wait.Watch(*found)
            except OSError:
                self.reaper = None
            return
        try:
            spawn.start()
        except (OSError, RuntimeError) as error:
            self.log("error", why=f"no reaper could be started: {error}")

    def _is_idle(self) -> bool:
        return not self.lease.owed and now() >= self.heard + self.idle and now() >= self.waiting

    def _leave(self) -> None:
        self.lease.stop = True
        if self.lease.epoch and not self.lease.leave():
            self.log("error", why="the lease could not be given back: it is judged when its time is over")
        self.log("exit", idle=True, relay=True)


def _reaper(url: SharedUrl) -> "tuple[int, int] | None":
    """Make this process known to the reaper; returns its pid and start time, or None when there is none."""
    made = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    made.settimeout(2.0)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    try:
        with sockets.Address(os.path.join(home.runtime_path(), protocol.SOCKET)) as path:
            made.connect(path)
        pid, _uid = sockets.peer(made)
        made.send(
            protocol.encode("share", key=url.key, url=url.text, exe=sys.executable, root=root, running=True)
        )
        made.recv(protocol.LIMIT)
    except OSError:
        return None
    finally:
        made.close()
    start = proc.start_time(pid)
    return None if start is None else (pid, start)
