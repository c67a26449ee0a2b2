"""What the integrations for things on other machines share: a handle, and patience.

Each thing is made in three steps, and a program killed between any two of them leaves nothing behind:

1. *plan*: the journal owes the undo, and the plan has a token;
2. *create*, with the token on it (a tag, a comment), in the same request or transaction;
3. *confirm*: the journal learns the name that the provider gave it.

Never confirmed, the thing is found again by its token. It may then still be on its way: the request was sent,
and the program that sent it died. So one empty lookup does not prove that nothing was created.
"""

import os
import time

from lastly._durable import portable, seam
from lastly._exit.root import root
from lastly._system.identity import boot_id
from lastly._words.clock import monotonic
from lastly._words.warn import warn
from lastly.resources._handle import Handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from lastly._action import AnyAction
    from lastly._durable.handle import DurableCleanup, Plan
    from lastly._scope.scope import Scope


class Rented(Handle):
    """Something on another machine that is given back however the program ends: a context manager.

    Attributes:
        name: what the provider calls it; also ``str()`` of it.
        cleanup: the handle of its undo.

    .. versionadded:: 0.1
    """

    __slots__ = ("name",)

    def __init__(self, name: str, cleanup: "DurableCleanup") -> None:
        self.name = name
        self.cleanup = cleanup
        cleanup.named(f"{type(self).__name__.lower()} {name}")

    def __str__(self) -> str:
        return self.name


def planned(scope: "Scope | None", action: "AnyAction", *args: "Any", **kwargs: "Any") -> "Plan":
    """Owe an action, to the scope or to the process."""
    return seam.planned(root if scope is None else scope, action, args, kwargs)


def bound(action: "AnyAction", args: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> "dict[str, Any]":
    """Return the arguments by name; TypeError, when they are deferred, for what the action would refuse."""
    import inspect

    portable.check_call(action, args, kwargs)
    return inspect.signature(action.fn).bind(*args, **kwargs).arguments


def looks(seconds: float) -> "Iterator[None]":
    """Yield now, then with growing pauses; the last time when `seconds` are over, however long each took."""
    until = monotonic() + seconds
    pause = 0.2
    while True:
        begun = monotonic()
        yield
        if begun >= until:
            return
        time.sleep(max(0.0, min(pause, until - monotonic())))
        pause = min(pause * 1.6, 5.0)


def moment() -> "list[Any]":
    """Now, for `elapsed`: seconds since the boot, which no change of the clock moves."""
    return [boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME)]


def elapsed(since: object) -> float:
    """Seconds since a moment; 0 when that was another boot's, or another machine's: not known."""
    match since:
        case [str(boot), int() | float() as up] if boot == boot_id():
            return time.clock_gettime(time.CLOCK_BOOTTIME) - up
    return 0.0


def at_least(version: str, wanted: "tuple[int, int]", package: str, extra: str) -> None:
    """Raise ImportError, in one line, when the version of a package is older than wanted."""
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if found < wanted:
        least = ".".join(map(str, wanted))
        raise ImportError(
            f'{package} {version} is too old, {least} is needed: pip install -U "lastly[{extra}]"'
        )


_warned: set[str] = set()


def warn_of_secret(variables: "tuple[str, ...]", instead: str) -> None:
    """Warn, once, that the undo cannot log in after this process's death; not where the journal may have it.

    Args:
        variables: those that hold the secret, or could; the first is named.
        instead: where the undo would find it.
    """
    secret = variables[0]
    if secret in _warned or secret in os.environ.get("LASTLY_ENV", "").split(","):
        return
    _warned.add(secret)
    warn(
        f"the secret ({secret}) is not written to the journal: after kill -9 nobody can log in to undo this. "
        f"Keep it in {instead}; or, to have it written there (a file that only you can read), put it into "
        f"the environment, and LASTLY_ENV={','.join(variables)}"
    )
