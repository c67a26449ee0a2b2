"""What this kernel and its sandbox offer: found out by trying, never guessed from a version or a name.

`LASTLY_PRETEND_NO` is for tests only: a list like ``pidfd,statx,memfd,sh,proc`` of what is to be treated as
missing, so that every fallback can be tried on any machine.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

VARIABLE: "Final" = "LASTLY_PRETEND_NO"
_PRETENDED = frozenset(os.environ.get(VARIABLE, "").split(","))
_pidfd: bool | None = None
_sqlite: bool | None = None
NO_SQLITE: "Final" = "this Python was built without sqlite3, which the reaper needs"


def passed_on() -> "dict[str, str]":
    """Return the environment of the reaper: empty, except what a test pretends."""
    return {VARIABLE: ",".join(sorted(_PRETENDED))} if {""} != _PRETENDED else {}


def missing(name: str) -> bool:
    """Whether a test pretends that this is missing: pidfd, statx, memfd, sh or proc."""
    return name in _PRETENDED


def has_pidfd() -> bool:
    """Whether the kernel opens pidfds: Linux 5.3, and a sandbox that allows it. Tried once.

    Raises:
        OSError: it could not be tried just now (no descriptors left).
    """
    global _pidfd
    if _pidfd is None:
        _pidfd = not missing("pidfd") and _opens_pidfd()
    return _pidfd


def _opens_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno in (23, 24):  # ENFILE, EMFILE
            raise
        return False
    return True


def unnamed_file(name: str) -> int:
    """Return the descriptor of an unnamed file: in memory, or (no memfd_create) an unlinked one on disk.

    Raises:
        OSError: neither can be made.
    """
    if (fd := _in_memory(name)) is not None:
        return fd
    import tempfile

    fd, path = tempfile.mkstemp(prefix="lastly-")
    os.unlink(path)
    return fd


def _in_memory(name: str) -> int | None:
    if missing("memfd"):
        return None
    try:
        return os.memfd_create(name)
    except OSError as error:
        if error.errno not in (1, 22, 38):  # EPERM, EINVAL, ENOSYS: the call itself is refused
            raise
        return None


def has_memfd() -> bool:
    """Whether a file may be in memory alone; tried."""
    if (fd := _in_memory("lastly-probe")) is None:
        return False
    os.close(fd)
    return True


def unsupported() -> str:
    """Return why no other process could take over here what this one owes; empty when one can.

    Asked anew each time, as `wrong_proc` is.
    """
    return no_reaper() or wrong_proc() or ("" if has_sqlite() else NO_SQLITE)


def has_sqlite() -> bool:
    """Whether this Python was built with sqlite3; True, too, where its library is out of sight (`chroot`).

    Not imported: a program needs it only in its reaper.
    """
    global _sqlite
    if _sqlite is None:
        finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
        found = "_sqlite3" in sys.modules or any(finder.find_spec("_sqlite3", None) for finder in finders)
        _sqlite = found or not os.path.isdir(os.path.dirname(os.__file__))
    return _sqlite


def no_reaper() -> str:
    """Return why no reaper runs on this system and Python; empty where one does."""
    if sys.platform != "linux":
        return f"the reaper runs on Linux, and this is {sys.platform}"
    if not hasattr(os, "O_PATH"):
        return f"the reaper needs os.O_PATH, which {sys.implementation.name} does not have"
    return ""


def wrong_proc() -> str:
    """Return why the numbers in /proc cannot be used, or an empty string when they can.

    Inside a pid namespace that still sees its host's /proc, each number there is another process's. Asked
    anew each time, since a fork may enter a namespace: two microseconds.
    """
    if missing("proc"):
        return "/proc is not mounted"
    try:
        shown = os.readlink("/proc/self")
    except OSError:
        return "/proc is not mounted"
    if shown != str(os.getpid()):
        return "/proc shows the processes of another pid namespace (mount /proc in this one)"
    return ""
