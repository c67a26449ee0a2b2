"""Who holds a pid file or a lock file: known by identity, never by pid alone.

A lock file of ours holds the identity as JSON. A pid file holds the pid and nothing else, for the tools that
read it; but whoever made it through lastly owes its removal, so the identity stands in a journal, beside the
file's own (device, inode, birth time). A pid file that no journal knows is believed while its pid is alive.
"""

import os

from lastly._system import wait
from lastly._system.identity import Identity
from lastly.journal import home
from lastly.journal.replay import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Holder:
    """What a file says about its holder: an identity, or a pid that may mean anybody."""

    __slots__ = ("identity", "pid")

    def __init__(self, pid: int, identity: Identity | None) -> None:
        self.pid = pid
        self.identity = identity

    def alive(self) -> bool:
        """Whether it may still be there; what cannot be told is."""
        if self.identity is not None:
            return self.identity.alive() is not False
        return os.path.exists(f"/proc/{self.pid}")

    def known(self) -> "dict[str, Any] | None":
        """What `actions.kill` takes; None when only a pid is known, which is never killed."""
        if self.identity is None or self.identity.alive() is not True:
            return None
        return {name: getattr(self.identity, name) for name in ("pid", "start", "boot", "pidns")}

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, or for so long."""
        import time

        if self.identity is None or not self.known():
            time.sleep(min(seconds, 0.05))  # nothing that the kernel could tell us of
            return
        wait.ends(self.identity.pid, self.identity.start, seconds)


def me() -> "dict[str, Any]":
    """Who we are, as a lock file holds it."""
    return Identity.current().to_mapping()


def of(path: str, file: "dict[str, Any]", content: bytes) -> Holder | None:
    """Read whose file this is; None when nobody's: empty, or something else than a pid or lock file.

    Args:
        path: where it is.
        file: its own identity.
        content: what stands in it.
    """
    if content.startswith(b"{"):
        import json

        try:
            identity = Identity.from_mapping(json.loads(content))
        except (ValueError, RecursionError, AttributeError):
            return None
        return None if identity is None else Holder(identity.pid, identity)
    word = content.strip()
    if not word.isdigit() or len(word) > 10:
        return None
    pid = int(word)
    return Holder(pid, _owner_by_journal(path, file, pid))


def _owner_by_journal(path: str, file: "dict[str, Any]", pid: int) -> Identity | None:
    for journal in home.journals():
        if not os.path.basename(journal).startswith(f"{pid}."):
            continue
        try:
            found = read(journal)
        except OSError:
            continue
        for item in found.items.values():
            if item.args[:1] == [path] and item.kwargs.get("expect") == file:
                return found.identity
    return None
