"""What an app is made of, made in the order in which hooks, extensions and plugins find it."""

from lastly.app import _settings
from lastly.app._dispatch import has_registry
from lastly.app._hooks import run_hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly.app._core import App


def make(app: "App") -> None:
    """Make all parts of *app*, from the hook pre_setup to post_setup."""
    run_hook(app, "pre_setup")
    _make_extensions(app)
    _make_config(app)
    _make_log(app)
    _make_plugins(app)
    from lastly.app._commandline import parser_for

    app.args = parser_for(app)
    if has_registry(app):
        from lastly.app._controllers import base_controller

        app.controller = base_controller(app)
    run_hook(app, "post_setup")


def _make_extensions(app: "App") -> None:
    from lastly.app._plugins import ExtensionManager

    app.ext = ExtensionManager(app)
    app.ext.load_extensions(app._meta.extensions)


def _make_config(app: "App") -> None:
    from lastly.app import _config

    meta = app._meta
    if meta.config_section is None:
        meta.config_section = meta.label
    app.config = _config.Config(meta.config_section)
    app.config.merge(meta.config_defaults or {})
    if not app.config.has_section(meta.config_section):
        app.config.add_section(meta.config_section)
    meta.config_dirs, meta.config_files = _config.config_dirs(meta), _config.config_files(meta)
    for path in meta.config_files:
        app.config.parse_file(path)
    for directory in meta.config_dirs:
        for path in _config.files_of(directory, meta.config_file_suffix):
            app.config.parse_file(path)
    if meta.debug:  # by the program or its command line: over the files, and below the environment
        app.config.set(meta.config_section, "debug", True)
    quiet = meta.quiet
    _settings.override_from_config(app)
    meta.quiet = quiet or meta.quiet
    app.ext.load_configured()
    app.validate_config()


def _make_log(app: "App") -> None:
    handler = app._meta.log_handler
    if handler == "logging":
        from lastly.app._log import LogHandler

        handler = LogHandler
    if isinstance(handler, type) and not has_registry(app):
        log = handler(**app._meta.meta_defaults.get("log.logging", {}))
        log._setup(app)
    else:
        log = app.handler.resolve("log", handler, setup=True)
    app.log = log


def _make_plugins(app: "App") -> None:
    from lastly.app._config import plugin_dirs
    from lastly.app._plugins import PluginManager

    meta = app._meta
    meta.plugin_dirs = plugin_dirs(meta)
    if meta.plugin_module is None:
        meta.plugin_module = f"{meta.label}.plugins"
    app.plugin = PluginManager(app)
    app.plugin.load_plugins(meta.plugins)
    app.plugin.load_plugins(app.plugin.get_enabled_plugins())


def complete(app: "App") -> None:
    """Make what close hooks count on, where the setup failed before it: app.config and app.log.

    They then know what the program's defaults say, and nothing else.
    """
    from lastly.app._config import Config
    from lastly.app._log import LogHandler

    meta = app._meta
    made = vars(app)
    if made["config"] is None:
        app.config = Config(meta.config_section or meta.label)
        app.config.merge(meta.config_defaults or {})
    if made["log"] is None:
        app.config.merge({"log.logging": {"file": None}})
        app.log = LogHandler()
        app.log._setup(app)
