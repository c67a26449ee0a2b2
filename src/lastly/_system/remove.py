"""Remove a file or a tree, and nothing else.

A path written down yesterday may name something else today. The folder was removed and another one got its
inode; an administrator bind-mounted /srv/data into it; a link was planted where the folder was planned;
its parent was swapped. shutil.rmtree sees none of these (it follows a bind mount: st_dev is equal), and asks
only whether the top is a link. What holds here:

* Every step is taken from an open folder (``dir_fd``) with O_NOFOLLOW, from / down to the last file. Between
  looking at a folder and emptying it no other can be put there.
* The thing itself is compared by device, inode and birth time where these were recorded; without a record it
  must not be younger than its owner's death. It must belong to us; what root has recorded and then given to
  another user is root's to remove all the same.
* No folder on another mount than its parent is entered, and the top must not be a mount at all.
* Never /, a home, the working directory, or what contains them.

What still fails: a *file* exchanged between the last look and the unlink, which takes a user with write
permission in its folder, loses a name, not what is inside (Linux has no unlink-if-inode-is).
"""

import errno
import os
import pwd
import stat

from lastly._system.file import Entry, entry
from lastly.errors import NotOurs

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_LEVELS = 40  # deeper trees close their upper folders and come back through "..", checked
_ROUNDS = 4  # how often a folder that keeps being filled is emptied again
_CLOCK_SLACK = 1.0  # seconds

# The answers of _never: to put them together takes as long as to remove an empty folder.
_found: dict[object, dict[str, None]] = {}
_MOST_FOUND = 16  # a program may go through many working directories
_homes: dict[int, str] = {}
_kept: list[str] = []  # further folders never removed: the reaper adds its home


def keep(path: str) -> None:
    """Never remove ``path`` or what contains it, in this process."""
    _kept.append(path)


def identity(path: str | bytes) -> dict[str, int | None] | None:
    """Return what tells this file from any other, or None when nothing is there; links are not followed."""
    return identity_at(canonical(path))


def identity_at(path: str) -> dict[str, int | None] | None:
    """As `identity`, of a path that is canonical already."""
    folder, name = _split(path)
    try:
        os.lstat(path)  # nothing there yet: the usual case when deferring, told cheaply
        fd = os.open(folder, _STEP)
        try:
            found = entry(name, dir_fd=fd)
        finally:
            os.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return {"dev": found.dev, "ino": found.ino, "btime": found.btime}


def canonical(path: str | bytes) -> str:
    """Return the absolute path with the links of its parents resolved, the last name kept as it is."""
    text = os.path.abspath(os.fsdecode(path))
    if "\0" in text:
        raise ValueError(f"a path cannot contain a NUL byte: {text!r}")
    folder, name = os.path.split(text)
    return os.path.join(_real(folder), name) if name else folder


def _real(folder: str) -> str:
    """As `os.path.realpath`, by one question to the kernel when the folder is there."""
    try:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return os.path.realpath(folder)
    try:
        found = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        found = ""
    finally:
        os.close(fd)
    # Removed just now, or outside of this process's root.
    vague = found.endswith(" (deleted)") or not found.startswith("/")
    return os.path.realpath(folder) if vague else found


def check_allowed(path: str) -> None:
    """Raise ValueError for what is never removed: /, a home, the working directory, what contains them."""
    if path in _never():  # what contains a folder that is kept is in the set itself
        raise ValueError(f"refusing to plan the removal of {path!r}: it is or contains a folder that is kept")


def remove(
    path: str | bytes,
    *,
    expect: "dict[str, int | None] | None" = None,
    not_born: "tuple[float, float] | None" = None,
) -> None:
    """Remove what is at the canonical absolute ``path``; nothing there is success, and so is a second call.

    Args:
        path: as :func:`canonical` gives it. A parent that is a link by now is refused.
        expect: what :func:`identity` said when the thing was made. None: unknown.
        not_born: unix times; something born between the two (by more than a second) is not ours.

    Raises:
        NotOurs: something else is there. It was not touched, and trying again will not help.
        OSError: something could not be removed; the rest was.
    """
    raw = os.fsencode(path)
    folder, name = _split(raw)
    if not raw.startswith(b"/") or name in {b"", b".", b".."}:
        raise NotOurs(f"{path!r} is not a path that may be removed")
    parent = _walk(folder)
    if parent is None:
        return
    try:
        try:
            top = entry(name, dir_fd=parent)
        except (FileNotFoundError, NotADirectoryError):
            return
        _check(top, entry(dir_fd=parent), os.fsdecode(raw), expect, not_born)
        if stat.S_ISDIR(top.mode):
            _Tree(parent, name, top, raw).remove()
        else:
            try:
                os.unlink(name, dir_fd=parent)
            except FileNotFoundError:
                pass
    finally:
        os.close(parent)


def _split(path: str | bytes) -> tuple[bytes, bytes]:
    folder, _, name = os.fsencode(path).rstrip(b"/").rpartition(b"/")
    return folder or b"/", name


def _walk(folder: bytes) -> int | None:
    """Open ``folder`` from / on, one name at a time, through no link; None when it is not there."""
    fd = os.open(b"/", _STEP)
    for name in folder.split(b"/"):
        if not name:
            continue
        try:
            below = os.open(name, _STEP, dir_fd=fd)
        except FileNotFoundError:
            os.close(fd)
            return None
        except NotADirectoryError:
            try:
                is_link = stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
            except OSError:
                is_link = True  # it changes while we walk
            os.close(fd)
            if is_link:
                raise NotOurs(
                    f"{os.fsdecode(name)!r} in {os.fsdecode(folder)!r} has become a symbolic link"
                ) from None
            return None
        except OSError:
            os.close(fd)
            raise
        os.close(fd)
        fd = below
    return fd


def _check(
    top: Entry,
    parent: Entry,
    shown: str,
    expect: "dict[str, int | None] | None",
    not_born: "tuple[float, float] | None",
) -> None:
    """Raise NotOurs unless ``top`` is what was planned."""
    # What root has made and given to the user of a server is still what root has made. Without a birth time
    # the inode may have been used again, by another program.
    given = os.geteuid() == 0 and expect and expect.get("btime") and top.btime and _is(top, expect)
    if top.uid != os.geteuid() and not given:
        raise NotOurs(f"{shown!r} belongs to uid {top.uid}, not to uid {os.geteuid()}")
    if top.mount_root or (top.mount != parent.mount and top.mount is not None and parent.mount is not None):
        raise NotOurs(f"{shown!r} is a mount point: unmount it, then retry")
    if expect and not _is(top, expect):
        raise NotOurs(f"{shown!r} is not the one that was planned: its inode or birth time differs")
    if not expect and not_born and top.btime and _between(top.btime / 1e9, *not_born):
        raise NotOurs(f"{shown!r} was created after its owner had died")
    if stat.S_ISDIR(top.mode):
        for kept in _never(with_cwd=not expect):
            try:
                found = os.stat(kept)
            except OSError:
                continue
            if (found.st_dev, found.st_ino) == (top.dev, top.ino):
                raise NotOurs(f"{shown!r} is {kept!r}, which is never removed")


def _between(born: float, start: float, end: float) -> bool:
    return start + _CLOCK_SLACK < born <= end + _CLOCK_SLACK


def _is(found: Entry, expect: "dict[str, int | None]") -> bool:
    if (found.dev, found.ino) != (expect.get("dev"), expect.get("ino")):
        return False
    born = expect.get("btime")
    return born is None or found.btime is None or born == found.btime


def _never(*, with_cwd: bool = True) -> "dict[str, None]":
    """Return the folders that are never removed, each with all that contain it."""
    try:
        cwd = os.getcwd()
    except OSError:  # it was removed under us
        cwd = ""
    key = (os.environ.get("HOME"), cwd, os.geteuid(), len(_kept), with_cwd)
    found = _found.get(key)
    if found is None:
        if len(_found) >= _MOST_FOUND:
            _found.clear()
        roots = ["/", *_kept, os.environ.get("HOME", "/"), _home_of(os.geteuid())]
        found = _found[key] = _with_parents([*roots, cwd] if with_cwd and cwd else roots)
    return found


def _with_parents(roots: "list[str]") -> "dict[str, None]":
    found: dict[str, None] = {}
    for root in roots:
        path = os.path.abspath(root)
        while path not in found:
            found[path] = None
            path = os.path.dirname(path)
    return found


def _home_of(uid: int) -> str:
    """The home in the user database; asked once: the answer takes longer than removing a small tree."""
    if uid not in _homes:
        try:
            _homes[uid] = pwd.getpwuid(uid).pw_dir or "/"
        except (KeyError, OSError):
            _homes[uid] = "/"
    return _homes[uid]


class _Level:
    """One open folder on the way down."""

    __slots__ = ("entry", "fd", "folders", "name", "rounds")

    def __init__(self, name: bytes | str, fd: int, entry: Entry) -> None:
        self.name = name
        self.fd = fd
        self.entry = entry
        self.folders: list[str] = []
        self.rounds = 0


class _Tree:
    """Empties one folder from the bottom up, with a bounded number of descriptors and no recursion."""

    def __init__(self, parent: int, name: bytes, top: Entry, path: bytes) -> None:
        self.parent = parent
        self.name = name
        self.top = top
        self.path = os.fsdecode(path)
        self.levels: list[_Level] = []
        self.kept = 0
        self.first: OSError | None = None

    def remove(self) -> None:
        try:
            self._enter(self.parent, self.name, self.top)
            while self.levels:
                level = self.levels[-1]
                if level.folders:
                    self._enter(level.fd, level.folders.pop(), None)
                else:
                    self._leave(level)
        finally:
            for level in self.levels:
                if level.fd >= 0:
                    os.close(level.fd)
        if self.first is not None:
            more = f" (and {self.kept - 1} more)" if self.kept > 1 else ""
            raise OSError(
                self.first.errno, f"{self.path!r} was removed only in part: {self.first.strerror}{more}",
                os.fsdecode(self.first.filename or b""),
            )  # fmt: skip

    def _fail(self, error: OSError, name: bytes | str) -> None:
        if isinstance(error, FileNotFoundError):
            return
        self.kept += 1
        if self.first is None:
            inside = [os.fsdecode(level.name) for level in self.levels[1:]]
            error.filename = os.path.join(self.path, *inside, os.fsdecode(name))
            self.first = error

    def _enter(self, parent: int, name: bytes | str, known: Entry | None) -> None:
        """Open a folder, check that it is on our mount, remove its files, note its folders."""
        try:
            fd = _open_folder(parent, name)
        except OSError as error:
            self._fail(error, name)
            return
        try:
            found = entry(dir_fd=fd)
            above = known or self.levels[-1].entry
            self._may_enter(found, known, above)
        except OSError as error:
            os.close(fd)
            self._fail(error, name)
            return
        except BaseException:
            os.close(fd)
            raise
        self.levels.append(_Level(name, fd, found))
        self._empty(self.levels[-1])
        if len(self.levels) > _OPEN_LEVELS:
            far = self.levels[-1 - _OPEN_LEVELS]
            if far.fd >= 0:
                os.close(far.fd)
                far.fd = -1

    def _may_enter(self, found: Entry, known: Entry | None, above: Entry) -> None:
        if known is not None and not _same(found, known):
            raise NotOurs(f"{self.path!r} was replaced while it was being examined")
        moved = None not in {found.mount, above.mount} and found.mount != above.mount
        if found.mount_root or found.dev != above.dev or moved:
            raise OSError(errno.EBUSY, "a mount point is inside: unmount it, then retry")

    def _empty(self, level: _Level) -> None:
        try:
            with os.scandir(level.fd) as found:
                names = [(item.name, item.is_dir(follow_symlinks=False)) for item in found]
        except OSError as error:
            self._fail(error, b"")
            return
        for name, is_folder in names:
            if is_folder:
                level.folders.append(name)
                continue
            try:
                _unlink(level, name)
            except OSError as error:
                self._fail(error, name)

    def _leave(self, level: _Level) -> None:
        """Remove the emptied folder from its parent; empty it again when it was filled meanwhile."""
        kept = self.kept
        above = self._reopen_above(level)
        try:
            _rmdir(above, level.name, self.levels[-2] if len(self.levels) > 1 else None)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST} and level.rounds < _ROUNDS and not kept:
                level.rounds += 1
                os.lseek(level.fd, 0, os.SEEK_SET)
                self._empty(level)
                return
            if not (kept and error.errno == errno.ENOTEMPTY):  # what kept it full is reported already
                self._fail(error, b"")
        self.levels.pop()
        os.close(level.fd)

    def _reopen_above(self, level: _Level) -> int:
        if len(self.levels) == 1:
            return self.parent
        above = self.levels[-2]
        if above.fd < 0:
            above.fd = os.open("..", _FOLDER, dir_fd=level.fd)
            if not _same(entry(dir_fd=above.fd), above.entry):
                raise NotOurs(f"a folder inside {self.path!r} was moved away while it was removed")
        return above.fd


def _same(one: Entry, other: Entry) -> bool:
    return (one.dev, one.ino, one.btime) == (other.dev, other.ino, other.btime)


def _open_folder(parent: int, name: bytes | str) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        # A folder without r or x. There is no fchmodat that does not follow links, so it is opened first,
        # and then changed.
        held = os.open(name, _STEP, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{held}", 0o700)
            return os.open(".", _FOLDER, dir_fd=held)
        finally:
            os.close(held)


def _unlink(level: _Level, name: str) -> None:
    try:
        os.unlink(name, dir_fd=level.fd)
    except PermissionError:
        os.fchmod(
            level.fd, 0o700
        )  # a read-only folder, about to go anyway; never the file: it may have other names
        os.unlink(name, dir_fd=level.fd)


def _rmdir(above: int, name: bytes | str, level: _Level | None) -> None:
    try:
        os.rmdir(name, dir_fd=above)
    except PermissionError:
        if level is None:  # the parent of what was planned is not ours to change
            raise
        os.fchmod(above, 0o700)
        os.rmdir(name, dir_fd=above)
