"""Reloaders of development servers: two processes run the program, and only the second one serves.

Werkzeug's and Django's first process starts the second, waits for it, and starts it again when a file has
changed. What the program defers or starts while it is imported is there twice; here we tell the two apart.

When the first one is told to stop, it kills the second with SIGKILL, at once after SIGTERM and a quarter of a
second after Ctrl-C: no cleanup survives that. So, while it waits, it passes signals on instead, and does what
it would have done when the other has ended.

When the first one is killed itself, the second would serve on, with its port and its schedulers, beside the
one that is started next. So it ends as if it had been told to.

No reloader offers a hook, so the one function of each that starts and waits is wrapped. A program that calls
`install()` may load its framework later: a finder waits for that module and steps aside when it has come.
(uvicorn's and Hypercorn's reloaders tell their processes to end in order: see integrations.asgi.)
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, ModuleType
    from typing import Any

# The module of each reloader: who holds the function that starts and waits, and the mark of what it starts.
_KINDS = {
    "werkzeug._reloader": ("ReloaderLoop", "WERKZEUG_RUN_MAIN"),
    "django.utils.autoreload": ("", "RUN_MAIN"),
}
_STARTS, _SERVES = "restart_with_reloader", "true"

# Whether this process is the first one.
_reloads = False
# Our parent when it was first asked for: by the time the reloader's module comes, it may have been killed.
_parent = 0


def only_reloads() -> bool:
    """Whether this process starts the one that serves, and serves nothing itself."""
    return _reloads


def watch() -> None:
    """Attend to each reloader that this program has loaded, or will load. A second call does nothing."""
    global _parent
    if not hasattr(os, "fork"):
        return  # Windows, whose reloaders start and end their children in other ways
    _parent = _parent or os.getppid()
    for name in _KINDS:
        _attend(name)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def _attend(name: str) -> None:
    """Notice which of the two this process is: make the first patient, have the second end with the first."""
    place, mark = _KINDS[name]
    holder: Any = sys.modules.get(name)
    if place:
        holder = getattr(holder, place, None)
    plain: Any = getattr(holder, _STARTS, None)  # where it looks different, it stays as it is
    if plain is None or plain.__module__ == __name__:
        return

    def restart_with_reloader(*args: "Any") -> "Any":
        global _reloads
        _reloads = True
        with _Passing(mark):
            return plain(*args)

    setattr(holder, _STARTS, restart_with_reloader)
    reloader = _parent
    if os.environ.get(mark) == _SERVES and not _is_marked(reloader, mark):  # no program that it has started
        from lastly._system import wait

        wait.follow(reloader, lambda: os.getppid() == reloader)


class _Finder:
    """Finds nothing; sees the modules of reloaders go by."""

    def __init__(self) -> None:
        self.busy = False

    def find_spec(self, name: str, path: "Any" = None, target: "ModuleType | None" = None) -> "Any":
        if name not in _KINDS or self.busy:
            return None
        import _frozen_importlib as importlib  # loaded always; `importlib` itself may not be

        self.busy = True
        try:
            spec: Any = importlib._find_spec(name, path, target)  # type: ignore[attr-defined]  # its own way in
        finally:
            self.busy = False
        load = getattr(getattr(spec, "loader", None), "exec_module", None)
        if load is not None:

            def exec_module(module: "ModuleType") -> None:
                load(module)
                _attend(name)

            spec.loader.exec_module = exec_module
        return spec


_finder: "Any" = _Finder()


class _Passing:
    """Signals go to the process that serves; at the end of the block this one gets the last of them."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.passed = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        import signal

        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                self.before[signum] = signal.signal(signum, self._pass)

    def __exit__(self, *_: object) -> None:
        import signal

        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        if self.passed:
            signal.raise_signal(self.passed)

    def _pass(self, signum: int, _frame: "FrameType | None") -> None:
        import signal

        from lastly._system import proc

        self.passed = signum
        if signum in (signal.SIGINT, signal.SIGQUIT) and _in_foreground():
            return  # the terminal has sent it to both
        for child in proc.living_children():
            if _is_marked(child, self.mark):
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


def _is_marked(pid: int, mark: str) -> bool:
    from lastly._system import proc

    return f"{mark}={_SERVES}".encode() in proc.environment(pid)
