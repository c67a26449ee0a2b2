"""The descendants of a process, seen while it lives: after its death it is unknown whose they were.

Programs that rename themselves (setproctitle, redis-server, nginx, perl's ``$0 = …``) overwrite the memory
that /proc/PID/environ shows, and with it the token that would prove where they come from. Others clear their
environment. The pid of the parent is proof as well, but the kernel replaces it when the parent ends.
"""

from lastly._system import proc
from lastly._system.kill import Led

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Key = tuple[int, int]  # pid, start time

MOST = 1000  # members that are remembered: they travel in one message


class Family:
    """One process and all descendants that were seen so far.

    Attributes:
        seen: each living descendant, and the child of the process that it comes from (or is).
        parent: the pid of its parent; 0 when that is not known.
        died: when the process was seen to die, in seconds since the boot; None when it was not seen.
    """

    __slots__ = ("died", "key", "parent", "seen")

    def __init__(self, pid: int, start: int) -> None:
        self.key = (pid, start)
        self.parent = 0
        self.died: float | None = None
        self.seen: dict[Key, Key] = {}

    def look(self) -> None:
        """See which are there now; does nothing once the process has ended.

        Raises:
            OSError: /proc cannot be read just now.
        """
        head = proc.look(self.key[0])
        if head is None or head.key != self.key:
            return
        self.parent = head.ppid
        living = {key: top for key, top in self.seen.items() if proc.lives(*key)}
        queue = [self.key, *living]
        while queue and len(living) < MOST:
            parent = queue.pop()
            for child in self._children(parent):
                if child.key not in living:
                    living[child.key] = child.key if parent == self.key else living[parent]
                    queue.append(child.key)
        self.seen = living

    @staticmethod
    def _children(parent: "Key") -> "Iterator[proc.Process]":
        for pid in proc.children(parent[0]):
            child = proc.look(pid)
            # A child is never older than its parent; a number that was used again is not a child of this one.
            if child is None or child.dead or child.start < parent[1] or child.ppid != parent[0]:
                continue
            if not proc.is_reaper(pid):
                yield child

    def below(self, ancestor: "Key") -> "list[Key]":
        """Return those that come from that process: the head of the family, or one of its children."""
        return [key for key, top in self.seen.items() if ancestor in {self.key, top}]

    def led(self) -> "Led | None":
        """Return the session and group of the head; None when its death was not seen."""
        if self.died is None:
            return None
        parent = proc.look(self.parent) if self.parent else None
        # Once that has ended, whatever it had started beside the head has another parent.
        known = parent is not None and parent.start <= self.key[1]
        return Led(*self.key, self.parent if known else 0, proc.ticks(self.died))

    def to_mapping(self) -> "dict[str, Any]":
        """The same as JSON."""
        return {"key": self.key, "parent": self.parent, "seen": [*self.seen.items()]}

    @classmethod
    def from_mapping(cls, told: "dict[str, Any]") -> "Family":
        """Read what :meth:`to_mapping` wrote."""
        made = cls(*told["key"])
        made.parent = told["parent"]
        made.seen = {tuple(key): tuple(top) for key, top in told["seen"]}
        return made
