"""gunicorn's end without a connection that is reset: see listeners.py for the reason.

The master closes its listening sockets, which its workers still have, and tells the workers to end. Each
finishes what it has fetched; with the last of them the socket goes, and the kernel resets what waited in its
queue. So the master shuts the door first, where no other process has the socket, and a worker that is told to
end while the door is shut goes on until the queue is empty.

A worker that ends alone (a reload, one worker less) leaves the queue to the others, as ever.
"""

import _thread
import signal
import sys
from time import sleep

from lastly._words.clock import monotonic
from lastly.integrations._servers import listeners

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from types import FrameType
    from typing import Any

_PAUSE = 0.005  # seconds between two looks at the queue
# Where all processes of a group are told to end at once, a worker may know of it before its master does.
_MASTER = 0.1
# Those that accept in a loop which asks `alive`; others have ways of their own.
_KINDS = (("gunicorn.workers.sync", "SyncWorker"), ("gunicorn.workers.gthread", "ThreadWorker"))


def opened(server: "Any") -> None:
    """Called in the master when it listens: the hook ``when_ready``."""
    plain = server.stop

    def stop(graceful: bool = True) -> None:
        if graceful and _is_ours_alone(server):
            for listener in server.LISTENERS:
                listeners.shut(listener.sock)
        plain(graceful)

    server.stop = stop


def _is_ours_alone(server: "Any") -> bool:
    """Whether no other process has the listening sockets: systemd, the next master, the one before."""
    return not (server.systemd or server.reexec_pid or server.master_pid or server.cfg.reuse_port)


def born(_server: "Any", worker: "Any") -> None:
    """Called in a new worker, before it takes its signals: the hook ``post_fork``."""
    if any(isinstance(worker, getattr(sys.modules.get(module), name, ())) for module, name in _KINDS):
        worker.handle_exit = _Leaving(worker)


class _Leaving:
    """What a worker calls when SIGTERM has come."""

    def __init__(self, worker: "Any") -> None:
        self._worker = worker
        self._plain = worker.handle_exit
        self._begun = self._over = False
        self._main = _thread.get_ident()

    def __call__(self, signum: int, frame: "FrameType | None") -> None:
        if self._over:
            self._plain(signum, frame)
        elif not self._begun:
            from lastly.integrations import health

            self._begun = True
            health.drain("gunicorn ends this worker")
            _thread.start_new_thread(self._serve_the_queue, ())

    def _serve_the_queue(self) -> None:
        try:
            doors: list[socket.socket] = [listener.sock for listener in self._worker.sockets]
            end = monotonic() + _MASTER
            while not any(map(listeners.is_shut, doors)) and monotonic() < end:
                sleep(_PAUSE)
            shut = list(filter(listeners.is_shut, doors))
            end = monotonic() + self._worker.cfg.graceful_timeout / 2
            empty = False
            while shut and monotonic() < end:
                before, empty = empty, not any(map(listeners.waiting, shut))
                if before and empty:
                    break
                sleep(_PAUSE)
        finally:
            self._over = True
            signal.pthread_kill(self._main, signal.SIGTERM)
