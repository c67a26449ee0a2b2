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

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lastly._scope.handle import Stack

_armed = False
_first: "Callable[[], None] | None" = None

# From here on no thread can be started once the non-daemon ones are joined; before, one still can in atexit.
NO_LATE_THREADS = sys.version_info >= (3, 12)
# 3.12 began by refusing them even before: there they are started when the limit is set.
SOON = sys.version_info[:2] == (3, 12)


class _OursFirst(list):  # type: ignore[type-arg]  # list[Callable]: cannot be subscripted for free
    def __reversed__(self) -> "Iterator[Callable[..., Any]]":
        if _first is not None:
            yield _first
        yield from super().__reversed__()


def arm() -> None:
    """Have the root scope's early cleanups run in time; a second call does nothing."""
    global _armed, _first
    if _armed:
        return
    _armed = True
    import threading

    from lastly._exit.root import before_join

    _first = before_join
    module: Any = threading
    if type(getattr(module, "_threading_atexits", None)) is list:
        module._threading_atexits = _OursFirst(module._threading_atexits)
    elif hasattr(module, "_register_atexit"):
        try:
            module._register_atexit(before_join)
        except RuntimeError:  # the shutdown has begun: the root scope runs them in atexit
            return
    else:
        threading.Thread(target=_watch, name="lastly-early").start()


def _watch() -> None:
    import threading

    threading.main_thread().join()
    if _first is not None:
        _first()


def expect(stack: "Stack") -> None:
    """Be prepared for a cleanup with a limit at exit."""
    from lastly._exit import root

    arm()
    if SOON and stack is root.root._stack:
        root.prepare()
