"""The relays of this user's shared journals: started for a program, watched, started again when they die.

A relay is a child of the reaper with the program's interpreter, for the driver is installed there. It gets
the address of the journal, which may hold a password, through a pipe: neither its arguments nor its
environment show it. When the reaper dies first, the relay starts another and makes itself known to it.
"""

import os

from lastly._journal import relay_line
from lastly._system import proc, wait
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._reaper.loop import Reaper

FIRST, LONGEST = 0.1, 5.0  # seconds before a relay that died is started again; doubled each time
_WELL = 10.0  # seconds after which a relay that dies was a good one
_MOST = 16  # relays of one user
_BOOT = "import sys; sys.path.append(sys.argv[1]); from lastly._reach.relay import main; main(sys.argv[2:])"


class Relay:
    """One relay: what starts it, and its process."""

    def __init__(self, key: str, url: str, exe: str, root: str) -> None:
        self.key, self.url, self.exe, self.root = key, url, exe, root
        self.pid = 0
        self.death: wait.Watch | None = None
        self.since, self.pause = 0.0, FIRST


class Relays:
    """All relays, by the key of their journal."""

    def __init__(self, reaper: "Reaper") -> None:
        self.reaper = reaper
        self.known: dict[str, Relay] = {}

    @property
    def busy(self) -> bool:
        """Whether one runs, or is to."""
        return bool(self.known)

    def share(self, message: "dict[str, Any]", peer: int) -> None:
        """A program needs a relay, or one says that it runs already.

        Args:
            message: key, url, exe, root; `running`: the speaker is the relay.
            peer: the pid of the speaker, as the kernel says.

        Raises:
            ValueError: it is not such a message.
        """
        said = [message.get(name) for name in ("key", "url", "exe", "root")]
        if not all(isinstance(word, str) and word and "\0" not in word for word in said):
            raise ValueError("a shared journal has a key, an address, an interpreter and a root")
        key, url, exe, root = map(str, said)
        if not (key.isascii() and key.isalnum() and len(key) <= 64 and os.path.isabs(exe)):
            raise ValueError("not the key of a shared journal, or not an interpreter")
        if key in self.known:
            return
        if len(self.known) >= _MOST:
            raise ValueError("too many shared journals")
        relay = self.known[key] = Relay(key, url, exe, root)
        if message.get("running") is True:
            self._watch(relay, peer)
            self.reaper.log("relay", pid=peer, journal=key, running=True)
        else:
            self._start(relay)

    def serve(self, url: str, exe: str) -> None:
        """Start one without a program: for what is owed since an earlier boot.

        Raises:
            ValueError: it is no such address.
        """
        from lastly._journal.shared_url import SharedUrl

        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        self.share({"key": SharedUrl(url).key, "url": url, "exe": exe, "root": root}, 0)

    def tell(self, name: str, ran: "list[dict[str, Any]]") -> None:
        """Tell what became of a dead owner's cleanups."""
        words = [{key: one.get(key) for key in ("id", "state", "error")} for one in ran if one.get("state")]
        for key in self.known if words else ():
            for start in range(0, len(words), 100):
                relay_line.tell(key, {"op": "settled", "journal": name, "ran": words[start : start + 100]})

    def _start(self, relay: Relay) -> None:
        argv = [
            relay.exe, "-I", "-X", "utf8", "-c", _BOOT, relay.root, self.reaper.home, self.reaper.runtime,
            relay.key, str(self.reaper.idle),
        ]  # fmt: skip
        ours, its = os.pipe()
        try:
            os.write(its, relay.url.encode("utf-8", "surrogateescape"))  # shorter than a pipe: never waits
            os.close(its)
            relay.pid = os.posix_spawn(
                relay.exe, argv, {}, setsid=True, setsigmask=(), setsigdef=[1, 2, 3, 13, 15, 17],
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, ours, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_RDWR, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_RDWR, 0),
                ],
            )  # fmt: skip
        except OSError as error:
            self.reaper.log("error", why=f"the relay of a shared journal does not start: {error}")
            self.known.pop(relay.key, None)
            return
        finally:
            os.close(ours)
        self._watch(relay, relay.pid)
        self.reaper.log("relay", pid=relay.pid, journal=relay.key)

    def _watch(self, relay: Relay, pid: int) -> None:
        relay.pid, relay.since = pid, monotonic()
        try:
            relay.death = death = wait.Watch(pid, proc.start_time(pid) or 0)
        except OSError:  # no descriptors left
            self.reaper.at(wait.POLL, lambda: self._watch(relay, pid))
            return
        if death.fd is not None:
            self.reaper.watch(death.fd, lambda: self._ended(relay))
        else:
            self._poll(relay)

    def _poll(self, relay: Relay) -> None:
        """Look whether it lives, on a kernel without pidfds."""
        if relay.death is not None and not relay.death.ended():
            self.reaper.at(wait.POLL, lambda: self._poll(relay))
        else:
            self._ended(relay)

    def _ended(self, relay: Relay) -> None:
        if relay.death is not None:
            if relay.death.fd is not None:
                self.reaper.unwatch(relay.death.fd)
            relay.death.close()
            relay.death = None
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(relay.pid, os.WNOHANG)[1])
        except ChildProcessError:  # of the reaper before this one
            status = -1
        if status == 0:  # it owed nothing any more
            self.known.pop(relay.key, None)
            return
        if monotonic() - relay.since > _WELL:
            relay.pause = FIRST
        self.reaper.log("error", why=f"the relay of a shared journal ended with {status}", journal=relay.key)
        self.reaper.at(relay.pause, lambda: self._start(relay))
        relay.pause = min(relay.pause * 2, LONGEST)
