"""What tests make, and the lines that made it: recorded when it is made, for ``pytest --lastly-leaks``.

Afterwards one sees a process or a folder, and cannot tell where it came from. So: audit events tell of
files before they exist; functions in front of those that start children and threads, and that make scopes,
tell of these, because no event knows the pid. They are put back at the end. The audit hook stays, asleep:
Python cannot take one away.

What still fails: a child that C code starts is found, without its line; files that a child or C code makes
are not found at all.
"""

import _posixsubprocess
import functools
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading

import lastly
from lastly import Scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

CHILDREN, THREADS, FILES, SCOPES = KINDS = ("children", "threads", "files", "scopes")

_OURS = os.path.dirname(os.path.abspath(lastly.__file__)) + "/"
_LIBRARY = tuple(sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib"))

# Where the path is among the arguments of an event.
_EVENTS = {
    "open": 0, "os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "socket.bind": 1,
    "sqlite3.connect": 0, "tempfile.mkstemp": 0, "tempfile.mkdtemp": 0,
}  # fmt: skip


class Made:
    """One thing (a pid, a thread, a path, a scope), its line, and the fixture in whose setup it was made."""

    __slots__ = ("kind", "owner", "thing", "where")

    def __init__(self, kind: str, thing: "Any", where: str, owner: object) -> None:
        self.kind = kind
        self.thing = thing
        self.where = where
        self.owner = owner


class Recorder:
    """Keeps what is made from `start` to `stop`. Of several, one in the other, the innermost does.

    Args:
        project: the folder whose lines are named.
        apart: folders in which files are no temporary ones.

    Attributes:
        made: everything since it was last emptied.
        owner: of what is made from now on.
        children: how many were started.
    """

    def __init__(self, project: str, apart: "tuple[str, ...]") -> None:
        self.project = project
        self.apart = apart
        self.made: list[Made] = []
        self.owner: object = None
        self.children = 0

    def start(self) -> None:
        """Begin to record."""
        if not _recorders:
            _watch()
        _recorders.append(self)

    def stop(self) -> None:
        """Stop; a second call does nothing."""
        if self in _recorders:
            _recorders.remove(self)
            if not _recorders:
                _put_back()

    def note(self, kind: str, thing: "Any") -> None:
        """Record one thing that was made just now."""
        self.children += kind == CHILDREN
        self.made.append(Made(kind, thing, self._where(), self.owner))

    def _where(self) -> str:
        """Name the innermost line of the project, and the outermost one, which is the test's mostly."""
        frame: FrameType | None = sys._getframe(2)  # noqa: SLF001  # who makes it is up the stack
        inner = outer = foreign = ""
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(self.project) and not name.startswith((_OURS, *_LIBRARY)):
                outer = f"{name.removeprefix(self.project)}:{frame.f_lineno}"
                inner = inner or outer
            elif not foreign and not name.startswith((_OURS, "<", *_LIBRARY[:2])):
                foreign = f"{name}:{frame.f_lineno}"
            frame = frame.f_back
        if not inner:
            return foreign
        return inner if inner == outer else f"{inner}, called at {outer}"

    def temporary(self, path: str) -> bool:
        """Whether a file at this path is a temporary one, and not kept on purpose."""
        # pytest's; caches; multiprocessing's, one per process.
        kept = ("/pytest-of-", "/__pycache__", "/pymp-")
        return not path.startswith(self.apart) and not any(name in path for name in kept)


_recorders: "list[Recorder]" = []
_hooked = False
_before: "list[tuple[Any, str, Any]]" = []


def _watch() -> None:
    global _hooked
    for place, name in (
        (os, "fork"), (os, "forkpty"), (os, "posix_spawn"), (os, "posix_spawnp"),
        (_posixsubprocess, "fork_exec"), (subprocess, "_fork_exec"),
    ):  # fmt: skip
        _put(place, name, _recording(getattr(place, name), _child))
    _put(threading.Thread, "start", _recording(threading.Thread.start, _thread))
    _put(Scope, "__init__", _recording(Scope.__init__, _scope))
    if not _hooked:
        _hooked = True
        sys.addaudithook(_event)


def _put(place: "Any", name: str, function: "Any") -> None:
    _before.append((place, name, getattr(place, name)))
    setattr(place, name, function)


def _put_back() -> None:
    while _before:
        place, name, function = _before.pop()
        setattr(place, name, function)


def _recording(
    function: "Callable[..., Any]", note: "Callable[[Recorder, Any, Any], None]"
) -> "Callable[..., Any]":
    @functools.wraps(function)
    def call(*args: "Any", **kwargs: "Any") -> "Any":
        result = function(*args, **kwargs)
        if _recorders:
            note(_recorders[-1], args, result)
        return result

    return call


def _child(recorder: Recorder, _: "Any", result: "Any") -> None:
    pid = result[0] if isinstance(result, tuple) else result
    if pid:  # else this is the child
        recorder.note(CHILDREN, pid)


def _thread(recorder: Recorder, args: "Any", _: "Any") -> None:
    recorder.note(THREADS, args[0])


def _scope(recorder: Recorder, args: "Any", _: "Any") -> None:
    recorder.note(SCOPES, args[0])


def _event(event: str, args: "tuple[Any, ...]") -> None:
    """The audit hook. It never raises: the exception would be the program's."""
    if not _recorders or (place := _EVENTS.get(event)) is None:
        return
    try:
        path = args[place]
        if event == "open" and not args[2] & os.O_CREAT:
            return
        if isinstance(path, str | bytes | os.PathLike):
            _file(_recorders[-1], os.path.abspath(os.fsdecode(path)), event.startswith("tempfile."))
    except Exception:  # noqa: S110  # as said
        pass


def _file(recorder: Recorder, path: str, named_so: bool) -> None:
    if not named_so:
        folder = tempfile.tempdir
        if folder is None or not path.startswith(f"{folder}/") or path.startswith(recorder.project):
            return
        if os.path.lexists(path):
            return
    if recorder.temporary(path):
        recorder.note(FILES, path)
