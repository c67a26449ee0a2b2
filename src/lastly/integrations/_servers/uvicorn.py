"""How an ASGI server tells that it is about to end. Needs no server; knows two.

The protocol tells an application late: ``lifespan.shutdown`` comes when all connections are closed. But who
wants to say goodbye on them, or have a readiness probe fail, must know when the server begins to end. The
servers' signal handlers know, and they are the servers' own: nothing is put in their place here.

uvicorn's handler sets a flag, and notes the signal in a list. A tenth of a second later at most it stops
listening, in `Server.shutdown`. The list is replaced by one that tells us, `shutdown` by one that waits for
us; on this one object, which is found by its handler, a bound method. And what we do in the meantime costs
nothing: when it is done, that tenth of a second is over.

Hypercorn sets an event in the context of its worker, which every connection can see.
"""

import asyncio
import functools
import os
import signal
import socket
import sys
from contextlib import ExitStack

from lastly.integrations._servers import listeners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, Self

# Seconds for the next request on a connection that its client keeps, and for the first one on a new one.
_SETTLE = 0.02
_PATIENCE = 0.25
# Between two looks the event loop takes in who waits, and what they send. In a row without news: all is said.
_LOOK = 0.001
_QUIET = 3


class Uvicorn:
    """The uvicorn server of this process, as far as its end is concerned."""

    def __init__(self, server: "Any") -> None:
        self._server = server
        self._ending: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # what comes before its end is done
        self._again = asyncio.Event()  # told more than once
        self._own_door = _listens_alone(server)
        if self._own_door:
            import ctypes  # noqa: F401  # what _door needs: not to be read from the disk at the end

    @classmethod
    def running(cls) -> "Self | None":
        """Return the server that runs in this process and holds the signals, if there is one."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            server = _server_of(signal.getsignal(signum))
            if server is not None:
                return cls(server)
        return None

    def attach(self, before: "Callable[[], Awaitable[None]]", after: "Callable[[], None]") -> None:
        """Have `before` run when it is told to end, while it still listens, and `after` when it has ended."""
        loop = asyncio.get_running_loop()

        async def end() -> None:
            try:
                await before()
                await self._settle()
            finally:
                self._settled.set()

        def begin() -> None:
            if self._ending is None:
                self._ending = loop.create_task(end())

        def told() -> None:
            begin()
            if len(getattr(self._server, "_captured_signals", ())) > 1:
                self._again.set()
            if self.forced:
                self._cut()

        signals = getattr(self._server, "_captured_signals", None)
        if type(signals) is list:
            telling = _Told(signals, lambda: loop.call_soon_threadsafe(told))
            self._server._captured_signals = telling  # noqa: SLF001  # see above
            self._server.main_loop = functools.partial(self._until_told, self._server.main_loop)
        shutdown = self._server.shutdown

        async def wrapped(*args: object, **kwargs: object) -> None:
            begin()  # unless it has begun: with a limit of requests nobody is told
            if self._ending is not None:
                await asyncio.wait([self._ending])  # whatever came of it, the server must end
            await shutdown(*args, **kwargs)
            after()

        self._server.shutdown = wrapped

    async def _until_told(self, main_loop: "Callable[[], Awaitable[None]]") -> None:
        """Run uvicorn's loop; leave it when all is settled: it looks at its flag ten times a second only."""
        looping, settled = asyncio.ensure_future(main_loop()), asyncio.ensure_future(self._settled.wait())
        try:
            await asyncio.wait((looping, settled), return_when=asyncio.FIRST_COMPLETED)
            if looping.done():
                looping.result()  # or its error
        finally:
            looping.cancel()
            settled.cancel()

    async def linger(self, seconds: float) -> None:
        """Wait so long, or until it is told once more."""
        if not seconds:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._again.wait()
        except TimeoutError:
            pass

    def _cut(self) -> None:
        """Cut all connections: from Python 3.12 on uvicorn, though forced, waits until they are closed."""
        for connection in list(self._server.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    @property
    def forced(self) -> bool:
        """Whether it leaves at once, without a lifespan's end."""
        return bool(getattr(self._server, "force_exit", False))

    @property
    def dies_of_sigterm(self) -> bool:
        """Whether it will be killed, by the SIGTERM that it raises again when it has ended.

        Not so when somebody had a handler for it before: ``lastly.install()``, say.
        """
        signals = sys.modules.get("lastly._exit.signals")
        if signals is not None and signal.SIGTERM in signals.state.previous:
            return False
        return signal.SIGTERM in getattr(self._server, "_captured_signals", ())

    async def _settle(self) -> None:
        """Let nobody new in, and those who have come in say what they want."""
        connections = self._server.server_state.connections
        with ExitStack() as stack:
            doors = [
                stack.enter_context(socket.socket(fileno=os.dup(listening.fileno())))
                for server in (getattr(self._server, "servers", ()) if self._own_door else ())
                for listening in server.sockets
            ]
            for door in doors:
                listeners.shut(door)
            quiet, patience = 0, int(_PATIENCE / _LOOK)  # counted, not timed: this process may have to wait
            while quiet < _QUIET and patience and not self._again.is_set():
                waiting = any(map(listeners.waiting, doors))
                patience -= not waiting
                quiet = 0 if waiting or any(map(_is_new, connections)) else quiet + 1
                await self.linger(_LOOK)
        if any(map(_is_kept, connections)):
            await self.linger(_SETTLE)


def _is_new(connection: "Any") -> bool:
    """Whether no request has come on a connection yet; where that cannot be seen, one has."""
    return getattr(connection, "cycle", connection) is None


def _is_kept(connection: "Any") -> bool:
    """Whether a connection has been answered and is kept for the next request."""
    return bool(getattr(getattr(connection, "cycle", None), "response_complete", False))


class _Told(list[int]):
    """uvicorn's list of the signals it got, which tells of each; in the signal's handler."""

    def __init__(self, signals: "list[int]", tell: "Callable[[], object]") -> None:
        super().__init__(signals)
        self._tell = tell

    def append(self, signum: int) -> None:
        super().append(signum)
        try:
            self._tell()
        except RuntimeError:  # the loop is closed
            pass


def _listens_alone(server: "Any") -> bool:
    """Whether the server makes the sockets itself on which it listens: then nobody else listens on them.

    Called while it starts. Of sockets that it is given it keeps no trace but the argument of its `startup`,
    which waits for us.
    """
    if getattr(server.config, "fd", None) is not None:
        return False
    for task in asyncio.all_tasks():
        waits: Any = task.get_coro()
        while waits is not None:
            frame = getattr(waits, "cr_frame", None)
            if (
                frame is not None
                and frame.f_code.co_name == "startup"
                and frame.f_locals.get("self") is server
            ):
                return frame.f_locals.get("sockets", ()) is None
            waits = getattr(waits, "cr_await", None)
    return False


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
    signals = sys.modules.get("lastly._exit.signals")
    if signals is None or not any(map(_server_of, signals.state.previous.values())):
        return False
    signals.uninstall()
    return True


def hypercorn_ending(send: object) -> "Any | None":
    """Return Hypercorn's event for its end, seen from one of its connections."""
    context = getattr(getattr(send, "__self__", None), "context", None)
    if type(context).__module__.startswith("hypercorn"):
        return getattr(context, "terminated", None)
    return None
