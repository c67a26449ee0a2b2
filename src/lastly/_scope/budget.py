"""How long a cleanup may take in this process: a grace divided among many, and a limit of its own.

What an action may take after its owner's death is its own timeout, kept by :mod:`lastly._settle.execute`.
"""

import _thread
import sys

from lastly._scope.handle import UNLIMITED
from lastly._scope.now import now
from lastly._words.clock import monotonic
from lastly.errors import CleanupTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._scope.handle import Cleanup
    from lastly._scope.scope import Scope


class Budget:
    """A grace, divided.

    First come first served would give all of it to the first cleanup that hangs, and the oldest resources, on
    which the others rest, would be skipped. Equal parts would cut short the one that honestly needs longer.
    So half of the grace is reserved, in equal parts, and the other half goes to those that need it. A part
    that was not used up goes to those that follow.
    """

    __slots__ = ("beyond", "end", "part")

    def __init__(self, grace: float, count: int, beyond: int = 0) -> None:
        """Divide `grace` seconds among `count` cleanups, and `beyond` more of other scopes."""
        self.end = monotonic() + grace
        self.beyond = beyond
        self.part = grace / (2 * max(count + beyond, 1))

    def limit(self, following: int) -> float:
        """Return the seconds for the next cleanup, when so many come after it; 0.0: the time is over."""
        left = self.end - monotonic()
        return max(0.0, min(left, max(self.part, left - (following + self.beyond) * self.part)))


def budget_of(scope: "Scope", limit: "float | None") -> "Budget | None":
    """Return what there is to spend: the scope's grace, the outer scope's, the process's."""
    times = [time for time in (scope.grace, limit) if time is not None]
    beyond = 0
    if now.deadline is not None:
        times.append(max(now.deadline - monotonic(), 0.0))
        # Scopes that are still open will close before the deadline too: they are the older ones.
        others = [reference() for reference in list(now.scopes) if reference is not scope._ref]
        beyond = sum(len(other) for other in others if other is not None and other._closer is None)
    return Budget(min(times), len(scope), beyond) if times else None


def seconds_for(limit: "float | None", budget: "Budget | None", following: int) -> float:
    """Return how long a cleanup may take that has this limit of its own; UNLIMITED: as long as it wants."""
    if budget is None:
        return UNLIMITED if limit is None else limit
    if limit == UNLIMITED:
        return UNLIMITED
    share = budget.limit(following)
    return share if limit is None else min(share, limit)


def bound(cleanup: "Cleanup", limit: "float | None", budget: "Budget | None", following: int) -> float:
    """Return how long it may take in a thread of its own; UNLIMITED: it runs in this one."""
    if limit is None and budget is not None and bound_to_thread(cleanup.func):
        return UNLIMITED
    return seconds_for(limit, budget, following)


def bound_to_thread(fn: object) -> bool:
    """Whether it is known that only the thread which made the object may call this."""
    owner = getattr(fn, "__self__", None)
    sqlite3: Any = sys.modules.get("sqlite3")
    return type(owner) is _thread.RLock or (
        sqlite3 is not None and isinstance(owner, (sqlite3.Connection, sqlite3.Cursor))
    )


def too_late(cleanup: "Cleanup", what: str, outcome: str) -> CleanupTimeout:
    """Make the error of a cleanup that was given up."""
    rest = "; it stays in the journal, the reaper runs it" if cleanup.durable else ""
    error = CleanupTimeout(f"{cleanup.name} {what}{rest}")
    error.outcome = outcome  # type: ignore[attr-defined]  # for the report
    return error
