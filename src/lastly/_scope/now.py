"""What goes on at this moment: which scopes close, in which thread, and until when.

A closing scope, its progress on the terminal, signal handlers and the end of the process ask one another for
these facts. Here they meet without knowing one another. The room that finds a fact out writes it into `now`.
What only the end of the process can deal with is passed on: it has subscribed.

Signal handlers and other threads look at it in the middle of a change. So every change is a single operation.
"""

import _contextvars
import _thread
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from weakref import ref

    from lastly._scope.handle import Stack
    from lastly._scope.reason import ExitReason
    from lastly._scope.report import Report
    from lastly._scope.scope import Scope

# From here on no thread can be started once the non-daemon ones are joined; before, one still can in atexit.
NO_LATE_THREADS = sys.version_info >= (3, 12)
# 3.12 began by refusing them even before: there they are started when the limit is set.
SOON = sys.version_info[:2] == (3, 12)

# Scopes of which a cleanup runs in this context: set where it runs in a task, or in another thread.
callers: "_contextvars.ContextVar[tuple[ref[Scope], ...]]" = _contextvars.ContextVar("callers", default=())

# Scope._shut: what a thread that has just deferred must know.
OPEN, UNOPENED, CLOSING, CLOSED = 0, 1, 2, 3


class Now:
    """The facts. There is one of it.

    Attributes:
        closing: scopes being closed, newest last, and the thread that does it. Signal handlers look here: a
            request to stop that comes while the main thread closes a scope must not cut the cleanup short.
        scopes: all of them.
        outermost: the scope of the process.
        deadline: when the process is to be gone, on the monotonic clock; None: no limit. Known from the first
            signal after ``install(grace=…)`` on.
    """

    __slots__ = (
        "_closed",
        "_let_out",
        "_limit_set",
        "_way_out",
        "closing",
        "deadline",
        "outermost",
        "scopes",
    )

    def __init__(self) -> None:
        self.closing: dict[Scope, int] = {}
        self.scopes: set[ref[Scope]] = set()
        self.outermost: Scope | None = None
        self.deadline: float | None = None
        self._limit_set: Callable[[Stack], object] | None = None
        self._let_out: Callable[[Scope], object] | None = None
        self._way_out: Callable[[], str] | None = None
        self._closed: Callable[[Report, ExitReason], object] | None = None

    def subscribe(
        self,
        *,
        limit_set: "Callable[[Stack], object] | None" = None,
        let_out: "Callable[[Scope], object] | None" = None,
        way_out: "Callable[[], str] | None" = None,
        closed: "Callable[[Report, ExitReason], object] | None" = None,
    ) -> None:
        """Be told from now on; the last one counts.

        Args:
            limit_set: called with the stack of a cleanup that got a limit: a thread for it must be had, in
                some versions of Python before it is needed.
            let_out: called with a scope that was the outermost to close in its thread, and has closed. What
                it raises leaves the scope.
            way_out: returns what Ctrl-C does at this moment, in a few words; nothing when that is not known.
            closed: called with the report of a scope that was the outermost to close, and why it closed. It
                must not raise: a close does not fail because of what watches it.
        """
        self._limit_set = limit_set or self._limit_set
        self._let_out = let_out or self._let_out
        self._way_out = way_out or self._way_out
        self._closed = closed or self._closed

    def limit_set(self, stack: "Stack") -> None:
        """Tell that a cleanup of this stack may need a thread."""
        if self._limit_set is not None:
            self._limit_set(stack)

    def let_out(self, scope: "Scope") -> None:
        """Raise the signal that came while this thread's outermost scope was closing."""
        if self._let_out is not None and _thread.get_ident() not in self.closing.values():
            self._let_out(scope)

    def has_closed(self, scope: "Scope") -> None:
        """Hand out the report of an outermost scope; free when nothing subscribes."""
        if self._closed is not None:
            from lastly._scope.reason import ExitReason

            self._closed(scope.report(), ExitReason.of(scope._body))

    def way_out(self) -> "str | None":
        """Return what Ctrl-C does at this moment; None: nothing that knows has subscribed."""
        return None if self._way_out is None else self._way_out()

    def inside(self) -> "tuple[ref[Scope], ...]":
        """Return the closing scopes of which a cleanup is calling."""
        me = _thread.get_ident()
        # A copy is made in one step. A list of the items is not: the collector may run for each of its
        # tuples, and with it another thread.
        ours = [scope._ref for scope, thread in self.closing.copy().items() if thread == me]
        return (*callers.get(), *ours)


now = Now()
