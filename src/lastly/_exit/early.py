"""Running something at exit *before* CPython waits for threads and shuts executors down.

The order at exit is: the functions of ``threading._register_atexit``, newest first; join the non-daemon
threads; atexit. concurrent.futures registers its own shutdown in the first step, when it is imported. So a
worker thread that waits to be told to stop is waited for without end before any atexit function could tell
it, and a scheduler whose atexit function submits a last job finds "cannot schedule new futures after
interpreter shutdown".

Being in that list is not enough: an executor imported *later* stands nearer its end, and comes first. The
list is walked by ``reversed()``, which asks it for ``__reversed__``: so it is replaced by an equal list
that is walked with ours in front, in whichever order they came. Where the list is not there,
`_register_atexit` has to do, and where that is not there either, a thread that waits for the main thread's
end (then executors may be shut already).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_first: "Callable[[], object] | None" = None


class _OursFirst(list):  # type: ignore[type-arg]  # list[Callable]: cannot be subscripted for free
    def __reversed__(self) -> "Iterator[Callable[..., Any]]":
        if _first is not None:
            yield _first
        yield from super().__reversed__()


def arm(first: "Callable[[], object]") -> None:
    """Have a function run before CPython waits for threads; a second call does nothing."""
    global _first
    if _first is not None:
        return
    _first = first
    import threading

    module: Any = threading
    if type(getattr(module, "_threading_atexits", None)) is list:
        module._threading_atexits = _OursFirst(module._threading_atexits)
    elif hasattr(module, "_register_atexit"):
        try:
            module._register_atexit(first)
        except RuntimeError:  # the shutdown has begun: the root scope runs them in atexit
            return
    else:
        threading.Thread(target=_watch, args=(first,), name="lastly-early").start()


def _watch(first: "Callable[[], object]") -> None:
    import threading

    threading.main_thread().join()
    first()
