"""Run one cleanup of a dead owner, within its time.

The built-in actions are done right here, under an alarm: they consist of many short system calls. Anything
else is the owner's code, which this process never imports: it runs in a child, see
:mod:`lastly._settle.child`.
"""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` wraps every answer in an enum
import os
import sys

from lastly._journal.replay import Item, Replay
from lastly._journal.turns import Turn
from lastly._settle import child
from lastly._settle.child import ActionFailed
from lastly._system import frozen, kill, remove
from lastly._words import built_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from lastly._system.family import Family

__all__ = ["ActionFailed", "run"]

_RUNNER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "runner.py")
# Its text, for when its file is in an archive, or has gone with the environment that this reaper is from.
_TEXT = __loader__.get_data(_RUNNER).decode()  # type: ignore[name-defined]  # every import sets it


class Death:
    """What is known about the end of the owner, beside its journal.

    Attributes:
        not_born: what is younger than this was not made by the owner; see `remove`.
        family: its descendants that were seen while it lived.
    """

    def __init__(self, not_born: "tuple[float, float] | None" = None, family: "Family | None" = None) -> None:
        self.not_born = not_born
        self.family = family


def run(
    item: Item,
    attempt: int,
    seen: Replay,
    *,
    death: Death,
    announce: "Callable[[float], None]" = lambda _limit: None,
) -> None:
    """Run the cleanup once; returns when it is done.

    Raises:
        NotOurs: something else is there; never to be tried again.
        TimeoutError: it took longer than its ``timeout``.
        ActionFailed: the function raised, or its process could not be started or died.
        OSError: the system refused.
    """
    context = item.context or seen.contexts.newest() or {}
    if item.action in built_in.TABLE:
        do: Any = globals()["_do_" + item.action.removeprefix(built_in.PREFIX)]
        do(item, context, death, announce)
        return
    limit = max(item.timeout, 0.1)
    announce(limit)
    exe = str(context.get("exe") or "")
    if not exe or not os.access(exe, os.X_OK):
        raise ActionFailed(f"the owner's interpreter {exe!r} is gone")
    request = {
        "action": item.action, "args": item.args, "kwargs": item.kwargs, "attempt": attempt,
        "token": item.token, "confirmed": item.known, "path": context.get("path"),
        "main": context.get("main"), "argv0": (seen.header or {}).get("argv0"),
        "file": item.extra.get("file"),
    }  # fmt: skip
    runner = ["-P", *([_RUNNER] if os.path.isfile(_RUNNER) else ["-c", _TEXT])]
    if context.get("frozen"):  # by whose own finder it imports, too
        runner, request["path"] = [frozen.ACTION], None
    child.run([exe, *runner], _env(context), _cwd(context), limit, request)


def _do_remove(item: Item, _context: "dict[str, Any]", death: Death, announce: "Any") -> None:
    expect = item.known if item.known.get("ino") is not None else item.kwargs.get("expect")
    path = _text(item)
    announce(item.timeout)

    def run() -> None:
        remove.remove(path, expect=expect or None, not_born=death.not_born)

    def run_in_turn() -> None:
        with Turn(path, item.timeout):
            run()

    # It was there when it was deferred, as a lock file is: other processes may want the name.
    _within(item.timeout, run_in_turn if item.kwargs.get("expect") else run)


def _do_kill(item: Item, _context: "dict[str, Any]", death: Death, announce: "Any") -> None:
    target = item.known if item.known.get("pid") is not None else (item.args[0] if item.args else None)
    grace = _seconds(item.kwargs.get("grace"), 5.0)
    announce(grace + 15.0)
    token = item.kwargs.get("token")
    family = death.family
    whole = target is None and item.extra.get("run") is True  # `lastly run`: whatever its program has started
    seen: list[tuple[int, int]] = []
    if family is not None and whole:
        seen = family.below(family.key)
    elif family is not None and isinstance(target, dict):
        seen = family.below((target.get("pid", 0), target.get("start", 0)))

    def end() -> None:
        kill.kill_tree(
            target if isinstance(target, dict) else None,
            token=token if isinstance(token, str) and len(token) >= _SHORTEST else None,
            grace=grace,
            newborn=0.0 if isinstance(target, dict) or seen else _NEWBORN,
            orphans=True,
            seen=seen,
            led=family.led() if family is not None and whole else None,
        )

    _within(grace + item.timeout, end)


def _do_kill_token(item: Item, _context: "dict[str, Any]", _death: Death, announce: "Any") -> None:
    token = _text(item)
    if len(token) < _SHORTEST:
        raise ActionFailed(f"{token!r} is not a token")
    grace = _seconds(item.kwargs.get("grace"), 5.0)
    announce(grace + 15.0)
    _within(grace + item.timeout, lambda: kill.kill_tree(None, token=token, grace=grace, orphans=True))


def _do_run(item: Item, context: "dict[str, Any]", _death: Death, announce: "Any") -> None:
    argv = _words(item.args[0] if item.args else None)
    unless, ok = item.kwargs.get("unless"), item.kwargs.get("ok", [0])
    if not isinstance(ok, list) or not all(isinstance(status, int) for status in ok):
        raise ActionFailed(f"not exit statuses: {ok!r}")
    limit = _seconds(item.kwargs.get("timeout"), item.timeout)
    cwd = item.kwargs.get("cwd")
    cwd = cwd if isinstance(cwd, str) else _cwd(context)
    if unless is not None:
        announce(limit)
        if _is_so(_words(unless), _env(context), cwd, limit):
            return
    announce(limit)
    child.run(argv, _env(context), cwd, limit, None, ok=ok)


def _is_so(argv: list[str], env: dict[str, str], cwd: str, limit: float) -> bool:
    """Whether the program ends with 0. Raises ActionFailed when it could not be run."""
    try:
        child.run(argv, env, cwd, limit, None)
    except ActionFailed as error:
        if error.status is None:
            raise
        return False
    return True


def _words(argv: "Any") -> list[str]:
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        raise ActionFailed(f"not a program with arguments: {argv!r}")
    return argv


_NEWBORN = 0.1  # seconds that a child may need from fork to exec
_SHORTEST = 8  # characters of a token: a shorter one, edited by hand, would match unrelated processes


class _Late(BaseException):
    """The time is over. Not a TimeoutError: that is an OSError, and a removal counts those and goes on."""


def _ring(_signum: int, _frame: "FrameType | None") -> None:
    raise _Late


def _within(seconds: float, call: "Callable[[], object]") -> None:
    """Call it in the main thread, and raise TimeoutError after ``seconds``; elsewhere there is no limit."""
    threading = sys.modules.get("threading")
    if threading is not None and threading.current_thread() is not threading.main_thread():
        call()
        return
    seconds = max(seconds, 0.1)
    before = _signal.signal(_signal.SIGALRM, _ring)
    try:
        try:
            _signal.setitimer(_signal.ITIMER_REAL, seconds)
            call()
        finally:
            _signal.setitimer(_signal.ITIMER_REAL, 0)
            _signal.signal(_signal.SIGALRM, before)
    except _Late:
        raise TimeoutError(f"took longer than {seconds:g} s") from None


def _text(item: Item) -> str:
    if not item.args or not isinstance(item.args[0], str):
        raise ActionFailed(f"{item.action} was recorded without its argument")
    return item.args[0]


def _seconds(value: "Any", default: float) -> float:
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e9 else default


def _env(context: "dict[str, Any]") -> dict[str, str]:
    env = context.get("env")
    kept = {k: v for k, v in env.items() if isinstance(v, str)} if isinstance(env, dict) else {}
    return {"PATH": os.defpath, **kept}


def _cwd(context: "dict[str, Any]") -> str:
    cwd = context.get("cwd")
    return cwd if isinstance(cwd, str) and cwd else "/"
