"""The requests that this process is working on, and the end of a server that leaves none of them unanswered.

A server that has no signal handlers of its own (waitress, Werkzeug's) runs its loop in the main thread: an
exception there, which is what a signal becomes, and what was accepted is not fetched, what was answered is
not sent. So the signal is held back (lastly._exit.hold) while the loop goes on:

1. As long as requests that had begun before are at work, new ones are served too, and readiness says 503.
2. Then the door is shut (listeners.py): no new connection gets in, those that are in get an answer.
3. When nothing has been at work for three looks in a row, or the grace is over, the signal goes on.
"""

import _thread
import gc
import os
from time import sleep

from lastly._exit import hold as _hold
from lastly._exit import root, state
from lastly._scope.now import now as _now
from lastly._words import fork
from lastly._words.clock import monotonic
from lastly._words.warn import say
from lastly.integrations._servers import listeners

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_PAUSE = 0.01  # seconds between two looks
_LOOKS = 3
_COLLECT = 1.0  # seconds between two looks for requests that were dropped
_BEHIND = "werkzeug.proxy_fix.orig"
_PATIENCE = 0.5  # seconds for the first byte on a connection that was made before the door was shut

# What is at work: a dict, for putting in and taking out are one step each for all threads.
at_work: "dict[object, None]" = {}
# Where requests came in, as the server says it.
ports: "set[str]" = set()


class _Settings:
    """The largest times that an application here has asked for, and what is known of its server."""

    grace = 0.0
    linger = 0.0
    watched = False
    cuts = False  # its threads are daemons, which the end of the process cuts off wherever they are
    drained = False


settings = _Settings()


class Counted:
    """A WSGI application whose requests are counted, each until its answer has been sent."""

    __slots__ = ("app",)

    def __init__(self, app: "WSGIApp") -> None:
        self.app = app

    def __call__(self, environ: "dict[str, Any]", start_response: "Callable[..., Any]") -> "Iterable[bytes]":
        if environ.get("SERVER_PORT") not in ports:
            _learn(environ)
        request = object()
        at_work[request] = None
        try:
            answer = self.app(environ, start_response)
        except BaseException:
            at_work.pop(request, None)
            raise
        wrapper: Any = environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type) and isinstance(answer, wrapper):
            return _file(answer, request)  # servers know it by its class, and send it by the kernel
        return _Answer(answer, request)

    def __getattr__(self, name: str) -> "Any":
        return getattr(self.app, name)


class _Answer:
    """An answer on its way; the server closes it when it has been sent, or cannot be."""

    __slots__ = ("_answer", "_request")
    _at_work = at_work  # when the interpreter ends, names of modules are gone first

    def __init__(self, answer: "Iterable[bytes]", request: object) -> None:
        self._answer = answer
        self._request = request

    def __iter__(self) -> "Iterator[bytes]":
        return iter(self._answer)

    def __len__(self) -> int:
        return len(self._answer)  # type: ignore[arg-type]  # as sized as what it wraps: a TypeError if it is not

    def close(self) -> None:
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        finally:
            at_work.pop(self._request, None)

    def __del__(self) -> None:
        """Dropped and never closed, as a test's client does: it will never be sent."""
        self._at_work.pop(self._request, None)


def _file(answer: "Any", request: object) -> "Iterable[bytes]":
    close = getattr(answer, "close", None)

    def closed() -> None:
        try:
            if close is not None:
                close()
        finally:
            at_work.pop(request, None)

    try:
        answer.close = closed
    except AttributeError:  # no place for it: better not waited for than waited for in vain
        at_work.pop(request, None)
    file: Iterable[bytes] = answer
    return file


def _learn(environ: "dict[str, Any]") -> None:
    # Werkzeug's ProxyFix keeps beside the port that the client sees the one where we listen.
    ports.update((environ.get("SERVER_PORT", ""), environ.get(_BEHIND, environ).get("SERVER_PORT", "")))
    settings.cuts = environ.get("SERVER_SOFTWARE", "").startswith("Werkzeug")


def watch(grace: float, linger: float) -> None:
    """Have the end of this process wait for requests from now on; a second call raises the times at most."""
    settings.grace = max(settings.grace, grace)
    settings.linger = max(settings.linger, linger)
    state.subscribe(hold=hold)
    if not settings.watched:
        settings.watched = True
        root.defer_early(finish).named("requests in flight")


def hold() -> bool:
    """Say whether a signal has to wait for requests; if so, a thread of its own lets it go on."""
    listening = _listening()
    if not listening and not at_work:
        return False
    try:
        # Not by `threading`: its locks may be what the signal has interrupted.
        _thread.start_new_thread(_drain_and_go_on, (listening,))
    except RuntimeError:  # no thread is available, which would let the signal go on
        return False
    settings.drained = True
    return True


def _drain_and_go_on(listening: "list[socket.socket]") -> None:
    try:
        # Not systemd's door: it serves the next program, too.
        _drain(listening, shut="LISTEN_FDS" not in os.environ)
    finally:
        _hold.go_on()


def finish() -> None:
    """Wait for requests that the end of the process would cut off; nothing else is cleaned up before."""
    if settings.cuts and not settings.drained:
        _drain([], shut=False)  # it accepts no more; the reloader's next process has the socket too


def _drain(listening: "list[socket.socket]", *, shut: bool) -> None:
    """Wait until there is nothing left to answer, for as long as the settings allow."""
    now = monotonic()
    end = now + settings.grace
    if _now.deadline is not None:  # the rest is for the cleanups
        end = min(end, now + max(_now.deadline - now, 0.0) / 2)
    before, open_until = set(at_work), now + settings.linger
    collected = _collect(now, 0.0)
    while (now := monotonic()) < end and (now < open_until or not before.isdisjoint(at_work)):
        sleep(_PAUSE)
        collected = _collect(now, collected)
    if shut:
        for door in listening:
            listeners.shut(door)
    patient_until = now + _PATIENCE
    looks = 0
    while looks < _LOOKS and (now := monotonic()) < end:
        looks = 0 if _anything_left(listening, patient=now < patient_until) else looks + 1
        sleep(_PAUSE)
        collected = _collect(now, collected)
    if looks < _LOOKS and at_work:
        say(f"{len(at_work)} requests did not end in time and are cut off")
    for door in listening:
        door.close()


def _collect(now: float, last: float) -> float:
    """Forget requests that are no longer worked on, now and then; return when that was done last.

    Werkzeug does not close an answer whose client has reset the connection. If it is an error's, its frame is
    in a circle with that error's traceback, and so only the collector drops it (see `_Answer.__del__`).
    """
    if not at_work or now < last + _COLLECT:
        return last
    gc.collect()
    return now


def _anything_left(listening: "list[socket.socket]", *, patient: bool) -> bool:
    if at_work or any(listeners.waiting(door) for door in listening):
        return True
    again, connected = _sockets()
    busy = any(listeners.is_busy(connection, patient=patient) for connection in connected)
    for duplicate in (*again, *connected):
        duplicate.close()
    return busy


def _listening() -> "list[socket.socket]":
    listening, connected = _sockets()
    for connection in connected:
        connection.close()
    return listening


def _sockets() -> "tuple[list[socket.socket], list[socket.socket]]":
    try:
        return listeners.sockets(int(port) for port in tuple(ports) if port.isdigit())
    except OSError:  # no descriptor is left to look with
        return [], []


def _in_child() -> None:
    global settings
    at_work.clear()
    ports.clear()
    settings = _Settings()


fork.in_child(_in_child)
