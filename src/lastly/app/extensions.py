"""Modules that add to an app: each is imported, and its ``load(app)`` called."""

import sys
from importlib import import_module

from lastly.app.cement_only import BUILT_IN, extension_error
from lastly.errors import FrameworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from lastly.app.core import App

    Names = list[str]  # ``list`` is a method of ExtensionManager


def imported(name: str) -> "ModuleType":
    """Return the module called *name*, imported now if it was not before."""
    return sys.modules.get(name) or import_module(name)


def call_load(module: "ModuleType", app: "App") -> None:
    """Call the function ``load`` of *module* with *app*, if it has one."""
    load = getattr(module, "load", None)
    if load is not None:
        load(app)


class ExtensionManager:
    """``app.ext``: the extensions of one app.

    .. versionadded:: 0.1
    """

    def __init__(self, app: "App") -> None:
        self.app = app
        self._loaded: list[str] = []

    def __repr__(self) -> str:
        return f"<ExtensionManager {self._loaded}>"

    def get_loaded_extensions(self) -> "Names":
        """Return the names of the extensions loaded, in order: only those of this app."""
        return [*self._loaded]

    list = get_loaded_extensions

    def load_extension(self, ext_module: str) -> None:
        """Import the module *ext_module* and call its ``load(app)``; a second call does nothing.

        Args:
            ext_module: A dotted module name, or the name of a top level module.

        Raises:
            FrameworkError: It cannot be imported. What its ``load`` raises comes through unchanged.

        .. versionadded:: 0.1
        """
        if ext_module in self._loaded or ext_module.removeprefix("cement.ext.ext_") in BUILT_IN:
            return
        if ext_module.removeprefix("cement.ext.ext_") == "colorlog":
            ext_module = "lastly.app.colorlog"
        elif (error := extension_error(ext_module, self.app.label)) is not None:
            raise error
        try:
            module = imported(ext_module)
        except ImportError as exc:
            raise FrameworkError(f"{exc} (loading extension '{ext_module}')") from exc
        call_load(module, self.app)
        self._loaded.append(ext_module)

    def load_extensions(self, ext_list: "Iterable[str]") -> None:
        """Load each of *ext_list*, in order."""
        for name in ext_list:
            self.load_extension(name)

    def load_configured(self) -> None:
        """Load what the setting ``extensions`` of the app's section names, separated by commas."""
        meta, config = self.app._meta, self.app.config
        if not config.has_option(meta.config_section, "extensions"):
            return
        names = config.get(meta.config_section, "extensions")
        if isinstance(names, str):
            names = [name.strip() for name in names.split(",") if name.strip()]
            config.set(meta.config_section, "extensions", names)
        self.load_extensions(names)
        meta.extensions.extend(name for name in names if name not in meta.extensions)
