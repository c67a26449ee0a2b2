"""Files at names that others know: pid files, lock files and sockets.

A temporary file has a name that nobody can guess, so its removal can be planned before it exists. The name of
a pid file is known to everybody: a removal planned before *we* made it could remove somebody else's. So the
file is made under an unguessable name first, planned as such; then its removal at the known name is planned,
bound to device, inode and birth time; then it is given that name by a link, which fails if the name is taken.
Killed between any two of these steps, we leave nothing, and touch nobody's.

What a dead holder left is removed inside a `Turn`: two programs that both find a stale file do not remove
each other's new one.
"""

import errno
import json
import os
import socket
import stat

from lastly import actions
from lastly._durable import seam
from lastly._exit.root import root
from lastly._system.sockets import Address
from lastly._words.clock import monotonic, seconds
from lastly.errors import NotOurs
from lastly.resources import Temporary, _holder, planned_removal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from typing import Any

    from lastly._scope.scope import Scope

    AnyPath = str | bytes | os.PathLike[Any]

GRACE = 10.0
_TURN = (
    5.0  # seconds, at least, to wait for a process of ours that looks at the same name: it takes milliseconds
)
_LOOK = 0.1  # seconds between two looks whether a holder that lives on has freed it


def pid_file(
    path: "AnyPath",
    *,
    takeover: bool = False,
    wait: "float | timedelta" = 0.0,
    grace: "float | timedelta" = GRACE,
    scope: "Scope | None" = None,
) -> Temporary:
    """Write this process's pid into a file that goes when the program ends, however it ends.

    A file that a dead process left is replaced: dead by identity (boot, pid namespace, pid and start time),
    which the journals know, so that a recycled pid deceives nobody. So is an empty file that nobody has
    written to for 10 s, and nobody has locked. A second call in the same process fails as for any other
    holder.

    Args:
        path: the file.
        takeover: end the process that holds it first: SIGTERM, `grace`, SIGKILL, its children too. Only a
            process of this user that has made the file itself, as a journal in this home says, at this
            path; what the file says is not enough, since another user may have written it.
        wait: seconds (or a timedelta) to wait for a living holder to end, or to free it. Default 0. Another
            process of this user that deals with the same name just now is waited for in any case, which takes
            milliseconds; 5 s at most if it is stopped.
        grace: seconds (or a timedelta) between SIGTERM and SIGKILL when taking over. Default 10.
        scope: the scope at whose close it goes; default: the program's end.

    Raises:
        FileExistsError: a living process holds it, it is no such file, or what a dead one left is another
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
) -> Temporary:
    """Hold a lock by a file: one holder at a time, freed when the program ends, however it ends.

    As `pid_file`; the file holds the process's whole identity as JSON, so that programs of other users can
    judge it as well.

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
) -> Temporary:
    until = monotonic() + seconds(wait, "wait")
    limit = seconds(grace, "grace")
    where = _resolved(path)

    def create(temporary: str) -> None:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.write(fd, content.encode())
            os.fsync(fd)  # an empty one, which a power cut could leave, says nothing of its holder
        finally:
            os.close(fd)

    ended: object = None
    while True:
        with _holder.Turn(where, max(until - monotonic(), _TURN)):
            holder = _holder_at(where)
            if holder is None:
                made = _place(where, create, scope)
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
        # Freed while we looked, and with it the journal that told whose it was: nobody is ended or refused.
        if not holder.alive() or seam.file_identity(where) != holder.file:
            continue
        if refusal:
            raise FileExistsError(errno.EEXIST, refusal, where)
        actions.kill(holder.target(), grace=limit)
        ended = holder.identity  # an ancestor of ours is spared: then it holds on


def _holder_at(path: str) -> "_holder.Holder | None":
    """Return who holds the file; remove it when that is nobody any more. None: the name is free."""
    while file := seam.file_identity(path):
        holder = _look(path, file)
        if seam.file_identity(path) != file:
            continue  # freed meanwhile: the journal that told whose it was may be gone, too
        if holder is None:
            raise FileExistsError(errno.EEXIST, "it is no pid or lock file: it was not touched", path)
        if holder.alive():
            return holder
        _remove_stale(path, file)
    return None


def _look(path: str, file: "dict[str, Any]") -> "_holder.Holder | None":
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileExistsError(errno.EEXIST, f"it is no pid or lock file ({error.strerror})", path) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_ino != file["ino"]:
            return None
        return _holder.of(path, file, fd)
    finally:
        os.close(fd)


def _remove_stale(path: str, file: "dict[str, Any]") -> None:
    try:
        actions.remove(path, expect=file)
    except (NotOurs, PermissionError) as error:
        what = (
            f"nobody holds it any more, and it cannot be removed: {error}; remove it as its owner, or as root"
        )
        raise FileExistsError(errno.EEXIST, what, path) from error


def _resolved(path: "AnyPath") -> str:
    folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
    if not name:
        raise IsADirectoryError(errno.EISDIR, "a folder, where a file is wanted", folder)
    return os.path.join(os.path.realpath(folder), name)


def _beside(path: str) -> str:
    """Return an unguessable name in the same folder; a short one, for a socket's address."""
    return os.path.join(os.path.dirname(path), f".lastly-{os.urandom(8).hex()}")


def _place(path: str, create: "Callable[[str], None]", scope: "Scope | None") -> Temporary | None:
    """Make the file beside its place, plan the removal of exactly that file there, then give it its name.

    Returns:
        None when the name has been taken meanwhile; nothing is left then.
    """
    temporary = _beside(path)
    first = planned_removal(temporary, scope)
    try:
        create(temporary)
        file = _made(temporary)
        scope = root if scope is None else scope
        cleanup = seam.deferred(scope, actions.remove, path, expect=file)
    except Exception:
        first.run()
        raise
    try:
        _name(temporary, path)
    except OSError as error:
        cleanup.detach()
        first.run()
        if isinstance(error, FileExistsError):
            return None
        raise
    first.detach()
    return Temporary(path, cleanup)


def _made(path: str) -> "dict[str, Any]":
    """Return the identity of what was created there. Who may rename in its folder may have exchanged it."""
    file = seam.file_identity(path)
    found = os.lstat(path)
    if stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_ino != file.get("ino"):
        raise PermissionError(errno.EPERM, "somebody has put another file in its place", path)
    return file


def _name(temporary: str, path: str) -> None:
    """Give the file its name. Raises FileExistsError when somebody has taken that."""
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os.rename(temporary, path)
    else:
        os.unlink(temporary)


class UnixSocket(socket.socket):
    """A listening Unix socket that takes its file along when it is closed.

    Attributes:
        file: its place in the file system, a `Temporary`.
    """

    file: Temporary

    def close(self) -> None:
        """Close it and remove its file. A second call does nothing."""
        super().close()
        file = getattr(self, "file", None)
        if file is not None:
            file.close()


def unix_socket(
    path: "AnyPath", *, backlog: int = 128, mode: int = 0o600, scope: "Scope | None" = None
) -> UnixSocket:
    """Listen at a path; the socket's file goes when the program ends, however it ends.

    A socket at which nobody listens any more is replaced. Nobody can connect before it listens: it is bound
    under another name and renamed.

    Args:
        path: where to listen; may be longer than the 107 bytes that a socket's address has.
        backlog: connections that may wait to be accepted.
        mode: permissions of the file. Default 0600: this user alone.
        scope: the scope at whose close the file goes; default: the program's end.

    Raises:
        FileExistsError: somebody listens there, or it is no socket; it was not touched.
        NotRecorded: the journal cannot be written; nothing was created.

    .. versionadded:: 0.1
    """
    where = _resolved(path)
    made = UnixSocket(socket.AF_UNIX, socket.SOCK_STREAM)

    def create(temporary: str) -> None:
        os.fchmod(made.fileno(), mode)  # what bind makes has this mode, less the umask
        with Address(temporary) as address:
            made.bind(address)
        _grant(temporary, mode)
        made.listen(backlog)

    try:
        with _holder.Turn(where, _TURN):
            _free_socket(where)
            file = _place(where, create, scope)
        if file is None:
            raise FileExistsError(errno.EEXIST, "somebody else has just taken it", where)  # noqa: TRY301  # closed below
        made.file = file
    except BaseException:
        made.close()
        raise
    return made


def _grant(path: str, mode: int) -> None:
    """Give a new socket the rights that the umask took from it; nothing else that may be there by now."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if stat.S_IMODE(found.st_mode) == mode:
            return
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise PermissionError(errno.EPERM, "somebody has put another file in its place", path)
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def _free_socket(path: str) -> None:
    file = seam.file_identity(path)
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "it is no socket: it was not touched", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, Address(path) as address:
        probe.setblocking(False)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            _remove_stale(path, file)
            return
        except OSError:
            pass  # a full queue, another type: somebody is there
    raise FileExistsError(errno.EEXIST, "somebody listens there", path)
