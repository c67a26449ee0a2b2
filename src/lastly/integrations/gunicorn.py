"""gunicorn: what a worker owes is run when the worker ends, however it does.

gunicorn owns the signals, in the master and in the workers, and calls hooks; nothing is done here but in
those. Without them a worker's cleanups run, too, for a worker ends by ``sys.exit()``: but only in atexit,
behind all threads that are still waited for, which a hung request makes for ever (that is, until the master's
SIGKILL); without a limit, so that one that hangs takes the time of all; and cut short by the second signal
that every Ctrl-C brings, one from the terminal and one from the master.

================  ===========================================================================================
hook              what we do in it
================  ===========================================================================================
when_ready        have the end of the whole server let no connection in (_servers/gunicorn.py)
post_fork         have a worker serve connections accepted by then
post_worker_init  give gunicorn its signals back, should the application have called ``lastly.install()``
worker_int        INT, QUIT, the reloader: not ready any more
worker_abort      ABRT, the worker's time is over: not ready any more, and that is why
worker_exit       run what the worker owes
child_exit        in the master: make sure that what a killed worker owed is reaped
================  ===========================================================================================
"""

import functools
import os
import signal

from lastly._exit import root, state
from lastly._scope.reason import ExitReason
from lastly._words.clock import monotonic
from lastly.errors import FrameworkError
from lastly.integrations._servers import gunicorn as _gunicorn_door

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Settings = TypeVar("Settings")

__all__ = ["manage"]
__dir__ = __all__.copy  # dir() shows what is public

OLDEST = (21, 2)  # the first that runs without setuptools

# Of the time that the master allows until it kills, the part that cleanups get. The rest is for ending.
_SHARE = 0.9
# The descriptor of the file by which this worker's master sees that the worker lives; -1: not in a worker.
_heartbeat_fd = -1


def manage(settings: "Settings") -> "Settings":
    """Have the cleanups of gunicorn's workers run; return `settings`.

    As the last line of ``gunicorn.conf.py``: ``manage(globals())``. Hooks that are in there stay, and are
    called as well. A second call does nothing more.

    Args:
        settings: what holds the hooks: the names of a configuration file, the options of an application of
            your own (a dict), or its ``gunicorn.config.Config``.

    Raises:
        ImportError: gunicorn is not installed.
        FrameworkError: it is too old.

    .. versionadded:: 0.1
    """
    _check_version()
    config: Any = settings
    known = getattr(config, "settings", None)
    for name, ours in _HOOKS.items():
        theirs = _callable(config.get(name) if known is None else known[name].get())
        if theirs is ours or getattr(theirs, "__wrapped__", None) is ours:
            continue
        hook = ours if theirs is None else _joined(ours, theirs)
        if known is None:
            config[name] = hook
        else:
            config.set(name, hook)
    return settings


def _check_version() -> None:
    try:
        from gunicorn import __version__, version_info
    except ImportError:
        raise ImportError('gunicorn is not installed: pip install "lastly[gunicorn]"') from None
    if tuple(version_info[:2]) < OLDEST:
        raise FrameworkError(
            f"gunicorn {__version__} is too old, {OLDEST[0]}.{OLDEST[1]} is needed: "
            'pip install --upgrade "lastly[gunicorn]"'
        )


def _callable(hook: "Any") -> "Callable[..., object] | None":
    if isinstance(hook, str):  # gunicorn takes the path of a function, too
        from gunicorn.config import validate_callable

        hook = validate_callable(-1)(hook)
    found: Callable[..., object] | None = hook
    return found


def _joined(ours: "Callable[..., object]", theirs: "Callable[..., object]") -> "Callable[..., None]":
    """Make one hook of two: theirs may still use what ours ends. gunicorn deals with what they raise."""
    first, second = (ours, theirs) if ours is _begun else (theirs, ours)

    @functools.wraps(ours)  # gunicorn looks at how many arguments it takes
    def hook(*args: object) -> None:
        try:
            first(*args)
        finally:
            second(*args)

    return hook


# ---- in a worker


def _begun(worker: "Any") -> None:
    """Called when a worker has loaded its application."""
    global _heartbeat_fd
    _heartbeat_fd = os.dup(worker.tmp.fileno())
    if state.end.previous:
        from lastly._exit import signals

        signals.uninstall()
        worker.log.warning(
            "lastly.install() was called in a worker, whose signals are gunicorn's: they were given back. "
            "Cleanups run all the same"
        )


def _told(_worker: "Any") -> None:
    """Called in a signal handler, or in the reloader's thread; gunicorn's SystemExit is next."""
    _ignore_more_signals()
    _drain("gunicorn ends this worker")


def _aborted(_worker: "Any") -> None:
    """Called in a signal handler: the master has not heard of this worker for too long.

    It kills a second later, and unwinding may take longer than that: here we are heard of again.
    """
    _ignore_more_signals()
    _touch_heartbeat(monotonic())
    state.because(ExitReason(signal=signal.SIGABRT, code=1))
    _drain("the worker's time is over")


def _drain(why: str) -> None:
    from lastly.integrations import health

    health.drain(why)


def _closed(_server: "Any", worker: "Any") -> None:
    """Run what this worker owes: it serves no more requests, and its threads are not yet waited for."""
    if os.getpid() != worker.pid:
        return  # called in the master, for a worker that was gone before it could be told to end
    _ignore_more_signals()
    _drain("gunicorn ends this worker")
    limits = [float(limit) for limit in (worker.cfg.graceful_timeout, worker.cfg.timeout) if limit]
    _touch_heartbeat(monotonic())
    root.close_for_exit(min(limits) * _SHARE if limits else None)
    if state.end.reason is not None and state.end.reason.signal == signal.SIGABRT:
        _touch_heartbeat(0.0)  # should a thread that hangs keep it from ending now, the master need not wait


def _touch_heartbeat(when: float) -> None:
    """Let the master believe that this worker was heard of at this time: gunicorn has closed its own way."""
    if _heartbeat_fd >= 0:
        os.utime(_heartbeat_fd, (when, when))


def _ignore_more_signals() -> None:
    """From here on, to be told once more to end tells this worker nothing, and must not cut a cleanup short.

    gunicorn's handlers raise SystemExit, wherever the program is by then. A person who does not want to wait
    presses Ctrl-C once more: the master then kills. (Not SIG_IGN: children would inherit that.)
    """
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if callable(signal.getsignal(signum)):
            try:
                signal.signal(signum, lambda *_: None)
            except ValueError:  # in the reloader's thread: the worker's end follows in the main thread
                return


# ---- in the master


def _buried(server: "Any", worker: "Any") -> None:
    """See to it that there is a reaper when a worker that is gone still owes something.

    Mostly there is: the worker's own. But what killed the worker (the OOM killer, an operator) may have got
    both.
    """
    if os.environ.get("LASTLY_REAPER") == "0":
        return
    from lastly._journal import home
    from lastly._reaper import spawn

    mark = f"{worker.pid}."
    try:
        if any(os.path.basename(path).startswith(mark) for path in home.journals()):
            spawn.start()
    except (OSError, RuntimeError) as error:  # what a hook raises ends the master, and the site with it
        server.log.warning("no reaper could be started for worker %s: %s", worker.pid, error)


_HOOKS: "dict[str, Callable[..., object]]" = {
    "when_ready": _gunicorn_door.opened,
    "post_fork": _gunicorn_door.born,
    "post_worker_init": _begun,
    "worker_int": _told,
    "worker_abort": _aborted,
    "worker_exit": _closed,
    "child_exit": _buried,
}
