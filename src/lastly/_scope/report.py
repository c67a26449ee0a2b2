"""What a scope ran: as data and as JSON."""

from lastly._scope.handle import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class ReportEntry:
    """One cleanup that ran, or did not.

    Attributes:
        name: the cleanup's.
        kind: the same for all cleanups of a kind: the action's or function's name, where the name tells what
            it is done to as well.
        start: when it began, on the monotonic clock.
        seconds: how long it was waited for.
        outcome: ``done``, ``failed``, ``timeout`` (no longer waited for), ``skipped`` (no time was left to
            begin it) or ``interrupted`` (cut by a signal or ``sys.exit``).
        error: the error as text, or None.
        cleanups: the entries of a scope that closed as one cleanup of this one.

    .. versionadded:: 0.1
    """

    __slots__ = ("cleanups", "error", "kind", "name", "outcome", "seconds", "start")

    def __init__(self, raw: "Any") -> None:
        # What most of them are is not written down with each.
        name, start, end, outcome, error, nested, kind = (
            raw if len(raw) > 3 else (*raw, "done", None, None, raw[0])
        )
        self.name: str = name if isinstance(name, str) else name_of(name)
        self.kind: str = kind if isinstance(kind, str) else name_of(kind)
        self.start: float = start
        self.seconds: float = end - start
        self.outcome: str = outcome
        self.error: str | None = error
        self.cleanups: tuple[ReportEntry, ...] = () if nested is None else nested.report().entries

    def as_dict(self) -> "dict[str, Any]":
        """Return plain data."""
        data: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "seconds": round(self.seconds, 6),
            "outcome": self.outcome,
            "error": self.error,
        }
        if self.cleanups:
            data["cleanups"] = [entry.as_dict() for entry in self.cleanups]
        return data

    def __repr__(self) -> str:
        return f"<{self.name} {self.outcome} {self.seconds:.3f} s>"


class Report:
    """What a scope ran, in order.

    Attributes:
        scope: the scope's name, or None.
        entries: one `ReportEntry` per cleanup, in the order in which they ran.
        untimed: how many ran without an entry: a scope that closes more than 256 cleanups at once counts them
            only, for looking at the clock takes as long as running them.
        pending: the names of those that are still to run, in the order in which they would.

    .. versionadded:: 0.1
    """

    __slots__ = ("entries", "pending", "scope", "untimed")

    def __init__(self, scope: "str | None", ran: "list[Any]", untimed: int, pending: "list[str]") -> None:
        self.scope = scope
        self.entries = tuple(ReportEntry(raw) for raw in ran)
        self.untimed = untimed
        self.pending = pending

    @property
    def seconds(self) -> float:
        """All of them together, from the first's start to the last's end."""
        if not self.entries:
            return 0.0
        return max(e.start + e.seconds for e in self.entries) - min(e.start for e in self.entries)

    @property
    def failed(self) -> "tuple[ReportEntry, ...]":
        """Those that did not end well."""
        return tuple(entry for entry in self.entries if entry.outcome != "done")

    def as_dict(self) -> "dict[str, Any]":
        """Return plain data."""
        return {
            "scope": self.scope,
            "seconds": round(self.seconds, 6),
            "cleanups": [entry.as_dict() for entry in self.entries],
            "untimed": self.untimed,
            "pending": list(self.pending),
        }

    def json(self) -> str:
        """Return `as_dict` as one line of JSON."""
        import json

        return json.dumps(self.as_dict())

    def __iter__(self) -> "Iterator[ReportEntry]":
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"<Report {self.scope or 'scope'}: {len(self)} run, {len(self.failed)} failed>"
