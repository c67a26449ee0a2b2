"""APScheduler: stopped while its executors still work, with its running jobs waited for.

A scheduler that is stopped in atexit is stopped too late: CPython has shut every executor down by then, and a
job that became due in between fails with "cannot schedule new futures after interpreter shutdown". A
program that stops it without waiting leaves jobs running into the end of the interpreter.

With an executor of processes there is more. A worker process waits for its next job at a pipe that it holds
open itself, so it never learns that its program was killed, and stays for ever. So each worker gets a thread
that waits for the program's end.
"""

import atexit
import os
import signal
import sys
import weakref
from time import sleep

from lastly._exit import reloader, root
from lastly._system import wait
from lastly._words.clock import monotonic
from lastly._words.clock import seconds as _seconds
from lastly.errors import CleanupTimeout, FrameworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from typing import Any, TypeVar

    from lastly._scope.handle import Cleanup
    from lastly._scope.scope import Scope

    T = TypeVar("T")

__all__ = ["manage"]
__dir__ = __all__.copy  # dir() shows what is public

# Before it, a pool that a worker's death broke was replaced by one without the arguments of the first, and
# workers were forked where any thread might hold any lock.
OLDEST = (3, 11)

_PAUSE = 0.01  # seconds between two looks at running jobs
_STOPPED, _RUNNING = 0, 1  # states of a scheduler


def manage(
    scheduler: "T", timeout: "float | timedelta | None" = 10.0, *, scope: "Scope | None" = None
) -> "T":
    """Stop a scheduler in time, however the program ends; return it.

    At the end no new job is begun, those that run are waited for, and then the scheduler is shut down: all
    that before CPython shuts executors down. A ``scheduler.shutdown()`` of the program's own may stay where
    it is, and does nothing afterwards. A second call for the same scheduler sets `timeout` anew.

    It may be started before or after. Where Werkzeug's or Django's reloader runs the program twice, jobs run
    in the process that serves.

    Args:
        scheduler: a ``BackgroundScheduler`` or ``BlockingScheduler`` of APScheduler 3, a ``Scheduler`` of
            APScheduler 4.
        timeout: seconds, or a timedelta, that running jobs get; None: as long as they take. Jobs that take
            longer are named in a `CleanupTimeout`; if they run in processes, these are killed. APScheduler 4
            waits as long as they take.
        scope: the scope at whose close it is stopped, before all else; default: the program's end.

    Raises:
        TypeError: a scheduler of another kind; the message says what to do with it.
        FrameworkError: APScheduler is too old.

    .. versionadded:: 0.1
    """
    limit = None if timeout is None else _seconds(timeout, "timeout")
    known: Any = scheduler
    owner = root.root if scope is None else scope
    title = f"stop {type(scheduler).__name__}"
    if _is_new(scheduler):
        # Here, without a limit: it resets a context variable, which no other thread may do.
        owner.defer_early(known.__exit__, None, None, None).named(title)
        return scheduler
    if not hasattr(scheduler, "_process_jobs") or hasattr(scheduler, "_eventloop"):
        raise TypeError(
            f"manage() takes a scheduler that runs in a thread, not {scheduler!r}; "
            "one that lives in an event loop is stopped there: AsyncScope.defer(scheduler.shutdown)"
        )
    _check_version()
    if "werkzeug" in sys.modules:
        reloader.watch()
    managed: _Managed | None = known.__dict__.get("_process_jobs")
    if managed is None:
        managed = known._process_jobs = _Managed(scheduler)  # noqa: SLF001  # what it is woken by
    if managed.cleanup is not None:
        managed.cleanup.detach()
    managed.cleanup = owner.defer_early(_stop, scheduler, limit).named(title)
    return scheduler


def _is_new(scheduler: "Any") -> bool:
    """Whether it is APScheduler 4's: its context manager stops it, and waits for running jobs."""
    return hasattr(scheduler, "start_in_background") and hasattr(scheduler, "__exit__")


def _check_version() -> None:
    package = sys.modules.get("apscheduler")
    version: tuple[int, ...] = getattr(package, "version_info", OLDEST)
    if version[:2] < OLDEST:
        raise FrameworkError(
            f"APScheduler {'.'.join(map(str, version))} is too old, {OLDEST[0]}.{OLDEST[1]} is needed: "
            'pip install --upgrade "lastly[apscheduler]"'
        )


class _Managed:
    """What a scheduler of version 3 calls when a job may be due: a look at where it is comes first."""

    cleanup: "Cleanup | None" = None

    def __init__(self, scheduler: "Any") -> None:
        self._scheduler = weakref.ref(scheduler)  # no circle: it is to be collected when nobody needs it

    def __call__(self) -> "float | None":
        scheduler: Any = self._scheduler()
        if reloader.only_reloads() and scheduler.state == _RUNNING:
            scheduler.pause()
        for executor in _executors(scheduler):
            _end_with_us(executor)
        pause: float | None = type(scheduler)._process_jobs(scheduler)  # noqa: SLF001  # stands in for it
        return pause


def _stop(scheduler: "Any", limit: "float | None") -> None:
    """Begin no more jobs, wait for those that run, and shut the scheduler down."""
    if scheduler.state == _STOPPED:
        return
    scheduler.pause()
    with scheduler._jobstores_lock:  # noqa: SLF001  # no public name; a round that has begun ends
        pass
    end = None if limit is None else monotonic() + limit
    while (running := _running(scheduler)) and (end is None or monotonic() < end):
        sleep(_PAUSE)
    killed = _kill_workers(scheduler) if running else False
    managers = [getattr(pool, "_executor_manager_thread", None) for pool in _pools(scheduler)]
    scheduler.shutdown(wait=False)
    for manager in filter(None, managers):
        manager.join()  # its workers are idle or killed; CPython's exit wakes it up while it closes: EBADF
    # The program's own call may come yet, which would be an error: the method itself, or in a function.
    atexit.unregister(scheduler.shutdown)
    scheduler.shutdown = _nothing
    if running:
        more = "their processes were killed" if killed else "their threads cannot be, and are waited for"
        raise CleanupTimeout(f"jobs did not end within {limit:g} s: {', '.join(running)}; {more}")


def _nothing(wait: bool = True) -> None:
    """Do what there is to do for a scheduler that has been stopped."""


def _running(scheduler: "Any") -> "list[str]":
    """Return the ids of jobs that executors have not finished."""
    known = [executor._instances for executor in _executors(scheduler)]  # noqa: SLF001  # no public name
    return [job for instances in known for job, count in list(instances.items()) if count]


def _executors(scheduler: "Any") -> "list[Any]":
    return list(scheduler._executors.values())  # noqa: SLF001  # no public name


def _pools(scheduler: "Any") -> "list[Any]":
    return [getattr(executor, "_pool", None) for executor in _executors(scheduler)]


def _kill_workers(scheduler: "Any") -> bool:
    killed = False
    for pool in _pools(scheduler):
        workers: dict[int, Any] | None = getattr(pool, "_processes", None)
        for worker in list((workers or {}).values()):
            worker.kill()
            killed = True
    return killed


# ---- in a worker process


def _end_with_us(executor: "Any") -> None:
    """Have the worker processes that this executor is going to start end with the program.

    A second call does nothing. A pool that breaks by a worker's death is replaced, with the same arguments.
    """
    arguments: dict[str, Any] | None = getattr(executor, "pool_kwargs", None)
    pool: Any = getattr(executor, "_pool", None)
    if (
        arguments is None
        or not hasattr(pool, "_initializer")
        or arguments.get("initializer") is _begin_worker
    ):
        return
    theirs = arguments.get("initializer"), tuple(arguments.get("initargs", ()))
    arguments["initializer"] = pool._initializer = _begin_worker  # noqa: SLF001  # nothing public sets them later
    arguments["initargs"] = pool._initargs = (os.getpid(), *theirs)  # noqa: SLF001  # as above


def _begin_worker(program: int, theirs: "Callable[..., object] | None", args: "tuple[object, ...]") -> None:
    """Called in a worker process before its first job; what it owes durably is the reaper's when it ends."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    wait.follow(program, lambda: parent is None or parent.is_alive(), signal.SIGKILL)
    if theirs is not None:
        theirs(*args)
