"""What workers do: settle one dead owner, or write settled ones into the history."""

from lastly.reaper import child, history
from lastly.reaper.settle import settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_ready = False


def work(job: "dict[str, Any]", announce: "Callable[[float], None]") -> "dict[str, Any]":
    """Do one job in a worker; never raises."""
    global _ready
    if not _ready:
        child.adopt_orphans()
        _ready = True
    try:
        if job["do"] == "archive":
            return history.archive(job["items"])
        outcome = settle(job["path"], force=job["force"], died_at=job["died_at"], announce=announce)
        answer = outcome.to_mapping()
        answer["ran"] = answer["ran"][-200:]  # for the log; the journal has them all
    except Exception as error:
        return {"state": "busy", "why": f"{type(error).__name__}: {error}"}
    else:
        return answer
