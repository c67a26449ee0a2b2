"""Interfaces, which say what a part of a program does, and handlers, which do it, one of several.

Cement builds all of an app from these. Here they serve a program's own parts, its controllers and its log.
"""

from abc import ABC

from lastly.app._settings import MetaMixin
from lastly.errors import FrameworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from lastly.app._core import App


class InterfaceError(FrameworkError):
    """An interface or a handler is missing, there twice, or does not fit the other.

    .. versionadded:: 0.1
    """


class Interface(ABC, MetaMixin):
    """The base of interfaces: abstract methods, and the interface's name in ``Meta.interface``.

    .. versionadded:: 0.1
    """

    class Meta:
        """The settings of an interface."""

        interface: "Any" = None

    def __init__(self, **meta: "Any") -> None:
        """Make it; `InterfaceError` when its ``Meta`` has no name."""
        super().__init__(**meta)
        _named(type(self), "interface")


class Handler(ABC, MetaMixin):
    """The base of handlers: of one interface (``Meta.interface``), by one name (``Meta.label``).

    .. versionadded:: 0.1
    """

    class Meta:
        """The settings of a handler."""

        label: "Any" = None
        interface: "Any" = None
        config_section: "Any" = None
        config_defaults: "Any" = None
        overridable = False

    app: "App"

    def _setup(self, app: "App") -> None:
        """Make the handler ready for *app*, which has the handler's default settings from now on."""
        self.app = app
        meta = self._meta
        if meta.config_section is None:
            meta.config_section = f"{meta.interface}.{meta.label}"
        if meta.config_defaults is not None and app.config is not None:
            app.config.merge({meta.config_section: meta.config_defaults}, override=False)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


# Interfaces that are there without a class that says so.
_CORE = ("log", "controller")


class InterfaceManager:
    """``app.interface``: the interfaces that handlers can be registered for.

    .. versionadded:: 0.1
    """

    def __init__(self) -> None:
        self._interfaces: dict[str, type | None] = dict.fromkeys(_CORE)

    def list(self) -> "list[str]":
        """Return the names of all interfaces, in the order in which they were defined."""
        return [*self._interfaces]

    def defined(self, interface: str) -> bool:
        """Tell whether there is an interface of the name *interface*."""
        return interface in self._interfaces

    def define(self, ibc: type) -> None:
        """Define the interface *ibc*, by the name in its ``Meta``.

        Raises:
            InterfaceError: It has no name, or there is one of that name (so also at a second call).

        .. versionadded:: 0.1
        """
        name = _named(ibc, "interface")
        if name in self._interfaces:
            raise InterfaceError(f"interface '{name}' already defined!")
        self._interfaces[name] = ibc

    def get(self, interface: str, fallback: "Any" = None) -> "Any":
        """Return the class of the interface *interface*.

        Raises:
            InterfaceError: There is none, and no *fallback*.

        .. versionadded:: 0.1
        """
        if interface in self._interfaces:
            return self._interfaces[interface]
        if fallback is None:
            raise InterfaceError(f"interface '{interface}' does not exist!")
        return fallback


class HandlerManager:
    """``app.handler``: the handlers of each interface, by label.

    .. versionadded:: 0.1
    """

    def __init__(self, app: "App", interfaces: InterfaceManager) -> None:
        self._app = app
        self._interfaces = interfaces
        self._handlers: dict[str, dict[str, type]] = {}

    def _of(self, interface: str) -> "dict[str, type]":
        if not self._interfaces.defined(interface):
            raise InterfaceError(f"interface '{interface}' does not exist!")
        return self._handlers.setdefault(interface, {})

    def register(self, handler_class: type, force: bool = False) -> None:
        """Register *handler_class*; the same class again changes nothing.

        Args:
            handler_class: A class with ``interface`` and ``label`` in its ``Meta``.
            force: Replace another class that has its label.

        Raises:
            InterfaceError: There is no such interface, the class is not a subclass of it, or another one
                has its label.

        .. versionadded:: 0.1
        """
        interface, label = _named(handler_class, "interface"), _named(handler_class, "label")
        handlers = self._of(interface)
        base = self._interfaces.get(interface)
        if base is not None and not issubclass(handler_class, base):
            raise InterfaceError(f"{handler_class.__name__} does not sub-class {base.__name__}")
        if not force and handlers.get(label, handler_class) is not handler_class:
            raise InterfaceError(f"handler '{interface}.{label}' already exists")
        handlers[label] = handler_class

    def registered(self, interface: str, handler_label: str) -> bool:
        """Tell whether there is a handler *handler_label* of *interface*."""
        return handler_label in self._of(interface)

    def list(self, interface: str) -> "list[type]":
        """Return the handler classes of *interface*, in the order of their registration.

        Raises:
            InterfaceError: There is no such interface.

        .. versionadded:: 0.1
        """
        return [*self._of(interface).values()]

    def get(
        self, interface: str, handler_label: str, fallback: "Any" = None, *, setup: bool = False
    ) -> "Any":
        """Return the class of the handler *handler_label*; with *setup* a new instance, set up.

        Raises:
            InterfaceError: There is no such interface, or no such handler and no *fallback*.

        .. versionadded:: 0.1
        """
        found = self._of(interface).get(handler_label)
        if found is not None:
            return self.setup(found) if setup else found
        if fallback is None:
            raise InterfaceError(f"handler '{interface}.{handler_label}' does not exist!")
        return fallback

    def setup(self, handler_class: type) -> "Any":
        """Return a new instance of *handler_class*, set up for the app."""
        return self.resolve(_named(handler_class, "interface"), handler_class, setup=True)

    def resolve(
        self,
        interface: str,
        handler_def: "Any",
        *,
        raise_error: bool = True,
        meta_defaults: "dict[str, Any] | None" = None,
        setup: bool = False,
    ) -> "Any":
        """Return the handler that *handler_def* means: a label, a class, or an instance as it is.

        Args:
            interface: Name of the interface.
            handler_def: What stands for the handler; a class and a label get a new instance.
            raise_error: False returns None where there is no such handler.
            meta_defaults: Settings for a new instance; by default those in the app's ``meta_defaults``
                under ``INTERFACE.LABEL``.
            setup: Set it up for the app.

        Raises:
            InterfaceError: There is no such handler.

        .. versionadded:: 0.1
        """
        if isinstance(handler_def, str):
            handler_def = self._of(interface).get(handler_def)
        if handler_def is None:
            if raise_error:
                raise InterfaceError(f"Unable to resolve handler of interface '{interface}'")
            return None
        if isinstance(handler_def, type):
            key = f"{interface}.{_named(handler_def, 'label')}"
            handler_def = handler_def(**(meta_defaults or self._app._meta.meta_defaults.get(key, {})))
        if setup:
            handler_def._setup(self._app)
        return handler_def


def _named(cls: type, what: str) -> str:
    from lastly.app._settings import merged

    name = merged(cls).get(what)
    if not name:
        raise InterfaceError(f"{cls.__name__}.Meta.{what} is missing")
    return str(name)


def registries(app: "App") -> "tuple[InterfaceManager, HandlerManager]":
    """Return new registries for *app*, with the interfaces and handlers that its settings name."""
    from lastly.app._log import LogHandler

    interfaces = InterfaceManager()
    handlers = HandlerManager(app, interfaces)
    handlers.register(LogHandler)
    for interface in app._meta.interfaces:
        interfaces.define(interface)
    for handler in app._meta.handlers:
        handlers.register(handler)
    return interfaces, handlers
