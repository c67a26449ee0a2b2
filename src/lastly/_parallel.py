"""A scope whose cleanups run at the same time."""

from lastly import _closing, _workers
from lastly._cleanup import HERE
from lastly._closing import clock
from lastly._scope import Scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly._cleanup import Cleanup
    from lastly._closing import Budget, Failure


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
        started: list[tuple[_workers.Job, float, float]] = []
        while self._stack or started:
            before = len(self._stack), len(started)
            try:
                if self._stack and len(started) < _workers.MANY:
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
        started: "list[tuple[_workers.Job, float, float]]",
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
            allowed = _closing.bound(cleanup, limit, budget, 0)
            job = None
            if allowed > 0 and limit != HERE and cleanup.nested is None:
                self._begun = cleanup
                job = _workers.start(cleanup)
                if job is not None:
                    started.append((job, clock(), allowed))
                    return
                self._begun = None
            _closing.step(self, cleanup, limit, budget, failures)
        except BaseException as error:
            if _closing.put_back(self, cleanup, limit):
                raise
            failures.append((cleanup, _closing.without_us(error)))

    def _wait(self, started: "list[tuple[_workers.Job, float, float]]", failures: "list[Failure]") -> None:
        job, start, allowed = started.pop(0)
        cleanup: Cleanup = job.cleanup
        outcome, text = "done", None
        try:
            _closing.await_job(job, start + allowed - clock() if allowed != HERE else HERE)
        except BaseException as exc:
            outcome, text = _closing.outcome_of(exc), repr(exc)
            failures.append((cleanup, _closing.without_us(exc)))
        self._ran.append((cleanup.name, start, clock(), outcome, text, cleanup.nested))
