"""The actions that a worker serves: those of the modules it was given, and no others.

A row of the journal names an action; it never makes anybody import anything. What is served are the objects
that stand in these modules, are actions, and are marked ``remote=True``. The built-in actions, which run
programs and remove files, are never served.
"""

import importlib
from importlib.metadata import entry_points

from lastly._action import Action

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GROUP = "lastly_actions"  # of entry points whose values are modules


def modules(given: list[str]) -> list[str]:
    """The modules to serve: those given, else all that installed packages offer."""
    return list(given) or sorted({point.module for point in entry_points(group=GROUP)})


def load(names: list[str]) -> "dict[str, Action[Any, Any]]":
    """Import the modules; returns their actions by each name that a row may call them by.

    Raises:
        Exception: whatever importing one of them raises.
        LookupError: there is no remote action in one of them, or two actions have one name.
    """
    found: dict[str, Action[Any, Any]] = {}
    for name in names:
        module = importlib.import_module(name)
        actions = [
            value
            for value in vars(module).values()
            if isinstance(value, Action) and value.remote and not value.name.startswith("lastly.actions:")
        ]
        if not actions:
            raise LookupError(f"{name} has no action with remote=True")
        for action in actions:
            for known in (action.name, *action.aliases):
                if found.setdefault(known, action) is not action:
                    raise LookupError(f"{known} is the name of two actions")
    return found
