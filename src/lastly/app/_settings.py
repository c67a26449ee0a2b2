"""Settings: nested ``Meta`` classes merged over a class hierarchy, and the ``Meta`` of ``App`` itself."""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType
    from typing import Any, ClassVar

    from lastly._words.signal_names import SignalName
    from lastly.app._core import App


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


class Settings:
    """The settings of an app, with their defaults. A program names its own in a nested class ``Meta``."""

    # -- who it is
    #: Its name: letters, digits, dashes and underscores. Needed.
    label: "ClassVar[str | None]" = None
    #: The command line without the program's name; None takes that of the process.
    argv: "ClassVar[list[str] | None]" = None

    # -- how it ends
    #: close() ends with sys.exit(exit_code). For a program that is the right thing, in its tests it is not.
    exit_on_close = False
    #: Signals that are caught, by number or by name ("USR1"); None leaves every signal as it is.
    catch_signals: "ClassVar[Sequence[int | SignalName] | None]" = [
        getattr(_signal, name)
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGBREAK")
        if hasattr(_signal, name)
    ]
    #: Called as (signum, frame) by a caught signal, instead of raising CaughtSignal.
    signal_handler: "ClassVar[Callable[[int, FrameType | None], Any] | None]" = None
    #: Seconds for all cleanups of app.scope together; None sets no limit.
    grace: "ClassVar[float | None]" = None

    # -- what it runs
    #: Called with the app by run(), unless a base controller is registered: a function, a coroutine function,
    #: a Click command or a Typer app. What it returns is what run() returns.
    main: "ClassVar[Callable[..., Any] | None]" = None

    #: Arguments that the command line does not know are no error: they are in app.args.unknown_args.
    ignore_unknown_arguments = False

    # -- how much it says
    #: Log everything. Turned on by the options below.
    debug = False
    debug_argument_options: "ClassVar[list[str] | None]" = ["-d", "--debug"]
    debug_argument_help = "full application debug mode"
    #: Neither standard output nor log on the console, unless it debugs. Turned on by the options below.
    quiet = False
    quiet_argument_options: "ClassVar[list[str] | None]" = ["-q", "--quiet"]
    quiet_argument_help = "suppress all console output"

    # -- configuration: {label}, {home_dir} and {suffix} are filled in
    #: The base section; None is the label.
    config_section: "ClassVar[str | None]" = None
    #: Settings by section; see init_defaults().
    config_defaults: "ClassVar[dict[str, Any] | None]" = None
    config_file_suffix = ".conf"
    #: Files read after the system's and before the user's.
    config_files: "ClassVar[list[str] | None]" = None
    #: Directories of files, likewise; all of them are read after the single files, and so win over them.
    config_dirs: "ClassVar[list[str] | None]" = None
    core_system_config_files: "ClassVar[list[str]]" = ["/etc/{label}/{label}{suffix}"]
    core_user_config_files: "ClassVar[list[str]]" = [
        "{home_dir}/.config/{label}/{label}{suffix}",
        "{home_dir}/.{label}/config/{label}{suffix}",
        "{home_dir}/.{label}{suffix}",
    ]
    core_system_config_dirs: "ClassVar[list[str]]" = ["/etc/{label}/ext.d", "/etc/{label}/plugins.d"]
    core_user_config_dirs: "ClassVar[list[str]]" = [
        "{home_dir}/.config/{label}/ext.d",
        "{home_dir}/.config/{label}/plugins.d",
        "{home_dir}/.{label}/config/ext.d",
        "{home_dir}/.{label}/config/plugins.d",
    ]
    #: Settings of this class that the base section may override.
    meta_override: "ClassVar[list[str]]" = []
    core_meta_override: "ClassVar[list[str]]" = ["debug", "plugin_dir", "log_handler"]

    # -- what is added to it
    #: Names of hooks to define, besides the usual ones.
    define_hooks: "ClassVar[list[str]]" = []
    #: (hook, function) or (hook, function, weight); the hook may be one that a plugin defines later.
    hooks: "ClassVar[list[tuple[Any, ...]]]" = []
    #: Modules that are imported and whose load(app) is called.
    extensions: "ClassVar[list[str]]" = []
    #: A module of the program's own, loaded likewise by setup(), before everything else.
    bootstrap: "ClassVar[str | None]" = None
    #: Plugins that are loaded whatever the configuration says.
    plugins: "ClassVar[list[str]]" = []
    #: Package in which plugins are looked for; None is LABEL.plugins.
    plugin_module: "ClassVar[str | None]" = None
    #: Directories in which plugins are looked for; the last one first.
    plugin_dirs: "ClassVar[list[str] | None]" = None
    #: One more such directory, meant for the user to set, looked at before plugin_dirs.
    plugin_dir: "ClassVar[str | None]" = None
    core_system_plugin_dirs: "ClassVar[list[str]]" = ["/usr/lib/{label}/plugins"]
    core_user_plugin_dirs: "ClassVar[list[str]]" = [
        "{home_dir}/.config/{label}/plugins",
        "{home_dir}/.{label}/plugins",
    ]
    #: Interface classes to define and handler classes to register, controllers among them.
    interfaces: "ClassVar[list[type]]" = []
    handlers: "ClassVar[list[type]]" = []
    #: A handler for app.log: a label, a class, or an instance.
    log_handler: "ClassVar[Any]" = "logging"
    #: Settings for handlers: {"log.logging": {"propagate": True}}.
    meta_defaults: "ClassVar[dict[str, dict[str, Any]]]" = {}


def check_label(app: "App") -> None:
    """Raise FrameworkError unless the app has a label that can be part of file names and commands."""
    from lastly.errors import FrameworkError

    label = app._meta.label
    if not label:
        raise FrameworkError("Application name missing.")
    if not isinstance(label, str) or not all(c.isalnum() or c in "-_" for c in label):
        raise FrameworkError("App label can only contain alpha-numeric, dashes, or underscores.")


def check_grace(app: "App") -> None:
    """Raise TypeError or ValueError for a grace that is not a length of time."""
    if app._meta.grace is not None:
        from lastly._words.clock import seconds

        seconds(app._meta.grace, "grace")


def override_from_config(app: "App") -> None:
    """Take over into the app's settings what its base section says and may say."""
    meta, config = app._meta, app.config
    for name in (*meta.core_meta_override, *meta.meta_override):
        if not config.has_option(meta.config_section, name):
            continue
        value = config.get(meta.config_section, name)
        if isinstance(getattr(meta, name, None), bool):
            value = is_true(value)
        elif name == "grace":
            value = _seconds_of_text(value, f"grace = {value!r} in the section {meta.config_section!r}")
        setattr(meta, name, value)


# A configuration file has texts for everything, as a rule.
def _seconds_of_text(text: "Any", where: str) -> float:
    from lastly._words.clock import seconds
    from lastly.errors import FrameworkError

    try:
        return seconds(float(text), "grace")
    except (TypeError, ValueError):
        raise FrameworkError(f"{where} of the configuration: a number of seconds, 0 or more") from None


def glance(meta: "Meta") -> None:
    """Find the switches in the arguments before anything is set up or can print.

    The parser is complete only after all extensions, plugins and hooks had their say, which is too late
    to be silent about them, or to debug them.
    """
    words = meta.argv
    if "--" in words:
        words = words[: words.index("--")]
    if any(option in words for option in meta.debug_argument_options or ()):
        meta.debug = True
    if any(option in words for option in meta.quiet_argument_options or ()):
        meta.quiet = True


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
