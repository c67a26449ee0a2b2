"""Threads to run cleanups in that may have to be left behind.

The only way to stop waiting for a Python call is to have another thread make it. These come from
`_thread`: `threading` costs an import, and its threads would be waited for at exit, which is what must not
happen.

At exit, from 3.12 on, no thread can be started any more once the non-daemon ones are joined. `reserve`
starts them before that; without one, `start` says so and the caller runs the cleanup itself, without a
limit.
"""

import _contextvars
import _thread

from lastly._scope.handle import run_coroutine
from lastly._scope.now import callers, now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lastly._scope.handle import Cleanup

# How long a thread waits for another cleanup before it ends: a closing scope has the next one at once.
LINGER = 0.2
# At most so many at a time for one parallel scope.
MANY = 64

_idle: "list[_Worker]" = []
_linger = LINGER


class Job:
    """One cleanup in another thread; `done` is released when it has ended."""

    __slots__ = ("cleanup", "context", "done", "error", "tell")

    def __init__(self, cleanup: "Cleanup", tell: "Callable[[], object] | None") -> None:
        self.cleanup = cleanup
        self.tell = tell
        self.context = _contextvars.copy_context()
        self.context.run(callers.set, now.inside())
        self.done = _thread.allocate_lock()
        self.done.acquire()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.context.run(self._call)
        except BaseException as error:
            self.error = error
        finally:
            self.done.release()
        if self.tell is not None:
            try:
                self.tell()
            except RuntimeError:  # the event loop is closed: nothing waits any more
                pass

    def _call(self) -> None:
        if (result := self.cleanup()) is not None:
            run_coroutine(result)


class _Worker:
    __slots__ = ("job", "wake")

    def __init__(self, job: "Job | None") -> None:
        self.job = job
        self.wake = _thread.allocate_lock()
        self.wake.acquire()

    def loop(self) -> None:
        while True:
            if self.job is not None:
                self.job.run()
                self.job = None
                _idle.append(self)
            linger = _linger
            if not self.wake.acquire(timeout=linger):
                try:
                    _idle.remove(self)
                except ValueError:
                    self.wake.acquire()  # taken just now: the job is on its way
                else:
                    if linger == _linger:
                        return
                    _idle.append(self)  # `reserve` has counted on this one meanwhile


def start(cleanup: "Cleanup", tell: "Callable[[], object] | None" = None) -> "Job | None":
    """Run a cleanup in another thread, which calls `tell` when it has ended; None: no thread is available."""
    job = Job(cleanup, tell)
    try:
        worker = _idle.pop()
    except IndexError:
        try:
            _thread.start_new_thread(_Worker(job).loop, ())
        except RuntimeError:  # at exit (3.12 on), or the system's limit
            return None
    else:
        worker.job = job
        worker.wake.release()
    return job


def stay() -> None:
    """Have threads wait from now on for as long as the process lives; a second call does nothing.

    One that woke while the interpreter ends would be ended by the C library, which loads a file for it and
    aborts the process where no descriptor is left.
    """
    global _linger
    _linger = _thread.TIMEOUT_MAX


def reserve(count: int) -> None:
    """Have threads waiting for the exit, when none can be started; they do not end before it."""
    stay()
    for _ in range(min(count, MANY) - len(_idle)):
        worker = _Worker(None)
        try:
            _thread.start_new_thread(worker.loop, ())
        except RuntimeError:
            return
        _idle.append(worker)


def forget() -> None:
    """In a forked child: the threads are the parent's."""
    _idle.clear()
