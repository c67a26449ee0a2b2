"""The built-in actions: what most programs owe, ready to be deferred.

    defer(actions.remove, "/tmp/build-42")          a file or a whole tree
    defer(actions.kill, process)                    a process and all below it
    defer(actions.run, ["docker", "rm", "-f", name])  any program

They are run by the reaper itself, without an interpreter of yours; so they work when the virtual environment
is gone. Each accepts that there is nothing left to do.
"""

import os

from lastly._action import Action
from lastly._words import built_in
from lastly._words.clock import TIMEOUT, seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta
    from typing import Any

    from lastly._action import P, Prepare, R

__all__ = ["kill", "kill_token", "remove", "run"]
__dir__ = __all__.copy  # dir() shows what is public

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_UNKNOWN: "dict[str, Any]" = {"expect": {}}  # nothing is there yet; one for all, and never changed


def _remove(
    path: "str | bytes | os.PathLike[Any]",
    *,
    expect: "dict[str, Any] | None" = None,
    confirmed: "dict[str, Any] | None" = None,
) -> None:
    """Remove a file, a link or a tree; nothing there is success.

    Deferred before the thing is made (the right order), the path alone is recorded. Deferred when it is
    there, or made by `lastly.temp_dir`, its device, inode and birth time are recorded too, and something else
    at the same path is left alone. Never /, a home, the working directory, what contains them, a mount point,
    another user's.

    Args:
        path: made absolute when deferred. Links in it are resolved then; a link at its end is itself removed.
        expect: used by the journal: what was there when deferred.
        confirmed: used by the journal: what was there when created.

    Raises:
        ValueError: when deferred: a path that is never removed.
        NotOurs: something else is there; it was not touched.
        OSError: something could not be removed; the rest was.

    .. versionadded:: 0.1
    """
    from lastly._system import host

    safe = host.removal()
    if confirmed is not None and confirmed.get("ino") is not None:
        expect = confirmed
    elif expect is None:  # called, not deferred
        path = safe.canonical(os.fspath(path))
    safe.remove(os.fspath(path), expect=expect)


def _prepare_remove(args: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> "tuple[list[Any], dict[str, Any]]":
    from lastly._system import host

    safe = host.removal()
    path, rest = _only(_remove, "path", args, kwargs)
    if "expect" in rest:
        return [os.fsdecode(path)], rest if rest["expect"] else _UNKNOWN
    full = safe.canonical(os.fspath(path))
    safe.check_allowed(full)
    found = safe.identity_at(full)
    return [full], {**rest, "expect": found or {}} if found or rest else _UNKNOWN


def _kill(
    target: "Any",
    *,
    token: str | None = None,
    grace: "float | timedelta" = GRACE,
    confirmed: "dict[str, Any] | None" = None,
) -> None:
    """End a process and everything below it; none there is success.

    SIGTERM to all, a grace, then SIGKILL until two looks at the tree find none. The process is named by
    pid, start time and boot, recorded when deferred: a later process with the same pid is never touched.
    Ourselves, our ancestors and multiprocessing's resource trackers are spared.

    Args:
        target: a pid, or anything with a ``pid`` (a ``subprocess.Popen``).
        token: also everything started with this in its ``LASTLY_TOKEN``.
        grace: seconds (or a timedelta) between SIGTERM and SIGKILL. Default 5; 0 kills at once.
        confirmed: used by the journal: the process that was started.

    Raises:
        ValueError: when deferred: the pid of this process or of one of its ancestors.
        TimeoutError: something does not even die of SIGKILL.
        PermissionError: something may not be signalled.

    .. versionadded:: 0.1
    """
    from lastly._system import children, probe

    limit = seconds(grace, "grace")
    if why := probe.unsupported():
        children.end_kept(target, token, limit, why)
        return
    from lastly._system import kill as safe

    if confirmed is not None and confirmed.get("pid") is not None:
        target = confirmed
    elif target is not None and not isinstance(target, dict):  # called, not deferred
        try:
            target = safe.identity(_pid(target))
        except ProcessLookupError:
            return
    safe.kill_tree(target, token=token, grace=limit)


def _prepare_kill(args: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> "tuple[list[Any], dict[str, Any]]":
    from lastly._system import children, probe

    target, rest = _only(_kill, "target", args, kwargs)
    rest = {"token": None, **rest}
    rest["grace"] = seconds(rest.get("grace", GRACE), "grace")
    if why := probe.unsupported():
        if target is None and rest["token"]:
            children.plan(rest["token"])
        return [None if target is None else children.keep(target, why)], rest
    from lastly._system import kill as safe
    from lastly._system import proc

    if not isinstance(target, dict) and (target is not None or not rest.get("token")):
        pid = _pid(target)
        try:
            target = safe.identity(pid)
        except ProcessLookupError:
            target = {"pid": pid, "start": None, "boot": None, "pidns": None}  # it has gone already
        # A process that started after us is not an ancestor; that saves a walk up through /proc.
        if (target["start"] is None or target["start"] <= safe.started()) and pid in proc.ancestors():
            raise ValueError(f"process {pid} is this process or one of its ancestors: it is never killed")
    return [target], rest


def _kill_token(token: str, *, grace: "float | timedelta" = GRACE) -> None:
    """End every process whose ``LASTLY_TOKEN`` holds the token, and everything below them; none is success.

    Args:
        token: as `lastly run` and `lastly.Popen` make them.
        grace: seconds (or a timedelta) between SIGTERM and SIGKILL. Default 5.

    Raises:
        TimeoutError: something does not even die of SIGKILL.

    .. versionadded:: 0.1
    """
    from lastly._system import children, probe

    limit = seconds(grace, "grace")
    if why := probe.unsupported():
        children.end_kept(None, token, limit, why)
        return
    from lastly._system import kill as safe

    safe.kill_tree(None, token=token, grace=limit)


def _prepare_kill_token(
    args: "tuple[Any, ...]", kwargs: "dict[str, Any]"
) -> "tuple[list[Any], dict[str, Any]]":
    token, rest = _only(_kill_token, "token", args, kwargs)
    if not isinstance(token, str):
        raise TypeError(f"actions.kill_token takes a string, not {token!r}")
    rest["grace"] = seconds(rest.get("grace", GRACE), "grace")
    return [token], rest


def _run(
    argv: "list[str]",
    *,
    cwd: str | None = None,
    timeout: "float | timedelta" = TIMEOUT,
    ok: "int | Iterable[int]" = (0,),
    unless: "list[str] | None" = None,
) -> None:
    """Run a program and wait for it; a status that is not in ``ok`` is a failure.

    No shell is involved. Standard input is empty. The program must accept that there is nothing left to do:
    after a failure it is run again. One that complains of that is told about with ``ok`` or ``unless``::

        defer(actions.run, ["umount", folder], ok=(0, 32))  # 32: not mounted
        defer(actions.run, ["dropdb", "shop"], unless=["sh", "-c", "! psql -d shop -c ''"])

    Args:
        argv: the program and its arguments, strings.
        cwd: where to run it; default: the working directory when deferred.
        timeout: seconds (or a timedelta) after which it is killed. Default 60.
        ok: the exit status, or all of them, that mean success. Default 0.
        unless: another program and its arguments, run before, in the same folder and with as much time. When
            it ends with 0 there is nothing to do. Any other status means that there is; to be killed, or not
            to be found, is a failure.

    Raises:
        TypeError, ValueError: when deferred: ``argv`` or ``unless`` is not a list of strings, or one holds a
            NUL byte; ``ok`` holds something else than numbers from 0 to 255.
        ChildProcessError: it could not be started, did not end in time, or ended with another status.

    .. versionadded:: 0.1
    """
    good, limit = _statuses(ok), seconds(timeout, "timeout")
    if unless is not None and (status := _status_of(_argv(unless), cwd, limit)) <= 0:
        if status == 0:
            return
        raise ChildProcessError(f"{unless[0]!r} was killed by signal {-status}")
    status = _status_of(_argv(argv), cwd, limit)
    if status not in good:
        raise ChildProcessError(f"{argv[0]!r} ended with status {status}")


def _status_of(argv: list[str], cwd: str | None, limit: float) -> int:
    import subprocess

    from lastly._system.children import child_ends

    try:
        child = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise ChildProcessError(f"{argv[0]!r} could not be started: {error}") from error
    with child:
        try:
            in_time = child_ends(child, limit)
        except BaseException:
            child.kill()
            raise
        if not in_time:
            child.kill()
            raise ChildProcessError(f"{argv[0]!r} did not end within {limit:g} s and was killed")
    status: int = child.returncode
    return status


def _statuses(ok: "Any") -> list[int]:
    several = hasattr(ok, "__iter__") and not isinstance(ok, str)
    found: list[Any] = list(ok) if several else [ok]
    if not found or not all(type(one) is int for one in found):
        raise TypeError(f"ok must be an exit status, or several of them like (0, 32), not {ok!r}")
    if not all(0 <= one <= 255 for one in found):
        raise ValueError(f"ok must hold exit statuses from 0 to 255, not {ok!r}")
    return found


def _prepare_run(args: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> "tuple[list[Any], dict[str, Any]]":
    argv, rest = _only(_run, "argv", args, kwargs)
    argv = _argv(argv)
    rest["cwd"] = os.path.abspath(os.fsdecode(rest.get("cwd") or os.getcwd()))
    rest["timeout"] = seconds(rest.get("timeout", TIMEOUT), "timeout")
    if "ok" in rest:
        rest["ok"] = _statuses(rest["ok"])
    if rest.get("unless") is not None:
        rest["unless"] = _argv(rest["unless"], "unless")
    return [argv], rest


def _argv(argv: "Any", what: str = "actions.run") -> list[str]:
    if isinstance(argv, (str, bytes)) or not argv:
        raise TypeError(
            f'{what} takes a list of strings, like ["rm", "-f", name], not {argv!r}: there is no shell'
        )
    words = [word.__fspath__() if hasattr(word, "__fspath__") else word for word in argv]
    if not all(isinstance(word, str) for word in words):
        raise TypeError(f"{what} takes a list of strings, not {argv!r}")
    if any("\0" in word for word in words):
        raise ValueError(f"{what}: an argument cannot contain a NUL byte: {argv!r}")
    return words


def _only(
    fn: "Any", name: str, args: "tuple[Any, ...]", kwargs: "dict[str, Any]"
) -> "tuple[Any, dict[str, Any]]":
    """Take the one positional argument, which may have been given by name; refuse what `fn` would refuse."""
    rest = dict(kwargs)
    given = [*args, *([rest.pop(name)] if name in rest else [])]
    if len(given) != 1:
        raise TypeError(f"actions.{fn.__name__} takes one {name}, {len(given)} were given")
    if unknown := rest.keys() - fn.__kwdefaults__.keys():
        raise TypeError(f"actions.{fn.__name__} has no argument {min(unknown)!r}")
    return given[0], rest


def _pid(target: "Any") -> int:
    pid = getattr(target, "pid", target)
    if not isinstance(pid, int) or isinstance(pid, bool):
        raise TypeError(f"actions.kill takes a pid or something with a pid, not {target!r}")
    if pid <= 1:
        raise ValueError(f"{pid} is not a process that may be killed")
    return pid


def _built_in(fn: "Callable[P, R]", prepare: "Prepare") -> "Action[P, R]":
    """Make one of lastly's own: under its public name, as help(), repr() and the journal show it."""
    fn.__name__ = fn.__qualname__ = fn.__name__[1:]
    name = built_in.PREFIX + fn.__name__
    return Action(fn, name=name, prepare=prepare, blocks=built_in.TABLE[name].blocks)


remove = _built_in(_remove, _prepare_remove)
kill = _built_in(_kill, _prepare_kill)
kill_token = _built_in(_kill_token, _prepare_kill_token)
run = _built_in(_run, _prepare_run)
