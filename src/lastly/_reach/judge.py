"""Who is dead: decided by any worker, on its own clock, and carried out by one compare-and-set.

A host is dead when *this* judge saw the same beat for a whole ttl, looking all the time. An error, a look
that took long, a pause of this process: it starts over, for what it did not watch it does not know. So an
outage of the database, or a worker that was frozen, makes nobody dead. No host's wall clock is ever read.

When many hosts fall silent at once it is rather the network: then nobody is judged, and a person decides.
"""

from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SHARE, FEW = 0.3, 5  # more than this part of all hosts, and at least so many: nobody is judged
# Part of the ttl after which silence counts for that: hosts beat at different moments, so they do not become
# dead at the same look, although one cut made all of them silent.
_SUSPECT = 2 / 3
_LOOK = 1.0  # seconds between two looks, or less where a ttl is short
_GAP = 2.0  # seconds without a look (or a third of the ttl, if longer) after which a judge starts over


class Seen:
    """A host as this judge saw it: its beat, since when, and at which look last."""

    __slots__ = ("beat", "last", "since")

    def __init__(self, beat: int, moment: float) -> None:
        self.beat, self.since, self.last = beat, moment, moment


class Judge:
    """Watches all leases.

    Attributes:
        open: the breaker: why nobody is judged, or an empty string.
        every: seconds until it wants to look again.
    """

    def __init__(self, clock: "Callable[[], float]" = monotonic) -> None:
        self.clock = clock
        self.seen: dict[int, Seen] = {}
        self.open = ""
        self.every = _LOOK

    def reset(self) -> None:
        """Start over: something may have been missed."""
        self.seen.clear()

    def silent(self, rows: "list[tuple[int, int, float]]", began: float) -> list[tuple[int, int]]:
        """Take in a look; returns epoch and beat of those that are dead.

        Args:
            rows: epoch, beat and ttl of every host that is alive.
            began: when the look was begun, by this judge's clock.
        """
        ended = self.clock()
        found, dead, suspects = {}, [], 0
        for epoch, beat, ttl in rows:
            seen = self.seen.get(epoch)
            gap = max(_GAP, ttl / 3)
            if seen is None or seen.beat != beat or ended - seen.last > gap or ended - began > gap:
                seen = Seen(beat, ended)
            seen.last = ended
            found[epoch] = seen
            suspects += began - seen.since >= ttl * _SUSPECT
            if began - seen.since >= ttl:
                dead.append((epoch, beat))
        self.seen = found
        self.every = min([_LOOK, *(max(ttl / 12, 0.05) for _, _, ttl in rows)])
        self.open = ""
        if dead and suspects >= FEW and suspects > SHARE * len(rows):
            self.open = f"{suspects} of {len(rows)} hosts are silent at once: nobody is judged"
            return []
        return dead
