"""Modules that add to an app: extensions, which the program names, and plugins, which its user may enable.

Each is imported, and its ``load(app)`` called.
"""

import os
import sys
from importlib import import_module

from lastly.app._cement_only import BUILT_IN, extension_error
from lastly.app._settings import is_true
from lastly.errors import FrameworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from lastly.app._core import App

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
            ext_module = "lastly.app._colorlog"
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


_PREFIX = "plugin."


class PluginManager:
    """``app.plugin``: the plugins of one app.

    A plugin ``NAME`` is enabled by ``enabled = true`` in the section ``plugin.NAME`` of a configuration file.

    .. versionadded:: 0.1
    """

    def __init__(self, app: "App") -> None:
        self.app = app
        self._loaded: list[str] = []

    def __repr__(self) -> str:
        return f"<PluginManager {self._loaded}>"

    def get_loaded_plugins(self) -> list[str]:
        """Return the names of the plugins loaded, in order: only those of this app."""
        return [*self._loaded]

    def get_enabled_plugins(self) -> list[str]:
        """Return the names of the plugins that the configuration enables, loaded or not."""
        return self._configured(enabled=True)

    def get_disabled_plugins(self) -> list[str]:
        """Return the names of the plugins that the configuration switches off."""
        return self._configured(enabled=False)

    def _configured(self, *, enabled: bool) -> list[str]:
        config = self.app.config
        return [
            section.removeprefix(_PREFIX)
            for section in config.get_sections()
            if section.startswith(_PREFIX)
            and config.has_option(section, "enabled")
            and is_true(config.get(section, "enabled")) is enabled
        ]

    def load_plugin(self, plugin_name: str) -> None:
        """Find the plugin *plugin_name*, import it and call its ``load(app)``; a second call does nothing.

        Looked for as ``NAME.py`` or a package ``NAME`` in each directory of ``plugin_dirs``, then as a module
        of the package ``plugin_module``.

        Raises:
            FrameworkError: It is in none of them, or cannot be imported.

        .. versionadded:: 0.1
        """
        if plugin_name in self._loaded:
            return
        call_load(self._from_dirs(plugin_name) or self._from_package(plugin_name), self.app)
        self._loaded.append(plugin_name)

    def load_plugins(self, plugins: "Iterable[str]") -> None:
        """Load each of *plugins*, in order."""
        for name in plugins:
            self.load_plugin(name)

    def _from_dirs(self, name: str) -> "ModuleType | None":
        for directory in self.app._meta.plugin_dirs:
            for path in (os.path.join(directory, name, "__init__.py"), os.path.join(directory, f"{name}.py")):
                if os.path.isfile(path):
                    return _module_at(name, path)
        return None

    def _from_package(self, name: str) -> "ModuleType":
        meta = self.app._meta
        module = f"{meta.plugin_module}.{name}"
        try:
            return import_module(module)
        except ImportError as exc:
            places = ", ".join(meta.plugin_dirs) or "no directory"
            raise FrameworkError(
                f"plugin '{name}' of app '{meta.label}' not loaded: {exc} "
                f"(looked in {places} and for {module})"
            ) from exc


# A plugin's module is called as the plugin is, so that it can import its own parts. Where that name is taken,
# by a module of the standard library or by another app's plugin, it gets a name of its own.
def _module_at(name: str, path: str) -> "ModuleType":
    from importlib.util import module_from_spec, spec_from_file_location

    present = sys.modules.get(name)
    if present is not None and getattr(present, "__file__", None) == path:
        return present
    if present is not None or name in sys.stdlib_module_names:
        name = f"_lastly_plugin_{name}_{abs(hash(path)):x}"
        if name in sys.modules:
            return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FrameworkError(f"plugin file {path} is not a Python module")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as exc:
        sys.modules.pop(name, None)
        if isinstance(exc, ImportError):
            raise FrameworkError(f"plugin file {path} not loaded: {exc}") from exc
        raise
    return module
