"""A process that serves for another one ends with it.

Who starts processes to serve (Werkzeug's reloader, uvicorn's and Hypercorn's masters, a pool) tells them to
end. When it is killed nobody does, and they would stay for ever, with their port, beside those that are
started next. So each has a thread that waits for that end.
"""

import os
import select
import signal
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_followed: "dict[int, int]" = {}  # by our own pid, that a forked child begins anew


def follow(parent: int, alive: "Callable[[], bool]", signum: int = signal.SIGTERM) -> None:
    """Have this process get a signal when its parent has ended; a second call for it does nothing.

    Args:
        parent: its pid.
        alive: whether it lives, asked once: by then its number could be another's.
        signum: the signal.
    """
    if _followed.get(os.getpid()) != parent:
        _followed[os.getpid()] = parent
        arguments = (parent, alive, signum)
        threading.Thread(target=_wait, args=arguments, name="lastly-parent", daemon=True).start()


def _wait(parent: int, alive: "Callable[[], bool]", signum: int) -> None:
    try:
        pidfd = os.pidfd_open(parent)
        if alive():
            poll = select.poll()  # not select(), whose descriptors end at 1,023
            poll.register(pidfd, select.POLLIN)
            poll.poll()
    except ProcessLookupError:
        pass
    signal.pthread_kill(threading.main_thread().ident or 0, signum)  # there it ends a wait


def follow_parent() -> None:
    """Follow the process that has started this one by multiprocessing, if that is how it began."""
    if "multiprocessing" not in sys.modules:
        return
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        follow(parent.pid, parent.is_alive)
