"""A thread that looks what the main thread is about, from the first signal on until the program ends.

Python runs signal handlers in the main thread, between two bytecodes. So what nobody calls us for is seen by
this thread alone: that the main thread waits for others (joins.py), or goes on as if there had been no
signal (swallowed.py, event_loops.py). It decides nothing: it sends the signal once more, and the handler
looks again, in the main thread. It sends it until the handler has run, for what arrives in the instant
before a call begins to wait does not wake it.

Under gevent and eventlet a "thread" is a greenlet, which would run only when the main thread lets it, and
block that for its sleep. So the interpreter's own functions are used, whoever has replaced them, and
whenever.
"""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum
import _thread

from lastly._exit import joins, swallowed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Seconds between two looks.
TICK = 0.05

# Threads of ours; see _finish.die_of.
looking = 0
_turn = 0  # the last one started goes on, others end


def follow() -> bool:
    """Look from now on; False: no thread can be had."""
    global _turn
    from lastly._exit import signals

    _turn += 1
    native = _native()
    try:
        native.start_new_thread(_look, (signals.state, _turn, native.allocate_lock()))
    except RuntimeError:  # at exit, from 3.12 on; or too many threads
        return False
    return True


def _native() -> "Any":
    """Return `_thread` as the interpreter has made it."""
    if type(_thread.start_new_thread).__name__ == "builtin_function_or_method":
        return _thread
    import _imp
    from importlib.machinery import ModuleSpec

    fresh = _imp.create_builtin(ModuleSpec("_thread", None))
    _imp.exec_builtin(fresh)
    return fresh


def _look(state: "Any", turn: int, never: "Any") -> None:
    global looking
    from lastly._exit import signals

    signum = state.signum
    looking += 1
    try:
        # A signal for the process must not go to this thread: it would not wake the main one.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        never.acquire()
        lost, last = 0, None
        while True:
            never.acquire(True, TICK)  # sleeps: nobody releases it, and `time.sleep` may be gevent's
            if turn != _turn or state is not signals.state or state.signum != signum or state.dying:
                return
            if not signals.installed(signum):
                return
            if joins.at_it():
                state.waits = True
            # Twice in a row: between two lines of a framework an exception may be in no hand for a moment.
            before, last = last, swallowed.watched
            lost = 0 if not signals.lost() else lost + 1 if last is before else 1
            if lost >= 2 and not state.again:
                state.again = signals.LOOK
            if state.waits or state.again:
                _signal.pthread_kill(signals.main_ident, signum)
    finally:
        looking -= 1
