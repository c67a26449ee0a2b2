"""Start a reaper that is not a child of this program.

The program must not see a new child: not in ``os.wait()``, not as a zombie, not in its process group, which
may be killed as a whole. ``os.fork()`` twice would run the program's at-fork hooks, copy its page tables,
and warn when it has threads. So a process is spawned (vfork: no copy) in a new session. It starts the reaper
and ends at once, and its end is waited for. A shell does that in 0.7 ms. Where there is none (a container
without ``/bin/sh``) the interpreter does it itself, in its first line: 6 ms.

What still fails: another thread that is in ``os.wait()`` at that moment may get this child's status.
"""

import os
import sys

from lastly._journal import home
from lastly._reaper import protocol
from lastly._system import descriptors, frozen, probe
from lastly._words.warn import warn_only

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SHELL = "/bin/sh"
starting = False  # True while that process is spawned: an audit hook may want to ignore it
_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); from lastly._reaper.__main__ import main; main(sys.argv[2:])"
)
_LEAVE = "import posix; posix.fork() and posix._exit(0); "
_spawned: list[int] = []  # and not yet waited for, because an exception came in between


def start(line: int | None = None, *, shell: bool = True) -> None:
    """Start a reaper; it exits at once when there is one.

    Args:
        line: the descriptor of a connected socket for it, as if it had come through its own.
        shell: try that first. It may be there and do nothing.

    Raises:
        OSError: it could not be started.
        RuntimeError: there is no Python interpreter to start it with.
    """
    global starting
    words = [home.state_dir(), home.runtime_dir(), str(_idle())]
    if line is not None:
        words.append(str(protocol.LINE))
    starting = True
    try:
        if shell and not probe.missing("sh"):
            argv = [SHELL, "-c", 'cd /; exec "$@" &', "lastly", *_command(words, leave=False)]
            if _spawn(argv, line):
                return
        argv = _command(words, leave=True)
        if not _spawn(argv, line):
            raise OSError(f"{argv[0]} does not start")
    finally:
        starting = False


def _command(words: list[str], *, leave: bool) -> list[str]:
    """Return what starts a reaper; ``leave``: in a child of its own, while it ends at once."""
    if frozen.is_open:
        return [sys.executable, frozen.REAPER, "leave" if leave else "", *words]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    boot = _LEAVE + _BOOT if leave else _BOOT
    return [_interpreter(), "-I", "-S", "-X", "utf8", "-c", boot, root, *words]


def _idle() -> float:
    given = os.environ.get("LASTLY_REAPER_IDLE") or protocol.IDLE
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if seconds >= 0:
        return seconds
    warn_only(f"LASTLY_REAPER_IDLE must be a number of seconds, not {given!r}; using {protocol.IDLE:g}")
    return protocol.IDLE


def _interpreter() -> str:
    """Find the Python that runs the reaper: this one, without its virtual environment.

    A frozen or embedding program is its own ``sys.executable``; starting *that* would start the program
    again.
    """
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    own = getattr(sys, "_base_executable", None) or sys.executable or ""
    if getattr(sys, "frozen", False) or not os.path.basename(own).startswith("python"):
        own = os.path.join(sys.base_prefix, "bin", version)
    if not os.access(own, os.X_OK):
        own = sys.executable or ""
        if getattr(sys, "frozen", False) or not os.path.basename(own).startswith("python"):
            raise RuntimeError(
                f"no Python interpreter found: {version} is not in {sys.base_prefix!r}; a frozen program is "
                "its own reaper when it is built by PyInstaller where lastly is installed"
            )
    return own


def _spawn(argv: list[str], line: int | None) -> bool:
    """Run it in a session of its own, with no environment and nothing of ours; whether it ended well.

    It is the one that starts the reaper, not the reaper: its end is waited for.
    """
    # What a program may ignore, and exec would keep so: HUP INT QUIT USR1 USR2 PIPE ALRM TERM CHLD CONT …
    usual = [1, 2, 3, 10, 12, 13, 14, 15, 17, 18, 20, 21, 22]
    while _spawned:
        _wait(_spawned.pop())
    try:
        pid = os.posix_spawn(
            argv[0],
            argv,
            probe.passed_on(),
            file_actions=_descriptors(line),
            setsid=True,
            setsigmask=(),
            setsigdef=usual,
        )
    except OSError:
        if argv[0] == SHELL:
            return False
        raise
    _spawned.append(pid)
    ended_well = _wait(pid)
    if pid in _spawned:
        _spawned.remove(pid)
    return ended_well


def _descriptors(line: int | None) -> "list[Any]":
    """What to do with ours: 0, 1 and 2 lead nowhere, 3 is the line, all others are closed."""
    actions: list[Any] = []
    if line is not None:  # first of all: it may be one of 0, 1 and 2 in a program that has closed these
        actions.append((os.POSIX_SPAWN_DUP2, line, protocol.LINE))
    actions += [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    first = 3 if line is None else protocol.LINE + 1
    limit = os.sysconf("SC_OPEN_MAX")
    for fd in descriptors.numbers():
        try:
            # One beyond the limit, which was lowered, would be refused here; the reaper closes it itself.
            if first <= fd < limit and os.get_inheritable(fd):
                actions.append((os.POSIX_SPAWN_CLOSE, fd))
        except OSError:  # the folder's own descriptor
            pass
    return actions


def _wait(pid: int) -> bool:
    try:
        return os.waitpid(pid, 0)[1] == 0
    except ChildProcessError:  # SIGCHLD is ignored, or another thread's os.wait() was told
        return True
