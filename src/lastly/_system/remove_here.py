"""Remove a file or a tree that this process made itself: where `remove` cannot open folders safely.

Windows has no ``dir_fd``, macOS and PyPy have no ``O_PATH``. So a thing is removed only by the process that
planned it, and what was recorded of it is compared right before. `shutil.rmtree` does the rest: it follows no
link and no junction, and holds the folders open where the system can.
"""

import errno
import os
import stat

from lastly.errors import NotOurs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_kept = [os.path.expanduser("~")]


def canonical(path: str | bytes) -> str:
    """Return the absolute path with the links of its parents resolved, the last name kept as it is."""
    text = os.path.abspath(os.fsdecode(path))
    if "\0" in text:
        raise ValueError(f"a path cannot contain a NUL byte: {text!r}")
    folder, name = os.path.split(text)
    return os.path.join(os.path.realpath(folder), name) if name else folder


def identity(path: str | bytes) -> dict[str, int | None] | None:
    """Return what tells this file from any other, or None when nothing is there; links are not followed."""
    return identity_at(canonical(path))


def identity_at(path: str) -> dict[str, int | None] | None:
    """As `identity`, of a path that is canonical already."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # NTFS and APFS give no number again. Under Wine the birth time of a folder changes with what is in it.
    return {"dev": found.st_dev, "ino": found.st_ino, "btime": None}


def check_allowed(path: str) -> None:
    """Raise ValueError for what is never removed: a home, the working directory, what contains them."""
    if _contains_kept(path):
        raise ValueError(f"refusing to plan the removal of {path!r}: it is or contains a folder that is kept")


def _contains_kept(path: str) -> bool:
    own = os.path.normcase(path)
    for kept in (*_kept, os.getcwd()):
        each = os.path.normcase(os.path.realpath(kept))
        if each == own or each.startswith(own.rstrip(os.sep) + os.sep):
            return True
    return os.path.dirname(path) == path


def remove(path: str | bytes, *, expect: "dict[str, int | None] | None" = None) -> None:
    """Remove what is at the canonical absolute ``path``; nothing there is success, and so is a second call.

    Args:
        path: as :func:`canonical` gives it.
        expect: what :func:`identity` said when the thing was made. None: unknown.

    Raises:
        NotOurs: something else is there. It was not touched, and trying again will not help.
        OSError: something could not be removed; the rest was.
    """
    where = os.fsdecode(path)
    found = identity_at(where)
    if found is None:
        return
    if expect and any(expect.get(key) != found[key] for key in ("dev", "ino")):
        raise NotOurs(f"{where!r} is not the one that was planned: its number differs")
    mode = os.lstat(where)
    if hasattr(os, "geteuid") and mode.st_uid != os.geteuid():
        raise NotOurs(f"{where!r} belongs to uid {mode.st_uid}, not to uid {os.geteuid()}")
    if not stat.S_ISDIR(mode.st_mode) or _is_junction(where):
        _unlink(where)
        return
    if os.path.ismount(where):
        raise NotOurs(f"{where!r} is a mount point: unmount it, then retry")
    if _contains_kept(where):
        raise NotOurs(f"{where!r} is or contains a folder that is never removed")
    _remove_tree(where)


def _is_junction(path: str) -> bool:
    """Whether it is Windows' kind of bind mount: removed by itself, what it leads to is not touched."""
    asked: Any = getattr(os.path, "isjunction", None)  # since Python 3.12
    return bool(asked and asked(path))


def _unlink(path: str) -> None:
    try:
        (os.rmdir if _is_junction(path) else os.unlink)(path)
    except FileNotFoundError:
        pass
    except PermissionError:
        if os.name != "nt":
            raise
        os.chmod(path, stat.S_IWRITE)  # Windows removes no file that is marked as read-only
        os.unlink(path)


def _remove_tree(path: str) -> None:
    import shutil

    failed: list[OSError] = []

    def again(function: "Any", name: str, error: "Any") -> None:
        problem = error[1] if isinstance(error, tuple) else error
        if isinstance(problem, FileNotFoundError):
            return
        try:
            if function not in (os.unlink, os.rmdir):
                raise problem
            os.chmod(name if os.name == "nt" else os.path.dirname(name), stat.S_IRWXU)
            function(name)
        except OSError as still:
            failed.append(still)

    shutil.rmtree(path, onerror=again)  # `onexc` is newer than Python 3.11
    if failed:
        first = failed[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise OSError(
            first.errno or errno.EIO,
            f"{path!r} was removed only in part: {first.strerror}{more}",
            first.filename,
        )
