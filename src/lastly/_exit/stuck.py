"""A main thread that does not answer: the reaper keeps the clock.

Python runs signal handlers in the main thread, between two bytecodes. While that thread is inside one long
C call, nothing in this process helps: with the GIL held no other thread runs either, and a thread kept for
the case that it is released would make every ``fork`` of the program warn about threads. But the *C*
handler runs at once, and writes the signal's number to the wake-up descriptor. Its other end goes to the
reaper, as soon as something durable is owed: it kills this process when the time is over, and runs what is
owed.

With a grace that is the time for everything. Without one only the answer counts: the handler, once it runs,
tells the reaper to be calm, however long the cleanups take then.

There is one wake-up descriptor per process. A program that has set one (an asyncio loop with signal
handlers of its own) keeps it.
"""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum

from lastly._exit import state
from lastly._exit.state import end
from lastly._words import pythons
from lastly._words.pythons import close, fstat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Seconds to answer a signal, where no grace was given.
ANSWER = 10.0

_client: "Any" = None  # lastly._reaper.client, given by _durable: this side does not import that one
_ends: "tuple[int, int] | None" = None
_inode = -1  # of both: a program that closes all descriptors gives their numbers to other files
_kept = False  # whether the reaper has been asked
_lasting = False  # whether the time is for everything, not for the answer


def connect(client: "Any") -> None:
    """Know the reaper's client; called when something durable is owed for the first time."""
    global _client
    _client = client
    guard(tuple(end.previous), end.grace)


def guard(signals: "tuple[int, ...]", grace: "float | None") -> None:
    """Have the reaper watch over these signals; the last call counts. Outside the main thread: nothing."""
    global _ends, _inode, _kept, _lasting
    if _client is None or not signals:
        return
    if _ends is None:
        ends = pythons.pipe()
        try:
            before = _signal.set_wakeup_fd(ends[1], warn_on_full_buffer=False)
        except ValueError:  # not the main thread
            before = ends[1]
        if before != -1:
            if before != ends[1]:
                _signal.set_wakeup_fd(before)
            close(ends[0])
            close(ends[1])
            return
        _ends, _inode = ends, fstat(ends[0]).st_ino
    _kept = True
    _lasting = grace is not None
    _client.deadline(_ends[0], signals, ANSWER if grace is None else grace)


def answered(*, ending: bool = True) -> None:
    """The handler runs.

    Without a grace that is enough; with one the clock goes on while the process is ending.
    """
    if _kept and not (_lasting and ending):
        _client.signal_answered()


def _nothing_ends() -> None:
    answered(ending=False)


state.subscribe(answered=_nothing_ends)


def give_back() -> None:
    """Stop watching: uninstall(), or a forked child, whose signals are not its parent's."""
    global _ends, _kept
    if _ends is None:
        return
    try:
        current = _signal.set_wakeup_fd(-1)
        if current not in (-1, _ends[1]):
            _signal.set_wakeup_fd(current)
    except ValueError:  # not the main thread: the descriptor must stay open
        return
    for fd in _ends:
        try:
            if fstat(fd).st_ino == _inode:
                close(fd)
        except OSError:
            pass
    _ends, _kept = None, False
