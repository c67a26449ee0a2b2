"""Ready-made resources: planned before they are created, confirmed after, gone at the end.

Each is made in the same three steps, and killed between any two of them the program leaves nothing behind:

1. *plan*: the journal owes the removal of a name that nobody else can guess;
2. *create*, failing if the name exists;
3. *confirm*: the journal learns device, inode and birth time, so that later nothing else is taken for it.

May use: _durable, _exit, _scope, _journal, _system, actions.
Used by: users, testing.
"""

import os

from lastly import actions
from lastly._durable import seam
from lastly._exit.root import root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Self

    from lastly._scope.handle import Cleanup
    from lastly._scope.scope import Scope
    from lastly.resources._placed import lock_file, pid_file, unix_socket
    from lastly.resources._popen import Popen, server
    from lastly.resources._process import Process, open_process
    from lastly.resources._replace import atomic_write

__all__ = [
    "Popen", "Process", "Temporary", "atomic_write", "lock_file", "open_process", "pid_file", "server",
    "temp_dir", "temp_file", "unix_socket",
]  # fmt: skip


class Temporary:
    """A temporary file or folder that removes itself: path-like, and a context manager.

    ``open(work)``, ``os.listdir(work)``, ``work / "name"`` (a `pathlib.Path`) and ``str(work)`` all work.

    Attributes:
        path: its absolute path, a str.
        cleanup: the handle of its removal.

    .. versionadded:: 0.1
    """

    __slots__ = ("cleanup", "path")

    def __init__(self, path: str, cleanup: "Cleanup") -> None:
        self.path = path
        self.cleanup = cleanup

    def close(self) -> None:
        """Remove it now. A second call does nothing. Raises what the removal raises."""
        self.cleanup.run()

    def detach(self) -> bool:
        """Keep it: it is yours from here on. Returns False when it was kept or removed before."""
        return self.cleanup.detach()

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path

    def __truediv__(self, other: "str | os.PathLike[str]") -> "Path":
        from pathlib import Path

        return Path(self.path) / other

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path!r}{'' if self.cleanup.pending else ' gone'}>"


def temp_dir(
    suffix: str = "",
    prefix: str = "lastly-",
    dir: "str | bytes | os.PathLike[Any] | None" = None,  # noqa: A002  # tempfile's own name for it
    *,
    scope: "Scope | None" = None,
) -> Temporary:
    """Make a temporary folder, which is removed with all that is in it, however the program ends.

    Every call makes another one. Mode 0700.

    Args:
        suffix: end of its name.
        prefix: begin of its name.
        dir: the folder to make it in; default: `tempfile.gettempdir`.
        scope: the scope at whose close it goes; default: the program's end.

    Raises:
        NotRecorded: the journal cannot be written; nothing was created.
        OSError: it cannot be created; nothing is owed.

    .. versionadded:: 0.1
    """
    return _make(lambda path: os.mkdir(path, 0o700), prefix, suffix, dir, scope)


def temp_file(
    suffix: str = "",
    prefix: str = "lastly-",
    dir: "str | bytes | os.PathLike[Any] | None" = None,  # noqa: A002  # tempfile's own name for it
    *,
    scope: "Scope | None" = None,
) -> Temporary:
    """Make an empty temporary file, which is removed however the program ends.

    As `temp_dir`, for a file of mode 0600: ``with open(temp_file(), "w") as out: …``.

    .. versionadded:: 0.1
    """
    return _make(_touch, prefix, suffix, dir, scope)


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def _make(
    create: "Callable[[str], None]",
    prefix: str,
    suffix: str,
    folder: "str | bytes | os.PathLike[Any] | None",
    scope: "Scope | None",
) -> Temporary:
    if folder is None:
        folder = _temporary_folder()
    parts: tuple[object, object] = (prefix, suffix)
    if not all(isinstance(part, str) for part in parts):
        raise TypeError(f"prefix={prefix!r}, suffix={suffix!r}: parts of a name, as strings")
    if "/" in prefix or "/" in suffix:
        raise ValueError(
            f"prefix={prefix!r}, suffix={suffix!r}: parts of a name, which hold no slash; see dir"
        )
    # Links are resolved now: what is created and what is removed are then the same place.
    parent = os.path.realpath(os.fsdecode(folder))
    while True:
        path = os.path.join(parent, f"{prefix}{os.urandom(8).hex()}{suffix}")
        cleanup = planned_removal(path, scope)
        try:
            create(path)
        except FileExistsError:  # 1 in 2**64, or somebody looked at our random numbers: not ours, not touched
            cleanup.detach()
            continue
        except OSError:
            cleanup.detach()
            raise
        # Any other exception is a signal's, and may come after the creation: then the scope removes it.
        confirm_file(cleanup, path)
        return Temporary(path, cleanup)


def _temporary_folder() -> str:
    """Choose as `tempfile.gettempdir` does, without the file that it makes there to try.

    Who is killed between its making and its removal leaves it, and nobody owes its removal.
    """
    import tempfile

    if tempfile.tempdir is None:
        for path in (*map(os.environ.get, ("TMPDIR", "TEMP", "TMP")), "/tmp"):  # noqa: S108  # tempfile's next
            if path and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
                return os.path.abspath(path)
    return tempfile.gettempdir()


def planned_removal(path: str, scope: "Scope | None") -> "seam.DurableCleanup":
    """Owe the removal of a path that is not there yet."""
    return seam.deferred(root if scope is None else scope, actions.remove, path, expect={})


def confirm_file(cleanup: "seam.DurableCleanup", path: str) -> None:
    """Tell the journal which file the planned path has become."""
    try:
        cleanup.confirm(seam.file_identity(path))
    except OSError:
        pass  # a full disk, or no descriptor to look with: the name, which nobody else can guess, has to do


def __getattr__(name: str) -> "Any":
    # subprocess costs 11 ms to import, socket 8: only for those who start children, or listen.
    if name in ("Popen", "server"):
        from lastly.resources import _popen

        return getattr(_popen, name)
    if name in ("Process", "open_process"):
        from lastly.resources import _process

        return getattr(_process, name)
    if name == "atomic_write":
        from lastly.resources import _replace

        return _replace.atomic_write
    if name in ("lock_file", "pid_file", "unix_socket"):
        from lastly.resources import _placed

        return getattr(_placed, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
