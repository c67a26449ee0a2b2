"""What workers do: settle one dead owner, or write settled ones into the history."""

from lastly._system.family import Family
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
        outcome = settle(
            job["path"], force=job["force"], died=job["died"], unwritten=job["unwritten"],
            family=Family.from_mapping(job["family"]) if job.get("family") else None, announce=announce,
        )  # fmt: skip
        answer = outcome.to_mapping()
        # In one message, whose size the kernel limits. For the log; the journal has them all.
        answer["ran"] = [{**ran, "error": ran["error"][:300]} for ran in answer["ran"][-_TOLD:]]
        if answer["unwritten"]:
            answer["ran"] = answer["ran"][-_TOLD // 4 :]
            answer["unwritten"] = [_short(record) for record in answer["unwritten"]]
    except Exception as error:
        return {"state": "lost", "why": f"{type(error).__name__}: {error}"}
    else:
        return answer


def _short(record: "dict[str, Any]") -> "dict[str, Any]":
    return {
        key: value[:100] if isinstance(value, str) else value
        for key, value in record.items()
        if key != "output"
    }
