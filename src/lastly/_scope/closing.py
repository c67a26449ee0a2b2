"""How a scope closes: every cleanup is tried, newest first, each popped before it runs.

The loop is written so that no Ctrl-C can lose a cleanup. `KeyboardInterrupt` is raised by Python's handler
where the interpreter looks for signals: after a call, on a jump back, on entering a function. With
``cleanup = pop()`` it could come after the call and before the assignment: popped, and never run. ``for …
in iter(pop, ())`` has the iterator in C call popitem, and no check stands between its return and the
assignment; what is left are the inside of a cleanup, and the gap between two of them where nothing is in
hand. For the same reason the function is called here, not by the handle's own ``__call__``, on entering which
there would be such a check: three branches, three times.

A cleanup that is cut by an exception which is not an `Exception` does not stop the others either. What is
raised in the end is decided in failures.py.
"""

import _thread
import os

from lastly._scope.budget import bound, budget_of, too_late
from lastly._scope.failures import outcome_of, without_us
from lastly._scope.handle import CALLS_ITSELF, FUNCTION, METHOD, UNLIMITED, name_of, run_coroutine
from lastly._scope.now import CLOSED, CLOSING, OPEN, now
from lastly._words.clock import monotonic
from lastly._words.warn import repr_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._scope.budget import Budget
    from lastly._scope.failures import Failure
    from lastly._scope.handle import Cleanup
    from lastly._scope.scope import Scope

clock = monotonic

# Whether a person may be watching: stderr is a terminal. Found out at the first close.
terminal: "bool | None" = None

# Up to so many cleanups are timed one by one; looking at the clock costs as much as running an empty cleanup.
TIMED = 256
# So many rounds in a row may raise an ordinary exception and take nothing off the stack. One may be a signal
# handler's (a TimeoutError of an alarm, say), and the next round goes on. At the recursion limit none can.
BARREN = 3


def begin(scope: "Scope", thread: int) -> None:
    """Note that a scope is closing; start what tells a person who waits."""
    global terminal
    now.closing[scope] = thread
    if terminal is None:
        terminal = os.isatty(2)
    if terminal and len(scope):
        from lastly._scope import progress

        progress.begin()


def end(scope: "Scope") -> None:
    """Note that a scope has closed."""
    now.closing.pop(scope, None)
    if scope._ran and not now.closing:
        now.has_closed(scope)


def run_rounds(scope: "Scope", failures: "list[Failure]", limit: "float | None") -> None:
    """Run what there is, round by round; a round ends when something fails.

    The scope stays open when nothing can be run at all: at the recursion limit, or without memory.
    """
    budget = None
    begun = False
    barren = 0
    while True:
        scope._current = None
        try:
            scope._shut = CLOSING
            if not begun:
                begun = True
                budget = budget_of(scope, limit)
                begin(scope, _thread.get_ident())
            if _round(scope, budget, failures):
                scope._shut = CLOSED
                if not scope._stack and not scope._early:
                    return  # else deferred between the last look and the flag
            barren = 0
        # In these handlers nothing is called: an interrupt could come after a call, and end the loop.
        except Exception as error:
            barren = barren + 1 if scope._current is None else 0  # type: ignore[redundant-expr]  # _round sets it
            if barren < 2 or failures[-1][1].__class__ is not error.__class__:  # one of a kind is enough
                failures += [(None, error)]
            if barren == BARREN:
                scope._shut = OPEN
                return
        except BaseException as error:  # an interrupt, maybe in the handling of another one
            failures += [(None, error)]


def _round(scope: "Scope", budget: "Budget | None", failures: "list[Failure]") -> bool:
    """Run until something fails; return whether nothing is left."""
    if scope._early:
        drain_early(scope, budget, failures)
    if scope._stack:
        scope._drain(budget, failures)
    return not scope._stack and not scope._early


def drain(  # noqa: C901  # no call more: see above
    scope: "Scope", budget: "Budget | None", failures: "list[Failure]"
) -> None:
    """Run until the stack is empty, or a cleanup fails: then call again.

    Raises what came while no cleanup was in hand: an interrupt, or that not even `step` could be called.
    """
    if budget is None and len(scope._stack) > TIMED:
        drain_many(scope, failures)
        return
    ran = scope._ran.append
    cleanup: Cleanup | None = None
    before = clock()
    try:
        for cleanup, limit in iter(scope._stack.popitem, ()):
            scope._current = cleanup
            if limit is not None or budget is not None:
                scope._begun = None
                step(scope, cleanup, limit, budget, failures)
                before = clock()
            else:
                fn = cleanup.func
                if (keywords := cleanup._keywords) is None:
                    result = fn(*cleanup.args)
                elif keywords is not CALLS_ITSELF:
                    result = fn(*cleanup.args, **keywords)
                else:
                    result = cleanup()
                if result is not None:
                    run_coroutine(result)
                after = clock()
                if type(fn) is FUNCTION:
                    ran((cleanup._name or fn, before, after))
                else:
                    ran(ended_well(cleanup, before, after))
                before = after
            cleanup = None  # noqa: PLW2901  # nothing in hand
    except BaseException as error:
        # First what calls nothing: after a call another interrupt could come, and lose it.
        if cleanup is not None and (limit is not None or budget is not None) and scope._begun is not cleanup:
            cleanup._stack[cleanup] = limit
            scope._current = None
            raise
        if bad := ended_by(cleanup, error, failures):
            note(scope, bad, before, outcome_of(error), repr_of(error))


def drain_many(scope: "Scope", failures: "list[Failure]") -> None:
    """The same, without looking at the clock."""
    cleanup: Cleanup | None = None
    count = len(scope._stack)
    try:
        for cleanup, limit in iter(scope._stack.popitem, ()):
            scope._current = cleanup
            if limit is None:
                if (keywords := cleanup._keywords) is None:
                    result = cleanup.func(*cleanup.args)
                elif keywords is not CALLS_ITSELF:
                    result = cleanup.func(*cleanup.args, **keywords)
                else:
                    result = cleanup()
                if result is not None:
                    run_coroutine(result)
            else:
                scope._begun = None
                count -= 1
                step(scope, cleanup, limit, None, failures)
            cleanup = None  # noqa: PLW2901  # nothing in hand
    except BaseException as error:
        if cleanup is not None and limit is not None and scope._begun is not cleanup:  # as above
            cleanup._stack[cleanup] = limit
            scope._current = None
            scope._untimed += max(count + 1 - len(scope._stack), 0)
            raise
        scope._untimed += max(count - len(scope._stack), 0)
        ended_by(cleanup, error, failures)


def drain_early(scope: "Scope", budget: "Budget | None", failures: "list[Failure]") -> None:
    """The same for the requests to stop."""
    early = scope._early
    if not early:
        return
    cleanup: Cleanup | None = None
    try:
        for cleanup, limit in iter(early.popitem, ()):
            scope._begun = None
            step(scope, cleanup, limit, budget, failures)
            cleanup = None  # noqa: PLW2901  # nothing in hand
    except BaseException as error:
        if cleanup is not None and scope._begun is not cleanup:  # as above
            early[cleanup] = limit
            scope._current = None
            raise
        ended_by(cleanup, error, failures)


def ended_by(cleanup: "Cleanup | None", error: BaseException, failures: "list[Failure]") -> "Cleanup | None":
    """Note what ended a loop, and return the cleanup that failed; raise what was none's."""
    if cleanup is None:
        if error.__class__ is KeyError:  # popitem found no more
            return None
        raise error
    failures.append((cleanup, without_us(error)))
    return cleanup


def put_back(scope: "Scope", cleanup: "Cleanup", limit: "float | None") -> bool:
    """Put a cleanup back that was not begun: an interrupt came, or it could not be called; False: it was."""
    if scope._begun is cleanup:
        return False
    cleanup._stack[cleanup] = limit
    scope._current = None
    return True


def step(
    scope: "Scope",
    cleanup: "Cleanup",
    limit: "float | None",
    budget: "Budget | None",
    failures: "list[Failure]",
) -> None:
    """Run one cleanup within its limits, and write down how it went."""
    scope._current = cleanup
    outcome, text = "done", None
    start = clock()
    try:
        run(scope, cleanup, bound(cleanup, limit, budget, len(scope)))
    except BaseException as error:
        if not isinstance(error, Exception) and put_back(scope, cleanup, limit):
            raise
        outcome, text = outcome_of(error), repr_of(error)
        failures.append((cleanup, without_us(error)))
    note(scope, cleanup, start, outcome, text)


def ended_well(cleanup: "Cleanup", start: float, end: float) -> "tuple[Any, ...]":
    """Return what the report needs of a cleanup that ended well. It must not keep a method's object alive."""
    fn: Any = cleanup.func
    if type(fn) is METHOD:
        return (cleanup._name or fn.__func__, start, end)
    if cleanup._keywords is CALLS_ITSELF:
        name, kind = cleanup.name, cleanup.kind
    else:
        name = kind = cleanup._name or name_of(fn)
    return (name, start, end, "done", None, cleanup.nested, kind)


def note(scope: "Scope", cleanup: "Cleanup", start: float, outcome: str, error: "str | None") -> None:
    """Write down for the report how a cleanup went that has just ended."""
    scope._ran.append((cleanup.name, start, clock(), outcome, error, cleanup.nested, cleanup.kind))


def run(scope: "Scope", cleanup: "Cleanup", limit: float) -> None:
    """Run a cleanup, in another thread when it is not to be waited for beyond `limit` seconds."""
    if limit <= 0:
        raise too_late(cleanup, "was not begun: no time was left", "skipped")
    if cleanup.nested is not None:
        scope._begun = cleanup
        cleanup.nested._close_inside(scope._body, None if limit == UNLIMITED else limit)
        return
    job = None
    if limit != UNLIMITED:
        from lastly._scope import threads

        scope._begun = cleanup
        job = threads.start(cleanup)
    if job is not None:
        await_job(job, limit)
        return
    scope._begun = cleanup
    if (keywords := cleanup._keywords) is None:
        result = cleanup.func(*cleanup.args)
    elif keywords is not CALLS_ITSELF:
        result = cleanup.func(*cleanup.args, **keywords)
    else:
        result = cleanup()
    if result is not None:
        run_coroutine(result)


def await_job(job: "Any", limit: float) -> None:
    """Wait for a job, and raise what it raised."""
    if not job.done.acquire(timeout=min(max(limit, 0.0), _thread.TIMEOUT_MAX)):
        raise too_late(
            job.cleanup, f"did not end within {limit:.3g} s and is no longer waited for", "timeout"
        )
    if job.error is not None:
        raise job.error


# ── for others ───────────────────────────────────────────────────────────────────────────────────────────


def run_all(
    scope: "Scope", reason: "BaseException | None" = None, limit: "float | None" = None
) -> "list[Failure]":
    """Close a scope, whose body has ended by `reason`; return what failed, for the caller to raise.

    Args:
        scope: the scope.
        reason: what its cleanups are told of.
        limit: seconds for all of them together, in addition to the scope's own grace; None: no limit.
    """
    return scope._run_all(reason, limit)


def body_of(scope: "Scope") -> "BaseException | None":
    """Return what has ended the body of a scope that is closing."""
    return scope._body


def pending(scope: "Scope") -> "list[Cleanup]":
    """Return what is still to run, in the order in which it would."""
    return scope._pending()


def left_open(outermost: "Scope") -> "list[str]":
    """Return the names of other scopes that are open and have something to do, without those inside them."""
    alive = [scope for reference in now.scopes.copy() if (scope := reference()) is not None]
    there = [scope for scope in alive if scope is not outermost and len(scope) and scope._closer is None]
    nested = {id(cleanup.nested) for scope in there for cleanup in scope._pending()}
    found = []
    for scope in there:
        if id(scope) not in nested and scope._shut != CLOSED:
            names = [cleanup.name for cleanup in scope._pending()]
            found.append(f"{scope._title} ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})")
    return found
