"""The seam: a deferred action goes into the journal. Imported when the first action is deferred.

Order is everything here: no resource exists whose plan is not in a journal. `defer` writes the plan and only
then puts the handle into its scope and returns; when the thing is created afterwards, its undo is on record.
A signal's exception may come between any two of these steps: then the plan stands in the journal without a
handle, the thing was never created, and the reaper finds nothing there, which is success.
"""

import os
import sys

from lastly import errors
from lastly._action import Action
from lastly._durable import own, portable
from lastly._durable.handle import DurableCleanup, Plan, description
from lastly._journal import home
from lastly._system import host
from lastly._words import built_in
from lastly._words.clock import BACKOFF, RETRIES, TIMEOUT
from lastly._words.warn import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._action import AnyAction, Args
    from lastly._journal.file import Journal
    from lastly._journal.shared_url import SharedUrl
    from lastly._scope.handle import Stack
    from lastly._scope.scope import Scope


_NOTHING: "dict[str, Any]" = {}  # what is known of a thing before it is made; one for all, and never changed


def defer(
    scope: "Scope", stack: "Stack", action: "AnyAction", args: "tuple[Any, ...]", kwargs: "dict[str, Any]"
) -> DurableCleanup:
    """Record an action, then put it onto a stack of the scope's.

    Raises:
        NotRecorded: the journal cannot be written; the thing must not be created.
        TypeError: another process could not run it: the message says why and what to do.
    """
    recorded = action.recorded or portable.name(action)
    if action.prepare is not None:
        plain, plain_kwargs = action.prepare(args, kwargs)
    else:
        plain, plain_kwargs = portable.arguments(action, args, kwargs)
    portable.check_call(action, plain, plain_kwargs)
    where = _shared(recorded) if action.remote else None
    journal = _journal(action)
    number = 0
    cleanup = DurableCleanup()
    if journal is not None:
        more = _more(journal, action, scope, plain, plain_kwargs)
        if where is not None:
            more["shared"] = cleanup.shared = where.key
        number = journal.plan(
            recorded, list(plain), plain_kwargs, remote=action.remote, sync=where is None, **more
        )
        if where is not None:
            from lastly._durable import shared

            _ensure(journal.path)  # the reaper starts the relay
            shared.record(
                where, journal, number, {"action": recorded, "args": plain, "kwargs": plain_kwargs, **more}
            )
    cleanup.func, cleanup.args, cleanup.keywords = action, tuple(plain), plain_kwargs
    cleanup.journal, cleanup.id, cleanup.known = journal, number, _NOTHING
    if hasattr(scope, "__aenter__"):
        cleanup.awaited = True
    cleanup._stack = stack  # noqa: SLF001  # the scope's and its handles' own: contract of _scope
    stack[cleanup] = None
    if journal is not None and where is None:
        _ensure(journal.path)
    return cleanup


def file_identity(path: str) -> "dict[str, Any]":
    """What tells the file at `path` from a later one of the same name; empty when there is none."""
    return dict(host.removal().identity(path) or {})


def child_started(cleanup: DurableCleanup) -> None:
    """Have the reaper look at what that child starts: once this process is dead, it is too late."""
    client = sys.modules.get("lastly._reaper.client")
    if client is not None and cleanup.journal is not None:
        client.child_starts(cleanup.journal.path)


def deferred(scope: "Scope", action: "AnyAction", /, *args: "Any", **kwargs: "Any") -> DurableCleanup:
    """Defer an action through its scope; the handle with its type."""
    cleanup = scope.defer(action, *args, **kwargs)
    assert isinstance(cleanup, DurableCleanup)
    return cleanup


def planned(scope: "Scope", action: "AnyAction", args: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> Plan:
    """Defer an action whose thing is about to be created; see `Plan`."""
    if not isinstance(action, Action):
        raise TypeError(
            f"planned() takes an action, and {action!r} is not one: decorate it with @lastly.action"
        )
    return Plan(deferred(scope, action, *args, **kwargs))


def _more(
    journal: "Journal", action: "AnyAction", scope: "Scope", args: "Args", kwargs: "dict[str, Any]"
) -> "dict[str, Any]":
    """The fields of a plan that are not at their defaults."""
    more: dict[str, Any] = {}
    if what := description(action, args, kwargs):
        more["what"] = what
    name = getattr(scope, "name", None)
    if name and name != "root":
        more["scope"] = str(name)
    if action.retries != RETRIES:
        more["retries"] = action.retries
    if action.timeout != TIMEOUT:
        more["timeout"] = action.timeout
    if action.backoff != BACKOFF:
        more["backoff"] = action.backoff
    if not built_in.facts(action.name).contained:
        more["context"] = portable.context(journal)
        if action.file:
            more["file"] = action.file
    return more


# ---- the shared journal


def _shared(recorded: str) -> "SharedUrl | None":
    """The shared journal that there is; without one not a module is imported."""
    if "LASTLY_JOURNAL" not in os.environ and "lastly._durable.shared" not in sys.modules:
        return None
    from lastly._durable import shared

    where = shared.url()
    if where is not None:
        shared.check(where, recorded)
    return where


# ---- the journal, or why there is none

REQUIRED = "LASTLY_DURABLE"  # "require": what cannot be recorded is an error
_degraded = ""
_warned = False


def _journal(action: "AnyAction") -> "Journal | None":
    journal = own.peek()
    if journal is not None:
        return journal
    if not _degraded:
        try:
            journal = own.get()
        except errors.NotRecorded as error:
            if not home.degrades(error):
                raise
            _degrade(action, error)
            return None
        if os.environ.get("LASTLY_REAPER") == "0":
            _warn(
                "LASTLY_REAPER=0: cleanups run when this program ends by itself or by a signal that it "
                "handles; after kill -9 or a crash they wait for `lastly reap`"
            )
        return journal
    if action.remote:
        raise _unsupported(action, _degraded)
    return None


def _degrade(action: "AnyAction", error: errors.NotRecorded) -> None:
    global _degraded
    why = f"cleanups run in this process only, kill -9 leaves them: {error}"
    if action.remote or os.environ.get(REQUIRED) == "require":
        raise _unsupported(action, why) from error
    _degraded = why
    _warn(why)


def _unsupported(action: "AnyAction", why: str) -> errors.UnsupportedPlatform:
    because = "it is remote" if action.remote else f"{REQUIRED}=require"
    return errors.UnsupportedPlatform(f"{why}; {action.name} must not rely on that ({because})")


def _warn(text: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warn(text)


_ensure_reaper: "Any" = None


def _ensure(path: str) -> None:
    global _ensure_reaper
    if _ensure_reaper is None:
        try:
            from lastly._reaper import client
        except OSError as error:  # no descriptors left, even to import it: the plan is on record all the same
            _warn(
                f"no reaper could be started ({error}); what this program owes stays in its journal, for the "
                "next program that uses lastly, or `lastly reap`"
            )
            return
        _ensure_reaper = client.ensure
        _ensure_reaper(path)
        if (wakeup := sys.modules.get("lastly._exit.stuck")) is not None:  # install() was called, or will be
            wakeup.connect(client)
    _ensure_reaper(path)
