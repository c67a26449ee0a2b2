"""Where journals live, and whether it is safe to put one there.

The state directory survives reboots and holds the journals; the runtime directory holds the reaper's socket
and locks. Both belong to one user: what stands in a journal will be *executed*, so a directory that another
user can write to is refused, not repaired.
"""

import errno
import os
import stat

from lastly._system import mounts, user
from lastly.errors import NotRecorded

# Network file systems: the lock and the append of one host mean nothing to the next one, and a reaper would
# judge owners that it cannot see.
NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "ceph", "glusterfs", "lustre", "gpfs",
    "beegfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "ocfs2", "gfs2",
    "orangefs",
})  # fmt: skip


# No place for a journal, whatever anybody does about full disks and limits.
_NO_PLACE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT})
# A place, but nothing can tell the dead from the living: a network home, no /proc, another system.
_NO_JUDGE = frozenset({errno.EREMOTE, errno.ESRCH, errno.ENOTSUP})


def configured() -> bool:
    """Whether the user named the home (``LASTLY_HOME``), so that nothing else will do."""
    return bool(os.environ.get("LASTLY_HOME"))


def state_path() -> str:
    """Where the state directory is, made or not: $LASTLY_HOME, else $XDG_STATE_HOME/lastly, else
    ~/.local/state/lastly.

    Raises:
        NotRecorded: no home can be found, or LASTLY_HOME is a relative path.
    """
    return _chosen("XDG_STATE_HOME") or os.path.join(_user_home(), ".local", "state", "lastly")


def runtime_path() -> str:
    """Where the runtime directory is: $LASTLY_HOME, $XDG_RUNTIME_DIR/lastly, or the state directory."""
    return _chosen("XDG_RUNTIME_DIR") or state_path()


def _chosen(variable: str) -> str | None:
    home = os.environ.get("LASTLY_HOME")
    if home:
        if not os.path.isabs(home):
            raise NotRecorded(
                f"cannot use the home: LASTLY_HOME={home!r} is not an absolute path, and would be "
                "another directory wherever a program goes; set it to an absolute one"
            )
        return os.path.abspath(home)
    base = os.environ.get(variable)
    # The XDG specification: a relative path is invalid, and ignored.
    return os.path.join(base, "lastly") if base and os.path.isabs(base) and user.may_use(base) else None


def _user_home() -> str:
    home = user.home()
    if not os.path.isabs(home):
        refused = NotRecorded(
            "cannot use the home: this user has no home directory; set LASTLY_HOME to a directory of its own"
        )
        refused.errno = errno.EACCES
        raise refused
    return home


def state_dir(*, create: bool = True) -> str:
    """The state directory, made when it is missing and checked in any case.

    Raises:
        NotRecorded: it cannot be made, belongs to another user, or others may write to it.
    """
    return _checked(state_path(), create=create)


def runtime_dir(*, create: bool = True) -> str:
    """The runtime directory, made when it is missing and checked in any case. Raises as `state_dir`."""
    return _checked(runtime_path(), create=create)


def check() -> None:
    """Check that what is at the home's path can be one; nothing there is right: it is made when needed.

    Raises:
        NotRecorded: as `state_dir`.
    """
    try:
        state_dir(create=False)
    except NotRecorded as error:
        if error.errno != errno.ENOENT:
            raise


def owners_dir(host: str, boot: str, *, create: bool = True) -> str:
    """The directory of the journals of one host and boot."""
    state = state_dir(create=create)
    if create and (kind := mounts.kind_at(state)) in NETWORK:
        refused = NotRecorded(
            f"cannot use the home {state!r}: it is on a network file system ({kind}), where neither "
            "locks nor owners can be judged; set LASTLY_HOME to a directory on a local disk"
        )
        refused.errno = errno.EREMOTE
        raise refused
    owners = os.path.join(state, "owners")
    path = os.path.join(owners, f"{host.replace('/', '_')}-{boot}")
    if create:
        _checked(owners, create=True)
    return _checked(path, create=create)


def journal_name(path: str) -> str:
    """What the reaper, the history and a shared journal call a journal: the last two parts of its path."""
    return "/".join(path.rsplit("/", 2)[-2:])


def journals() -> list[str]:
    """The path of every journal of this user, of all hosts and boots, oldest directory first."""
    return [os.path.join(path, name) for path in folders() for name in _listed(path) if name.endswith(".j")]


def folders() -> list[str]:
    """The path of every folder of journals: one of each host and boot."""
    owners = os.path.join(state_path(), "owners")
    return [os.path.join(owners, name) for name in _listed(owners)]


def _listed(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def degrades(error: NotRecorded) -> bool:
    """Whether a program may go on without a journal, after a warning: the one rule for all of them.

    It may where no journal is possible: on another system than Linux, on a network home, without a /proc that
    shows this process, without a home that this user can write to. It may not when the home was named
    (``LASTLY_HOME``) and cannot be written: then the name is wrong. A full disk is an error as well: it
    passes.
    """
    return error.errno in _NO_JUDGE or (error.errno in _NO_PLACE and not configured())


def _checked(path: str, *, create: bool) -> str:
    try:
        if create:
            make(path)
        found = os.stat(path)
    except NotRecorded:
        raise
    except OSError as error:
        raise unusable(path, error, "cannot use the home") from None  # it says all that the error says
    if not stat.S_ISDIR(found.st_mode):
        raise NotRecorded(f"cannot use the home: {path!r} is not a directory; remove it or set LASTLY_HOME")
    if found.st_uid != os.geteuid():
        raise NotRecorded(
            f"cannot use the home: {path!r} belongs to user {found.st_uid}, "
            f"and this is user {os.geteuid()}; set LASTLY_HOME to a directory of your own"
        )
    if found.st_mode & 0o022:
        raise NotRecorded(
            f"cannot use the home: others may write to {path!r} "
            f"(mode {found.st_mode & 0o7777:04o}), and what stands there is executed; "
            f"check what is in it, then: chmod 700 {path!r}"
        )
    return path


def make(path: str) -> None:
    """Make a directory, for this user alone, and those above it that are missing.

    Raises:
        NotRecorded: this is root, and what it would be made in belongs to another user.
    """
    parent, name = os.path.split(path)
    if not name:
        return
    try:
        folder = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        make(parent)
        folder = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = os.fstat(folder).st_uid
        if os.geteuid() == 0 and owner != 0 and not os.path.isdir(path):
            raise NotRecorded(
                f"cannot use the home: this is root, and {path!r} would be made in a folder of user "
                f"{owner}, who could not use it any more; set LASTLY_HOME to a directory of root's"
            )
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        return
    finally:
        os.close(folder)


def unusable(path: str, error: OSError, failed: str = "cannot record a cleanup in") -> NotRecorded:
    """One line for what the system said: what failed, where, and what to do."""
    advice = {
        errno.ENOSPC: "free some space on that file system",
        errno.EDQUOT: "free some space: the quota is used up",
        errno.EROFS: "set LASTLY_HOME to a directory on a writable file system",
        errno.EACCES: "make it writable or set LASTLY_HOME",
        errno.EPERM: "make it writable or set LASTLY_HOME",
        errno.EMFILE: "this process has no file descriptors left: close some, or raise its limit (ulimit -n)",
        errno.ENFILE: "the system has no file descriptors left",
        errno.EFBIG: "raise the limit of the file size (ulimit -f)",
        errno.ENOENT: "set LASTLY_HOME to a directory that can be made",
        errno.ESRCH: "see that /proc is mounted, and shows this user's processes",
        errno.ENOTDIR: "a file stands where a directory is needed: set LASTLY_HOME",
    }.get(error.errno or 0, "set LASTLY_HOME to a directory that can be written")
    made = NotRecorded(f"{failed} {path!r}: {error.strerror}; {advice}")
    made.errno = error.errno
    return made
