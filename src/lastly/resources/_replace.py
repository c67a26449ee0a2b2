"""Replace a file as a whole: readers see the old content or the new one, never a part, and never too early.

The new content is written to a file beside the old one, which only this user may open: whoever may not read
the old file must not read the new one while it is written. It gets the old one's owner, rights, access
control list and extended attributes last, just before it takes its name. What would make somebody else's
rights out of the new content (set-user-ID, file capabilities) is dropped, as the kernel does on a write.

Everything is done in a folder that is held open, so that the folders above it cannot be replaced meanwhile.
"""

import errno
import os
import stat
import struct
from contextlib import suppress

from lastly._durable.handle import Making
from lastly._system import descriptors
from lastly._system.file import umask
from lastly._words.warn import warn
from lastly.resources._handle import confirm_file, planned_removal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import IO, Any

    from lastly._durable.handle import DurableCleanup
    from lastly._scope.scope import Scope

    AnyPath = str | bytes | os.PathLike[Any]

_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
# Not the file's to hand on: the content's own checksums, rights that the kernel takes from what is written
# to, and what `_Rights` sets by itself.
_NOT_KEPT = frozenset({"security.capability", "security.ima", "security.evm", _ACCESS, _DEFAULT})
_LINKS = 40  # as many as the kernel follows
_RIGHTS = 0o777  # of a mode, without set-user-ID, set-group-ID and sticky
_USER, _GROUP, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20  # tags of an access control list
_ENTRY = struct.Struct("<HHI")  # tag, rights, id; four bytes of version before them all


class AtomicFile:
    """The new content of a file, until it replaces the old one; made by `atomic_write`.

    Its ``with`` block is given the file to write to. Left normally it commits; left by an exception it
    gives the new content up.

    .. versionadded:: 0.1
    """

    def __init__(self, path: str, file: "IO[Any]") -> None:
        self.path = path
        self.file = file

    def __enter__(self) -> "IO[Any]":
        return self.file

    def commit(self) -> None:
        """Put the new content in place, as the end of the ``with`` block does.

        Raises:
            OSError: it cannot be written; the old file is as it was.
        """
        self.file.close()

    def close(self) -> None:
        """Give it up; after `commit`, and in a second call, nothing."""
        with suppress(OSError):  # a full disk: told by commit(), and no matter after another error
            self.file.close()

    def __exit__(
        self, kind: "type[BaseException] | None", error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        try:
            if error is None:
                self.commit()
        finally:
            self.close()


class _Beside(AtomicFile):
    """Written beside the file that it replaces."""

    def __init__(
        self, path: str, folder: int, temporary: str, cleanup: "DurableCleanup", file: "IO[Any]"
    ) -> None:
        super().__init__(path, file)
        self.folder = folder
        self.temporary = temporary
        self.cleanup = cleanup

    def commit(self) -> None:
        """Put the new content in place: synced, then renamed, then the folder synced."""
        name = os.path.basename(self.path)
        self.file.flush()
        for lost in _rights(self.file.fileno(), self.path, self.folder):
            warn(f"atomic_write: the new {self.path!r} {lost}")
        os.fsync(self.file.fileno())
        made = os.fstat(self.file.fileno())
        there = os.stat(self.temporary, dir_fd=self.folder, follow_symlinks=False)
        if (made.st_dev, made.st_ino) != (there.st_dev, there.st_ino):
            raise FileExistsError(
                errno.EEXIST, "another file has been put in the place of the new one", self.path
            )
        self.file.close()
        os.rename(self.temporary, name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        self.cleanup.detach()
        try:
            os.fsync(self.folder)
        except OSError as error:
            if error.errno != errno.EBADF:  # a folder that may be written to and not read
                raise

    def close(self) -> None:
        """Give it up; after `commit`, and in a second call, nothing."""
        super().close()
        self.cleanup.run()
        self._let_go()

    def _let_go(self) -> None:
        folder, self.folder = self.folder, -1
        if folder >= 0:
            os.close(folder)

    def __del__(self) -> None:
        """Left neither well nor badly, but dropped: the scope removes the file."""
        self._let_go()


def atomic_write(
    path: "AnyPath", mode: str = "w", *, scope: "Scope | None" = None, **options: "Any"
) -> AtomicFile:
    """Replace a file as a whole: readers see the old content or the new one, never a part.

    ``with atomic_write("state.json") as file: json.dump(state, file)``. Left by an exception, or killed, it
    leaves the old file as it was, and nothing beside it. Until it is in place, only this user can open the
    new file. Then it has the old one's owner, group, permissions (without set-user-ID and set-group-ID),
    access control list and extended attributes; a new one has those that `open` would give it. A link is
    followed: what it points to is replaced. Other hard links keep the old content.

    Only a regular file can be replaced. A pipe, a terminal, ``/dev/null`` and ``/dev/stdout`` are
    written into, as `open` does.

    Args:
        path: the file to replace or to make.
        mode: "w", or "wb" for bytes.
        scope: the scope that removes the new file if the block is never left; default: the program's end.
        options: for `open`: encoding, errors, newline, buffering.

    Raises:
        ValueError: another mode.
        NotRecorded: the journal cannot be written; nothing was created.
        PermissionError: the path is a link that another user has put into a shared folder (as /tmp).
        OSError: it cannot be created or written, or is a folder, a socket or a disk; it is as it was.

    Warns:
        RuntimeWarning: the owner, group, list or attributes could not be kept. Rights are narrowed then: what
            the old group could do, another one cannot.

    .. versionadded:: 0.1
    """
    if mode not in ("w", "wb", "wt"):
        raise ValueError(f'mode must be "w" or "wb", not {mode!r}: a file is replaced as a whole')
    name = os.fsdecode(path)
    where, found = _target(name)
    if found is not None:
        return AtomicFile(where, _opened(_through(where, found), where, mode, options))
    folder = _open_folder(os.path.dirname(where))
    try:
        return _begin(where, folder, mode, scope, options)
    except BaseException:
        os.close(folder)
        raise


def _begin(
    where: str, folder: int, mode: str, scope: "Scope | None", options: "dict[str, Any]"
) -> AtomicFile:
    temporary = f".lastly-{os.urandom(8).hex()}"
    beside = os.path.join(os.path.dirname(where), temporary)
    cleanup = planned_removal(beside, scope)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with Making(cleanup):
            fd = os.open(temporary, flags, 0o600, dir_fd=folder)
            file = _opened(fd, beside, mode, options)
            confirm_file(cleanup, beside)
    except Exception:
        cleanup.run()
        raise
    return _Beside(where, folder, temporary, cleanup, file)


def _opened(fd: int, path: str, mode: str, options: "dict[str, Any]") -> "IO[Any]":
    """Make a file object of a descriptor, which is closed if the options are refused."""
    taken = []

    def opener(_path: str, _flags: int) -> int:
        taken.append(fd)  # from here on `open` closes it
        return fd

    try:
        return open(path, mode, opener=opener, **options)
    except BaseException:
        if not taken:
            os.close(fd)
        raise


# ---- where it goes


def _target(path: str) -> tuple[str, os.stat_result | None]:
    """Return where the path leads to, all links resolved; and what is there if that is to be written into.

    Raises:
        OSError: it can be neither replaced nor written into.
    """
    here = os.path.abspath(path)
    for _ in range(_LINKS):
        folder, name = os.path.split(here)
        folder = os.path.realpath(folder)
        here = os.path.join(folder, name)
        try:
            found = os.lstat(here)
        except FileNotFoundError:
            return here, None
        if not stat.S_ISLNK(found.st_mode):
            break
        if folder.startswith("/proc/"):
            return here, os.stat(here)  # /dev/stdout, /dev/fd/3: an open file, whatever its name
        _may_follow(here, found, os.stat(folder))
        here = os.path.join(folder, os.readlink(here))
    else:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    if stat.S_ISREG(found.st_mode):
        return here, None
    if stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode):
        _may_follow(here, found, os.stat(folder))
        return here, found
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    kind = "a socket" if stat.S_ISSOCK(found.st_mode) else "a disk"
    raise OSError(errno.EINVAL, f"it is {kind}: neither replaced nor written into", path)


def _through(path: str, found: os.stat_result) -> int:
    """Open what cannot be replaced. A pipe without a reader is waited for, as `open` does."""
    folder, name = os.path.split(path)
    if descriptors.is_their_folder(folder):
        return os.dup(int(name))  # not opened anew: that would begin at the start of a file
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
    fd = os.open(path, flags if folder.startswith("/proc/") else flags | os.O_NOFOLLOW)
    now = os.fstat(fd)
    if (now.st_dev, now.st_ino) != (found.st_dev, found.st_ino):
        os.close(fd)
        raise FileExistsError(errno.EEXIST, "another file has been put in its place", path)
    return fd


def _open_folder(path: str) -> int:
    flags = os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDONLY | flags)
    except PermissionError:  # a folder that may be written to and not read
        return os.open(path, os.O_PATH | flags)


def _may_follow(path: str, found: os.stat_result, folder: os.stat_result) -> None:
    """Refuse a link or a pipe that another user has put into a shared folder: a trap for what we write.

    Nearly the kernel's own rules (fs.protected_symlinks, protected_fifos), which may be off, and are for
    those who let the kernel follow.
    """
    if folder.st_mode & stat.S_IWOTH and found.st_uid not in (os.geteuid(), folder.st_uid):
        kind = "link" if stat.S_ISLNK(found.st_mode) else "pipe"
        what = f"a {kind} of user {found.st_uid} in a shared folder is not followed"
        raise PermissionError(errno.EACCES, what, path)


# ---- what it is like


def _rights(fd: int, path: str, folder: int) -> list[str]:
    """Give the new file what the one at `path` has; return what could not be kept, in words."""
    try:
        old = os.open(os.path.basename(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        _as_made(fd, descriptors.path(folder))
        return []
    try:
        found = os.fstat(old)
        if not stat.S_ISREG(found.st_mode):
            raise FileExistsError(errno.EEXIST, "it is not a file any more", path)
        return _as_old(fd, found, descriptors.path(old))
    finally:
        os.close(old)


def _as_made(fd: int, folder: str) -> None:
    """Give it the rights that a file made in this folder has: by its default list, or by the umask."""
    try:
        default = os.getxattr(folder, _DEFAULT)
    except OSError:  # none, or a file system without lists
        os.fchmod(fd, 0o666 & ~umask())
        return
    entries = list(_ENTRY.iter_unpack(default[4:]))
    asked = {_USER, _OTHER, _MASK if any(tag == _MASK for tag, _, _ in entries) else _GROUP}
    body = [_ENTRY.pack(tag, rights & 0o6 if tag in asked else rights, who) for tag, rights, who in entries]
    os.setxattr(fd, _ACCESS, default[:4] + b"".join(body))


def _as_old(fd: int, old: os.stat_result, link: str) -> list[str]:
    """Give it what the old file has. `link` leads to that one: these calls take no O_PATH descriptor."""
    mode, lost = old.st_mode & _RIGHTS, _owner(fd, old)
    same_group = os.fstat(fd).st_gid == old.st_gid
    names = _attributes(link)
    for name in sorted(names - _NOT_KEPT):
        try:
            value = os.getxattr(link, name)
            if name not in _attributes(fd) or os.getxattr(fd, name) != value:
                os.setxattr(fd, name, value)
        except OSError as error:
            lost.append(f"has lost the attribute {name}: {error.strerror}")
    acl = os.getxattr(link, _ACCESS) if _ACCESS in names else None
    if acl is not None and same_group:
        try:
            os.setxattr(fd, _ACCESS, acl)  # which sets the mode, too
        except OSError as error:
            lost.append(f"has lost the access control list: {error.strerror}")
        else:
            return lost
    elif acl is not None:
        lost.append("has lost the access control list, which says what the old group may")
    with suppress(OSError):  # that of the folder: the old file has none
        os.removexattr(fd, _ACCESS)
    if acl is not None or not same_group:
        # The group's bits are not this group's: it gets what everybody has.
        mode = mode & ~0o070 | (mode & 0o007) << 3
    os.fchmod(fd, mode)
    return lost


def _owner(fd: int, old: os.stat_result) -> list[str]:
    lost = []
    now = os.fstat(fd)
    # Each by itself: a user that may not give a file away may still give it to another of its groups.
    for what, before, after, ids in (
        ("group", old.st_gid, now.st_gid, (-1, old.st_gid)),
        ("user", old.st_uid, now.st_uid, (old.st_uid, -1)),
    ):
        if before != after:
            try:
                os.fchown(fd, *ids)
            except OSError as error:
                lost.append(f"belongs to {what} {after}, the old one to {before}: {error.strerror}")
    return lost


def _attributes(file: "int | str") -> set[str]:
    try:
        return set(os.listxattr(file))
    except OSError:  # a file system without any
        return set()
