"""Flask: what an application has deferred runs once, in the process that serves, after its last request.

    app = Flask(__name__)
    lastly_ = Lastly(app)
    app.extensions["lastly"].defer(pool.close)      # or lastly_.defer(pool.close)

Under the development server, ``flask run`` and waitress, which have no signal handlers, requests in flight
are waited for (see _servers/in_flight.py); gunicorn does that itself. Cleanups belong to the process that
deferred them: what is deferred when the application is imported, with ``--preload``, is the master's; what is
deferred in a worker, the worker's.
"""

import os
import threading
import weakref

from lastly._exit import reloader, root
from lastly._scope import closing
from lastly._scope.scope import Scope, nest
from lastly._words.clock import seconds as _seconds
from lastly._words.warn import warn
from lastly.integrations._servers import in_flight
from lastly.integrations.health import Health

try:
    from flask import current_app, has_app_context
except ImportError as error:
    raise ImportError('lastly.integrations.flask needs Flask: pip install "lastly[flask]"') from error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import timedelta
    from types import TracebackType
    from typing import Any, ParamSpec, Self, TypeVar

    from flask import Flask

    from lastly._scope.handle import Cleanup

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["AppCleanups", "Lastly", "cleanups_of", "defer"]
__dir__ = __all__.copy  # dir() shows what is public

_KEY = "lastly"


class AppCleanups:
    """What an application owes in this process: ``app.extensions["lastly"]``.

    A forked process starts with nothing owed. Any thread may defer.

    .. versionadded:: 0.1
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._scope: Scope | None = None
        self._handles: tuple[Cleanup, ...] = ()
        self._pid = 0

    @property
    def scope(self) -> Scope:
        """The scope of this process; a new one after a fork, and after `close`."""
        if self._scope is None or self._scope.closed or self._pid != os.getpid():
            scope = Scope(f"flask {self.name}")
            close = nest(root.root, scope, f"flask {self.name}")
            look = root.defer_early(_forget_if_not_served, weakref.ref(scope))
            self._scope, self._handles, self._pid = scope, (close, look), os.getpid()
        return self._scope

    def defer(self, fn: "Callable[P, object]", /, *args: "P.args", **kwargs: "P.kwargs") -> "Cleanup":
        """Have ``fn(*args, **kwargs)`` run when this process stops serving; return its handle.

        As `lastly.defer`, but: not in the process of Werkzeug's reloader, which imports the application, too,
        and does not serve it. There only actions are run, for what is durable exists.
        """
        return self.scope.defer(fn, *args, **kwargs)

    def enter(self, manager: "AbstractContextManager[T]") -> "T":
        """Enter a context manager and leave it when this process stops serving: see `Scope.enter`."""
        return self.scope.enter(manager)

    def close(self) -> None:
        """Run all cleanups now, as a test that made the application wants it. A second call does nothing.

        Raises:
            CleanupFailed: cleanups failed, after all of them were tried.
        """
        if self._scope is not None and self._pid == os.getpid():
            try:
                self._scope.close()
            finally:
                for handle in self._handles:
                    handle.detach()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._scope) if self._scope is not None and self._pid == os.getpid() else 0

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self)} pending>"


def _forget_if_not_served(reference: "weakref.ref[Scope]") -> None:
    scope = reference()
    if scope is not None and reloader.only_reloads():
        for cleanup in closing.pending(scope):
            if not cleanup.durable:
                cleanup.detach()


class Lastly:
    """Close what an application has deferred, when the process that serves it stops.

    Args:
        app: the application; None: give it to `init_app` later, in an application factory.
        timeout: seconds, or a timedelta, that requests in flight get when a server without signal handlers of
            its own (the development server, ``flask run``, waitress) has to stop; then the cleanups begin.
            Where `lastly.install` has a grace, requests get half of it at most. Other servers have settings
            of their own for it.
        linger: seconds, or a timedelta, for which such a server goes on taking new requests while readiness
            says 503 already, so that a load balancer notices.
        signals: have SIGINT, SIGTERM, SIGHUP and SIGQUIT end the process in order, by `lastly.install`,
            unless there are handlers for them: under gunicorn this does nothing.
        health: answer probes (`lastly.integrations.health.Health`): True for ``/readyz`` and ``/livez``.

    .. versionadded:: 0.1
    """

    def __init__(
        self,
        app: "Flask | None" = None,
        *,
        timeout: "float | timedelta" = 20.0,
        linger: "float | timedelta" = 0.0,
        signals: bool = False,
        health: "Health | bool" = False,
    ) -> None:
        self.timeout = _seconds(timeout, "timeout")
        self.linger = _seconds(linger, "linger")
        self.signals = signals
        self.health = Health() if health is True else health or None
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: "Flask") -> None:
        """Look after an application; of several calls for the same one only the first counts.

        Raises:
            TypeError: it is not a Flask application.
        """
        if not hasattr(app, "extensions") or not hasattr(app, "wsgi_app"):
            raise TypeError(f"init_app() takes a Flask application, not {app!r}")
        self._apps.add(app)
        if _KEY in app.extensions:
            return
        app.extensions[_KEY] = AppCleanups(app.name)
        layered = in_flight.Counted(app.wsgi_app)
        layers: Any = app  # assigning is how Flask has one put a layer around it
        layers.wsgi_app = layered if self.health is None else self.health.wsgi(layered)
        in_flight.watch(self.timeout, self.linger)
        reloader.watch()
        if self.signals:
            _take_signals()

    def defer(self, fn: "Callable[P, object]", /, *args: "P.args", **kwargs: "P.kwargs") -> "Cleanup":
        """Defer for the current application, or for the only one there is: see `AppCleanups.defer`.

        Raises:
            RuntimeError: there is no current application, and not exactly one has been given to `init_app`.
        """
        return self._cleanups().defer(fn, *args, **kwargs)

    def enter(self, manager: "AbstractContextManager[T]") -> "T":
        """Enter a context manager for that application: see `AppCleanups.enter`.

        Raises:
            RuntimeError: as `defer`.
        """
        return self._cleanups().enter(manager)

    def _cleanups(self) -> AppCleanups:
        if has_app_context() and _KEY in current_app.extensions:
            return cleanups_of(current_app)
        apps = list(self._apps)
        if len(apps) == 1:
            return cleanups_of(apps[0])
        raise RuntimeError(
            f"no application is current, and this extension looks after {len(apps)}:"
            ' use app.extensions["lastly"].defer(…)'
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(sorted(app.name for app in self._apps)) or 'of no app'}>"


def cleanups_of(app: "Any") -> AppCleanups:
    """Return ``app.extensions["lastly"]``, with its type for checkers.

    .. versionadded:: 0.1
    """
    found: AppCleanups = app.extensions[_KEY]
    return found


def defer(fn: "Callable[P, object]", /, *args: "P.args", **kwargs: "P.kwargs") -> "Cleanup":
    """Defer for the current application, in a request or another application context.

    Raises:
        RuntimeError: no application is current, or it was never given to `Lastly`.

    .. versionadded:: 0.1
    """
    if not has_app_context():
        raise RuntimeError('no application is current: use app.extensions["lastly"].defer(…)')
    if _KEY not in current_app.extensions:
        raise RuntimeError(f"the application {current_app.name!r} was not given to Lastly: Lastly(app)")
    return cleanups_of(current_app).defer(fn, *args, **kwargs)


def _take_signals() -> None:
    import signal

    from lastly._exit import signals as _signals

    if threading.current_thread() is not threading.main_thread():
        warn("signals=True has no effect outside the main thread")
    elif signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # else a server, or the program, has them
        _signals.install()
