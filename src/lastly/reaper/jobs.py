"""What workers do: settle one dead owner, or write settled ones into the history."""

from lastly.reaper import child, history
from lastly.reaper.settle import settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_ready = False
_TOLD = 80


def work(job: "dict[str, Any]", announce: "Callable[[float], None]") -> "dict[str, Any]":
    """Do one job in a worker; never raises."""
    global _ready
    if not _ready:
        child.adopt_orphans()
        _ready = True
    try:
        if job["do"] == "archive":
            return history.archive(job["items"])
        outcome = settle(job["path"], force=job["force"], died=job["died"], announce=announce)
        answer = outcome.to_mapping()
        # For the log, in one message, whose size the kernel limits; the journal has them all.
        answer["ran"] = [{**ran, "error": ran["error"][:300]} for ran in answer["ran"][-_TOLD:]]
    except Exception as error:
        return {"state": "busy", "why": f"{type(error).__name__}: {error}"}
    else:
        return answer
