"""A status that must be forced where nothing may be skipped: no exit function, and no finalization.

The C library's exit functions run after Python is gone, and may end the process with another status. Windows
has them for its own libraries only: there the exit functions that are left are run, the buffers are written
out, and the process ends without the finalization.
"""

import atexit
import sys

from lastly._exit import die, joins
from lastly._scope.reason import visible_code
from lastly._words import pythons

_forced: "int | None" = None


class RanAlready:
    """Equal to every atexit function from the one that runs now on: those have been run, or run.

    atexit calls its functions from the last to the first and forgets them only at the very end, so a run
    inside the run would call some twice; and it does not show its list. But `unregister` compares with
    ``==``, from the first to the last, and thus lets us name those behind the driver.
    """

    __slots__ = ("code", "seen")
    __hash__ = None  # type: ignore[assignment]  # equal to many

    def __init__(self, code: object) -> None:
        self.code = code
        self.seen = False

    def __eq__(self, other: object) -> bool:
        self.seen = self.seen or _code(other) is self.code
        return self.seen


def _code(fn: object) -> object:
    """Return the code that runs when it is called, where that is Python's."""
    while hasattr(fn, "func"):  # a partial, a cleanup
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    if not hasattr(fn, "__code__"):
        fn = getattr(type(fn).__call__, "__func__", type(fn).__call__)
    return getattr(fn, "__code__", None)


def exit_with_at_end(code: int) -> None:
    """End with this status after everything else, the interpreter's own finalization included.

    One of which the parent would see 0, like 256, becomes 1. The first call counts, later ones do nothing.
    """
    global _forced
    if _forced is not None:
        return
    _forced = visible_code(code)
    if pythons.c_call("__cxa_atexit", "exit", _forced, None):
        return
    inside = joins.exit_function(sys._getframe())  # the only way to one's own frame
    if inside is None:
        atexit.register(_end)  # runs first, and runs the others
    else:
        _run_rest(inside.f_code)


def _end() -> None:
    _run_rest(_end.__code__)


def _run_rest(running: object) -> None:
    """Run the exit functions after the one that runs, and end."""
    atexit.unregister(RanAlready(running))  # type: ignore[arg-type]  # compared, never called
    atexit._run_exitfuncs()  # atexit's own test hook, and all there is
    die.flush_all()
    pythons.leave(_forced or 0)
