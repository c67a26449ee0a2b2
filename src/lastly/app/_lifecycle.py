"""How an app lives and ends: made, set up, run, closed; each of them from any state, in any order.

What has to hold. The close hooks run exactly once in a life, whatever ended it, in the process that set the
app up. All of them are tried. What ended the program is not changed by what fails while closing: an exception
goes on, with a note for each failure; an exit code stays. Only success is not success when a cleanup failed.

What does not work. A ``with`` statement sees neither a failing ``__enter__`` nor a program that never leaves
it, and a ``finally`` must be written. So setting up puts the app on the process's root scope,
which closes at exit what was not closed, and a setup that fails closes what it began.
"""

import _thread
import os
import sys

from lastly._exit import root, state
from lastly._scope import closing
from lastly._scope.failures import conclude, flattened, note, unnamed
from lastly._scope.reason import ExitReason, visible_code
from lastly._words import signal_names
from lastly._words.pythons import partial
from lastly.app import _parts, _signals
from lastly.app._cement_only import check_settings
from lastly.app._dispatch import dispatch
from lastly.app._hooks import CORE_HOOKS, HookManager, run_hook
from lastly.errors import CaughtSignal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._scope.handle import Cleanup
    from lastly._scope.scope import Scope
    from lastly._words.signal_names import SignalName
    from lastly.app._core import App
    from lastly.app._handlers import HandlerManager, InterfaceManager

NEW, OPEN, CLOSING, CLOSED = "new", "open", "closing", "closed"

# Made by setup(); None before it.
_PARTS = ("ext", "config", "log", "plugin", "args", "controller")
# Settings that setup() itself changes; a reload starts from what they were.
_CHANGED_BY_SETUP = (
    "debug",
    "config_section",
    "config_files",
    "config_dirs",
    "extensions",
    "plugin_dirs",
    "plugin_module",
)


class Life:
    """Where in its life an app is, and what has to be given back at its end."""

    def __init__(self) -> None:
        self.state = NEW
        self.pid = os.getpid()
        self.closer = _thread.allocate_lock()  # the thread that gets it closes
        self.body: BaseException | None = None  # what ended the ``with`` block or the setup
        self.exiting = False  # the process is
        self.silent = False  # nothing is printed or logged on the console
        self.parsed: Any = None
        self.members: list[str] = []
        self.scope: Scope | None = None
        self.at_exit: Cleanup | None = None
        self.registries: tuple[InterfaceManager, HandlerManager] | None = None
        self.watch: _signals.Watch | None = None
        self.settings: dict[str, Any] = {}
        self.ignored: dict[str, Any] = {}  # keywords that are not settings of the app


def reset(app: "App") -> None:
    """Put *app* into the state in which setup() finds it: its own hooks and settings, nothing else."""
    life, meta = app._life, app._meta
    life.settings = life.settings or {name: getattr(meta, name) for name in _CHANGED_BY_SETUP}
    for name, value in life.settings.items():
        setattr(meta, name, list(value) if isinstance(value, list) else value)
    for name in life.members:
        delattr(app, name)
    life.members, life.parsed, life.registries = [], None, None
    for part in _PARTS:
        setattr(app, part, None)
    app.exit_code = 0
    app.hook = HookManager(app)
    for name in (*CORE_HOOKS, *meta.define_hooks):
        app.hook.define(name)
    for entry in meta.hooks:
        app.hook.register_when_defined(*entry)


def _bootstrap(app: "App") -> None:
    """Load the program's own module, which may define hooks, register handlers and change settings."""
    if app._meta.bootstrap is not None:
        from lastly.app._plugins import call_load, imported

        call_load(imported(app._meta.bootstrap), app)


def setup(app: "App") -> None:
    """Begin the life of *app*."""
    life = app._life
    if life.state == OPEN and life.pid == os.getpid():
        reload(app)
        return
    if life.state != NEW:
        app._life = life = _next_life(life)
        reset(app)
    life.pid = os.getpid()
    life.state = OPEN
    try:
        _keep_until_exit(app)
        check_settings(app)
        _bootstrap(app)
        _signals.catch(app)
        if app.quiet and not app.debug:
            app._suppress_output()
        _parts.make(app)
    except BaseException as exc:
        _fail(app, exc)
        raise


# A closed app, or one that a forked child has from its parent, starts anew.
def _next_life(old: Life) -> Life:
    life = Life()
    life.settings, life.members, life.ignored = old.settings, old.members, old.ignored
    return life


def reload(app: "App") -> None:
    """Set *app* up again without closing it."""
    life = app._life
    if life.state != OPEN or life.pid != os.getpid():
        setup(app)
        return
    _signals.answer(app)
    exit_code = app.exit_code
    app.log.close()
    reset(app)
    app.exit_code = exit_code
    try:
        _bootstrap(app)
        _signals.catch(app)
        _parts.make(app)
    except BaseException as exc:
        _fail(app, exc)
        raise


def registries_of(app: "App") -> "tuple[InterfaceManager, HandlerManager]":
    """Return the registries of interfaces and handlers of *app*, made at the first call."""
    life = app._life
    if life.registries is None:
        from lastly.app._handlers import registries

        life.registries = registries(app)
    return life.registries


def scope_of(app: "App") -> "Scope":
    """Return the scope of *app*, made at the first call in a life."""
    life = app._life
    if life.scope is None:
        from lastly._scope.scope import Scope

        life.scope = Scope(app.label, grace=app._meta.grace)
        if life.state == NEW:
            _keep_until_exit(app)
    return life.scope


def _keep_until_exit(app: "App") -> None:
    if app._life.at_exit is None:
        app._life.at_exit = root.root.defer(_close_at_exit, app).named(f"close of app {app.label!r}")


def run(app: "App") -> "Any":
    """Run *app*, set up before if it was not, and return what its program returned."""
    if app._life.state != OPEN:
        setup(app)
    try:
        run_hook(app, "pre_run")
        result = dispatch(app)
        run_hook(app, "post_run")
    except BaseException as exc:
        note_signal(app, exc)
        raise
    return result


def run_forever(app: "App", interval: float, tb: bool) -> None:
    """Run *app* again and again."""
    import time
    import traceback

    from lastly._words.clock import seconds

    pause = seconds(interval, "interval")
    while True:
        try:
            app.run()
        except Exception as exc:
            app.log.fatal(f"Caught Exception: {exc}")
            if tb:
                traceback.print_exception(exc)
        time.sleep(pause)
        app.reload()


def catch_signal(app: "App", signum: "int | SignalName") -> None:
    """Add *signum* to the signals that *app* catches."""
    meta = app._meta
    known = signal_names.numbers(meta.catch_signals or ())
    if (added := signal_names.numbers(signum)) and added[0] not in known:
        meta.catch_signals = [*known, *added]
        if app._life.state == OPEN:
            _signals.catch(app)


def close(app: "App", code: int | None) -> None:
    """End the life of *app*, whose program came here without an exception."""
    if code is not None and not isinstance(code, int):
        raise TypeError(f"close() of app {app.label!r}: the exit code must be an integer, not {code!r}")
    if app._life.state in (CLOSING, CLOSED):
        return
    if code is not None:
        app.exit_code = code
    if app._life.body is not None:
        _conclude(app, _close_once(app), app._life.body)
        return
    caught = _signals.unanswered(app)
    failures = _close_once(app)
    ending: BaseException | None = None
    if app._meta.exit_on_close and not app._life.exiting:
        ending = SystemExit(visible_code(app.exit_code)) if app.exit_code else caught
    _conclude(app, failures, ending)
    if isinstance(ending, CaughtSignal):
        raise ending
    if app._life.exiting:
        return
    if ending is None:
        _signals.raise_due()
    if app._meta.exit_on_close:
        sys.exit(visible_code(app.exit_code))


def _conclude(app: "App", failures: "list[BaseException]", ending: "BaseException | None") -> None:
    conclude(f"app {app.label!r}", unnamed(failures), ending)


def leave(app: "App", exc: BaseException | None) -> None:
    """End the life of *app*, whose ``with`` block ended with *exc*."""
    if exc is None:
        app.close()
    elif app._life.state == OPEN:
        _fail(app, exc)


def _fail(app: "App", exc: BaseException) -> None:
    _signals.note_signal(app, exc)
    if not app.exit_code:
        app.exit_code = ExitReason.of(exc).code or 0
    app._life.body = exc
    try:
        _conclude(app, _closed(app), exc)
    finally:
        app._life.body = None  # held on to, a signal's exception would not be seen to be swallowed


# By its own close(), in which a subclass may do more, and in any case by ours: the other may fail before.
def _closed(app: "App") -> "list[BaseException]":
    failures: list[BaseException] = []
    try:
        app.close()
    except BaseException as exc:
        if exc is not app._life.body:
            failures += flattened(exc)
    return failures + _close_once(app)


def note_signal(app: "App", exc: BaseException) -> None:
    """Note what *exc*, which is about to leave *app*, says about its end; the same one again says no more."""
    _signals.note_signal(app, exc)
    if isinstance(exc, SystemExit) and not isinstance(exc, CaughtSignal) and not app.exit_code:
        app.exit_code = ExitReason.of(exc).code or 0


def _close_at_exit(app: "App") -> None:
    app._life.at_exit = None
    reason = root.exit_reason()
    if not app.exit_code and reason is not None:
        app.exit_code = reason.code or 0
    app._life.exiting = True
    failures = _closed(app)
    if app._meta.exit_on_close and app.exit_code:
        from lastly._exit import last

        last.exit_with_at_end(app.exit_code)
    _conclude(app, failures, None)


def _close_once(app: "App") -> "list[BaseException]":
    life = app._life
    if not life.closer.acquire(blocking=False):
        return []
    life.state = CLOSING
    failures: list[BaseException] = []
    reason = state.end.reason
    try:
        if life.pid == os.getpid():
            state.because(reason or _reason(app))
            _parts.complete(app)
            failures += _signals.last_call(app)
            failures += app.hook.try_all("pre_close", app)
            failures += _close_scope(life)
            failures += app.hook.try_all("post_close", app)
            failures += _signals.last_call(app)
    finally:
        state.because(reason)
        failures += _give_back(app)
    return failures


_signals.leave_alone(_close_once)


# What lastly.exit_reason() answers to a hook that asks.
def _reason(app: "App") -> "ExitReason | None":
    exc = app._life.body or _signals.unanswered(app)
    if exc is not None:
        return ExitReason.of(exc)
    return ExitReason(code=app.exit_code) if app._meta.exit_on_close else None


def _close_scope(life: Life) -> "list[BaseException]":
    if life.scope is None:
        return []
    failures = []
    for cleanup, exc in closing.run_all(life.scope, life.body):
        if cleanup is not None:
            note(exc, f"in cleanup {cleanup.name} of scope {life.scope.name!r}")
        failures.append(exc)
    return failures


# At exit the signals stay caught: one that comes now is noted, and the process ends by it when all is done.
def _give_back(app: "App") -> "list[BaseException]":
    from lastly.app._log import restore

    life = app._life
    failures: list[BaseException] = []
    for give_back in (
        getattr(app.log, "close", None),
        getattr(life.at_exit, "detach", None),
        partial(restore, app),
        None if life.exiting else partial(_signals.release, app),
    ):
        try:
            if give_back is not None:
                give_back()
        except Exception as exc:  # a full disk, met when the log file is closed
            failures.append(exc)
    life.at_exit = None
    life.state = CLOSED
    return failures
