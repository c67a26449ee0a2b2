"""ASGI applications, Starlette's and FastAPI's among them: a scope that lives as long as the application.

The protocol has a way to say that an application starts and stops, its *lifespan*. This layer opens a scope
before the application's own start, and closes it after its own stop. What it adds is for the ends that the
lifespan does not see: WebSockets are told with 1001 that the server goes away, a readiness probe turns 503
first, and uvicorn, which kills itself with SIGTERM when all is done, so that nothing registered with atexit
runs, has the process's cleanups run before.
"""

import asyncio
import sys
import traceback
from contextvars import ContextVar

from lastly._exit import root
from lastly._scope.aio import AsyncScope
from lastly._system import wait
from lastly._words.clock import seconds as _seconds
from lastly._words.counts import counted
from lastly._words.warn import say
from lastly.errors import CleanupFailed, FrameworkError, LastlyError
from lastly.integrations import health
from lastly.integrations._servers import uvicorn as _serving

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from datetime import timedelta
    from typing import Any

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Message, Receive, Send], Awaitable[None]]

__all__ = ["Lastly", "current"]
__dir__ = __all__.copy  # dir() shows what is public

GOING_AWAY = 1001
# Seconds for all WebSockets together to take note of the end.
_GOODBYE = 2.0
# Our name in the protocol's own dictionaries.
_KEY = "lastly"

_current: "ContextVar[AsyncScope | None]" = ContextVar("lastly", default=None)


def current() -> AsyncScope:
    """Return the scope of the application that handles this request, or that starts or stops.

    For code that runs inside of it, in tasks that it started, and for FastAPI: ``Depends(current)``.
    ``request.state.lastly`` is the same.

    Raises:
        LastlyError: the application is not one with the layer `Lastly`, or runs without its lifespan.

    .. versionadded:: 0.1
    """
    found = _current.get()
    if found is None:
        raise LastlyError(
            "no application with lastly's layer runs here: wrap it, app = Lastly(app), and have the server "
            "run its lifespan"
        )
    return found


class Lastly:
    """A layer around an ASGI application: what is deferred to its scope runs when the application stops.

    ``app = Lastly(app)``, or ``app.add_middleware(Lastly)`` with Starlette and FastAPI. `current` gives the
    scope. A second layer around the same application does nothing. An application that starts again gets a
    new scope.

    Args:
        app: the application.
        grace: seconds, or a timedelta, for all cleanups of the scope together; None: as long as they take.
        linger: seconds, or a timedelta, for which the server still takes connections after it was told to
            end, while its readiness is 503 (see `lastly.integrations.health`): as long as a load balancer
            needs to notice. Under uvicorn; a second signal cuts it short.

    Raises:
        FrameworkError: `app` cannot be called.

    .. versionadded:: 0.1
    """

    def __init__(
        self,
        app: "App",
        *,
        grace: "float | timedelta | None" = None,
        linger: "float | timedelta" = 0.0,
    ) -> None:
        given: object = app
        if not callable(given):
            raise FrameworkError(f"Lastly({given!r}): an ASGI application is a callable")
        self.app = app
        self.grace = None if grace is None else _seconds(grace, "grace")
        self.linger = _seconds(linger, "linger")
        self.scope: AsyncScope | None = None
        self._server: _serving.Uvicorn | None = None
        self._ending = False  # the server ends
        self._sockets: set[_WebSocket] = set()
        self._watch: asyncio.Task[None] | None = None  # waits for the end of another server

    async def __call__(self, scope: "Message", receive: "Receive", send: "Send") -> None:
        """Handle one connection, or the lifespan."""
        if scope.get(_KEY) is not None:  # another layer of ours is further out
            await self.app(scope, receive, send)
            return
        scope[_KEY] = self
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        scope.setdefault("state", {})[_KEY] = self.scope  # not every server hands on the lifespan's
        if self._server is None and self._watch is None:
            self._look(send)
        token = _current.set(self.scope)
        try:
            if scope["type"] == "websocket":
                await _WebSocket(receive, send).run(self.app, scope, self._sockets)
            else:
                await self.app(scope, receive, self._answering(scope, send))
        finally:
            _current.reset(token)

    def _answering(self, scope: "Message", send: "Send") -> "Send":
        """Have the answers say, once the server ends, that their connections end with them.

        A client that keeps its connection would else send the next request into one that is closed.
        """
        if scope.get("http_version") not in ("1.0", "1.1"):
            return send

        async def answer(message: "Message") -> None:
            if self._ending and message["type"] == "http.response.start":
                headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        return answer

    async def _live(self, scope: "Message", receive: "Receive", send: "Send") -> None:
        """Have a scope open for as long as the application lives."""
        if _serving.give_back_signals():
            say("install() was undone: uvicorn owns the signals. Cleanups still run")
        self._ending, self._watch = False, None
        self._server = _serving.Uvicorn.running()
        if self._server is not None:
            self._server.attach(self._before, self._after)
        health.resume()
        wait.follow_parent()
        self.scope = opened = AsyncScope("app", grace=self.grace)
        _current.set(opened)
        scope.setdefault("state", {})[_KEY] = opened
        life = _Life(self._close, receive, send)
        try:
            await life.run(self.app, scope)
        except BaseException as error:
            await self._close(error)
            raise
        finally:
            self.scope = None

    async def _close(self, error: "BaseException | None" = None) -> None:
        """Close the scope, unless the server was forced to leave."""
        if self.scope is not None and not (self._server is not None and self._server.forced):
            await self.scope.__aexit__(None if error is None else type(error), error, None)

    # ---- the end of the server

    async def _before(self) -> None:
        """Called when uvicorn is told to end, while it still listens."""
        self._drain()
        if self._server is not None:
            await self._server.linger(self.linger)
        await self._say_goodbye()

    def _after(self) -> None:
        """Called when uvicorn has ended, and before it kills the process."""
        if self._server is None:
            return
        if self._server.forced:
            left = len(self.scope) if self.scope is not None else 0
            without = f"forced to leave without {counted(left, 'cleanup')} of the application"
            say(f"{without}; the reaper runs what is durable")
        elif self._server.dies_of_sigterm:
            _close_root()

    def _drain(self) -> None:
        self._ending = True
        health.drain("the server ends")

    async def _say_goodbye(self) -> None:
        """Close all WebSockets, so that clients know that they may come back, to another server."""
        if not self._sockets:
            return
        try:
            async with AsyncScope("WebSockets", grace=_GOODBYE) as scope:
                with scope.parallel() as together:
                    for socket in self._sockets:
                        together.defer(socket.close)
        except CleanupFailed:
            pass  # broken connections; the server closes what is left

    def _look(self, send: "Send") -> None:
        """See whether this connection tells when its server ends."""
        ending = _serving.hypercorn_ending(send)
        if ending is None:
            return

        async def wait() -> None:
            await ending.wait()
            self._drain()
            await self._say_goodbye()

        try:
            self._watch = asyncio.get_running_loop().create_task(wait())
        except RuntimeError:  # trio's
            pass

    def __repr__(self) -> str:
        return f"<Lastly {self.app!r} {self.scope!r}>"


def _close_root() -> None:
    """Run the process's cleanups: uvicorn raises SIGTERM next, and no atexit function will run."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    # For cleanups that are coroutines: they get a loop of their own, and since 3.14 a thread has one current
    # task, whichever loop it belongs to.
    if task is not None:
        asyncio.tasks._leave_task(loop, task)  # noqa: SLF001  # documented, for those who write a loop
    asyncio.events._set_running_loop(None)  # noqa: SLF001  # as above
    try:
        root.close_for_exit()
    finally:
        asyncio.events._set_running_loop(loop)  # noqa: SLF001  # as above
        if task is not None:
            asyncio.tasks._enter_task(loop, task)  # noqa: SLF001  # as above
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass


class _Life:
    """The lifespan as the application sees it: its end is told to the server when the scope has closed."""

    def __init__(self, close: "Callable[[], Awaitable[None]]", receive: "Receive", send: "Send") -> None:
        self._close = close
        self._receive = receive
        self._send = send
        self._heard = ""  # the last message from the server
        self._said = ""  # the last message of the application

    async def run(self, app: "App", scope: "Message") -> None:
        """Run the application's lifespan; an application without one gets a plain one."""
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            if self._heard:
                raise
        if self._said.startswith("lifespan.startup.failed"):
            return
        for phase in ("lifespan.startup", "lifespan.shutdown"):
            if not self._said.startswith((phase, "lifespan.shutdown")):
                while self._heard != phase:
                    await self.receive()
                await self.send({"type": f"{phase}.complete"})

    async def receive(self) -> "Message":
        message = await self._receive()
        self._heard = message["type"]
        return message

    async def send(self, message: "Message") -> None:
        self._said = message["type"]
        if self._said != "lifespan.startup.complete":
            try:
                await self._close()
            except CleanupFailed as failed:
                text = "".join(traceback.format_exception(failed))
                message = {"type": _FAILED[self._said], "message": message.get("message", "") + text}
        await self._send(message)


_FAILED = {
    "lifespan.startup.failed": "lifespan.startup.failed",
    "lifespan.shutdown.complete": "lifespan.shutdown.failed",
    "lifespan.shutdown.failed": "lifespan.shutdown.failed",
}


class _Gone(ConnectionAbortedError):  # noqa: N818  # never seen by anybody
    """The application sends on a WebSocket that was closed because the server ends."""


class _WebSocket:
    """A WebSocket, as far as it must be known to say goodbye on it."""

    def __init__(self, receive: "Receive", send: "Send") -> None:
        self._receive = receive
        self._send = send
        self._open = False
        self._gone = False  # closed by us

    async def run(self, app: "App", scope: "Message", among: "set[_WebSocket]") -> None:
        among.add(self)
        try:
            await app(scope, self.receive, self.send)
        except Exception as error:
            if not _caused_by_us(error):
                raise
        finally:
            among.discard(self)

    async def receive(self) -> "Message":
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._open = False
            if self._gone:
                message = {**message, "code": GOING_AWAY}
        return message

    async def send(self, message: "Message") -> None:
        kind = message["type"]
        if self._gone:
            if kind == "websocket.close":
                return
            raise _Gone("this WebSocket was closed: the server ends")
        if kind == "websocket.close":
            self._open = False
        await self._send(message)
        if kind == "websocket.accept":
            self._open = True

    async def close(self) -> None:
        if self._open:
            self._open, self._gone = False, True
            await self._send({"type": "websocket.close", "code": GOING_AWAY, "reason": "the server ends"})


def _caused_by_us(error: "BaseException | None") -> bool:
    while error is not None:
        if isinstance(error, _Gone):
            return True
        error = error.__cause__ or error.__context__
    return False
