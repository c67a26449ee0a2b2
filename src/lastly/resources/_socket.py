"""A Unix socket to listen at, which takes its file along."""

import errno
import os
import socket
import stat

from lastly._durable import seam
from lastly._system import descriptors
from lastly._system.sockets import Address
from lastly.resources import _holder
from lastly.resources._place import place, remove_stale, resolved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly._scope.scope import Scope
    from lastly.resources._place import AnyPath
    from lastly.resources._temporary import Temporary


class UnixSocket(socket.socket):
    """A listening Unix socket that takes its file along when it is closed.

    Attributes:
        file: its place in the file system, a `Temporary`.

    .. versionadded:: 0.1
    """

    file: "Temporary"

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

    A socket at which nothing listens any more is replaced. No client can connect before it listens: it is
    bound under another name and renamed.

    Args:
        path: where to listen; may be longer than the 107 bytes that a socket's address has.
        backlog: connections that may wait to be accepted.
        mode: permissions of the file. Default 0600: this user alone.
        scope: the scope at whose close the file goes; default: the program's end.

    Raises:
        FileExistsError: another process listens there, or it is not a socket; it was not touched.
        NotRecorded: the journal cannot be written; nothing was created.

    .. versionadded:: 0.1
    """
    where = resolved(path)
    made = UnixSocket(socket.AF_UNIX, socket.SOCK_STREAM)

    def create(temporary: str) -> None:
        os.fchmod(made.fileno(), mode)  # what bind makes has this mode, less the umask
        with Address(temporary) as address:
            made.bind(address)
        _grant(temporary, mode)
        made.listen(backlog)

    try:
        with _holder.Turn(where, _holder.TURN):
            _free_socket(where)
            file = place(where, create, scope)
        if file is None:
            raise FileExistsError(errno.EEXIST, "another process has just taken it", where)  # noqa: TRY301  # closed below
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
            raise PermissionError(errno.EPERM, "another file has been put in its place", path)
        os.chmod(descriptors.path(fd), mode)
    finally:
        os.close(fd)


def _free_socket(path: str) -> None:
    file = seam.file_identity(path)
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "not a socket: left untouched", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, Address(path) as address:
        probe.setblocking(False)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            remove_stale(path, file)
            return
        except OSError:
            pass  # a full queue, another type: something is there
    raise FileExistsError(errno.EEXIST, "another process listens there", path)
