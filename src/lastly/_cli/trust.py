"""Who else may write into the home: what is in it is executed with this user's rights."""

import os
import stat

from lastly._cli.finding import Finding
from lastly._journal import home
from lastly._system import proc
from lastly._system.mounts import Mount, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST = 5  # findings of one kind that are shown
_SUBVOLUMES = ("btrfs", "zfs", "bcachefs")  # mounted in parts as a matter of course
_OTHERS = (
    "9p",
    "virtiofs",
    "vboxsf",
    "prl_fs",
    "fuse.vmhgfs-fuse",
    "drvfs",
)  # another machine's, this one's host


def examine() -> list[Finding]:
    """Look at the home, at what is above it, in it, and at who else has it mounted."""
    where = [home.state_path()]
    if (runtime := home.runtime_path()) not in where:
        where.append(runtime)
    found = [finding for path in where for finding in [*_few(_above(path)), *_few(_inside(path))]]
    found += shared(where[0])
    return found or [
        Finding("trust", "ok", "only you can write to the home, as far as can be seen from here")
    ]


def _few(found: "Iterator[Finding]") -> list[Finding]:
    every = list(found)
    if len(every) > _MOST:
        last = every[_MOST - 1]
        last.what += f" (and {len(every) - _MOST} more like it)"
    return every[:_MOST]


def _above(path: str) -> "Iterator[Finding]":
    """A user that may rename a folder above the home may put another one in its place."""
    below = os.path.realpath(path)
    while (folder := os.path.dirname(below)) != below:
        below = folder
        try:
            found = os.stat(folder)
        except FileNotFoundError:  # made with the home
            continue
        if found.st_uid not in (0, os.geteuid()):
            what = f"{folder} is above the home and belongs to user {found.st_uid}, who may exchange it"
            yield Finding("trust", "unprotected", what, "set LASTLY_HOME to a folder in one of your own")
        elif found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
            what = f"{folder} is above the home, and others may exchange it ({_rights(folder, found)})"
            yield Finding("trust", "unprotected", what, f"chmod go-w {folder!r}")


def _inside(path: str) -> "Iterator[Finding]":
    for folder, folders, files in os.walk(path):
        for name in (".", *folders, *files):
            one = os.path.normpath(os.path.join(folder, name))
            try:
                found = os.stat(one) if one == path else os.lstat(one)
            except OSError:  # gone meanwhile
                continue
            if name == "." and folder != path:  # seen in its parent
                continue
            if (wrong := _wrong(one, found)) is not None:
                yield wrong


def _wrong(path: str, found: os.stat_result) -> "Finding | None":
    look = f"look who put it there, then remove it: {path!r}"
    if found.st_uid != os.geteuid():
        return Finding("trust", "wrong", f"{path} belongs to user {found.st_uid}", look)
    if stat.S_ISLNK(found.st_mode):
        return Finding("trust", "wrong", f"{path} is a link to {os.readlink(path)}", look)
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        return Finding("trust", "wrong", f"{path} has {found.st_nlink} names: it is not run", look)
    if found.st_mode & 0o022:
        fix = f"look what is in it, then: chmod go-w {path!r}"
        return Finding("trust", "wrong", f"others may write to {path} ({_rights(path, found)})", fix)
    return None


def _rights(path: str, found: os.stat_result) -> str:
    mode = f"mode {found.st_mode & 0o7777:04o}"
    try:
        os.getxattr(path, "system.posix_acl_access")
    except OSError:
        return mode
    return f"{mode} with an access control list: getfacl {path!r}"


# ---- who has it mounted


def shared(path: str) -> list[Finding]:
    """Whether the home is a piece of something that others have, too, as far as the mounts tell."""
    path = os.path.realpath(path)
    ours = None
    for mount in _mounts(None):
        if _contains(mount.point, path) and (ours is None or len(mount.point) >= len(ours.point)):
            ours = mount
    if ours is None:
        return []
    fix = "give it a folder of its own, or trust its users as yourself; see the page on security"
    found = []
    if ours.kind in _OTHERS or (ours.root != "/" and ours.kind not in _SUBVOLUMES):
        what = (
            f"the home is on a volume ({ours.kind}, {ours.root}): who else writes to it can run code as you"
        )
        found.append(Finding("trust", "unprotected", what, fix))
    there = os.path.normpath(os.path.join(ours.root, os.path.relpath(path, ours.point)))
    for pid, mount in _elsewhere():
        if mount.device == ours.device and (_contains(mount.root, there) or _contains(there, mount.root)):
            what = f"process {pid}, in a container or sandbox, has the home too, at {mount.point}"
            return [*found, Finding("trust", "unprotected", f"{what}: it can run code as you", fix)]
    return found


def _elsewhere() -> "Iterator[tuple[int, Mount]]":
    """Mounts in other mount namespaces, one process of each; of processes that we may look at."""
    seen = {"", proc.namespace("mnt")}  # "": gone, or not ours to look at
    pids = proc.namespace("pid")
    for pid in sorted(proc.pids()):
        space = proc.namespace("mnt", pid)
        if space in seen:
            continue
        seen.add(space)
        for mount in _mounts(pid):
            # A service of this machine has the whole disk in a namespace of its own; a container has not.
            if mount.root != "/" or proc.namespace("pid", pid) != pids:
                yield pid, mount


def _mounts(pid: int | None) -> "list[Mount]":
    try:
        return list(mounts(pid))
    except OSError:
        return []


def _contains(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
