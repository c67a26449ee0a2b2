"""Settings written as nested ``Meta`` classes, merged over a class hierarchy."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Meta:
    """The settings of one instance: plain attributes, free to change until they are read.

    Two instances never share a list or a dict of settings: what one of them appends, an extension's
    name for example, is not seen by the next (Cement appends to the list of the class).

    .. versionadded:: 0.1
    """

    def __init__(self, settings: "Mapping[str, Any]") -> None:
        self.__dict__.update(settings)

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"Meta({inner})"

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


# What one class's own Meta says, or None: ``vars(cls)`` sees no inherited Meta, which would count twice.
def _own(cls: type) -> "dict[str, Any] | None":
    nested = vars(cls).get("Meta")
    if nested is None:
        return None
    settings: dict[str, Any] = {}
    # A Meta that itself inherits, ``class Meta(Base.Meta)``, means its parents' settings too.
    for part in reversed(nested.__mro__[:-1]):
        settings.update((name, value) for name, value in vars(part).items() if not name.startswith("_"))
    return settings


def merged(cls: type) -> "dict[str, Any]":
    """Return the settings of *cls*: each ``Meta`` of its hierarchy over those of its bases.

    A second call gives an equal, independent dict. Names that begin with an underscore are nobody's
    settings and are left out.

    .. versionadded:: 0.1
    """
    settings: dict[str, Any] = {}
    for part in reversed(cls.__mro__):
        settings.update(_own(part) or {})
    return settings


class MetaMixin:
    """Give the instances of a class ``self._meta``, from its ``Meta`` classes and keyword arguments.

    Keywords win over classes. A keyword that no ``Meta`` of the hierarchy knows is ignored, as is one
    that begins with an underscore: a program may pass all its options on.

    .. versionadded:: 0.1
    """

    _meta: Meta

    def __init__(self, **meta: "Any") -> None:
        settings = merged(type(self))
        settings.update((name, value) for name, value in meta.items() if name in settings)
        for name, value in settings.items():
            if type(value) is list:
                settings[name] = value.copy()
        self._meta = Meta(settings)
