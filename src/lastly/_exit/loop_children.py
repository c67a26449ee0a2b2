"""Children that an event loop has started, and left running: under `install` they end with the program.

``asyncio.create_subprocess_exec`` and ``trio.lowlevel.open_process`` leave a child running when the task that
waited for it has ended. asyncio kills it when its transport is finalized, if that comes before the
interpreter's end and the loop is not closed yet: by chance, and not the child's own children. So its whole
tree is ended here, before the cleanups: a folder that is about to be removed may be theirs.

Left alone are a child in a session of its own without a pipe to this program, which was detached on purpose;
what `lastly.open_process` has started, which has its own cleanup, or was given away; and children of plain
`subprocess`, which outlive their parent by design.

asyncio keeps no list of its transports. Those that are started after `install` are seen by an audit hook, and
kept, so that none is finalized before we look.
"""

import os
import sys

from lastly._exit import state
from lastly._system import probe
from lastly._words.clock import monotonic
from lastly._words.warn import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

PATIENCE = 5.0  # seconds from TERM to KILL; with a grace no more than half of what is left of it

_OWNERS = (("asyncio.base_subprocess", "BaseSubprocessTransport"), ("trio._subprocess", "Process"))
_DEPTH = 5  # frames from asyncio's call of subprocess.Popen to the audit event

# The pids of children that have a cleanup of their own.
planned: "set[int]" = set()
_started: "list[Any]" = []  # asyncio's transports
_watching = 0  # the process that called install()


def watch() -> None:
    """See what asyncio starts from now on, where that can be ended; a second call does nothing."""
    global _watching
    if probe.no_reaper():
        return
    if _watching != os.getpid():
        if not _watching:  # a hook stays, in forked children too
            sys.addaudithook(_hook)
        _watching = os.getpid()


def watching() -> bool:
    """Whether `install` was called in this process."""
    return _watching == os.getpid()


def _hook(event: str, _args: "tuple[Any, ...]") -> None:
    if event != "subprocess.Popen":
        return
    frame: FrameType | None = sys._getframe(1)  # the event does not name its caller
    for _ in range(_DEPTH):
        if frame is None:
            return
        if frame.f_globals.get("__name__") == "asyncio.unix_events":
            _started[:] = [one for one in _started if one.get_returncode() is None]
            _started.append(frame.f_locals.get("self"))
            return
        frame = frame.f_back


def end(left: "float | None") -> "tuple[list[str], list[str]]":
    """Tell them and all below them to end, wait, and kill those that do not. A second call finds none.

    Args:
        left: seconds of the grace that are left; None: no limit.

    Returns:
        the names of those that ended when they were told to, and of those that were killed.

    Raises:
        OSError, NotOurs: as :func:`lastly._system.kill.kill_tree`.
    """
    running = _running()
    if not running:
        return [], []
    from lastly._system import kill

    killed: set[tuple[int, int]] = set()
    grace = PATIENCE if left is None else max(0.0, min(PATIENCE, left / 2))
    kill.kill_tree(seen=running, grace=grace, killed=killed)
    names = {key: f"process {key[0]} ({name})" for key, name in running.items()}
    return (
        [name for key, name in names.items() if key not in killed],
        [name for key, name in names.items() if key in killed],
    )


def end_with_program() -> None:
    """End them because the program ends, and say what was to be ended; a second call finds none.

    Never raises: the program's own cleanups come next.
    """
    deadline = state.end.deadline
    try:
        ended, killed = end(None if deadline is None else deadline - monotonic())
    except Exception as error:  # no descriptor, no memory, nothing to import from
        why = str(error) or type(error).__name__
        say(f"children that an event loop has started could not be ended: {why}; look for them with ps")
        return
    for child in killed:
        say(f"{child} did not end on SIGTERM: killed")
    if not state.end.signum:
        for child in ended:
            say(
                f"{child} still ran when the program ended: told to end; await it, or use lastly.open_process"
            )


def _running() -> "dict[tuple[int, int], str]":
    """Find them: (pid, start time), and the name of the program."""
    kinds = tuple(
        kind for module, name in _OWNERS if (kind := getattr(sys.modules.get(module), name, None)) is not None
    )
    if not kinds:
        return {}
    from lastly._system import proc

    children = {pid: proc.start_time(pid) for pid in proc.children(os.getpid()) if pid not in planned}
    living = {pid: start for pid, start in children.items() if start is not None and proc.lives(pid, start)}
    if not living:
        return {}
    import gc

    found = {}
    for one in gc.get_objects():
        if issubclass(type(one), kinds):  # not isinstance, which would ask proxies of all kinds
            child: Any = getattr(one, "_proc", None)  # both keep their Popen under this name
            if child is not None and child.pid in living and not _detached(one, child.pid):
                found[child.pid, living[child.pid]] = _name(child.args)
    return found


def _detached(owner: "Any", pid: int) -> bool:
    """Whether it has a session of its own, and no pipe to us."""
    try:
        if os.getsid(pid) != pid:
            return False
    except ProcessLookupError:
        return False
    if hasattr(owner, "get_pipe_transport"):
        return all(owner.get_pipe_transport(number) is None for number in range(3))
    return owner.stdin is owner.stdout is owner.stderr is None


def _name(words: "Any") -> str:
    return str(words if isinstance(words, str | bytes) or not words else words[0])
