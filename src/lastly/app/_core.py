"""The application object: what an app has and offers. How it lives and ends is in _lifecycle.py."""

import sys

from lastly.app import _lifecycle, _settings
from lastly.errors import FrameworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from lastly._scope.scope import Scope
    from lastly._words.signal_names import SignalName
    from lastly.app._commandline import ArgumentParser
    from lastly.app._config import Config
    from lastly.app._handlers import HandlerManager, InterfaceManager
    from lastly.app._hooks import HookManager
    from lastly.app._log import LogHandler
    from lastly.app._plugins import ExtensionManager, PluginManager


class App(_settings.MetaMixin):
    """An application: set up, run, closed, with its close hooks run whatever happened.

    Usually the context of a ``with`` statement, which sets it up and closes it. However the program ends, by
    an exception, ``sys.exit``, ``--help``, a signal, a failing setup, or because the app was never closed,
    the hooks ``pre_close`` and ``post_close`` run, and the cleanups of :attr:`scope` between them. All of
    them are tried, and the program's own end, its status or its exception, stays what it was.

    Args:
        label: The app's name, unless its ``Meta`` has it.
        meta: Other settings of ``Meta``; what is not one of them is ignored.

    Raises:
        FrameworkError: No label, or one with other characters than letters, digits, dashes and underscores.

    .. versionadded:: 0.1
    """

    class Meta(_settings.Settings):
        """The settings of an app, described one by one in ``lastly.app._settings``."""

    #: Whether a signal is done with when the app is closed. Otherwise the process ends by it.
    forgets_signals = False
    #: The status with which the program is to end.
    exit_code: int
    hook: "HookManager"
    # These exist from setup() on; before it they are None, which type checkers would complain about
    # everywhere.
    ext: "ExtensionManager"
    config: "Config"
    log: "LogHandler"
    plugin: "PluginManager"
    args: "ArgumentParser"
    controller: "Any"

    def __init__(self, label: str | None = None, **meta: "Any") -> None:
        super().__init__(**meta)
        if label is not None:
            self._meta.label = label
        _settings.check_label(self)
        _settings.check_grace(self)
        if self._meta.argv is None:
            self._meta.argv = sys.argv[1:]
        self._life = _lifecycle.Life()
        self._life.ignored = {name: value for name, value in meta.items() if not hasattr(self._meta, name)}
        _settings.glance(self._meta)
        _lifecycle.reset(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._meta.label!r} {self._life.state}>"

    if not TYPE_CHECKING:  # to a type checker a name that is not there is a mistake

        def __getattr__(self, name: str) -> object:
            from lastly.app._cement_only import member_error

            raise member_error(self, name)

    @property
    def label(self) -> str:
        """The app's name."""
        return str(self._meta.label)

    @property
    def debug(self) -> bool:
        """Whether everything is to be logged."""
        return bool(self._meta.debug)

    @property
    def quiet(self) -> bool:
        """Whether nothing is to be printed, unless everything is to be logged; errors are, all the same."""
        return bool(self._meta.quiet)

    @property
    def argv(self) -> "list[str]":
        """The arguments that run() parses."""
        return list(self._meta.argv)

    @property
    def pargs(self) -> "Any":
        """The parsed arguments; None before run() has parsed them."""
        return self._life.parsed

    @property
    def scope(self) -> "Scope":
        """The app's own scope: its cleanups run newest first, after ``pre_close`` and before ``post_close``.

        They run when the app is closed, also one that was never set up. Deferred actions are durable.

        .. versionadded:: 0.1
        """
        return _lifecycle.scope_of(self)

    @property
    def interface(self) -> "InterfaceManager":
        """The interfaces of which handlers can be registered."""
        return _lifecycle.registries_of(self)[0]

    @property
    def handler(self) -> "HandlerManager":
        """The registered handlers, by interface and label."""
        return _lifecycle.registries_of(self)[1]

    def setup(self) -> None:
        """Make the app ready: configuration, log, extensions, plugins, arguments, signals.

        An app that is set up already is reloaded; one that was closed starts its life anew, with the
        hooks it was made with and exit code 0. If something fails, the app is closed before the failure
        comes out.

        Raises:
            FrameworkError: An extension or a plugin cannot be loaded.

        .. versionadded:: 0.1
        """
        _lifecycle.setup(self)

    def run(self) -> "Any":
        """Parse the arguments and run the program: its base controller, else its ``main``, if it has one.

        Each call parses and runs again. An app that is not set up is.

        Returns:
            What the controller's command or ``main`` returned.

        Raises:
            SystemExit: After ``--help`` and wrong arguments, and where the program exits; its code
                becomes :attr:`exit_code` unless that was set before.

        .. versionadded:: 0.1
        """
        return _lifecycle.run(self)

    def run_forever(self, interval: float = 1, tb: bool = True) -> None:
        """Run again and again; after an exception log it, wait, and reload the app first.

        Ends by anything but an ordinary exception: a caught signal, Ctrl-C, ``sys.exit``.

        Args:
            interval: Seconds between two runs.
            tb: Print the tracebacks of exceptions, to standard error.

        .. versionadded:: 0.1
        """
        _lifecycle.run_forever(self, interval, tb)

    def reload(self) -> None:
        """Set the app up again while it runs: for changed configuration, say.

        Hooks, members and settings added since it was made are gone, unless what added them does so again.
        No close hook runs, and the cleanups in :attr:`scope` stay for close(). A signal that the program
        has caught counts as answered.

        .. versionadded:: 0.1
        """
        _lifecycle.reload(self)

    def close(self, code: int | None = None) -> None:
        """Run ``pre_close``, the cleanups of :attr:`scope` and ``post_close``, and give everything back.

        All are tried, whatever becomes of the others. A second call does nothing. In another process than
        the one that set the app up, a forked child, nothing is run; ``exit_on_close`` holds there too.

        Args:
            code: Becomes :attr:`exit_code`.

        Raises:
            TypeError: *code* is not an integer; nothing was run.
            CleanupFailed: What failed; with ``exit_on_close`` and an exit code it is printed instead.
            SystemExit: With ``exit_on_close``, with the exit code.
            CaughtSignal: With ``exit_on_close``, if a signal was caught and the exit code left at 0.

        .. versionadded:: 0.1
        """
        _lifecycle.close(self, code)

    def extend(self, member_name: str, member_object: "Any") -> None:
        """Make *member_object* an attribute of the app, by the name *member_name*.

        Raises:
            FrameworkError: The app has one of that name, so also at a second call.

        .. versionadded:: 0.1
        """
        if hasattr(self, member_name):
            raise FrameworkError(f"App member '{member_name}' already exists!")
        setattr(self, member_name, member_object)
        self._life.members.append(member_name)

    def add_arg(self, *args: "Any", **options: "Any") -> None:
        """Add an argument to the command line; see :meth:`argparse.ArgumentParser.add_argument`."""
        self.args.add_argument(*args, **options)

    def catch_signal(self, signum: "int | SignalName") -> None:
        """Catch the signal *signum* too, until the app is closed; a second call does nothing more.

        Args:
            signum: Its number, or its name ("USR1").

        Raises:
            ValueError: There is no such signal, or it cannot be caught; nothing has changed.

        .. versionadded:: 0.1
        """
        _lifecycle.catch_signal(self, signum)

    def validate_config(self) -> None:
        """Look at ``self.config`` and raise, or change it; called when all files are read. For subclasses."""

    def add_config_dir(self, path: str) -> None:
        """Add the directory *path* to those searched for configuration files; twice is once."""
        self._add_path("config_dirs", path)

    def add_config_file(self, path: str) -> None:
        """Add the file *path* to the configuration files to read; twice is once."""
        self._add_path("config_files", path)

    def add_plugin_dir(self, path: str) -> None:
        """Add the directory *path* to those searched for plugins, as the last one; twice is once."""
        self._add_path("plugin_dirs", path)

    def _add_path(self, setting: str, path: str) -> None:
        from lastly.app._config import absolute

        known = [*(getattr(self._meta, setting) or ())]
        path = absolute(path)
        if path not in known:
            setattr(self._meta, setting, [*known, path])

    def _suppress_output(self) -> None:
        self._life.silent = True
        from lastly.app._log import suppress

        suppress(self)

    def __enter__(self) -> "Self":
        self.setup()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        _lifecycle.leave(self, exc)
