"""The process's own journal: made at the first durable cleanup, left behind or removed at the end.

A forked child shares nothing: not the lock (POSIX), not the file. It gets a journal of its own when it first
owes something. So does a process that has taken another user's rights since: what it cannot remove any more
is for the first user's reaper, and what it owes from then on must not be run with the first user's rights.

A program that replaces itself by exec leaves its journal where it is: the process lives on, and goes on owing
until the new program ends; if that one uses lastly too, the process simply has two.
"""

import errno
import os
from _thread import RLock

from lastly._system import probe
from lastly._words import fork
from lastly.errors import NotRecorded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lastly._journal.file import Journal
    from lastly._system.identity import Identity

_journal: "Journal | None" = None
_lock = RLock()
_leaving = False
_registered = False

# Set by `lastly run` in the workers of a program: whose the cleanups are. Default: this process's.
owner_of: "Callable[[], Identity | None]" = lambda: None  # noqa: E731  # a slot, to be replaced


def get() -> "Journal":
    """The journal of this process, made when there is none yet.

    Raises:
        NotRecorded: it cannot be made.
    """
    global _journal, _registered
    if why := probe.unsupported():
        refused = NotRecorded(f"cannot record a cleanup: {why}")
        refused.errno = errno.ENOTSUP
        raise refused
    journal = _journal
    if journal is not None and is_ours(journal):
        return journal
    with _lock:
        journal = _journal
        if journal is None or not is_ours(journal):
            # After a fork that Python did not see the parent's is open here too: left alone.
            from lastly._journal.file import Journal

            journal = _journal = Journal.create(owner_of())
            if not _registered:
                import atexit

                fork.in_child(_after_fork)
                atexit.register(leave)
                _registered = True
        return journal


def peek() -> "Journal | None":
    """The journal of this process, if it has one."""
    journal = _journal
    return journal if journal is not None and is_ours(journal) else None


def is_ours(journal: "Journal") -> bool:
    """Whether this process wrote it, with the rights that it has now."""
    return journal.pid == os.getpid() and journal.uid == os.geteuid()


def leave() -> None:
    """Remove the journal as soon as nothing is owed: the process is about to end.

    Run by atexit, perhaps before the cleanups are: so it also sets a flag, and `remove_if_leaving` removes
    the file after the last one. What is still owed then stays, for the reaper.
    """
    global _leaving
    _leaving = True
    remove_if_leaving()


def remove_if_leaving() -> None:
    """Call it after the final state of a cleanup is written."""
    global _journal
    if not _leaving:
        return
    with _lock:
        journal = peek()
        if journal is not None and not journal.live:
            _journal = None
            journal.close(unlink=True)


def _after_fork() -> None:
    global _journal, _leaving, _lock
    journal, _journal = _journal, None
    _leaving = False
    _lock = RLock()  # another thread of the parent may have held it
    if journal is not None:
        from lastly._journal import disk

        # In this child only: the parent's lock is the parent's, and by now the number may be another file's.
        if disk.key(journal.fd) == journal.key:
            os.close(journal.fd)
        journal.fd = -1
