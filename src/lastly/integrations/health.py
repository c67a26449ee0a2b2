"""Whether this process is ready and alive, for Kubernetes, a load balancer, or a person that asks.

*Ready*: it takes new work. It no longer does from the first signal on, once the process's scope begins to
close, or after `drain`, which the hooks of a server with signal handlers of its own call. New work then goes
elsewhere, while what is in flight is finished.

*Alive*: it need not be killed. That stays true while it drains and cleans up, whatever its checks say: a
liveness probe that fails then has the program killed in the middle of its cleanups.

Needs no framework: `Health` is a WSGI application, an ASGI application, a layer around either, or a small
server of its own.
"""

from lastly._exit import state
from lastly._words import fork
from lastly._words.clock import monotonic
from lastly._words.clock import seconds as _seconds
from lastly.errors import CaughtSignal
from lastly.integrations._servers.answers import PHRASES, headers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping
    from datetime import timedelta
    from typing import Any, TypeVar

    from lastly.integrations._servers.probe_server import HealthServer

    F = TypeVar("F", bound=Callable[[], object])
    Message = MutableMapping[str, Any]
    ASGIApp = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any]
    WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

__all__ = ["Health", "HealthServer", "drain", "draining", "resume"]  # HealthServer: see __getattr__
__dir__ = __all__.copy  # dir() shows what is public

# What `drain` was called with; None: it was not.
_drained: "str | None" = None


def drain(why: str = "draining") -> None:
    """Have readiness say 503 from now on; a second call does nothing.

    For servers that own the signals: called by their hooks. May be called in a signal handler.

    Args:
        why: what the answer says.

    .. versionadded:: 0.1
    """
    global _drained
    if _drained is None:
        _drained = why
        state.tell_ending()


def resume() -> None:
    """Take `drain` back: for a server that starts again in the same process, as in tests.

    .. versionadded:: 0.1
    """
    global _drained
    _drained = None


def draining() -> "str | None":
    """Return why this process takes no new work any more, or None while it does.

    .. versionadded:: 0.1
    """
    if _drained is not None:
        return _drained
    if not state.end.begun:
        return None
    reason = state.end.reason
    if reason is None or reason.signal is None:  # an exception's text is not for strangers
        return "the program ends"
    return str(reason)


class Health:
    """What this process answers to probes.

    Several may exist, and all know of the same end; checks and paths are each one's own.

    Args:
        ready: the path of the readiness probe.
        live: the path of the liveness probe.
        live_within: seconds, or a timedelta, within which `beat` has to be called again and again for the
            process to count as alive; None: it need not be called.

    .. versionadded:: 0.1
    """

    def __init__(
        self, *, ready: str = "/readyz", live: str = "/livez", live_within: "float | timedelta | None" = None
    ) -> None:
        for path in (ready, live):
            if not path.startswith("/"):
                raise ValueError(f"a path must begin with '/', not {path!r}")
        if ready == live:
            raise ValueError(f"ready and live must be two paths: both are {ready!r}")
        self.ready = ready
        self.live = live
        self.live_within = None if live_within is None else _seconds(live_within, "live_within")
        self._beaten = monotonic()
        self._checks: dict[str, dict[str, Callable[[], object]]] = {ready: {}, live: {}}

    def check_ready(self, check: "F", name: "str | None" = None) -> "F":
        """Ask this function, too, whether the process is ready; return it (so: a decorator).

        It is a plain function, called at each probe, and must be quick. It fails by an exception or by
        returning False. The answer names it and says no more: the prober need not be trusted.

        Args:
            check: the function.
            name: what the answer calls it; None: its own name.

        Raises:
            TypeError: it is a coroutine function.
        """
        return self._add(self.ready, check, name)

    def check_live(self, check: "F", name: "str | None" = None) -> "F":
        """Ask this function, too, whether the process is alive: see `check_ready`.

        While the process drains it is not asked.
        """
        return self._add(self.live, check, name)

    def beat(self) -> None:
        """Say that the program gets on with its work: see `live_within`."""
        self._beaten = monotonic()

    def answer(self, method: str, path: str) -> "tuple[int, str] | None":
        """Return the HTTP status and the text for a request; None when the path is neither of ours."""
        if path not in self._checks:
            return None
        if method not in ("GET", "HEAD"):
            return 405, "GET or HEAD\n"
        why = draining()
        if why is not None:
            return (
                (503, f"not ready: {why}\n") if path == self.ready else (200, f"alive, and draining: {why}\n")
            )
        word = "ready" if path == self.ready else "alive"
        failed = self._failed(path)
        return (503, f"not {word}: {', '.join(failed)}\n") if failed else (200, f"{word}\n")

    def wsgi(self, app: "WSGIApp | None" = None) -> "WSGIApp":
        """Return a WSGI application that answers the probes and passes all else on to `app`.

        Without `app` all else is 404.
        """

        def application(environ: "dict[str, Any]", start_response: "Callable[..., Any]") -> "Iterable[bytes]":
            method = environ.get("REQUEST_METHOD", "GET")
            found = self.answer(method, environ.get("PATH_INFO", ""))
            if found is None:
                if app is not None:
                    return app(environ, start_response)
                found = 404, "not found\n"
            status, text = found
            start_response(f"{status} {PHRASES[status]}", headers(text))
            return [b"" if method == "HEAD" else text.encode()]

        return application

    def asgi(self, app: "ASGIApp | None" = None) -> "ASGIApp":
        """Return an ASGI application that answers the probes and passes all else on to `app`.

        Without `app` all else over HTTP is 404, and a lifespan starts and stops.
        """

        async def application(
            scope: "Message",
            receive: "Callable[[], Awaitable[Message]]",
            send: "Callable[[Message], Awaitable[None]]",
        ) -> None:
            found = None
            if scope["type"] == "http":
                path, root = scope["path"], scope.get("root_path", "")
                found = self.answer(scope["method"], path.removeprefix(root) or path)
            if found is None:
                if app is not None:
                    await app(scope, receive, send)
                    return
                if scope["type"] == "lifespan":
                    await _lifespan(receive, send)
                    return
                if scope["type"] != "http":
                    await send({"type": "websocket.close", "code": 1000})
                    return
                found = 404, "not found\n"
            status, text = found
            encoded = [(name.lower().encode(), value.encode()) for name, value in headers(text)]
            await send({"type": "http.response.start", "status": status, "headers": encoded})
            body = b"" if scope["method"] == "HEAD" else text.encode()
            await send({"type": "http.response.body", "body": body})

        return application

    def serve(self, port: int, host: str = "") -> "HealthServer":
        """Answer probes on a port of its own, from a thread that lasts as long as the process.

        For programs that serve nothing else. It goes on answering while cleanups run. A forked child does not
        have it.

        Args:
            port: the TCP port; 0: any free one, see `HealthServer.port`.
            host: the address; empty: all of this machine's, as the kubelet asks from outside.

        Raises:
            OSError: the port is taken.
        """
        from lastly.integrations._servers.probe_server import HealthServer

        return HealthServer(self, port, host)

    def _add(self, path: str, check: "F", name: "str | None") -> "F":
        code: Any = getattr(check, "__code__", None)
        if code is not None and code.co_flags & 0x80:  # CO_COROUTINE
            raise TypeError(
                "a check must be a plain function: let the coroutine set a flag, and the check return it"
            )
        called = name or getattr(check, "__name__", None) or type(check).__name__
        self._checks[path][str(called)] = check
        return check

    def _failed(self, path: str) -> "list[str]":
        failed = []
        if path == self.live and self.live_within is not None:
            silent = monotonic() - self._beaten
            if silent > self.live_within:
                failed.append(f"no beat for {silent:.0f} s")
        for name, check in list(self._checks[path].items()):
            try:
                fine = check() is not False
            except (KeyboardInterrupt, CaughtSignal):
                raise
            except BaseException:  # sys.exit(), or a task's CancelledError: no reason to end the server
                fine = False
            if not fine:
                failed.append(name)
        return failed

    def __repr__(self) -> str:
        return f"<Health {self.ready} {self.live}{' draining' if draining() else ''}>"


async def _lifespan(
    receive: "Callable[[], Awaitable[Message]]", send: "Callable[[Message], Awaitable[None]]"
) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def __getattr__(name: str) -> object:
    if name == "HealthServer":  # its sockets and threads are for programs that call serve()
        from lastly.integrations._servers.probe_server import HealthServer

        return HealthServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


fork.in_child(resume)
