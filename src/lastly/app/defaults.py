"""Small helpers for the writers of apps."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TRUE = frozenset({"true", "yes", "y", "on", "1"})


def init_defaults(*sections: str) -> "dict[str, dict[str, Any]]":
    """Return an empty dict for each of *sections*, to be filled and given to ``config_defaults``.

    Every call returns new dicts.

    >>> defaults = init_defaults("backup", "target")
    >>> defaults["target"]["path"] = "/srv/backup"
    >>> defaults
    {'backup': {}, 'target': {'path': '/srv/backup'}}

    .. versionadded:: 0.1
    """
    return {section: {} for section in sections}


def is_true(item: "Any") -> bool:
    """Tell whether *item* is a way of saying yes: true, yes, y, on and 1, in any case, or True and 1.

    .. versionadded:: 0.1
    """
    return str(item).lower() in _TRUE
