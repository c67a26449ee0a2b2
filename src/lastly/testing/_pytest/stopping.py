"""How a signal ends a test run: in order, through every teardown, and then the process dies of it.

By itself pytest knows Ctrl-C only: a KeyboardInterrupt leaves the test, fixtures are torn down, the summary
is printed, the status is 2. After SIGTERM nothing of that happens (pytest#5243). So from the first use of a
fixture of ours on, SIGTERM, SIGHUP and SIGQUIT are raised as a KeyboardInterrupt too; a SystemExit, as which
`lastly.install` raises them elsewhere, pytest would take for a failed test, and begin the next one.

Signals in other hands (the project's handler, its own install(), ``lastly run``) stay there; of the last two
only the kind of exception changes.
"""

from os import getpid
from signal import SIG_DFL, Signals, getsignal

from lastly._exit import signals, swallowed
from lastly._exit.state import end

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pytest

    from lastly._words.signal_names import SignalName

_NAMES: "tuple[SignalName, ...]" = ("SIGTERM", "SIGHUP", "SIGQUIT")
_PLUGIN = "lastly-stopping"


def begin(session: "pytest.Session") -> None:
    """Have signals end this run in order; a second call does nothing."""
    plugins = session.config.pluginmanager
    if plugins.has_plugin(_PLUGIN):
        return
    taken = False
    if not end.previous:
        try:
            signals.install([name for name in _NAMES if getsignal(Signals[name]) is SIG_DFL])
        except RuntimeError:  # pytest.main() in another thread: what is durable is safe all the same
            return
        taken = True
    plugins.register(Stopping(session, taken=taken), _PLUGIN)
    if hasattr(session.config, "workerinput"):
        from lastly.testing._pytest import controller

        controller.end_with_it()


class Stopping:
    """The hooks of a run whose signals are caught."""

    def __init__(self, session: "pytest.Session", *, taken: bool) -> None:
        self.session = session
        # A run inside a run (pytester's) adds nothing, and takes nothing away.
        self.added = swallowed.interrupt_by(set(end.previous))
        self.taken = getpid() if taken else 0

    def pytest_keyboard_interrupt(self, excinfo: "pytest.ExceptionInfo[BaseException]") -> None:
        """Keep the signal: pytest catches it by name, and goes on to its teardowns, but ends by it."""
        if hasattr(excinfo.value, "signum"):
            swallowed.trust()

    def pytest_runtest_logfinish(self) -> None:
        """Begin no other test when the signal has not come out of this one: a guest loop of trio keeps it."""
        if end.signum and not self.session.shouldstop:
            self.session.shouldstop = f"caught {Signals(end.signum).name}"

    def pytest_unconfigure(self) -> None:
        """Give the signals back, unless one of them is ending the process."""
        if end.signum:
            return
        swallowed.interrupt_no_more(self.added)
        if self.taken == getpid():
            import warnings

            with warnings.catch_warnings():  # a test has put a handler of its own there: not our news
                warnings.simplefilter("ignore")
                signals.uninstall()
