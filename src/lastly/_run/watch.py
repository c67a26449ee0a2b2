"""What a program under `lastly run` makes, seen before it exists.

CPython raises an audit event before tempfile creates a path and before a child starts: exactly where a
plan has to be written. No function of the program's is replaced, no frame of ours appears in its
tracebacks, and an event that is not ours costs one look into a dictionary.

What the events do not tell, and what follows from it:
* whether the creation then succeeded, and as which inode: the plan stays unconfirmed. A name that
  exists before the event is another program's, so it is not planned; tempfile then takes another name.
* whether a removal or a rename then succeeded: the path becomes a doubt, looked at when the next event comes.
* children of multiprocessing's spawn and forkserver: only the import of the module that starts them.
"""

import _thread
import os
import sys

from lastly._run import handover, journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

temps: "dict[str, int]" = {}  # path → id of its plan, for what this process made and has not seen go
doubts: "list[str]" = []  # paths that the program is about to remove or rename
inherited: "dict[str, int]" = {}  # what the program had made that this process was forked from
inherited_from = (0, 0)  # its pid and start time
_in_new_session: "Callable[[], None] | None" = None  # see start()
_looking = False  # whether this process may yet become a daemon
_busy: "set[int]" = set()  # threads inside one of our own handlers: what they do does not count

_STARTERS = {
    "multiprocessing.popen_forkserver",
    "multiprocessing.popen_spawn_posix",
    "multiprocessing.resource_tracker",
}


def _made(args: "tuple[Any, ...]") -> None:
    """The module tempfile is about to create args[0]."""
    if doubts:
        look_at_doubts()
    if _goes_on():
        path = os.path.abspath(os.fsdecode(args[0]))
        if not os.path.lexists(path):
            plan(path)


def plan(path: str) -> None:
    """Plan the removal of a path."""
    folder, name = os.path.split(path)
    real = os.path.join(os.path.realpath(folder), name)
    try:
        temps[path] = journal.plan(journal.REMOVE, [real], {"expect": {}})
    except journal.RunIsOver:
        stop_watching()


def _goes_on() -> bool:
    """Whether the run does; if not, nothing is watched any more."""
    look()
    if journal.program.is_over():
        stop_watching()
        return False
    return True


def stop_watching() -> None:
    """Be a plain program, with plain children, after the normal end of the run."""
    TABLE.clear()
    temps.clear()
    doubts.clear()
    inherited.clear()
    journal.discard()
    handover.forget()


def take_temps() -> "dict[str, int]":
    """Hand over what this process has made, with the ids of the plans; it is no longer watched."""
    taken = temps.copy()
    temps.clear()
    return taken


def forget_inherited() -> None:
    """What the program had made has been planned here, or is not owed."""
    inherited.clear()


def look(_args: "tuple[Any, ...]" = ()) -> None:
    """Let a forked child of the program see whether it has become a daemon."""
    if _looking and _in_new_session is not None and os.getsid(0) != journal.program.origin:
        _in_new_session()


def look_no_more() -> None:
    """It has become one, and everything is handed over."""
    global _looking
    _looking = False
    for event in _LOOK_EVENTS:
        TABLE.pop(event, None)


def _going(args: "tuple[Any, ...]") -> None:
    """os.remove, os.rmdir or os.rename is about to be called on args[0]."""
    if not temps or args[0].__class__ is int:
        return
    if doubts:
        look_at_doubts()
    path = os.fsdecode(args[0])
    if path in temps or (path := os.path.abspath(path)) in temps:
        doubts.append(path)


def look_at_doubts() -> None:
    """Strike out what has gone in the meantime."""
    while doubts:
        path = doubts.pop()
        if path in temps and not os.path.lexists(path):
            journal.done(temps.pop(path))


def _child(_args: "tuple[Any, ...]") -> None:
    """A child is about to start: the plan to kill what a crash leaves is written before the first."""
    spawn = sys.modules.get("lastly._reaper.spawn")
    if spawn is not None and spawn.starting:
        return  # the program's own use of lastly starts the reaper: no child of its
    if not _goes_on() or not journal.program.is_me():
        return
    journal.plan_children()


def _import(args: "tuple[Any, ...]") -> None:
    if args[0] in _STARTERS:
        _child(args)


CHILD_EVENTS: "dict[str, Callable[[tuple[Any, ...]], None]]" = {
    "os.fork": _child,
    "os.forkpty": _child,
    "os.posix_spawn": _child,
    "os.system": _child,
    "subprocess.Popen": _child,
    "import": _import,
}
TEMP_EVENTS: "dict[str, Callable[[tuple[Any, ...]], None]]" = {
    "tempfile.mkstemp": _made,
    "tempfile.mkdtemp": _made,
    "os.remove": _going,
    "os.rmdir": _going,
    "os.rename": _going,
}
_LOOK_EVENTS = ("open", "os.chdir", "time.sleep", "socket.bind")  # one of these does every daemon
TABLE: "dict[str, Callable[[tuple[Any, ...]], None]]" = {}


def hook(event: str, args: "tuple[Any, ...]", get: "Any" = TABLE.get) -> None:
    """The audit hook. It never raises, whatever is wrong: the exception would be the program's."""
    handler = get(event)
    if handler is None:
        return
    thread = _thread.get_ident()
    if thread in _busy:
        return
    _busy.add(thread)
    try:
        handler(args)
    except Exception as error:
        journal.complain(error)
    finally:
        _busy.discard(thread)


def start(*, temp: bool, children: bool, in_new_session: "Callable[[], None]") -> None:
    """Listen from now on.

    Args:
        temp: to temp files.
        children: to the starts of children.
        in_new_session: called in a forked child of the program that is in another session than the run's.
    """
    global _in_new_session
    _in_new_session = in_new_session
    if temp:
        TABLE.update(TEMP_EVENTS)
    if children:
        watch_children()
    if TABLE:
        sys.addaudithook(hook)


def watch_children() -> None:
    """Listen to the starts of children, too."""
    TABLE.update(CHILD_EVENTS)


def forked() -> None:
    """In a forked child: what the parent has made is the parent's, and its children are found by its plan."""
    global _looking, inherited_from
    program = journal.program
    if not inherited:
        inherited_from = (program.pid, program.start)
    inherited.update(temps)
    temps.clear()
    doubts.clear()
    _busy.clear()
    if TABLE:
        for event in CHILD_EVENTS:
            TABLE.pop(event, None)
        _looking = program.main
    if _looking:
        watch_children()
        TABLE.update(dict.fromkeys(_LOOK_EVENTS, look))
