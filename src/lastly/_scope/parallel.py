"""A scope whose cleanups run at the same time."""

from lastly._scope import closing, threads
from lastly._scope.budget import bound
from lastly._scope.closing import clock
from lastly._scope.failures import outcome_of, without_us
from lastly._scope.handle import HERE
from lastly._scope.scope import Scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly._scope.budget import Budget
    from lastly._scope.failures import Failure
    from lastly._scope.handle import Cleanup


class Parallel(Scope):
    """Cleanups that run together; made by `Scope.parallel`.

    Closes with the scope that it came from, or by `close`. Its ``with`` block only gathers.

    .. versionadded:: 0.1
    """

    __slots__ = ()

    def __exit__(self, *exc: object) -> None:
        """Close nothing: the scope it came from does."""

    def _drain(self, budget: "Budget | None", failures: "list[Failure]") -> None:
        """Start as many as may run at a time, newest first; wait for the oldest of them, and so on."""
        started: list[tuple[threads.Job, float, float]] = []
        while self._stack or started:
            before = len(self._stack), len(started)
            try:
                if self._stack and len(started) < threads.MANY:
                    self._start(budget, started, failures)
                else:
                    self._wait(started, failures)
            except BaseException as error:
                if isinstance(error, Exception) and before == (len(self._stack), len(started)):
                    raise
                failures.append((None, error))  # an interrupt: those that were started are still waited for

    def _start(
        self,
        budget: "Budget | None",
        started: "list[tuple[threads.Job, float, float]]",
        failures: "list[Failure]",
    ) -> None:
        try:
            cleanup, limit = self._stack.popitem()
        except KeyError:
            return
        self._current = cleanup
        self._begun = None
        try:
            # All run at once: each may use all the time that is left.
            allowed = bound(cleanup, limit, budget, 0)
            job = None
            if allowed > 0 and limit != HERE and cleanup.nested is None:
                self._begun = cleanup
                job = threads.start(cleanup)
                if job is not None:
                    started.append((job, clock(), allowed))
                    return
                self._begun = None
            closing.step(self, cleanup, limit, budget, failures)
        except BaseException as error:
            if closing.put_back(self, cleanup, limit):
                raise
            failures.append((cleanup, without_us(error)))

    def _wait(self, started: "list[tuple[threads.Job, float, float]]", failures: "list[Failure]") -> None:
        job, start, allowed = started.pop(0)
        cleanup: Cleanup = job.cleanup
        outcome, text = "done", None
        try:
            closing.await_job(job, start + allowed - clock() if allowed != HERE else HERE)
        except BaseException as exc:
            outcome, text = outcome_of(exc), repr(exc)
            failures.append((cleanup, without_us(exc)))
        self._ran.append((cleanup.name, start, clock(), outcome, text, cleanup.nested))
