"""What this program knows of its machine's lease in the shared journal."""

from lastly._durable import shared
from lastly._journal import relay_line
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._journal.shared_url import SharedUrl

_WAIT = 2.0  # seconds that the relay may take to answer; it has it in memory


class Lease:
    """The lease of this machine in the shared journal, as its relay knew it when asked; see `lastly.lease`.

    Attributes:
        held: whether it holds: new plans are taken, and nobody can have taken this machine for dead.
        epoch: its number, as in ``lastly hosts``; 0 when there is none yet.
        ttl: seconds of silence after which this machine counts as dead.
        silent: seconds since the database last heard of this machine.
        why: what is wrong; empty while it holds.

    .. versionadded:: 0.1
    """

    __slots__ = ("epoch", "held", "silent", "ttl", "why")

    def __init__(self, where: "SharedUrl", said: "dict[str, Any]", why: str) -> None:
        self.held: bool = said.get("good") is True
        self.epoch = int(said.get("ok") or 0)
        self.ttl = where.ttl
        self.silent: float = min(said["silent"], where.ttl) if self.epoch else where.ttl
        self.why = "" if self.held else str(said.get("why") or why)

    @property
    def remaining(self) -> float:
        """Seconds until other machines may begin to undo what this one has; 0: they may now."""
        return max(0.0, self.ttl - self.silent)

    def __repr__(self) -> str:
        state = f"held, {self.remaining:.1f} s left" if self.held else f"not held: {self.why}"
        return f"<lease {self.epoch}: {state}>"


def lease() -> Lease | None:
    """Ask whether this machine still holds its lease in the shared journal; None: there is no shared journal.

    For programs that must not go on with something of which another machine may think that it is over: ask
    before a step that cannot be undone. Each call asks the relay on this machine, never the database.

    Raises:
        NotRecorded: the address of the shared journal is wrong.

    .. versionadded:: 0.1
    """
    where = shared.url()
    if where is None:
        return None
    try:
        line = relay_line.connect(where.key)
    except OSError:
        return Lease(where, {}, "no relay runs: the first remote action starts it")
    try:
        said = relay_line.ask(line, relay_line.encode({"op": "status"}), monotonic() + _WAIT) or {}
    except (OSError, ValueError):
        said = {}
    finally:
        line.close()
    return Lease(where, said, "its relay does not answer")
