"""A thread whose `join` a signal interrupts is still one, and is waited for at the end.

Up to Python 3.12 `Thread.join` cannot tell which of two happened when an exception comes out of its wait: the
lock that says "this thread runs" was taken by the wait, because the thread has ended; or the thread holds it
still. It takes every such thread for ended, releases the lock and calls ``self._stop()``. So a program that
was in ``thread.join()`` when a signal came did not wait for that thread any more, neither in a join of its
own nor at its end, and the thread's cleanups were cut off, although it had been told to stop.

That call is the place to undo it. A thread that runs is in `threading`'s table of threads: it takes itself
off, and only then does the C code release the lock. So the lock is taken again first, then the table is
looked at: who is in it will release the lock. From 3.13 on the wait is written in C, and right.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any


def keep(frame: "FrameType | None") -> None:
    """Keep the thread that is being joined here, if one is, when an exception is raised now."""
    while frame is not None:
        if frame.f_code.co_name == "_wait_for_tstate_lock" and frame.f_globals.get("__name__") == "threading":
            _keep(frame.f_locals["self"], frame.f_globals["_active"])
            return
        frame = frame.f_back


def _keep(thread: "Any", table: "dict[int, Any]") -> None:
    lock = thread._tstate_lock

    def stop() -> None:
        thread.__dict__.pop("_stop", None)
        if lock is not None and lock.acquire(False):
            if thread._ident in table:
                return
            lock.release()
        thread._stop()

    thread._stop = stop
