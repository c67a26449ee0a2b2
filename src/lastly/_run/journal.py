"""The journal of a program under `lastly run`: opened at the first thing that has to be written.

Owner of all of it is the run's *main* program, also of what a child of it makes: a pool worker that has
been terminated has long handed the folder it made to its parent. Each process writes a file of its own
all the same, and holds its lock as long as it lives.
"""

import os
import sys

from lastly._words import fork
from lastly.errors import NotRecorded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lastly._journal.file import Journal
    from lastly._run.inject import Program
    from lastly._system.identity import Identity

REMOVE = "lastly.actions:remove"
KILL = "lastly.actions:kill"

program: "Program" = None  # type: ignore[assignment]  # see keep_for()
opened: "Journal | None" = None
child_starts: "Callable[[str], None]"  # has that reaper look at our children; set with `opened`
ensure: "Callable[[str], None]"  # sees that a reaper watches this journal; set with `opened`
children_id: int | None = None
_complained = False
_home_path: "list[str]" = []  # sys.path as it was before the program's own folder came first


class RunIsOver(Exception):  # noqa: N818  # as in errors.py: the name says what happened
    """The program of this run is just ending well: nothing is owed any more."""


def keep_for(of: "Program") -> None:
    """Say whose journal this is: called first of all."""
    global program
    program = of


def plan(action: str, args: "list[Any]", kwargs: "dict[str, Any] | None" = None, **more: "Any") -> int:
    """Write a plan. Raises RunIsOver, NotRecorded, or whatever else is wrong with our files."""
    fork.look()
    journal = opened or _open()
    key = journal.key
    number = journal.plan(action, args, kwargs or {}, run=True, **more)
    if journal.key != key and not program.is_me():
        raise RunIsOver  # the file was removed, so the journal has made another one
    ensure(journal.path)
    return number


def discard() -> None:
    """Remove the journal of this process: the run is over."""
    global opened, children_id
    journal, opened, children_id = opened, None, None
    if journal is not None:
        journal.close(unlink=True)


def done(number: int) -> None:
    if opened is not None:
        opened.done(number)


def fail(number: int, error: str) -> None:
    if opened is not None:
        opened.fail(number, error, attempt=1)


def plan_children() -> None:
    """Plan the killing of what the main program starts, once; have the reaper see what it starts now."""
    global children_id
    if children_id is not None:
        child_starts(opened.path if opened is not None else "")
        return
    from lastly._words.built_in import CHILDREN

    program.mark_forks()
    children_id = plan(KILL, [None], {"token": program.token, "grace": program.grace}, what=CHILDREN)
    child_starts(opened.path if opened is not None else "")


def bequeath(pid: int, paths: "list[str]") -> None:
    """Write the journal of another process: what it owes from here on, and releases at its own normal end.

    One that has ended by now owes nothing: it may have ended well, before there was anything to release.
    """
    journal_class, _, reach, _ = _aside(_load)
    from lastly._system.identity import Identity
    from lastly._words.built_in import CHILDREN

    heir = Identity.of(pid)
    journal = journal_class.create(identity=heir)
    ended = True
    try:
        kwargs = {"token": program.token, "grace": program.grace}
        journal.plan(KILL, [None], kwargs, run=True, what=CHILDREN)
        for path in paths:
            journal.plan(REMOVE, [path], {"expect": {}}, run=True)
        ended = heir.alive() is False
        if not ended:
            reach(journal.path)
    finally:
        journal.close(unlink=ended)


def _open() -> "Journal":
    global opened, ensure, child_starts
    journal_class, identity, ensure, child_starts = _aside(_load)
    opened = journal_class.create(identity=identity)
    if program.is_me():
        from lastly._exit import stuck
        from lastly._reaper import client

        # Exit functions need a main thread that comes back to Python: the reaper keeps the time until then.
        stuck.connect(client)
    return opened


def _load() -> "tuple[type[Journal], Identity, Callable[[str], None], Callable[[str], None]]":
    from lastly._journal.file import Journal
    from lastly._reaper import client
    from lastly._system.identity import Identity

    return Journal, program.owner_identity(Identity), client.ensure, client.child_starts


def removal() -> "Callable[[str], object]":
    """What `actions.remove` does, for use in this process."""

    def load() -> "Callable[[str], object]":
        from lastly._system import remove

        return lambda path: remove.remove(remove.canonical(path))

    made: Callable[[str], object] = _aside(load)
    return made


class Left:
    """The journal of a worker that has ended, taken over."""

    def __init__(self, journal: "Journal") -> None:
        self._journal = journal
        self._items = journal.read().pending()
        self._ours = [item for item in self._items if item.extra.get("run")]

    def owed(self) -> "list[tuple[int, str]]":
        """What the run has planned; what the program itself has deferred is its own, exec or not."""
        return [(item.id, item.action) for item in self._ours]

    def release(self, number: int) -> None:
        self._journal.release(number, reason="normal end of the run")
        self._items = [item for item in self._items if item.id != number]

    def close(self) -> None:
        self._journal.close(unlink=not self._items)


def left_behind(pid: int, start: int) -> "list[Left]":
    """Take the journals that this process or its workers have left under the name of this process.

    Those of workers that live on are removed: what they have made is theirs from here on.
    """

    def load() -> "Any":
        from lastly._journal import disk
        from lastly._journal.file import Journal

        return disk, Journal

    disk, journal_class = _aside(load)
    found = []
    for path in _named(pid, start):
        taken = journal_class.take(path)
        if taken is not None:
            found.append(Left(taken))
        else:
            disk.remove(path)
    return found


def ended_well(pid: int, start: int) -> bool:
    """Whether a program of a run that has ended does not owe the end of its children: then it ended well.

    That was planned before the first child was born, and is released by a normal end alone.
    """

    def load() -> "Any":
        from lastly._journal import replay

        return replay

    try:
        read = _aside(load).read
        return not any(
            item.action == KILL and item.extra.get("run")
            for path in _named(pid, start)
            for item in read(path).pending()
        )
    except (FileNotFoundError, NotRecorded):
        return True


def _named(pid: int, start: int) -> "list[str]":
    """Return the journals, not held by this process, that bear the name of a process of this boot."""

    def load() -> "Any":
        from lastly._journal import home, locks
        from lastly._system.identity import Identity

        return Identity, home, locks

    identity, home, locks = _aside(load)
    me = identity.current()
    folder = home.owners_dir(me.host, me.boot, create=False)
    paths = [os.path.join(folder, name) for name in os.listdir(folder)
             if name.startswith(f"{pid}.{start}.") and name.endswith(".j")]  # fmt: skip
    return [path for path in paths if locks.held(path) is None]


def complain(error: Exception) -> None:
    """Say once what is lost, in one line, and let the program run on."""
    global _complained
    if _complained:
        return
    _complained = True
    from lastly._run.program import say

    what = "temp files and children of this program are not cleaned up should it die"
    say(f"{what}: {str(error) or type(error).__name__}")


def remember_path() -> None:
    """Keep sys.path as it is before the program's own folder is put in front."""
    _home_path[:] = sys.path


def _aside(load: "Any") -> "Any":
    """Import what we need late, past the program's own modules.

    A program with a `json.py` of its own beside it must neither have it imported by us, nor get the
    standard library's when it asks for its own: what is hidden that way is forgotten after the import.
    """
    hidden = _hidden()
    if not hidden:
        return load()
    before = set(sys.modules)
    own, sys.path = sys.path, list(_home_path)
    try:
        return load()
    finally:
        sys.path = own
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in hidden:
                del sys.modules[name]


def _hidden() -> set[str]:
    """Names of standard modules, not imported yet, that a folder of the program's hides."""
    found: set[str] = set()
    for folder in sys.path:
        if folder not in _home_path:
            try:
                names = os.listdir(folder or ".")
            except OSError:
                continue
            found.update(name.partition(".")[0] for name in names)
    return {name for name in found & sys.stdlib_module_names if name not in sys.modules}


def forked() -> None:
    """In a forked child: a file of its own, when it comes to that."""
    global opened, children_id
    opened = children_id = None
