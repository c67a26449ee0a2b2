"""The children of living owners, looked at while their parent can still be told.

A program says that it starts a child; it does not know which yet. So its children are looked at a moment
later, again after longer and longer pauses (it forks, renames itself, loses its parent), and from then on
whenever all journals are. What was seen is given to the worker that settles the dead owner. It is kept in
memory alone: a reaper that takes over sees those of the living anew.
"""

from lastly._reaper.owners import WATCHED
from lastly._system.family import Family
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly._reaper.loop import Reaper
    from lastly._reaper.owners import Owner

_LOOKS = (0.01, 0.05, 0.2, 0.7, 2.5)  # seconds after a program has said that it starts a child
_SHARE = 20.0  # a look that took long is followed by a pause that many times as long


class Families:
    """The families of all owners that have children."""

    def __init__(self, reaper: "Reaper") -> None:
        self.reaper = reaper

    def expect(self, owner: "Owner") -> None:
        """A child of this owner is about to start, or it may have some that were not announced."""
        if owner.family is None:
            key = owner.key()
            if key is None:
                return
            owner.family = Family(*key)
        for seconds in _LOOKS:
            self.reaper.at(seconds, lambda: self.look(owner))

    def look(self, owner: "Owner") -> None:
        """See which children of the owner are there now."""
        began = monotonic()
        if owner.family is None or owner.state != WATCHED or began < owner.looked_at:
            return
        owner.family.look()
        now = monotonic()
        owner.looked_at = now + (now - began) * _SHARE

    def adopt(self, owner: "Owner") -> None:
        """See whether an owner has children that this reaper was not told of."""
        if owner.family is None and owner.state == WATCHED and (key := owner.key()) is not None:
            owner.family = Family(*key)
            self.look(owner)
            if not owner.family.seen:
                owner.family = None

    def look_at_all(self) -> None:
        """See the children of all owners that are known to have some."""
        for owner in list(self.reaper.owners.values()):
            if owner.family is not None:
                self.look(owner)

    def count(self) -> int:
        """Return how many living children are known."""
        return sum(len(o.family.seen) for o in self.reaper.owners.values() if o.family is not None)
