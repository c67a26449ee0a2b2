"""An app for tests: nothing of the machine it runs on."""

import os

from lastly.app._core import App

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class TestApp(App):
    """An app that reads no configuration file, looks for no plugin, parses no argument and never exits.

    What a test needs of these it names itself. The label is a random one, so that no environment variable
    meant for another app is found. A signal that a test sends is done with when its app is closed.

    .. versionadded:: 0.1
    """

    forgets_signals = True  # the process is the test runner's
    __test__ = False  # a class called Test…, and still none of pytest's

    class Meta:
        """The settings of an app in a test."""

        label = f"app-{os.urandom(6).hex()}"
        argv: "ClassVar[list[str]]" = []
        exit_on_close = False
        config_files: "ClassVar[list[str]]" = []
        config_dirs: "ClassVar[list[str]]" = []
        core_system_config_files: "ClassVar[list[str]]" = []
        core_user_config_files: "ClassVar[list[str]]" = []
        core_system_config_dirs: "ClassVar[list[str]]" = []
        core_user_config_dirs: "ClassVar[list[str]]" = []
        plugin_dirs: "ClassVar[list[str]]" = []
        core_system_plugin_dirs: "ClassVar[list[str]]" = []
        core_user_plugin_dirs: "ClassVar[list[str]]" = []
