"""What each field of a record may hold.

A record with a right checksum may still be odd: written by an unknown tool, or by somebody's editor. Whatever
reads a journal gets fields of the types below, or none. The numbers are bounded by what they are used for: a
pid, a row of SQLite, a date.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Fields: TypeAlias = "dict[str, type | Callable[[Any], bool]]"

_LATEST = 253_370_764_800  # unix time of the year 9999: the last one that can be shown
_LONG = 1 << 63  # what SQLite calls an integer


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


_BOUNDED = frozenset({_integer, _count, _pid, _moment, _seconds})

# By name: a class, or a function that tells whether a number is one.
_EVERY: "Fields" = {"n": _count, "t": _moment, "id": _count}
_OWNER: "Fields" = {
    **dict.fromkeys(("boot", "pidns", "timens", "host", "machine", "exe", "argv0", "token", "parent"), str),
    "pid": _pid, "ppid": _count, "start": _count, "uid": _integer, "next": _count, "t": _moment,
    "n": _count,
}  # fmt: skip
_PLAN = {
    **_EVERY, "action": str, "args": list, "kwargs": dict, "known": dict, "remote": bool,
    "scope": str, "phase": _integer, "retries": _integer, "timeout": _seconds, "backoff": _seconds,
    "context": _count, "file": str, "what": str, "shared": str,
}  # fmt: skip
_WORD = {
    **_EVERY, "known": dict, "attempt": _count, "error": str, "next": _moment, "reason": str, "what": str,
}  # fmt: skip
_KINDS: "dict[str, Fields]" = {
    "owner": _OWNER,
    "plan": _PLAN,
    "context": _EVERY,
    "adopt": {**_EVERY, "epoch": _count, "shared": str},
}

PLANNED = frozenset(_PLAN) - {"file"} | {"kind"}


def clean(record: "dict[str, Any]") -> "tuple[dict[str, Any], list[str]]":
    """Return the record without what is odd in it, and the names of these fields; null is like no field."""
    right = _KINDS.get(record["kind"], _WORD)
    for name, value in record.items():
        check = right.get(name)
        if check is not None and value.__class__ is not check and not (check in _BOUNDED and check(value)):
            break
    else:
        return record, []
    return _clean(record, right)


def _clean(record: "dict[str, Any]", right: "Fields") -> "tuple[dict[str, Any], list[str]]":
    found, odd = {}, []
    for name, value in record.items():
        check = right.get(name)
        if check is None or value.__class__ is check or (check in _BOUNDED and check(value)):
            found[name] = value
        elif value is not None:
            odd.append(name)
    return found, odd
