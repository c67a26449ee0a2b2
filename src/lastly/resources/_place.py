"""Files at names that others know: pid files, lock files and sockets.

A temporary file has an unguessable name, so its removal can be planned before it exists. The name of
a pid file is known to everybody: a removal planned before *we* made it could remove another program's. So the
file is made under an unguessable name first, planned as such; then its removal at the known name is planned,
bound to device, inode and birth time; then it is given that name by a link, which fails if the name is taken.
Killed between any two of these steps, we leave nothing, and touch nothing of others.

What a dead holder left is removed inside a `Turn`: two programs that both find a stale file do not remove
each other's new one.
"""

import errno
import os
import stat

from lastly import actions
from lastly._durable import seam
from lastly._durable.handle import Making
from lastly._exit.root import root
from lastly.errors import NotOurs
from lastly.resources._handle import planned_removal
from lastly.resources._temporary import Temporary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from lastly._scope.scope import Scope

    AnyPath: TypeAlias = str | bytes | os.PathLike[Any]


def resolved(path: "AnyPath") -> str:
    folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
    if not name:
        raise IsADirectoryError(errno.EISDIR, "is a folder: a file is needed", folder)
    return os.path.join(os.path.realpath(folder), name)


def _beside(path: str) -> str:
    """Return an unguessable name in the same folder; a short one, for a socket's address."""
    return os.path.join(os.path.dirname(path), f".lastly-{os.urandom(8).hex()}")


def place(path: str, create: "Callable[[str], None]", scope: "Scope | None") -> Temporary | None:
    """Make the file beside its place, plan the removal of exactly that file there, then give it its name.

    Returns:
        None when the name has been taken meanwhile; nothing is left then.
    """
    temporary = _beside(path)
    first = planned_removal(temporary, scope)
    try:
        with Making(first):
            create(temporary)
        file = _made(temporary)
        scope = root if scope is None else scope
        cleanup = seam.deferred(scope, actions.remove, path, expect=file)
    except Exception as error:
        first.run()
        if isinstance(error, OSError) and error.filename in (None, temporary) and error.errno:
            error.filename = path  # the caller has never heard of the other name
        raise
    try:
        _name(temporary, path)  # fails when the scope has been closed meanwhile: it has removed the first one
    except OSError as error:
        cleanup.detach()
        first.run()
        if isinstance(error, FileExistsError):
            return None
        raise
    first.detach()
    return Temporary(path, cleanup)


def _made(path: str) -> "dict[str, Any]":
    """Return the identity of what was created there.

    A process that may rename in its folder may have replaced it.
    """
    file = seam.file_identity(path)
    found = os.lstat(path)
    if stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_ino != file.get("ino"):
        raise PermissionError(errno.EPERM, "another file has been put in its place", path)
    return file


def _name(temporary: str, path: str) -> None:
    """Give the file its name. Raises FileExistsError when it has been taken."""
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


def remove_stale(path: str, file: "dict[str, Any]") -> None:
    try:
        actions.remove(path, expect=file)
    except (NotOurs, PermissionError) as error:
        what = f"its holder is dead, and it cannot be removed: {error}; remove it as its owner, or as root"
        raise FileExistsError(errno.EEXIST, what, path) from error
