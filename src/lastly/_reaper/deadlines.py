"""Deadlines kept from outside: for programs whose main thread sits in C and cannot run a signal handler.

The program hands over the reading end of its wake-up descriptor (``signal.set_wakeup_fd``), into which the C
handler of Python writes the signal's number at once, whoever holds the GIL. From then on the grace runs here.
A program that answers its signal and lives on says so (``calm``); one that is still there when the grace is
over is killed, and what it owes is run as after any other death.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly._reaper.loop import Reaper
    from lastly._reaper.owners import Owner


class Deadlines:
    """The wake-up descriptors of all owners."""

    def __init__(self, reaper: "Reaper") -> None:
        self.reaper = reaper

    def keep(self, owner: "Owner", fd: int, signals: frozenset[int], grace: float) -> None:
        """Kill the owner ``grace`` seconds after one of ``signals`` came out of ``fd``, unless it is calm.

        Raises:
            ValueError: nothing can come out of it; it is closed.
        """
        self.drop(owner)
        try:
            os.set_blocking(fd, False)
            self.reaper.watch(fd, lambda: self._signalled(owner))
        except OSError as error:  # a plain file, say
            os.close(fd)
            raise ValueError(f"not a descriptor that can be watched: {error.strerror}") from None
        owner.wakeup, owner.signals, owner.grace = fd, signals, grace

    def drop(self, owner: "Owner") -> None:
        """Close the owner's wake-up descriptor, if it has one."""
        owner.due = None
        if owner.wakeup is not None:
            self.reaper.unwatch(owner.wakeup)
            os.close(owner.wakeup)
            owner.wakeup = None

    def answered(self, owner: "Owner") -> None:
        """The signal was answered, and the owner lives on.

        The byte was written before the program said so, but we may hear of both in either order.
        """
        self._signalled(owner)
        owner.due = None

    def _signalled(self, owner: "Owner") -> None:
        if owner.wakeup is None:
            return
        try:
            raw = os.read(owner.wakeup, 512)
        except BlockingIOError:
            return
        except OSError:
            raw = b""
        if not raw:
            self.drop(owner)
            return
        if owner.due is None and owner.signals.intersection(raw):
            due = owner.due = object()
            self.reaper.at(owner.grace, lambda: self._overdue(owner, due))

    def _overdue(self, owner: "Owner", due: object) -> None:
        if owner.due is due and owner.kill():
            self.reaper.log("killed", journal=owner.name, grace=owner.grace)
