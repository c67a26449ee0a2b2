"""A worker of pytest-xdist ends when its controller is dead.

By itself it goes on with its test for 5 seconds, then gets SIGINT, which it may ignore (started by a shell's
``&``), and leaves by ``os._exit`` after 10 more; what it owes waits as long. So it watches the controller,
its parent: a dead controller is a SIGTERM.

The thread is one that `threading` does not know: tests count theirs.
"""

import _thread
import os
import signal
import time

from lastly._exit import stack
from lastly._exit.state import end
from lastly._system import proc, wait

_watching = False


def end_with_it() -> None:
    """Have SIGTERM end this process in order when its parent dies; a second call does nothing."""
    global _watching
    if _watching or signal.SIGTERM not in end.previous:
        return  # it would not end in order
    parent = os.getppid()
    start = proc.start_time(parent)
    if start is None or os.getppid() != parent:  # it has died just now, and xdist's own way is open
        return
    _watching = True
    _thread.start_new_thread(_watch, (parent, start))


def _watch(parent: int, start: int) -> None:
    wait.ends(parent, start)
    pause = 0.01
    # Again and again: what arrives in the instant before the main thread begins to wait does not wake it.
    # Once SIGTERM is given back it would kill: but then the run is over.
    while signal.SIGTERM in end.previous and not end.signum:
        signal.pthread_kill(stack.main_ident, signal.SIGTERM)  # it has a handler, and wakes up
        time.sleep(pause)
        pause = min(2 * pause, 1.0)
