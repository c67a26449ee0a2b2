"""Settings of an app's user: environment over files over the program's defaults; and the files' places."""

import os
from configparser import RawConfigParser

from lastly._system import user
from lastly._words.warn import warn
from lastly.errors import FrameworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from lastly.app._settings import Meta


class Config(RawConfigParser):
    """The settings of one app, in sections of keys; keys do not distinguish case.

    The environment wins over everything else: with the base section ``backup``, ``BACKUP_LEVEL`` is the
    value of ``level`` in that section, and ``BACKUP_TARGET_PATH`` that of ``path`` in the section
    ``target``. What is not a letter or a digit becomes an underscore in such a name.

    Every method of the standard library's :class:`configparser.RawConfigParser` works too.

    .. versionadded:: 0.1
    """

    def __init__(self, base_section: str) -> None:
        super().__init__()
        self._base_section = base_section

    def __repr__(self) -> str:
        return f"<Config {self._base_section!r}: {len(self.sections())} sections>"

    # configparser itself walks and copies sections by these names, with other arguments.

    def keys(self, section: str | None = None) -> "Any":
        """Return the names of the settings in *section* (of all sections, when none is given).

        Raises:
            configparser.NoSectionError: No such section.

        .. versionadded:: 0.1
        """
        return super().keys() if section is None else self.options(section)

    def get(self, section: str, key: str, **options: "Any") -> "Any":  # type: ignore[override]  # the second
        # argument is called ``key`` here, as Cement's programs call it
        """Return the value of *key* in *section*: from the environment, else as it was set last.

        What comes from the environment or a file is a string; ``getint`` and its like convert.

        Args:
            section: Name of the section.
            key: Name of the setting.
            options: ``fallback=value`` returns the value where there would be an error.

        Raises:
            configparser.NoSectionError: No such section.
            configparser.NoOptionError: No such key in it, and none in the environment.

        .. versionadded:: 0.1
        """
        value = os.environ.get(self.env_name(section, key))
        return super().get(section, key, **options) if value is None else value

    def env_name(self, section: str, key: str) -> str:
        """Return the name of the environment variable that overrides *key* in *section*.

        .. versionadded:: 0.1
        """
        words = (key,) if section == self._base_section else (section, key)
        name = "_".join((self._base_section, *words))
        return "".join(c if c.isascii() and c.isalnum() else "_" for c in name).upper()

    def set(self, section: str, key: str, value: "Any" = None) -> None:
        """Set *key* in *section* to *value*, of any type. A second call replaces it.

        Raises:
            configparser.NoSectionError: No such section: ``add_section`` first.

        .. versionadded:: 0.1
        """
        super().set(section, key, value)

    def get_sections(self) -> "list[str]":
        """Return the names of all sections, in the order in which they came."""
        return self.sections()

    def get_section_dict(self, section: str) -> "dict[str, Any]":
        """Return the settings of *section* as a new dict, the environment's values included.

        Raises:
            configparser.NoSectionError: No such section.

        .. versionadded:: 0.1
        """
        return {key: self.get(section, key) for key in self.options(section)}

    def get_dict(self) -> "dict[str, dict[str, Any]]":
        """Return all settings as new dicts by section, the environment's values included."""
        return {section: self.get_section_dict(section) for section in self.sections()}

    def merge(self, dict_obj: "Mapping[str, Any]", override: bool = True) -> None:
        """Take over the settings of *dict_obj*, a mapping of mappings by section.

        Args:
            dict_obj: New sections are added. A value that is not a mapping is ignored.
            override: False keeps what is set already, and only adds the rest.

        Raises:
            TypeError: *dict_obj* is not a mapping; nothing changed.

        .. versionadded:: 0.1
        """
        if not hasattr(dict_obj, "items"):
            raise TypeError(f"config.merge() takes a mapping of sections, each a mapping, not {dict_obj!r}")
        for section, settings in dict_obj.items():
            if not hasattr(settings, "items"):
                continue
            if not self.has_section(section):
                self.add_section(section)
            for key, value in settings.items():
                if override or not self.has_option(section, key):
                    self.set(section, key, value)

    def parse_file(self, file_path: str) -> bool:
        """Read the file *file_path* over the settings; what it does not name stays what it was.

        Read again, it is merged again. The end of its name tells the format: ``.json``, ``.toml``, ``.yaml``
        or ``.yml`` (by PyYAML: ``lastly[yaml]``); any other is INI. In those formats values keep their types,
        and what stands in no section belongs to the base section.

        Args:
            file_path: A file in UTF-8; a leading ``~`` is the user's home.

        Returns:
            False when there is no such file, or it may not be read: nothing changed.

        Raises:
            configparser.Error: It is not an INI file; nothing changed.
            FrameworkError: It is not in the format that its name says, or PyYAML is not installed; nothing
                changed.

        .. versionadded:: 0.1
        """
        if (kind := os.path.splitext(file_path)[1].lower()) in TYPED:
            return self._parse_typed(absolute(file_path), kind)
        # Read into a parser of its own: configparser joins the lines of *all* values after each file,
        # and so turns a default that is a list of words into text, and fails on a list of numbers.
        fresh = RawConfigParser()
        fresh.optionxform = self.optionxform  # type: ignore[method-assign]  # documented as assignable
        try:
            with open(absolute(file_path), encoding="utf-8") as file:
                fresh.read_file(file, source=file_path)
        except OSError:
            return False
        self.merge({section: dict(fresh.items(section)) for section in fresh.sections()})
        return True

    def _parse_typed(self, path: str, kind: str) -> bool:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError:
            return False
        try:
            found = TYPED[kind](data)
        except ImportError as exc:
            raise FrameworkError(f"configuration file {path}: {exc}; pip install 'lastly[yaml]'") from exc
        except Exception as exc:  # each format has its own; YAML's alone are six
            raise FrameworkError(f"configuration file {path} is not valid {kind[1:].upper()}: {exc}") from exc
        if not isinstance(found or {}, dict):
            raise FrameworkError(f"configuration file {path} holds no sections: {found!r}")
        sections: dict[str, dict[str, Any]] = {}
        for name, value in (found or {}).items():
            if isinstance(value, dict):
                sections.setdefault(str(name), {}).update((str(key), each) for key, each in value.items())
            else:
                sections.setdefault(self._base_section, {})[str(name)] = value
        self.merge(sections)
        return True


def _json(data: bytes) -> "Any":
    import json

    return json.loads(data)


def _toml(data: bytes) -> "Any":
    import tomllib

    return tomllib.loads(data.decode())


def _yaml(data: bytes) -> "Any":
    import yaml

    return yaml.safe_load(data)


# What reads a configuration file that is not INI, by the end of its name.
TYPED: "dict[str, Callable[[bytes], Any]]" = {
    ".json": _json, ".toml": _toml, ".yaml": _yaml, ".yml": _yaml
}  # fmt: skip


# -- where files and plugins are looked for


def absolute(path: str) -> str:
    """Return *path* absolute, ``~`` and ``~user`` resolved; for root ``~`` is root's, whatever HOME says."""
    return os.path.abspath(user.expanded(path))


_said = False


# The templates of a list, filled in; each path once, where it came first.
def _filled(meta: "Meta", *lists: "Iterable[str] | None") -> "list[str]":
    words = {
        "label": meta.label,
        "home_dir": user.home(),
        "suffix": meta.config_file_suffix,
    }
    given = os.path.expanduser("~")
    paths: dict[str, None] = {}
    for templates in lists:
        for template in templates or ():
            path = template
            # Not str.format: a directory may have any name, also one with other braces in it.
            for word, value in words.items():
                path = path.replace("{" + word + "}", value)
            paths[absolute(path)] = None
            if (template[:1] == "~" or "{home_dir}" in template) and words["home_dir"] != given:
                _say_if_there(path.replace(words["home_dir"], given, 1), words["home_dir"])
    return [*paths]


def _say_if_there(path: str, home: str) -> None:
    """Say, once, that root does not take as its own what stands in the home that HOME names."""
    global _said
    if os.path.lexists(path) and not _said:
        _said = True
        warn(f"root uses nothing from HOME, which is another user's: {path!r}; put it into {home!r}")


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
