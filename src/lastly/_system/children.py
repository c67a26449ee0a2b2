"""Waiting for this process's own children, and ending them by the handles that it holds. On every system.

A child that was not waited for keeps its number, so its `subprocess.Popen` reaches that child alone. That
is the only way where a process cannot be named for ever: without /proc, with the /proc of another pid
namespace, and on other systems than Linux. What the child has started is out of reach there, except on
Windows: there a job holds the child with all below it, and ends with this process.
"""

import time

from lastly._words import pythons
from lastly._words.clock import monotonic
from lastly.errors import NotOurs, UnsupportedPlatform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STUCK = 10.0  # seconds for a kill to take effect
# By token, or by pid where there is none: what has terminate() and kill(); None: planned, not started yet.
_kept: "dict[str | int, Any]" = {}
_trees: "dict[str | int, Any]" = {}  # likewise: the jobs that hold them, on Windows
_FLAGS = 12  # where `creationflags` stands among subprocess.Popen's positional parameters, after args


def child_ends(child: "Any", within: float) -> bool:
    """Wait at most ``within`` seconds for a child of this process; returns whether it has ended.

    `Popen.wait` with a timeout asks a clock that test tools replace: it may never return.
    """
    until = monotonic() + within
    pause = 0.0005
    while not _has_ended(child):
        left = until - monotonic()
        if left <= 0:
            return False
        pause = min(2 * pause, left, 0.05)
        time.sleep(pause)
    return True


def _has_ended(child: "Any") -> bool:
    poll = getattr(child, "poll", None)  # asyncio's and anyio's have none: their event loop waits
    return (child.returncode if poll is None else poll()) is not None


def plan(token: str) -> None:
    """Remember that a child will be started with this token; `keep` tells which it is."""
    _kept[token] = None


def keep(child: "Any", why: str, token: str | None = None) -> "dict[str, Any]":
    """Remember a child whose end is owed; returns what a journal would say of it.

    Args:
        child: a `subprocess.Popen`, or what an event loop has for one.
        why: why its number alone does not do here.
        token: what it is asked for by; default: its number.

    Raises:
        UnsupportedPlatform: it is a number, or no child of this process.
    """
    if not hasattr(child, "terminate"):
        raise UnsupportedPlatform(
            f"no process is ended by its number alone here: {why}; "
            f"give actions.kill the subprocess.Popen, not {child!r}"
        )
    key = token or child.pid
    _kept[key] = child
    if pythons.WINDOWS:
        _hold(key, child.pid)
    return {"pid": child.pid, "start": None, "boot": None, "pidns": None}


def end_kept(target: "Any", token: str | None, grace: float, why: str) -> None:
    """End a child that was kept, or is given itself: SIGTERM, the grace, SIGKILL. Never started is success.

    Args:
        target: the child, or what `keep` returned; None: by the token alone.
        token: what it is asked for by.
        grace: seconds between SIGTERM and SIGKILL. 0: SIGKILL at once.
        why: why its number alone does not do here.

    Raises:
        NotOurs: it is a number alone, and not of a child that was kept.
        OSError: the same of a process that is named by a token or for ever: it was planned where it could be
            found, before /proc went away, and may well live. Another process can still end it.
        TimeoutError: it does not even die of SIGKILL.
    """
    child = target
    key: Any = token or (target.get("pid") if isinstance(target, dict) else getattr(target, "pid", target))
    if not hasattr(target, "terminate"):
        if key not in _kept:
            said = f"no process is ended by its number alone here: {why}"
            raise OSError(said) if token or isinstance(target, dict) else NotOurs(said)
        child = _kept[key]
    if child is None:
        return
    if grace > 0 and not _has_ended(child):
        child.terminate()
        child_ends(child, grace)
    if not _has_ended(child):
        child.kill()
    if key in _trees:
        _trees[key].end()
        del _trees[key]
    if not child_ends(child, _STUCK):
        raise TimeoutError(f"SIGKILL does not end [{child.pid}]: stuck in the kernel")


def let_live(token: object, target: object = None) -> None:
    """Forget a child that was kept: it lives on, and all below it. Nothing happens when it was not kept."""
    key: Any = token or (target.get("pid") if isinstance(target, dict) else None)
    if isinstance(key, (str, int)) and key in _kept:
        del _kept[key]
        if key in _trees:
            _trees.pop(key).let_live()


# ── trees on Windows ─────────────────────────────────────────────────────────────────────────────────────


def suspend(positional: "list[Any]", options: "dict[str, Any]") -> bool:
    """Have a subprocess.Popen that is about to start wait for `resume`; False: it just starts.

    What it starts before it is held would be out of reach.

    Args:
        positional: its arguments after the command; changed.
        options: its keyword arguments; changed.
    """
    if not pythons.WINDOWS:
        return False
    try:
        from lastly._system.windows import SUSPENDED
    except ImportError:  # a build without ctypes
        return False

    given = positional[_FLAGS] if len(positional) > _FLAGS else options.get("creationflags", 0)
    if given & SUSPENDED:
        return False
    if len(positional) > _FLAGS:
        positional[_FLAGS] = given | SUSPENDED
    else:
        options["creationflags"] = given | SUSPENDED
    return True


def resume(pid: int) -> None:
    """Let a child that `suspend` has had wait run."""
    from lastly._system import windows

    windows.resume(pid)


def _hold(key: "str | int", pid: int) -> None:
    try:
        from lastly._system.windows import Job

        _trees[key] = Job(pid)
    except (ImportError, OSError):  # a build without ctypes; it has ended, or a job around us allows no other
        pass
