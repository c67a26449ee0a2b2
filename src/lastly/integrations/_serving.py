"""How an ASGI server tells that it is about to end. Needs no server; knows two.

The protocol tells an application late: ``lifespan.shutdown`` comes when all connections are closed. But who
wants to say goodbye on them, or have a readiness probe fail, must know when the server begins to end. The
servers' signal handlers know, and they are the servers' own: nothing is put in their place here.

uvicorn's handler only sets a flag; what follows is `Server.shutdown`, which closes the listening sockets
first. On this one object we put our own before it, and after it. The object is found by its handler, which is
a bound method.

Hypercorn sets an event in the context of its worker, which every connection can see.
"""

import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def uvicorn_server() -> "Any | None":
    """Return the uvicorn server that runs in this process, if it holds the signals."""
    for signum in _SIGNALS:
        server = _server_of(signal.getsignal(signum))
        if server is not None:
            return server
    return None


def give_back_signals() -> bool:
    """Undo a ``lastly.install()`` that an application did while uvicorn already held the signals.

    Returns:
        whether that was so.
    """
    signals = sys.modules.get("lastly._signals")
    if signals is None or not any(map(_server_of, signals.state.previous.values())):
        return False
    signals.uninstall()
    return True


def _server_of(handler: object) -> "Any | None":
    server = getattr(handler, "__self__", None)
    if type(server).__module__.startswith("uvicorn") and hasattr(server, "shutdown"):
        return server
    return None


def around_shutdown(
    server: "Any", before: "Callable[[Any], Awaitable[None]]", after: "Callable[[Any], None]"
) -> None:
    """Have `before` and `after` called around the shutdown of this uvicorn server."""
    shutdown = server.shutdown

    async def wrapped(*args: object, **kwargs: object) -> None:
        await before(server)
        await shutdown(*args, **kwargs)
        after(server)

    server.shutdown = wrapped


def hurried(server: "Any") -> bool:
    """Whether this uvicorn server was told to end more than once."""
    return bool(getattr(server, "force_exit", False)) or len(getattr(server, "_captured_signals", ())) > 1


def dies_of(server: "Any") -> "int | None":
    """Return the signal that this uvicorn server will raise again when it has ended, if it kills the process.

    That is what it does with SIGTERM, unless somebody had a handler for it before: ``lastly.install()``, say.
    """
    signals = sys.modules.get("lastly._signals")
    if signals is not None and signal.SIGTERM in signals.state.previous:
        return None
    return signal.SIGTERM if signal.SIGTERM in getattr(server, "_captured_signals", ()) else None


def hypercorn_ending(send: object) -> "Any | None":
    """Return Hypercorn's event for its end, seen from one of its connections."""
    context = getattr(getattr(send, "__self__", None), "context", None)
    if type(context).__module__.startswith("hypercorn"):
        return getattr(context, "terminated", None)
    return None
