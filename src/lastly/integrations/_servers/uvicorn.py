"""How an ASGI server says that it is about to end. Needs no server; knows two.

The protocol tells an application late: ``lifespan.shutdown`` comes when all connections are closed. Saying
goodbye on them, and failing readiness while requests are still answered, must happen before. The servers'
signal handlers know when, and they stay the servers' own: nothing is put in their place here.

uvicorn leaves its loop at most 0.1 s after the signal and calls `Server.shutdown`, which stops listening.
One thing is replaced, that method, on the one server object; it is found by its signal handler, which is a
bound method. All else is read only: `force_exit`, `server_state.connections`, `servers`, and the list of
signals, whose length says whether it was told again. tests/integrations/test_asgi_layer.py fails when one of
them is gone.

Three more were replaced once (the list of signals, `main_loop`, and the frame of `startup` was looked into):
that ended an idle server in 0.12 s instead of 0.18 s (uvicorn alone: 0.16 s), and nothing else needed it.

Hypercorn sets an event in the context of its worker, which every connection can see.
"""

import asyncio
import os
import signal
import socket
from contextlib import ExitStack

from lastly._exit.state import end
from lastly.integrations._servers import listeners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, Self

# Seconds for the next request on a connection that its client keeps, and for the first one on a new one.
_KEPT = 0.02
_PATIENCE = 0.25
# Between two looks the event loop accepts connections and reads. In a row without news: all is read.
_LOOK = 0.001
_QUIET = 3
_TICK = 0.05  # seconds between two looks whether it was told again


class Uvicorn:
    """The uvicorn server of this process, as far as its end is concerned."""

    def __init__(self, server: "Any") -> None:
        self._server = server

    @classmethod
    def running(cls) -> "Self | None":
        """Return the server that runs in this process and holds the signals, if there is one."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            server = _server_of(signal.getsignal(signum))
            if server is not None:
                return cls(server)
        return None

    def attach(self, before: "Callable[[], Awaitable[None]]", after: "Callable[[], None]") -> None:
        """Have `before` run when it begins to end, while it still listens, and `after` when it has ended."""
        shutdown = self._server.shutdown

        async def wrapped(sockets: "Any" = None) -> None:
            try:
                await before()
                # Sockets that it was given may be another process's, too.
                if sockets is None and getattr(self._server.config, "fd", None) is None:
                    await self._close_door()
                if any(map(_is_kept, self._server.server_state.connections)):
                    await self.linger(_KEPT)
            finally:  # whatever came of it, the server must end
                cutting = asyncio.ensure_future(self._cut_when_forced())
                try:
                    await shutdown(sockets=sockets)
                finally:
                    cutting.cancel()
            after()

        self._server.shutdown = wrapped

    async def linger(self, seconds: float) -> None:
        """Wait so long, or until it is told once more."""
        try:
            async with asyncio.timeout(seconds):
                while not self._told_again:  # noqa: ASYNC110  # uvicorn keeps a list, no event
                    await asyncio.sleep(min(_TICK, seconds))
        except TimeoutError:
            pass

    async def _cut_when_forced(self) -> None:
        """Cut all connections: from Python 3.12 on uvicorn waits until they are closed, forced or not."""
        while not self.forced:  # noqa: ASYNC110  # as above: a flag
            await asyncio.sleep(_TICK)
        for connection in list(self._server.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    @property
    def _signals(self) -> "list[int]":
        """The signals that it got since it runs."""
        got: list[int] = getattr(self._server, "_captured_signals", [])
        return got

    @property
    def _told_again(self) -> bool:
        return len(self._signals) > 1

    @property
    def forced(self) -> bool:
        """Whether it leaves at once, without a lifespan's end."""
        return bool(getattr(self._server, "force_exit", False))

    @property
    def dies_of_sigterm(self) -> bool:
        """Whether it will be killed, by the SIGTERM that it raises again when it has ended.

        Not so when there was a handler for it before: ``lastly.install()``, say.
        """
        if signal.SIGTERM in end.previous:
            return False
        return signal.SIGTERM in self._signals

    async def _close_door(self) -> None:
        """Let no new connection in, and wait for the requests of those that are in."""
        connections = self._server.server_state.connections
        with ExitStack() as stack:
            doors = [
                stack.enter_context(socket.socket(fileno=os.dup(listening.fileno())))
                for server in getattr(self._server, "servers", ())
                for listening in server.sockets
            ]
            for door in doors:
                listeners.shut(door)
            quiet, patience = 0, int(_PATIENCE / _LOOK)  # counted, not timed: this process may have to wait
            while quiet < _QUIET and patience and not self._told_again:
                waiting = any(map(listeners.waiting, doors))
                patience -= not waiting
                quiet = 0 if waiting or any(map(_is_new, connections)) else quiet + 1
                await asyncio.sleep(_LOOK)


def _is_new(connection: "Any") -> bool:
    """Whether no request has come on a connection yet; where that cannot be seen, one has."""
    return getattr(connection, "cycle", connection) is None


def _is_kept(connection: "Any") -> bool:
    """Whether a connection has been answered and is kept for the next request."""
    return bool(getattr(getattr(connection, "cycle", None), "response_complete", False))


def _server_of(handler: object) -> "Any | None":
    server = getattr(handler, "__self__", None)
    if type(server).__module__.startswith("uvicorn") and hasattr(server, "shutdown"):
        return server
    return None


def give_back_signals() -> bool:
    """Undo a ``lastly.install()`` that an application did while uvicorn already held the signals.

    Returns:
        whether that was so.
    """
    if not any(map(_server_of, end.previous.values())):
        return False
    from lastly._exit import signals

    signals.uninstall()
    return True


def hypercorn_ending(send: object) -> "Any | None":
    """Return Hypercorn's event for its end, seen from one of its connections."""
    context = getattr(getattr(send, "__self__", None), "context", None)
    if type(context).__module__.startswith("hypercorn"):
        return getattr(context, "terminated", None)
    return None
