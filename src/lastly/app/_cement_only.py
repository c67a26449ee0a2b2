"""What Cement 3 has and lastly.app has not, and the one clear error that each of it gives.

lastly.app keeps Cement's core: settings, hooks, handlers, controllers, configuration, log, plugins. Output,
templates, mail, caches and the other extensions stay Cement's. A program that uses them stays on Cement, with
`lastly.integrations.cement` for its cleanup, so every error names that way.
"""

from lastly.errors import FrameworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly.app._core import App

# Extensions of Cement that are parts of lastly.app: naming them is no mistake and loads nothing.
BUILT_IN = frozenset({"argparse", "configparser", "dummy", "logging", "plugin"})

# The other extensions of Cement, by the short name that its programs write, with what takes its place here.
_FILES = "files ending in .{0} are read without an extension: set Meta.config_file_suffix = '.{0}'"
EXTENSIONS = {
    "alarm": "",
    "daemon": "",
    "generate": "",
    "jinja2": "",
    "json": _FILES.format("json"),
    "memcached": "",
    "mustache": "",
    "print": "",
    "redis": "",
    "scrub": "",
    "smtp": "",
    "tabulate": "",
    "watchdog": "",
    "yaml": _FILES.format("yaml"),
}

# Settings of Cement's App, with the values that mean what lastly.app does anyway.
SETTINGS: "dict[str, tuple[object, ...]]" = {
    "alternative_module_mapping": ({}, None),
    "argument_handler": ("argparse", None),
    "cache_handler": (None,),
    "config_handler": ("configparser", None),
    "core_handler_override_options": ({}, None),
    "extension_handler": ("cement", None),
    "handler_override_options": ({}, None),
    "mail_handler": ("dummy", None),
    "output_handler": ("dummy", None),
    "plugin_handler": ("cement", None),
    "template_dir": (None,),
    "template_dirs": ([], (), None),
    "template_handler": ("dummy", None),
    "template_module": (None,),
}
_INSTEAD = {
    "config_handler": "Meta.config_file_suffix chooses the format of configuration files: "
    ".conf, .json, .toml, .yaml",
}

# Attributes of Cement's App.
MEMBERS = frozenset(
    {
        "add_template_dir",
        "cache",
        "last_rendered",
        "mail",
        "output",
        "remove_template_dir",
        "render",
        "template",
    }
)

# Names of the package `cement`.
NAMES = {
    "fs": "use os.path, shutil and lastly.temp_dir",
    "get_version": "use importlib.metadata.version",
    "minimal_logger": "use logging.getLogger",
    "misc": "init_defaults and is_true are names of lastly.app itself",
    "shell": "use subprocess, or lastly.Popen",
}

_STAY = (
    "An application that needs it stays on Cement, and lastly.integrations.cement gives it lastly's cleanup"
)


class NotInLastlyError(FrameworkError, AttributeError):
    """An attribute that Cement's App has and lastly's has not."""


def extension_error(name: str, label: str) -> "FrameworkError | None":
    """Return the error for the extension *name* of the app *label*; None when it is not Cement's."""
    short = name.removeprefix("cement.ext.ext_")
    if short not in EXTENSIONS and not name.startswith("cement."):
        return None
    instead = EXTENSIONS.get(short)
    return FrameworkError(
        f"extension {name!r} of app {label!r} is Cement's, and lastly.app has none of that name: take it out "
        f"of Meta.extensions{f' ({instead})' if instead else ''}. {_STAY}"
    )


def check_settings(app: "App") -> None:
    """Raise FrameworkError for a setting of Cement's that would be ignored here."""
    for name, value in {**vars(app._meta), **app._life.ignored}.items():
        if name in SETTINGS and not any(type(value) is type(v) and value == v for v in SETTINGS[name]):
            instead = _INSTEAD.get(name)
            raise FrameworkError(
                f"Meta.{name} = {value!r} of app {app.label!r} is a setting of Cement, and lastly.app has no "
                f"such handlers: take it out{f' ({instead})' if instead else ''}. {_STAY}"
            )


def member_error(app: "App", name: str) -> AttributeError:
    """Return the error for the attribute *name* that *app* has not."""
    if name in MEMBERS:
        return NotInLastlyError(f"app.{name} is Cement's, and lastly.app has no output or templates. {_STAY}")
    return AttributeError(f"{type(app).__name__!r} object has no attribute {name!r}", name=name, obj=app)
