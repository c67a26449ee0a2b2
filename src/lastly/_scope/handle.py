"""Cleanup: the handle of one deferred call, which is the deferred call itself.

What we want: a handle per cleanup, at a cost near that of atexit, which stores three pointers in C and
returns no handle at all. So a handle has no ``__init__``: `defer` fills its four slots, one of which is
the dict in which it waits. It keeps the very tuple that the call made of the arguments, and no dict where
there are no keyword arguments: what the cyclic collector has to walk is one object and one tuple. (A
subclass of `functools.partial`, allocated in C, looks better and is a fifth slower: it makes a tuple and a
dict of its own.) Whatever most cleanups do not have (a name of their own) is a class-level default, and costs
an instance nothing until it is set.

The *value* beside the handle in the dict is its time limit, so that a loop over plain cleanups sees with one
comparison that there is none.
"""

from lastly._scope.now import now
from lastly._words.clock import seconds
from lastly._words.fork import look

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from functools import partial
    from types import TracebackType
    from typing import Any, Self

    from lastly._scope.scope import Scope

    Stack = dict["Cleanup", float | None]
else:
    from lastly._words.pythons import partial

# The limit of a cleanup that is to run in the closing thread, however long it takes.
UNLIMITED = float("inf")
# Instead of a handle's keyword arguments: it has a ``__call__`` of its own.
CALLS_ITSELF: "dict[str, Any]" = {}


def checked_name(name: "Any", what: str) -> str:
    """Return a name; it must be a string, for people and for JSON."""
    if not isinstance(name, str):
        raise TypeError(f"{what}: the name must be a string, not {name!r}")
    return name


def name_of(fn: object) -> str:
    """What people call a callable: ``Popen.terminate``; the type's name when it has none of its own.

    Never raises: a proxy may have nothing behind it any more.
    """
    try:
        while isinstance(fn, (partial, Cleanup)):
            fn = fn.func
        name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None)
        if isinstance(name, str):
            return name
    except Exception:  # noqa: S110  # its class has a name
        pass
    return type(fn).__qualname__


class Cleanup:
    """One callable that will run later, with its arguments: what `defer` returns.

    Calling the handle calls the function and changes nothing else, so a decorated function stays usable.

    Attributes:
        func, args: the function and its positional arguments.
        durable: it runs even after ``kill -9``, because it is an action and stands in the journal.
        name: what reports and messages call it; the function's own name unless set by `named`.

    .. versionadded:: 0.1
    """

    __slots__ = ("__dict__", "_keywords", "_stack", "args", "func")

    func: "Callable[..., Any]"
    args: "tuple[Any, ...]"
    _keywords: "dict[str, Any] | None"
    _stack: "Stack"
    _name: "str | None" = None
    durable: bool = False
    # A scope or pool that closes as one cleanup of another: it is given the time, not a thread.
    nested: "Scope | None" = None
    # To be left in the task that entered it: see aio.py.
    _here: bool = False
    # It waits for processes, and touches nothing else: an AsyncScope runs it in a thread.
    blocks: bool = False
    # Deferred to a closing scope, not by its cleanups: see Scope._takes.
    _guest: bool = False

    def __call__(self, /, *args: "Any", **kwargs: "Any") -> "Any":
        """Call the function, with further arguments if there are any; it still runs later."""
        return self.func(*self.args, *args, **{**(self._keywords or {}), **kwargs})

    @property
    def name(self) -> str:
        """What reports and messages call it."""
        return self._name or name_of(self.func)

    @property
    def kind(self) -> str:
        """What it is called whatever its arguments are: for an action, that one's name."""
        return self._name or name_of(self.func)

    @property
    def pending(self) -> bool:
        """Whether it is still to run."""
        return self in getattr(self, "_stack", ())

    def detach(self) -> bool:
        """Forget it without running it, in constant time.

        Returns True the first time, False when it has been detached, has run, or is running.
        """
        look()
        try:
            del self._stack[self]
        except (KeyError, AttributeError):
            return False
        return True

    def run(self) -> "Any":
        """Run it now, in this thread, and forget it; return what the function returns, raise what it raises.

        A second call, or one after the scope ran it, does nothing and returns None. `within` is not heeded.
        """
        look()
        try:
            del self._stack[self]
        except (KeyError, AttributeError):
            return None
        return self()

    def close(self) -> None:
        """Run it now and forget it, as `run`. A coroutine is run to its end, in a loop of its own.

        A second call, or one after the scope ran it, does nothing. A ``with`` block closes it at its end.
        """
        result = self.run()
        if isinstance(result, COROUTINE):
            from lastly._scope.awaiting import wait_for

            wait_for(result)  # type: ignore[arg-type]  # a coroutine: COROUTINE is its type

    async def aclose(self) -> None:
        """Run it now and forget it, and await what it returns; ``async with`` does so at its end.

        A second call, or one after the scope ran it, does nothing.
        """
        result = self.run()
        if hasattr(result, "__await__"):
            await result

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()

    async def __aenter__(self) -> "Self":
        return self

    async def __aexit__(
        self, kind: "type[BaseException] | None", error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        await self.aclose()

    def named(self, name: str) -> "Cleanup":
        """Give it a name for reports and messages; the last one counts. Returns the handle.

        The name of an action stands in the journal, for `lastly ls` and the history: no secrets in it.

        Raises:
            TypeError: not a string.
        """
        self._name = checked_name(name, "named")
        return self

    def within(self, timeout: "float | timedelta | None") -> "Cleanup":
        """Stop waiting for it after `timeout` seconds, say so, and go on; the last call counts.

        It then runs in a thread of its own, because that is the only way to stop waiting; the thread is left
        behind when the time is over (in an `AsyncScope` a coroutine is cancelled instead). None: it runs in
        the closing thread and is waited for, even where the scope has a `grace`: for what only that thread
        may do, like resetting a context variable. Returns the handle.

        Raises:
            TypeError, ValueError: not a length of time.
        """
        value = UNLIMITED if timeout is None else seconds(timeout, "within")
        stack = self._stack
        # Nothing between these two lines calls anything: no other thread can take it in between.
        if self in stack:
            stack[self] = value
        if value != UNLIMITED:
            now.limit_set(stack)
        return self

    def __repr__(self) -> str:
        state = "pending" if self.pending else "gone"
        return f"<{type(self).__name__} {self.name} {state}>"


def _probe() -> type:
    async def nothing() -> None: ...

    coroutine = nothing()
    coroutine.close()
    return type(coroutine)


COROUTINE = _probe()
FUNCTION = type(_probe)
METHOD: "Any" = type(Cleanup().run)


def run_coroutine(result: object) -> None:
    """Await what an ``async def`` cleanup returned to a scope that is not asynchronous."""
    if type(result) is not COROUTINE:  # a proxy would be asked by isinstance
        return
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(result)  # type: ignore[arg-type]  # a coroutine: COROUTINE is its type
    else:
        result.close()  # type: ignore[attr-defined]  # as above
        raise RuntimeError("an async cleanup in a Scope, inside a running event loop: use AsyncScope")
