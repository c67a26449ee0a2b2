"""Pid files and lock files: one holder at a time."""

import errno
import json
import os
import stat

from lastly import actions
from lastly._durable import seam
from lastly._words.clock import monotonic, seconds
from lastly.resources import _holder
from lastly.resources._place import place, remove_stale, resolved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Any

    from lastly._scope.scope import Scope
    from lastly.resources._place import AnyPath
    from lastly.resources._temporary import Temporary

GRACE = 10.0
_LOOK = 0.1  # seconds between two looks whether a holder that lives on has freed it


def pid_file(
    path: "AnyPath",
    *,
    takeover: bool = False,
    wait: "float | timedelta" = 0.0,
    grace: "float | timedelta" = GRACE,
    scope: "Scope | None" = None,
) -> "Temporary":
    """Write this process's pid into a file that goes when the program ends, however it ends.

    A file that a dead process left is replaced: dead by identity (boot, pid namespace, pid and start time),
    which the journals know, so that a recycled pid does not deceive. An empty file is replaced, too, when it
    was not written to for 10 s and is not locked. A second call in the same process fails as for any other
    holder.

    Args:
        path: the file.
        takeover: end the process that holds it first: SIGTERM, `grace`, SIGKILL, its children too. Only a
            process of this user that has made the file itself, as a journal in this home says, at this
            path; what the file says is not enough, since another user may have written it.
        wait: seconds (or a timedelta) to wait for a living holder to end, or to free it. Default 0. Another
            process of this user that is working on the same name is waited for in any case: milliseconds, or
            5 s at most if it is stopped.
        grace: seconds (or a timedelta) between SIGTERM and SIGKILL when taking over. Default 10.
        scope: the scope at whose close it goes; default: the program's end.

    Raises:
        FileExistsError: a living process holds it, it is not such a file, or what a dead one left is another
            user's; it was not touched.
        NotRecorded: the journal cannot be written; nothing was created.

    .. versionadded:: 0.1
    """
    return _hold(path, f"{os.getpid()}\n", takeover=takeover, wait=wait, grace=grace, scope=scope)


def lock_file(
    path: "AnyPath",
    *,
    takeover: bool = False,
    wait: "float | timedelta" = 0.0,
    grace: "float | timedelta" = GRACE,
    scope: "Scope | None" = None,
) -> "Temporary":
    """Hold a lock by a file: one holder at a time, freed when the program ends, however it ends.

    As `pid_file`, with the same arguments and errors; the file holds the process's whole identity as JSON, so
    that programs of other users can judge it as well.

    .. versionadded:: 0.1
    """
    return _hold(
        path, f"{json.dumps(_holder.me())}\n", takeover=takeover, wait=wait, grace=grace, scope=scope
    )


def _hold(
    path: "AnyPath",
    content: str,
    *,
    takeover: bool,
    wait: "float | timedelta",
    grace: "float | timedelta",
    scope: "Scope | None",
) -> "Temporary":
    until = monotonic() + seconds(wait, "wait")
    limit = seconds(grace, "grace")
    where = resolved(path)

    def create(temporary: str) -> None:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.write(fd, content.encode())
            os.fsync(fd)  # an empty one, which a power cut could leave, says nothing of its holder
        finally:
            os.close(fd)

    ended: object = None
    while True:
        with _holder.Turn(where, max(until - monotonic(), _holder.TURN)):
            holder = _holder_at(where)
            if holder is None:
                made = place(where, create, scope)
                if made is not None:
                    return made
                continue
        left = until - monotonic()
        another = holder.pid != os.getpid() and holder.identity != ended
        if left > 0:
            holder.wait(min(left, _LOOK))
            continue
        ends = takeover and another and not holder.untouchable()
        refusal = "" if ends else holder.refusal(takeover=takeover)
        # Freed while we looked, and with it went the journal that told whose it was: end nothing, refuse
        # nothing.
        if not holder.alive() or seam.file_identity(where) != holder.file:
            continue
        if refusal:
            raise FileExistsError(errno.EEXIST, refusal, where)
        actions.kill(holder.target(), grace=limit)
        ended = holder.identity  # an ancestor of ours is spared: then it holds on


def _holder_at(path: str) -> "_holder.Holder | None":
    """Return who holds the file; remove it when no process does any more. None: the name is free."""
    while file := seam.file_identity(path):
        holder = _look(path, file)
        if seam.file_identity(path) != file:
            continue  # freed meanwhile: the journal that told whose it was may be gone, too
        if holder is None:
            raise FileExistsError(errno.EEXIST, "not a pid or lock file: left untouched", path)
        if holder.alive():
            return holder
        remove_stale(path, file)
    return None


def _look(path: str, file: "dict[str, Any]") -> "_holder.Holder | None":
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileExistsError(errno.EEXIST, f"not a pid or lock file ({error.strerror})", path) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_ino != file["ino"]:
            return None
        return _holder.of(path, file, fd)
    finally:
        os.close(fd)
