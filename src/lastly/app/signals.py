"""Signals of an app: caught while it is open, told to its hooks, answered or not."""

import _signal
import _thread

from lastly.errors import CaughtSignal, _CaughtInterrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from lastly.app.core import App


class Watch:
    """What :func:`catch` changed, to be given back by :func:`release`."""

    def __init__(self) -> None:
        self.previous: dict[int, Any] = {}


def catch(app):
    life = app._life
    if life.watch is None:
        life.watch = Watch()
    for signum in app._meta.catch_signals or ():
        signum = int(signum)
        if signum in life.watch.previous:
            continue
        try:
            previous = _signal.getsignal(signum)
            if previous in (None, _signal.SIG_IGN):
                continue
            _signal.signal(signum, app._meta.signal_handler or _raise)
        except ValueError:
            return
        life.watch.previous[signum] = previous


def _raise(signum, frame):
    raise (_CaughtInterrupt if signum == 2 else CaughtSignal)(signum, frame)


def release(app):
    if app._life.watch:
        for signum, previous in app._life.watch.previous.items():
            _signal.signal(signum, previous)
        app._life.watch = None


def passing(app, exc):
    life = app._life
    if exc is life.caught or not isinstance(exc, CaughtSignal):
        return
    life.caught = exc
    from lastly.app.failures import attach
    attach(exc, app.hook.try_all("signal", app, exc.signum, exc.frame))


def last_call(app):
    return []


def unanswered(app):
    return app._life.caught
