"""What `enter` defers: a context manager is left with the exception that ends the scope's body.

By that exception a manager decides: to commit or to roll back, to publish a file or to throw it away, to
wait for a child or to end it. So it must not be told that all went well when the body has failed. It does not
decide how the scope ends: a true value returned by ``__exit__`` is ignored, and what it raises is a failed
cleanup, like any other. A manager that raises what it was told, by itself or as all that is in a group (task
groups do that), says nothing new and has not failed.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
    from weakref import ref

    from lastly._scope.scope import Scope


class Leave:
    """Leaves a manager; called when its scope closes, with what ends the scope's body."""

    __slots__ = ("__self__", "_leave", "_scope")

    def __init__(self, scope: "ref[Scope]", manager: "Any", leave: "Any") -> None:
        self.__self__ = manager  # looked at by closing.bound_to_thread
        self._leave = leave
        self._scope = scope

    def __call__(self) -> None:
        told = body_of(self._scope)
        trace = None if told is None else told.__traceback__
        try:
            self._leave(self.__self__, None if told is None else type(told), told, trace)
        except BaseException as error:
            if told is None or not _repeats(error, told):
                raise
            told.__traceback__ = trace


class LeaveAsync(Leave):
    """The same for ``__aexit__``."""

    __slots__ = ()

    async def __call__(self) -> None:  # type: ignore[override]  # the sibling for coroutines
        told = body_of(self._scope)
        trace = None if told is None else told.__traceback__
        try:
            await self._leave(self.__self__, None if told is None else type(told), told, trace)
        except BaseException as error:
            if told is None or not _repeats(error, told):
                raise
            told.__traceback__ = trace


class Close:
    """Closes a scope or pool inside another one: its managers are told of the same exception."""

    __slots__ = ("_inner", "_scope")

    def __init__(self, scope: "ref[Scope]", inner: "Any") -> None:
        self._inner = inner
        self._scope = scope

    def __call__(self) -> "Any":
        return self._inner._close_inside(body_of(self._scope))


def body_of(scope: "ref[Scope]") -> BaseException | None:
    """Return the exception that ends the body of a scope which is closing."""
    found = scope()
    return None if found is None else found._body


def _repeats(error: BaseException, told: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_repeats(inner, told) for inner in error.exceptions)
    return error is told
