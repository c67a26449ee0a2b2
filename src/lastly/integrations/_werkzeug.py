"""Werkzeug's reloader: two processes import the program, and only the second one serves.

The first one starts the second, waits for it, and starts it again when a file has changed. What the program
defers or starts while it is imported is there twice; here we tell the two apart.

When the first one is told to stop, it kills the second with SIGKILL, at once after SIGTERM and a quarter of a
second after Ctrl-C: no cleanup survives that. So, while it waits, it passes signals on instead, and does what
it would have done when the other has ended.

When the first one is killed itself, the second would serve on, with its port and its schedulers, beside the
one that is started next. So it ends as if it had been told to.
"""

import os
import signal

from lastly._system import proc, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

_MARK, _SERVES = "WERKZEUG_RUN_MAIN", "true"  # in the environment of the second one
_PASSED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


# Whether this process is the first one.
_reloads = False


def only_reloads() -> bool:
    """Whether this process starts the one that serves, and serves nothing itself."""
    return _reloads


def attend() -> None:
    """Notice which of the two this process is: make the first patient, have the second end with the first.

    A second call does nothing.
    """
    try:
        from werkzeug import _reloader  # where it looks different, it stays as it is

        plain: Any = _reloader.ReloaderLoop.restart_with_reloader
    except (ImportError, AttributeError):
        return
    if plain.__module__ == __name__:
        return

    def restart_with_reloader(loop: "Any") -> "Any":
        global _reloads
        _reloads = True
        with _Passing():
            return plain(loop)

    kind: Any = _reloader.ReloaderLoop  # nobody offers a hook
    kind.restart_with_reloader = restart_with_reloader
    reloader = os.getppid()
    if os.environ.get(_MARK) == _SERVES and not _is_marked(reloader):  # no program that it has started
        wait.follow(reloader, lambda: os.getppid() == reloader)


class _Passing:
    """Signals go to the process that serves; at the end of the block this one gets the last of them."""

    def __init__(self) -> None:
        self.passed = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for signum in _PASSED:
            if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                self.before[signum] = signal.signal(signum, self._pass)

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        if self.passed:
            signal.raise_signal(self.passed)

    def _pass(self, signum: int, _frame: "FrameType | None") -> None:
        self.passed = signum
        if signum in (signal.SIGINT, signal.SIGQUIT) and _in_foreground():
            return  # the terminal has sent it to both
        for child in _serving():
            try:
                os.kill(child, signum)  # ours, and not waited for: its number is its own
            except ProcessLookupError:
                continue


def _in_foreground() -> bool:
    for fd in (0, 1, 2):
        try:
            return os.tcgetpgrp(fd) == os.getpgrp()
        except OSError:
            continue
    return False


def _serving() -> "list[int]":
    """Return the children that Werkzeug has started to serve."""
    return [child for child in proc.living_children() if _is_marked(child)]


def _is_marked(pid: int) -> bool:
    return f"{_MARK}={_SERVES}".encode() in proc.environment(pid)
