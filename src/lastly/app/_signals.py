"""Signals of an app: caught while it is open, told to its hooks, answered or not.

`lastly.install` does the work: what a signal raises, when it must not raise, and how the process ends
afterwards. It knows one set of signals for the process, and apps come nested: this file counts which app
wants what.

A handler runs between any two bytecodes, in the middle of a print as well: nothing of the program's may run
in it. The functions of the hook ``signal`` therefore run a moment later, where the exception comes by: in
run(), at the end of the ``with`` block, at the latest in close().

The app holds the number, never the exception: whether that was swallowed, or caught by its name, is seen by
its death. A program that catches it by name goes on, to its close(), with the exit code that it gives; one
that gives none still ends by the signal, unless the app was reloaded since or is a test's.
"""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum

from lastly._exit import delivery, signals, stack, state
from lastly._exit.state import end
from lastly._scope.failures import conclude, unnamed
from lastly._words import fork, signal_names
from lastly._words.pythons import getpid
from lastly.errors import CaughtSignal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from lastly._exit.die import Status
    from lastly.app._core import App


class Watch:
    """What one open app has to do with signals."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.given: dict[int, object] = {}  # handlers that a handler of the program's own has replaced
        self.caught = 0  # the signal that came; 0: none
        self.frame: object = None
        self.told = False


# The open apps that catch signals, the innermost last, and what was installed before the first of them.
_open: "list[App]" = []
_before: "tuple[list[int], Status, float | None]" = ([], "signal", None)
# Whether signals were not given back, because one of them was on its way when the last app closed.
_kept = False


def catch(app: "App") -> None:
    """Catch the signals that *app* names; in a thread other than the main one, where that cannot be, none."""
    watch = app._life.watch
    if watch is None:
        watch = app._life.watch = Watch()
    wanted = signal_names.numbers(app._meta.catch_signals or ())
    if not wanted:
        return
    handler = app._meta.signal_handler
    if handler is not None:
        _catch_with(app, watch, handler, wanted)
        return
    global _before
    if not _open and not _kept:
        _before = (list(end.previous), end.status, end.grace)
    watch.signals = wanted
    if app not in _open:
        _open.append(app)
    try:
        _install()
    except RuntimeError:
        _open.remove(app)
        return
    state.subscribe(raising=_raising)


def _install() -> None:
    numbers = dict.fromkeys(_before[0])
    for app in _open:
        watch = app._life.watch
        numbers.update(dict.fromkeys(watch.signals if watch is not None else ()))
    signals.install(numbers, status=_before[1], grace=_before[2])


# The program's own handler decides what a signal means: nothing is raised and nothing ended on its behalf.
def _catch_with(
    app: "App", watch: Watch, handler: "Callable[[int, FrameType | None], Any]", wanted: "list[int]"
) -> None:
    def told(signum: int, frame: "FrameType | None") -> None:
        try:
            handler(signum, frame)
        except CaughtSignal as exc:
            _raising(exc)
            raise
        app.hook.try_all("signal", app, signum, frame)

    for signum in wanted:
        previous = _signal.getsignal(signum)
        if signum in watch.given or previous is None or previous == _signal.SIG_IGN:
            continue
        try:
            _signal.signal(signum, told)
        except ValueError:
            return
        watch.given[signum] = previous
    if app not in _open:
        _open.append(app)


def release(app: "App") -> None:
    """Give the signals of *app* back: to an app around it, to what had installed them, or to the system."""
    watch, app._life.watch = app._life.watch, None
    if watch is None or app not in _open:
        return
    _open.remove(app)
    if app.forgets_signals and watch.caught:
        delivery.forget()
    for signum, previous in watch.given.items():
        _signal.signal(signum, previous)
    if watch.signals:
        _give_back()


def _give_back() -> None:
    global _kept
    _kept = bool(end.signum)
    if _kept:  # swallowed further up, it has to come again
        return
    try:
        if _open or _before[0]:
            _install()
        else:
            signals.uninstall()
    except (RuntimeError, ValueError):  # closed in another thread: the handlers stay until the end
        return
    if not _open:
        state.unsubscribe(_raising)


def _raising(exc: CaughtSignal) -> None:
    for app in _open:
        watch = app._life.watch
        if watch is not None and (exc.signum in watch.signals or exc.signum in watch.given):
            watch.caught, watch.frame, watch.told = exc.signum, exc.frame, False


def note_signal(app: "App", exc: BaseException) -> None:
    """Run the hook ``signal`` if *exc* is a signal of which it was not told yet."""
    watch = app._life.watch
    if watch is None or not isinstance(exc, CaughtSignal) or app._life.pid != getpid():
        return
    if not watch.caught:  # raised by the program itself
        watch.caught, watch.frame = exc.signum, exc.frame
    if exc.signum == watch.caught:
        conclude(f"app {app.label!r}", unnamed(last_call(app)), exc)


def last_call(app: "App") -> "list[BaseException]":
    """Run the hook ``signal`` for a signal of which it was not told yet; return what failed."""
    watch = app._life.watch
    if watch is None:
        return []
    if not watch.caught and end.signum in watch.signals:  # noted only: it came while closing
        watch.caught = end.signum
    if not watch.caught or watch.told:
        return []
    watch.told = True
    frame, watch.frame = watch.frame, None
    return app.hook.try_all("signal", app, watch.caught, frame)


def leave_alone(function: "Callable[..., Any]") -> None:
    """Let no signal cut *function* short; it comes when the outermost such function has returned."""
    stack.leave_alone(function)


def raise_due() -> None:
    """Raise a signal that came while an app was closing."""
    delivery.raise_due()


def unanswered(app: "App") -> "CaughtSignal | None":
    """Return the signal that *app* has caught, to be raised again, if it has."""
    watch = app._life.watch
    return None if watch is None or not watch.caught else CaughtSignal(watch.caught)


def answer(app: "App") -> None:
    """Let the signal that *app* has caught be done with."""
    watch = app._life.watch
    if watch is not None and watch.caught:
        watch.caught, watch.frame = 0, None
        delivery.forget()


def _forked() -> None:
    """Forget the apps of the parent, which alone closes them."""
    global _before, _kept
    _open.clear()
    _before, _kept = ([], "signal", None), False
    state.unsubscribe(_raising)


fork.in_child(_forked)
