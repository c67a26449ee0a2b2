"""Temporary files and folders, at unguessable names."""

import os
import sys

from lastly._durable.handle import Making
from lastly.resources._handle import Handle, confirm_file, planned_removal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from lastly._scope.handle import Cleanup
    from lastly._scope.scope import Scope


class Temporary(Handle):
    """A temporary file or folder that removes itself: path-like, and a context manager.

    ``open(work)``, ``os.listdir(work)``, ``work / "name"`` (a `pathlib.Path`) and ``str(work)`` all work.

    Attributes:
        path: its absolute path, a str.
        cleanup: the handle of its removal.

    .. versionadded:: 0.1
    """

    __slots__ = ("path",)

    def __init__(self, path: str, cleanup: "Cleanup") -> None:
        self.path = path
        self.cleanup = cleanup

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path

    def __truediv__(self, other: "str | os.PathLike[str]") -> "Path":
        from pathlib import Path

        return Path(self.path) / other


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

    As `temp_dir`, with the same arguments and errors, for a file of mode 0600:
    ``with open(temp_file(), "w") as out: …``.

    .. versionadded:: 0.1
    """
    return _make(_touch, prefix, suffix, dir, scope)


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


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
        raise TypeError(f"prefix and suffix must be strings, not {prefix!r} and {suffix!r}")
    if "/" in prefix or "/" in suffix:
        raise ValueError(
            f"prefix {prefix!r} and suffix {suffix!r} must not contain a slash: dir names the folder"
        )
    # Links are resolved now: what is created and what is removed are then the same place.
    parent = os.path.realpath(os.fsdecode(folder))
    while True:
        path = os.path.join(parent, f"{prefix}{os.urandom(8).hex()}{suffix}")
        cleanup = planned_removal(path, scope)
        try:
            with Making(cleanup):
                create(path)
                # Any other exception is a signal's, and may come after the creation: the scope removes it.
                confirm_file(cleanup, path)
        except FileExistsError:  # 1 in 2**64, or our random numbers were known: not ours, not touched
            cleanup.detach()
            continue
        except OSError:
            cleanup.detach()
            raise
        return Temporary(path, cleanup)


def _temporary_folder() -> str:
    """Choose as `tempfile.gettempdir` does, without the file that it makes there to try.

    A process killed between creating and deleting that file leaves it behind, with no plan to remove it.
    """
    # Where the program set another folder it has imported tempfile, which is the dearest import of all here.
    chosen = getattr(sys.modules.get("tempfile"), "tempdir", None)
    if chosen is None:
        for path in (*map(os.environ.get, ("TMPDIR", "TEMP", "TMP")), "/tmp"):  # noqa: S108  # tempfile's next
            if path and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
                return os.path.abspath(path)
    import tempfile

    return tempfile.gettempdir()
