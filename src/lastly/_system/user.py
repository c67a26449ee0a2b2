"""Whose folders are ours to use: root may have been started with a user's variables (sudo -E, su -m).

What root makes in a user's folder shuts the user out of it, and what it reads there, as its own, lets the
user act as root.
"""

import errno
import os
import stat


def may_use(folder: str) -> bool:
    """Whether a folder that a variable names is this user's to use, or what it would be made in."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:  # Windows has no root
        return True
    while True:
        try:
            return os.stat(folder).st_uid == 0
        except OSError:
            folder, below = os.path.dirname(folder), folder
            if folder == below:
                return True


def home() -> str:
    """Return this user's home; ``~`` when there is none. Root's own, where HOME is another user's."""
    named = os.path.expanduser("~")
    if not os.path.isabs(named) or may_use(named):
        return named
    import pwd

    try:
        return pwd.getpwuid(0).pw_dir
    except KeyError:  # a container without a user database
        return "/root"


def expanded(path: str) -> str:
    """Return a path with ``~`` and ``~name`` resolved; ``~`` is what `home` says."""
    if path == "~" or path.startswith("~/"):
        return home() + path[1:]
    return os.path.expanduser(path)


# ---- making something in a folder of somebody else


def make_folders(folder: str) -> None:
    """Make a folder, and those above it that are missing; root gives each to the owner of what it stands in.

    Raises:
        OSError: it cannot be made.
    """
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    make_folders(above)
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise
        return
    _hand_over(folder, above, os.O_RDONLY | os.O_DIRECTORY)


def make_file(path: str) -> None:
    """Make an empty file, if there is none, that root gives to the owner of the folder; not for other users.

    Raises:
        PermissionError: root would follow a link that the owner of the folder has put there.
        OSError: it cannot be made.
    """
    folder = os.path.dirname(path)
    if os.geteuid() != 0 or (owner := os.stat(folder).st_uid) == 0:
        return
    if os.path.islink(path):
        why = f"a link in a folder of user {owner}, through which root does not write"
        raise PermissionError(errno.EPERM, why, path)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except FileExistsError:
        return
    _hand_over(path, folder, os.O_WRONLY)


def _hand_over(path: str, folder: str, flags: int) -> None:
    """Let the owner of the folder have what root has just made there; what is not new has been exchanged."""
    owner = os.stat(folder)
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        made = os.fstat(fd)
        empty = not os.listdir(fd) if stat.S_ISDIR(made.st_mode) else made.st_size == 0 and made.st_nlink == 1
        if made.st_uid == 0 and empty:
            os.fchown(fd, owner.st_uid, owner.st_gid)
    finally:
        os.close(fd)
