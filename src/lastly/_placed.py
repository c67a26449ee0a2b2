"""Files at names that others know: pid files, lock files, sockets, and files that replace others.

A temporary file has a name that nobody can guess, so its removal can be planned before it exists. The name of
a pid file is known to everybody: a removal planned before *we* made it could remove somebody else's. So the
file is made under an unguessable name first, planned as such; then its removal at the known name is planned,
bound to device, inode and birth time, which a rename does not change; then it is renamed. Killed between any
two of these steps, we leave nothing, and touch nobody's.

Who looks whether the name is free, and takes it, holds a lock (flock) on the folder meanwhile: two programs
that both find a stale file do not remove each other's new one.
"""

import errno
import fcntl
import json
import os
import socket
import stat
from contextlib import suppress

from lastly import _durable, _holder, actions
from lastly._action import seconds
from lastly._clock import monotonic
from lastly._root import root
from lastly._system.sockets import Address
from lastly.resources import Temporary, confirm_file, planned_removal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from types import TracebackType
    from typing import IO, Any

    from lastly._scope import Scope

    AnyPath = str | bytes | os.PathLike[Any]

GRACE = 10.0
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
    which the journals know, so that a recycled pid deceives nobody. A second call in the same process fails
    as for any other holder.

    Args:
        path: the file.
        takeover: end the process that holds it first: SIGTERM, `grace`, SIGKILL, its children too.
        wait: seconds (or a timedelta) to wait for a living holder to end, or to free it. Default 0.
        grace: seconds (or a timedelta) between SIGTERM and SIGKILL when taking over. Default 10.
        scope: the scope at whose close it goes; default: the program's end.

    Raises:
        FileExistsError: a living process holds it, or it is no such file; it was not touched.
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
            os.fsync(fd)  # an empty one, which a power cut could leave, is nobody's, and never replaced
        finally:
            os.close(fd)

    ended: object = None
    while True:
        with _Folder(where):
            holder = _holder_at(where)
            if holder is None:
                return _place(where, create, scope)
        left = until - monotonic()
        another = holder.pid != os.getpid() and holder.identity != ended
        if left > 0:
            holder.wait(min(left, _LOOK))
        elif takeover and another and (known := holder.known()):
            actions.kill(known, grace=limit)
            ended = holder.identity  # an ancestor of ours is spared: then it holds on
        elif holder.alive():
            raise FileExistsError(errno.EEXIST, _refusal(holder, takeover), where)


def _refusal(holder: "_holder.Holder", takeover: bool) -> str:
    if holder.pid == os.getpid():
        return "this process holds it already"
    if holder.identity is None:
        return (
            f"process {holder.pid} holds it, or another one that got its pid: look, and remove the file if so"
        )
    advice = "it cannot be ended from here" if takeover else "takeover=True ends it, wait= waits for it"
    return f"process {holder.pid} on {holder.identity.host} holds it; {advice}"


def _holder_at(path: str) -> "_holder.Holder | None":
    """Return who holds the file; remove it when that is nobody any more. None: the name is free."""
    while file := _durable.file_identity(path):
        holder = _holder.of(path, file, _content(path))
        if _durable.file_identity(path) != file:
            continue  # freed meanwhile: the journal that told whose it was may be gone, too
        if holder is None:
            raise FileExistsError(errno.EEXIST, "it is no pid or lock file: it was not touched", path)
        if holder.alive():
            return holder
        actions.remove(path, expect=file)
    return None


def _content(path: str) -> bytes:
    """Return what stands in the file; nothing for what is no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise FileExistsError(errno.EEXIST, f"it is no pid or lock file ({error.strerror})", path) from error
    try:
        return os.read(fd, 4096) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)


def _resolved(path: "AnyPath") -> str:
    folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
    if not name:
        raise IsADirectoryError(errno.EISDIR, "a folder, where a file is wanted", folder)
    return os.path.join(os.path.realpath(folder), name)


def _beside(path: str) -> str:
    """Return an unguessable name in the same folder; a short one, for a socket's address."""
    return os.path.join(os.path.dirname(path), f".lastly-{os.urandom(8).hex()}")


def _place(path: str, create: "Callable[[str], None]", scope: "Scope | None") -> Temporary:
    """Make the file beside its place, plan the removal of exactly that file there, then rename it."""
    temporary = _beside(path)
    first = planned_removal(temporary, scope)
    try:
        create(temporary)
        file = _durable.file_identity(temporary)
        scope = root if scope is None else scope
        cleanup = _durable.deferred(scope, actions.remove, path, expect=file)
    except Exception:
        first.run()
        raise
    cleanup.named(f"remove {path!r}")
    try:
        os.rename(temporary, path)
    except OSError:
        cleanup.detach()
        first.run()
        raise
    first.detach()
    return Temporary(path, cleanup)


class _Folder:
    """The lock on a path's folder."""

    def __init__(self, path: str) -> None:
        self.path = os.path.dirname(path)
        self.fd = -1

    def __enter__(self) -> None:
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX)
        except BaseException:  # a signal's, while it is waited for
            os.close(self.fd)
            raise

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


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
        with Address(temporary) as address:
            made.bind(address)
        os.chmod(temporary, mode)
        made.listen(backlog)

    try:
        with _Folder(where):
            _free_socket(where)
            made.file = _place(where, create, scope)
    except BaseException:
        made.close()
        raise
    return made


def _free_socket(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "it is no socket: it was not touched", path)
    except FileNotFoundError:
        return
    file = _durable.file_identity(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, Address(path) as address:
        probe.setblocking(False)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            actions.remove(path, expect=file)
            return
        except OSError:
            pass  # a full queue, another type: somebody is there
    raise FileExistsError(errno.EEXIST, "somebody listens there", path)


class AtomicFile:
    """The new content of a file, on its way; made by `atomic_write`."""

    def __init__(
        self, path: str, temporary: str, cleanup: "_durable.DurableCleanup", file: "IO[Any]"
    ) -> None:
        self.path = path
        self.temporary = temporary
        self.cleanup = cleanup
        self.file = file

    def __enter__(self) -> "IO[Any]":
        return self.file

    def commit(self) -> None:
        """Put the new content in place: synced, then renamed, then the folder synced."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.rename(self.temporary, self.path)
        self.cleanup.detach()
        fd = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def __exit__(
        self, kind: "type[BaseException] | None", error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        try:
            if error is None:
                self.commit()
        finally:
            with suppress(OSError):  # a full disk: told by commit(), and no matter after another error
                self.file.close()
            self.cleanup.run()  # nothing, after a commit


def atomic_write(
    path: "AnyPath", mode: str = "w", *, scope: "Scope | None" = None, **options: "Any"
) -> AtomicFile:
    """Replace a file as a whole: readers see the old content or the new one, never a part.

    ``with atomic_write("state.json") as file: json.dump(state, file)``. Left by an exception, or killed, it
    leaves the old file as it was, and nothing beside it. The new file has the old one's permissions, or 0666
    less the umask. A link is followed: what it points to is replaced.

    Args:
        path: the file to replace or to make.
        mode: "w", or "wb" for bytes.
        scope: who removes the new file if the block is never left; default: the program.
        options: for `open`: encoding, errors, newline, buffering.

    Raises:
        ValueError: another mode.
        NotRecorded: the journal cannot be written; nothing was created.
        OSError: it cannot be created or written; the old file is as it was.

    .. versionadded:: 0.1
    """
    if mode not in ("w", "wb", "wt"):
        raise ValueError(f'mode={mode!r}: a file is replaced as a whole: "w" or "wb"')
    where = os.path.realpath(os.fsdecode(path))
    temporary = _beside(where)
    cleanup = planned_removal(temporary, scope)
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            confirm_file(cleanup, temporary)
            try:
                os.fchmod(fd, stat.S_IMODE(os.stat(where).st_mode))
            except FileNotFoundError:
                pass
            file = open(fd, mode, **options)  # noqa: SIM115  # AtomicFile closes it
        except BaseException:
            os.close(fd)
            raise
    except Exception:
        cleanup.run()
        raise
    return AtomicFile(where, temporary, cleanup, file)
