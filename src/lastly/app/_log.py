"""The log of an app: a logger of the standard library, set up from the app's configuration."""

import logging
import os
import sys

from lastly._system import user
from lastly.app._config import absolute
from lastly.app._settings import MetaMixin, is_true

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, TextIO

    from lastly.app._core import App

_LEVELS = {
    "INFO": logging.INFO,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "DEBUG": logging.DEBUG,
    "FATAL": logging.CRITICAL,
    "CRITICAL": logging.CRITICAL,
}


class _Logger(logging.Logger):
    """A logger that logging's manager does not know, so it does not clear a cache of its answers."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # logging's name
        return not self.disabled and self.manager.disable < level and level >= self.getEffectiveLevel()


class _Console(logging.Handler):
    """Print to what ``sys.stderr`` is at that moment, if there is one, unless the app is silent."""

    terminator = "\n"

    def __init__(self, app: "App") -> None:
        super().__init__()
        self._app = app

    def emit(self, record: logging.LogRecord) -> None:
        stream: TextIO | None = sys.stderr
        if stream is None or self._app._life.silent:
            return
        try:
            stream.write(self.format(record) + self.terminator)
            stream.flush()
        except Exception:
            self.handleError(record)


class _Made:
    """A file whose folder may be another user's: root gives it to that user, who logs there, too."""

    baseFilename: str  # noqa: N815  # logging's name

    def _open(self) -> "Any":
        user.make_file(self.baseFilename)
        return super()._open()  # type: ignore[misc]  # what it is mixed into is a FileHandler


class _File(_Made, logging.FileHandler):
    pass


class LogHandler(MetaMixin):
    """``app.log``: print ``LEVEL: message`` to standard error, and write to a file when one is configured.

    The section ``log.logging`` of the app's configuration says how: ``level`` (default INFO), ``file``,
    ``to_console``, and with ``rotate`` the limits ``max_bytes`` and ``max_files``.

    .. versionadded:: 0.1
    """

    class Meta:
        """What a program may set, by ``meta_defaults['log.logging']`` or in a subclass."""

        interface = "log"
        label = "logging"
        config_section = None
        namespace = None
        formatter_class = logging.Formatter
        file_format = "%(asctime)s (%(levelname)s) %(namespace)s : %(message)s"
        console_format = "%(levelname)s: %(message)s"
        debug_format = "%(asctime)s (%(levelname)s) %(namespace)s : %(message)s"
        config_defaults: "ClassVar[dict[str, Any]]" = {
            "file": None,
            "level": "INFO",
            "to_console": True,
            "rotate": False,
            "max_bytes": 512000,
            "max_files": 4,
        }
        log_level_argument: "ClassVar[list[str] | None]" = None
        log_level_argument_help = "logging level"
        propagate = False

    app: "App"
    backend: logging.Logger
    _offered: "object" = None

    def _setup(self, app: "App") -> None:
        self.app = app
        if self._meta.namespace is None:
            self._meta.namespace = app._meta.label
        if self._meta.config_section is None:
            self._meta.config_section = f"log.{self._meta.label}"
        app.config.merge({self._meta.config_section: self._meta.config_defaults}, override=False)
        # A logger of this app alone, not one that logging keeps by name for the life of the process: two
        # apps of one label would write to each other's files, and the next app to the last one's.
        self.backend = _Logger(f"lastly.app.{app._meta.label}")
        self.backend.propagate = is_true(self._meta.propagate)
        if self.backend.propagate:
            self.backend.parent = logging.getLogger()
        self.backend.addHandler(logging.NullHandler())
        if is_true(self._setting("to_console")):
            self._add(_Console(app), self._meta.console_format)
        if self._setting("file"):
            self._add(self._file(), self._meta.file_format, to_file=True)
        self.set_level("DEBUG" if app.debug else self._setting("level"))
        self._offer_argument()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._meta.namespace!r} {self.get_level()}>"

    def _setting(self, key: str) -> "Any":
        return self.app.config.get(self._meta.config_section, key)

    def _add(self, handler: logging.Handler, text: str, *, to_file: bool = False) -> None:
        handler.setFormatter(self._formatter(self._meta.debug_format if self.app.debug else text, to_file))
        self.backend.addHandler(handler)

    # The second argument: for handlers that colour one and not the other.
    def _formatter(self, text: str, to_file: bool) -> logging.Formatter:  # noqa: ARG002
        formatter: logging.Formatter = self._meta.formatter_class(text)
        return formatter

    def _file(self) -> logging.Handler:
        path = absolute(self._setting("file"))
        user.make_folders(os.path.dirname(path))
        if not is_true(self._setting("rotate")):
            return _File(path, encoding="utf-8")
        from logging.handlers import RotatingFileHandler

        class Rotating(_Made, RotatingFileHandler):
            pass

        return Rotating(
            path,
            maxBytes=int(self._setting("max_bytes")),
            backupCount=int(self._setting("max_files")),
            encoding="utf-8",
        )

    # The option that sets the level, where the program asked for one.
    def _offer_argument(self) -> None:
        if self._meta.log_level_argument is None:
            return
        self.app.hook.register("pre_argument_parsing", self._add_argument)
        self.app.hook.register("post_argument_parsing", self._take_argument)

    def _add_argument(self, app: "App") -> None:
        if self._offered is app.args:  # a second run()
            return
        self._offered = app.args
        app.args.add_argument(
            *self._meta.log_level_argument,
            dest="log_logging_level",
            help=self._meta.log_level_argument_help,
            choices=[name.lower() for name in _LEVELS],
        )

    def _take_argument(self, app: "App") -> None:
        level = getattr(app.pargs, "log_logging_level", None)
        if level is not None:
            self.set_level(level)

    def set_level(self, level: str) -> None:
        """Log what is of *level* or above from now on.

        Args:
            level: DEBUG, INFO, WARNING, ERROR, CRITICAL or FATAL, in any case. Any other is INFO.

        .. versionadded:: 0.1
        """
        self.backend.setLevel(_LEVELS.get(str(level).upper(), logging.INFO))

    def get_level(self) -> str:
        """Return the name of the level: CRITICAL also where FATAL was set."""
        return logging.getLevelName(self.backend.level)

    def close(self) -> None:
        """Close the log file; from then on the console is all there is. A second call does nothing.

        .. versionadded:: 0.1
        """
        for handler in [h for h in self.backend.handlers if isinstance(h, logging.FileHandler)]:
            self.backend.removeHandler(handler)
            handler.close()

    def info(self, msg: str, namespace: str | None = None, **options: "Any") -> None:
        """Log *msg* as INFO.

        Args:
            msg: The message. It is not a format: there are no arguments to fill into it.
            namespace: Who says so, in the formats that show it; the app's label by default.
            options: What ``logging.Logger.log`` takes: ``exc_info``, ``extra``, ``stack_info``.

        .. versionadded:: 0.1
        """
        self._log(logging.INFO, msg, namespace, options)

    def warning(self, msg: str, namespace: str | None = None, **options: "Any") -> None:
        """Log *msg* as WARNING; the arguments are those of :meth:`info`."""
        self._log(logging.WARNING, msg, namespace, options)

    def error(self, msg: str, namespace: str | None = None, **options: "Any") -> None:
        """Log *msg* as ERROR; the arguments are those of :meth:`info`."""
        self._log(logging.ERROR, msg, namespace, options)

    def critical(self, msg: str, namespace: str | None = None, **options: "Any") -> None:
        """Log *msg* as CRITICAL; the arguments are those of :meth:`info`."""
        self._log(logging.CRITICAL, msg, namespace, options)

    def fatal(self, msg: str, namespace: str | None = None, **options: "Any") -> None:
        """Log *msg* as CRITICAL: another name for :meth:`critical`."""
        self._log(logging.CRITICAL, msg, namespace, options)

    def debug(self, msg: str, namespace: str | None = None, **options: "Any") -> None:
        """Log *msg* as DEBUG; the arguments are those of :meth:`info`."""
        self._log(logging.DEBUG, msg, namespace, options)

    def _log(self, level: int, msg: str, namespace: str | None, options: "dict[str, Any]") -> None:
        if not self.backend.isEnabledFor(level):
            return
        extra = {"namespace": namespace or self._meta.namespace, **options.pop("extra", {})}
        options["stacklevel"] = options.get("stacklevel", 1) + 2  # the caller's line, not this one
        self.backend.log(level, msg, extra=extra, **options)


# -- Silence: what ``-q`` takes away is standard output and the log on the console, never an error. Standard
# error stays as it is. A traceback, argparse's usage error, a warning, a thread's last words are there to be
# read also, and above all, when no person watches.

# More than one app can be quiet at a time, and they may end in any order: the first one takes the stream
# away, the last one brings it back.
_holders: set[int] = set()
_sink: "TextIO | None" = None
_stdout: "TextIO | None" = None


def suppress(app: object) -> None:
    """Let nothing printed reach standard output until *app* calls :func:`restore`; twice is once."""
    global _sink, _stdout
    if not _holders:
        _stdout = sys.stdout
        _sink = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # open until restore()
        sys.stdout = _sink
    _holders.add(id(app))


def restore(app: object) -> None:
    """Give standard output back, unless another app is still quiet; does nothing for an app that is not."""
    global _sink, _stdout
    if id(app) not in _holders:
        return
    _holders.discard(id(app))
    if _holders:
        return
    if sys.stdout is _sink and _stdout is not None:
        sys.stdout = _stdout
    if _sink is not None:
        _sink.close()
    _sink = _stdout = None
