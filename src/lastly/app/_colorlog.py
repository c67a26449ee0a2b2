"""The extension ``colorlog``: the log of an app in colours, by the package of that name.

``extensions = ["colorlog"]`` and ``log_handler = "colorlog"`` in an app's ``Meta`` turn it on. Colours go to
a terminal only; the environment's NO_COLOR and FORCE_COLOR have the last word, as `colorlog` heeds them.
"""

import logging
import sys

from lastly.app._log import LogHandler
from lastly.app._settings import is_true
from lastly.errors import FrameworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from lastly.app._core import App


class ColorLogHandler(LogHandler):
    """`app.log` in colours; the section ``log.colorlog`` of the configuration says the rest.

    Besides the keys of ``log.logging``: ``colorize_console_log`` (default true) and ``colorize_file_log``
    (default false).

    .. versionadded:: 0.1
    """

    class Meta:
        """What a program may set, by ``meta_defaults['log.colorlog']`` or in a subclass."""

        label = "colorlog"
        #: The colours of the levels, in the words of the package `colorlog`.
        colors: "ClassVar[dict[str, str]]" = {
            "DEBUG": "cyan",
            "INFO": "green",
            "WARNING": "yellow",
            "ERROR": "red",
            "CRITICAL": "red,bg_white",
        }
        config_defaults: "ClassVar[dict[str, Any]]" = {
            **LogHandler.Meta.config_defaults,
            "colorize_console_log": True,
            "colorize_file_log": False,
        }

    def _formatter(self, text: str, to_file: bool) -> logging.Formatter:
        if not is_true(self._setting("colorize_file_log" if to_file else "colorize_console_log")):
            return super()._formatter(text, to_file)
        from colorlog import ColoredFormatter

        stream = None if to_file else sys.stderr  # None: in colours, whatever it is
        return ColoredFormatter(f"%(log_color)s{text}", log_colors=self._meta.colors, stream=stream)


def load(app: "App") -> None:
    """Register the handler.

    Raises:
        FrameworkError: The package `colorlog` is not installed.
    """
    try:
        import colorlog  # noqa: F401  # to know that it is there
    except ImportError as exc:
        raise FrameworkError(f"extension 'colorlog': {exc}; pip install 'lastly[colorlog]'") from exc
    app.handler.register(ColorLogHandler)
