"""Running something at exit *before* CPython waits for threads and shuts executors down.

The order at exit is: the functions of ``threading._register_atexit``, newest first; join the non-daemon
threads; atexit. concurrent.futures registers its own shutdown in the first step, when it is imported. So a
worker thread that waits to be told to stop is waited for without end before any atexit function could tell
it, and a scheduler whose atexit function submits a last job finds "cannot schedule new futures after
interpreter shutdown".

Being in that list is not enough: an executor imported *later* stands nearer its end, and comes first. The
list is walked by ``reversed()``, which asks it for ``__reversed__``: so it is replaced by an equal list
that is walked with ours in front, whoever came when. Where the list is not there, `_register_atexit` has to
do, and where that is not there either, a thread that waits for the main thread's end (then executors may be
shut already).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_armed = False
_first: "Callable[[], object] | None" = None


class _OursFirst(list):  # type: ignore[type-arg]  # list[Callable]: cannot be subscripted for free
    def __reversed__(self) -> "Iterator[Callable[..., Any]]":
        if _first is not None:
            yield _first
        yield from super().__reversed__()


def run_first(function: "Callable[[], object]") -> None:
    """Name the function that is to run before CPython waits for threads; the last call counts."""
    global _first
    _first = function


def arm() -> None:
    """Have that function run in time; a second call does nothing."""
    global _armed
    if _armed:
        return
    _armed = True
    import threading

    module: Any = threading
    if type(getattr(module, "_threading_atexits", None)) is list:
        module._threading_atexits = _OursFirst(module._threading_atexits)
    elif hasattr(module, "_register_atexit"):
        try:
            module._register_atexit(_run)
        except RuntimeError:  # the shutdown has begun: the root scope runs them in atexit
            return
    else:
        threading.Thread(target=_watch, name="lastly-early").start()


def _watch() -> None:
    import threading

    threading.main_thread().join()
    _run()


def _run() -> None:
    if _first is not None:
        _first()
