"""Applications with a life: set up, run, closed; hooks, configuration, log, plugins.

A program that uses only Cement 3's core changes ``from cement import …`` to ``from lastly.app import …``.

May use: _exit, _scope, _system.
Used by: users; integrations, for types.
"""

from lastly.app._core import App
from lastly.app._settings import init_defaults, is_true
from lastly.errors import CaughtSignal, CleanupFailed, FrameworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly.app._commandline import ArgumentParser
    from lastly.app._config import Config
    from lastly.app._controllers import Controller, ex
    from lastly.app._handlers import Handler, HandlerManager, Interface, InterfaceError, InterfaceManager
    from lastly.app._hooks import HookManager
    from lastly.app._log import LogHandler
    from lastly.app._plugins import ExtensionManager, PluginManager
    from lastly.app._testing import TestApp

__all__ = [
    "App", "ArgumentParser", "CaughtSignal", "CleanupFailed", "Config", "Controller", "ExtensionManager",
    "FrameworkError", "Handler", "HandlerManager", "HookManager", "Interface", "InterfaceError",
    "InterfaceManager", "LogHandler", "PluginManager", "TestApp", "ex", "init_defaults", "is_true",
]  # fmt: skip
__dir__ = __all__.copy  # dir() shows what is public

# What only some programs need, with the module that has it.
_LAZY = {
    "ArgumentParser": "commandline",
    "Config": "config",
    "Controller": "controllers",
    "ExtensionManager": "plugins",
    "Handler": "handlers",
    "HandlerManager": "handlers",
    "HookManager": "hooks",
    "Interface": "handlers",
    "InterfaceError": "handlers",
    "InterfaceManager": "handlers",
    "LogHandler": "log",
    "PluginManager": "plugins",
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
