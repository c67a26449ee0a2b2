"""What each field of a record may hold.

A record with a right checksum may still be odd: written by an unknown tool, or by somebody's editor. Whatever
reads a journal gets fields of the types below, or none. The numbers are bounded by what they are used for: a
pid, a row of SQLite, a date.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_LATEST = 253_370_764_800  # unix time of the year 9999: the last one that can be shown
_LONG = 1 << 63  # what SQLite calls an integer


def _text(value: "Any") -> bool:
    return value.__class__ is str


def _list(value: "Any") -> bool:
    return value.__class__ is list


def _mapping(value: "Any") -> bool:
    return value.__class__ is dict


def _flag(value: "Any") -> bool:
    return value.__class__ is bool


def _integer(value: "Any") -> bool:
    return value.__class__ is int and -_LONG < value < _LONG


def _count(value: "Any") -> bool:
    return value.__class__ is int and 0 <= value < _LONG


def _pid(value: "Any") -> bool:
    return value.__class__ is int and 0 < value < 1 << 31


def _moment(value: "Any") -> bool:
    return value.__class__ in (int, float) and 0 <= value < _LATEST


def _seconds(value: "Any") -> bool:
    return value.__class__ in (int, float) and 0 <= value < 1e9


_EVERY: "dict[str, Callable[[Any], bool]]" = {"n": _count, "t": _moment, "id": _count}
_OWNER: "dict[str, Callable[[Any], bool]]" = {
    **dict.fromkeys(("boot", "pidns", "timens", "host", "machine", "exe", "argv0", "token", "parent"), _text),
    "pid": _pid, "ppid": _count, "start": _count, "uid": _integer, "next": _count, "t": _moment,
    "n": _count,
}  # fmt: skip
_PLAN = {
    **_EVERY, "action": _text, "args": _list, "kwargs": _mapping, "known": _mapping, "remote": _flag,
    "scope": _text, "phase": _integer, "retries": _integer, "timeout": _seconds, "backoff": _seconds,
    "context": _count, "file": _text,
}  # fmt: skip
_WORD = {
    **_EVERY, "known": _mapping, "attempt": _count, "error": _text, "next": _moment, "reason": _text,
}  # fmt: skip
_KINDS: "dict[str, dict[str, Callable[[Any], bool]]]" = {
    "owner": _OWNER,
    "plan": _PLAN,
    "context": _EVERY,
    "adopt": _EVERY,
}

PLANNED = frozenset(_PLAN) - {"file"} | {"kind"}


def clean(record: "dict[str, Any]") -> "tuple[dict[str, Any], list[str]]":
    """Return the record without what is odd in it, and the names of these fields; null is like no field."""
    right = _KINDS.get(record["kind"], _WORD)
    odd = [
        name
        for name, value in record.items()
        if value is not None and (check := right.get(name)) is not None and not check(value)
    ]
    if odd or None in record.values():
        record = {name: value for name, value in record.items() if name not in odd and value is not None}
    return record, odd
