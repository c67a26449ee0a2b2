"""What goes on at this moment: which scopes close, in which thread, and until when. Data, and nothing else.

A closing scope, the live line, signal handlers and the end of the process ask one another for these facts.
Here they meet without knowing one another. Whoever finds a fact out writes it into `now`.

Signal handlers and other threads look at it in the middle of a change. So every change is a single operation.
"""

import _contextvars
import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weakref import ref

    from lastly._scope.scope import Scope

# Scopes of which a cleanup runs in this context: set where it runs in a task, or in another thread.
callers: "_contextvars.ContextVar[tuple[ref[Scope], ...]]" = _contextvars.ContextVar("callers", default=())


class Now:
    """The facts. There is one of it.

    Attributes:
        closing: scopes being closed, newest last, and the thread that does it. Signal handlers look here: a
            request to stop that comes while the main thread closes a scope must not cut the cleanup short.
        deadline: when the process is to be gone, on the monotonic clock; None: no limit. Known from the first
            signal after ``install(grace=…)`` on.
    """

    __slots__ = ("closing", "deadline")

    def __init__(self) -> None:
        self.closing: dict[Scope, int] = {}
        self.deadline: float | None = None

    def inside(self) -> "tuple[ref[Scope], ...]":
        """Return the closing scopes of which a cleanup is calling."""
        me = _thread.get_ident()
        # A copy is made in one step. A list of the items is not: the collector may run for each of its
        # tuples, and with it another thread.
        ours = [scope._ref for scope, thread in self.closing.copy().items() if thread == me]
        return (*callers.get(), *ours)


now = Now()
