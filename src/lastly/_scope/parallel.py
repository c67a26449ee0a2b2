"""How a parallel scope closes: its cleanups run at the same time, each in a thread."""

from lastly._scope import closing, threads
from lastly._scope.budget import bound
from lastly._scope.closing import clock
from lastly._scope.failures import outcome_of, without_us
from lastly._scope.handle import UNLIMITED
from lastly._words.warn import repr_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly._scope.budget import Budget
    from lastly._scope.failures import Failure
    from lastly._scope.handle import Cleanup
    from lastly._scope.scope import Scope


def drain(scope: "Scope", budget: "Budget | None", failures: "list[Failure]") -> None:
    """Start as many as may run at a time, newest first; wait for the oldest of them, and so on."""
    started: list[tuple[threads.Job, float, float]] = []
    while scope._stack or started:
        before = len(scope._stack), len(started)
        try:
            if scope._stack and len(started) < threads.MANY:
                _start(scope, budget, started, failures)
            else:
                _wait(scope, started, failures)
        except BaseException as error:
            if isinstance(error, Exception) and before == (len(scope._stack), len(started)):
                raise
            failures.append((None, error))  # an interrupt: those that were started are still waited for


def _start(
    scope: "Scope",
    budget: "Budget | None",
    started: "list[tuple[threads.Job, float, float]]",
    failures: "list[Failure]",
) -> None:
    try:
        cleanup, limit = scope._stack.popitem()
    except KeyError:
        return
    scope._current = cleanup
    scope._begun = None
    try:
        # All run at once: each may use all the time that is left.
        allowed = bound(cleanup, limit, budget, 0)
        job = None
        if allowed > 0 and limit != UNLIMITED and cleanup.nested is None:
            scope._begun = cleanup
            job = threads.start(cleanup)
            if job is not None:
                started.append((job, clock(), allowed))
                return
            scope._begun = None
        closing.step(scope, cleanup, limit, budget, failures)
    except BaseException as error:
        if closing.put_back(scope, cleanup, limit):
            raise
        failures.append((cleanup, without_us(error)))


def _wait(
    scope: "Scope", started: "list[tuple[threads.Job, float, float]]", failures: "list[Failure]"
) -> None:
    job, start, allowed = started.pop(0)
    cleanup: Cleanup = job.cleanup
    outcome, text = "done", None
    try:
        closing.await_job(job, start + allowed - clock() if allowed != UNLIMITED else UNLIMITED)
    except BaseException as exc:
        outcome, text = outcome_of(exc), repr_of(exc)
        failures.append((cleanup, without_us(exc)))
    closing.note(scope, cleanup, start, outcome, text)
