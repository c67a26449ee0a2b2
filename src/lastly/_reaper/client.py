"""The program's side of the reaper: it says "I owe something", starts one where there is none, and never
waits.

`ensure` is called with every durable defer, and costs a microsecond when all is well: one non-blocking
``recv`` tells whether the reaper that knows us is still there. Nothing else is asked of it, no answer is
waited for: the journal is on file, and a reaper that is slow, stopped or hung must not slow down anybody
(invariant I10).

The starter does not have to find its reaper later: it makes the connection itself, a pair of sockets, says
what it has to say, and the reaper inherits the other end. A reaper that loses the election closes it, and
that is noticed.
"""

import _socket
import os
import sys

from lastly._journal import home
from lastly._reaper import protocol
from lastly._system.sockets import Address
from lastly._words.clock import monotonic
from lastly._words.warn import warn_only

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ASK = 0.01  # seconds between two attempts to reach a reaper that is just starting
_AGAIN = 1.0  # seconds until another reaper is started when the last one is out of reach; doubled each time
_CHILDREN = 0.05  # seconds: the reaper looks several times after it was told once
_FREE = 5  # reapers that a process may start at once, in place of ones that it had reached and that died


class _Socket(_socket.socket):
    """Stays open to the end of the process, on purpose: without the ResourceWarning."""

    def __init__(self, *args: "Any", **options: "Any") -> None:
        super().__init__(*args, **options)
        self._inode = os.fstat(self.fileno()).st_ino

    def ours(self, fstat: "Any" = os.fstat) -> bool:
        """Whether its descriptor still is this socket; if not, it is given up.

        A program that closes all descriptors gives the number to another file.
        """
        try:
            if fstat(self.fileno()).st_ino == self._inode:
                return True
        except (OSError, AttributeError):  # closed; or __init__ did not come that far
            pass
        self.detach()
        return False

    def __del__(self) -> None:
        if self.ours():
            self.close()


class _Line:
    """The connection of this process to the reaper."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.socket: _Socket | None = None
        self.journal = ""
        self.ask_at = 0.0
        self.start_at = 0.0
        self.children_at = 0.0
        self.patience = _AGAIN
        self.free = _FREE
        # "later": the program's starter sweeps after it, so there is nothing to warn of either.
        self.off = os.environ.get("LASTLY_REAPER") in ("0", "later")
        self.deadline: tuple[int, int, tuple[int, ...], float] | None = None


_line: _Line | None = None


def ensure(journal: str) -> None:
    """Tell a reaper that this process owes what is in ``journal``; start one if there is none.

    A second call notices when the reaper has gone and starts another. Never raises for what the reaper or the
    system does, never waits for the reaper; the first call of a process may take a millisecond.
    """
    line = _ours()
    if line.off:
        return
    connection = _usable(line)
    if connection is not None and line.journal == journal:
        try:
            while connection.recv(protocol.LIMIT):
                pass  # acknowledgements; what follows them may be the end
        except BlockingIOError:
            return
        except OSError:
            pass
        connection.close()
        if not _forget(line, connection):
            return  # another thread has noticed it first
        if line.free:
            line.free -= 1
            line.start_at = 0.0
    now = monotonic()
    if now < line.ask_at:
        return
    try:
        _reach(line, journal, now)
    except Exception as error:
        line.ask_at = now + 10.0
        warn_only(f"no reaper could be started ({error}); what this program owes stays in its journal")


def _ours() -> _Line:
    global _line
    if _line is None or _line.pid != os.getpid():
        _line = _Line()  # a forked child has its own journal, and leaves its parent's connection alone
    return _line


def deadline(wakeup_fd: int, signals: tuple[int, ...], grace: float) -> bool:
    """Ask the reaper to kill this process when a signal is not answered within its grace.

    A second call replaces the first. The reaper gets a duplicate of the descriptor.

    Args:
        wakeup_fd: the reading end of what ``signal.set_wakeup_fd`` writes to.
        signals: the numbers that count; other bytes are ignored.
        grace: seconds from the signal to SIGKILL.

    Returns:
        False when no reaper is there yet to keep it: it is handed over with the next durable defer.
    """
    line = _ours()
    line.deadline = (wakeup_fd, os.fstat(wakeup_fd).st_ino, signals, grace)
    return _send_deadline(line)


def signal_answered() -> None:
    """Tell the reaper that the signal was answered and this process lives on."""
    line = _line
    if line is not None and line.pid == os.getpid() and (connection := _usable(line)) is not None:
        try:
            connection.send(protocol.encode("calm"))
        except OSError:
            pass


def child_starts(journal: str) -> None:
    """Tell the reaper to look at the children of this process, which owes what stands in ``journal``.

    Costs microseconds, waits for nothing, and never raises; said again within 0.05 s, nothing happens.
    """
    line = _ours()
    now = monotonic()
    if now < line.children_at or (connection := _usable(line)) is None:
        return
    line.children_at = now + _CHILDREN
    try:
        connection.send(protocol.encode("own", journal=home.journal_name(journal), children=True))
    except OSError:  # a queue that is full, or no reaper any more: the next one looks by itself
        pass


def share(url: str, key: str) -> str:
    """Ask the reaper for a relay of this shared journal; returns why that cannot be, or an empty string."""
    line = _ours()
    if line.off:
        return "LASTLY_REAPER is off, so there is no relay for the shared journal: unset it"
    if (connection := _usable(line)) is None:
        return ""  # a reaper is being started
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    message = protocol.encode("share", key=key, url=url, exe=sys.executable or "", root=root)
    if len(message) > protocol.LIMIT:
        return "the address of the shared journal is too long"
    try:
        connection.send(message)
    except OSError:  # a queue that is full, or no reaper any more: asked again
        pass
    return ""


def ask(op: str, *, within: float = 5.0, **fields: "Any") -> "dict[str, Any] | None":
    """Ask the reaper something and wait for the answer; None without one. For tools, not for programs."""
    made = _connect()
    if made is None:
        return None
    try:
        made.settimeout(within)
        made.send(protocol.encode(op, **fields))
        return protocol.decode(made.recv(1 << 16))
    except (OSError, ValueError):
        return None
    finally:
        made.close()


def _reach(line: _Line, journal: str, now: float) -> None:
    made = _connect()
    if made is not None and not _introduced(made, journal):
        made = None
    if made is not None and now >= line.start_at and protocol.is_outdated(home.runtime_dir()):
        made.close()  # of the one that is started, and takes its place, this process is the first peer
        made = None
    if made is None:
        line.ask_at = now + _ASK
        if now >= line.start_at:
            line.start_at = now + line.patience
            line.patience = min(line.patience * 2, 60.0)
            _start_for(line, journal)
        return
    line.patience = _AGAIN
    _connected(line, made, journal)


def _start_for(line: _Line, journal: str) -> None:
    """Start a reaper and be its first peer."""
    from lastly._reaper import spawn

    kept, its = _socket.socketpair(
        _socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
    )
    ours = _Socket(fileno=kept.detach())
    ours.setblocking(False)  # it is; a default timeout of the program's would undo it
    try:
        _introduced(ours, journal)
        # A shell that ends well may have done nothing: what has not helped is not tried again.
        spawn.start(its.fileno(), shell=line.patience <= 2 * _AGAIN)
    except BaseException:
        ours.close()
        raise
    finally:
        its.close()
    _connected(line, ours, journal)


def _connected(line: _Line, made: _Socket, journal: str) -> None:
    line.socket, line.journal = made, journal
    if line.deadline is not None:
        _send_deadline(line)


def _usable(line: _Line) -> _Socket | None:
    """Return the connection if there is one whose descriptor still is ours; forgets it when it is not.

    Whoever uses it keeps it in a variable: another thread may forget it meanwhile.
    """
    connection = line.socket
    if connection is None or connection.ours():
        return connection
    _forget(line, connection)
    return None


def _forget(line: _Line, connection: _Socket) -> bool:
    """Look for another reaper from now on; False: another thread does already."""
    if line.socket is not connection:
        return False
    line.socket = None
    line.ask_at = 0.0
    return True


def _introduced(made: "_socket.socket", journal: str) -> bool:
    """Say whose we are; False when the reaper died just now, between connect and send."""
    try:
        made.send(protocol.encode("own", journal=home.journal_name(journal)))
    except (BrokenPipeError, ConnectionResetError):
        made.close()
        return False
    except BaseException:
        made.close()
        raise
    return True


def _connect() -> _Socket | None:
    """Return a connection, or None when nothing listens. Never blocks: a full queue counts as a reaper."""
    made = _Socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    try:
        with Address(os.path.join(home.runtime_dir(), protocol.SOCKET)) as path:
            made.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        made.close()
        return None
    except BaseException:
        made.close()
        raise
    return made


def _send_deadline(line: _Line) -> bool:
    connection = _usable(line)
    if connection is None or line.deadline is None:
        return False
    fd, inode, signals, grace = line.deadline
    try:
        if os.fstat(fd).st_ino != inode:  # the number is another file's by now: not the reaper's to hold open
            return False
    except OSError:
        return False
    message = protocol.encode("deadline", signals=list(signals), grace=grace)
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
    try:
        connection.sendmsg([message], rights)
    except OSError:
        return False
    return True
