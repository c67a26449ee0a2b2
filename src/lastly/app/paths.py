"""Where an app's configuration files and plugins are looked for."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lastly.app.meta import Meta


def absolute(path: str) -> str:
    """Return *path* absolute, ``~`` and ``~user`` resolved."""
    return os.path.abspath(os.path.expanduser(path))


# The templates of a list, filled in; each path once, where it came first.
def _filled(meta: "Meta", *lists: "Iterable[str] | None") -> "list[str]":
    words = {
        "label": meta.label,
        "home_dir": os.path.expanduser("~"),
        "suffix": meta.config_file_suffix,
    }
    paths: dict[str, None] = {}
    for templates in lists:
        for template in templates or ():
            path = template
            # Not str.format: a directory may have any name, also one with other braces in it.
            for word, value in words.items():
                path = path.replace("{" + word + "}", value)
            paths[absolute(path)] = None
    return [*paths]


def config_files(meta: "Meta") -> "list[str]":
    """Return the configuration files of an app, in the order in which they are read: the last one wins."""
    return _filled(meta, meta.core_system_config_files, meta.config_files, meta.core_user_config_files)


def config_dirs(meta: "Meta") -> "list[str]":
    """Return the directories of configuration files, read after the single files, in this order."""
    return _filled(meta, meta.core_system_config_dirs, meta.config_dirs, meta.core_user_config_dirs)


def files_of(directory: str, suffix: str) -> "list[str]":
    """Return the files of *directory* whose names end in *suffix*, by name; none if it is not there."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [os.path.join(directory, name) for name in sorted(names) if name.endswith(suffix)]


def plugin_dirs(meta: "Meta") -> "list[str]":
    """Return the directories of plugins; the first one that has a plugin is where it is loaded from.

    A user's directories stand before the program's, and those before the system's.
    """
    single = () if meta.plugin_dir is None else (meta.plugin_dir,)
    lists = (meta.core_system_plugin_dirs, meta.plugin_dirs, single, meta.core_user_plugin_dirs)
    return _filled(meta, *lists)[::-1]
