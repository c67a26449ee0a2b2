"""Applications with a life: set up, run, closed; hooks, configuration, log, plugins.

A program that uses only Cement 3's core changes ``from cement import …`` to ``from lastly.app import …``.

May use: _exit, _scope.
Used by: users; integrations, for types.
"""

from lastly.app._core import App
from lastly.app._settings import init_defaults, is_true
from lastly.errors import CaughtSignal, CleanupFailed, FrameworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly.app._controllers import Controller, ex
    from lastly.app._handlers import Handler, Interface, InterfaceError
    from lastly.app._log import LogHandler
    from lastly.app._testing import TestApp

__all__ = [
    "App",
    "CaughtSignal",
    "CleanupFailed",
    "Controller",
    "FrameworkError",
    "Handler",
    "Interface",
    "InterfaceError",
    "LogHandler",
    "TestApp",
    "ex",
    "init_defaults",
    "is_true",
]

# What only some programs need, with the module that has it.
_LAZY = {
    "Controller": "controllers",
    "Handler": "handlers",
    "Interface": "handlers",
    "InterfaceError": "handlers",
    "LogHandler": "log",
    "TestApp": "testing",
    "ex": "controllers",
}


def __getattr__(name: str) -> "Any":
    module = _LAZY.get(name)
    if module is None:
        from lastly.app._cement_only import NAMES

        hint = f": it is Cement's; {NAMES[name]}" if name in NAMES else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    from importlib import import_module

    value = getattr(import_module(f"lastly.app._{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> "list[str]":
    return sorted(__all__)
