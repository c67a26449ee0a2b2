"""The one clock by which this library measures lengths of time.

Tools that freeze time in tests replace `time.monotonic`, and also every attribute of a loaded module that
*is* that function: a grace measured by it never ends, or is over at once. So it is called through another
object, which they do not find. Where it has been replaced before this module is loaded, `time.clock_gettime`
reads the same clock, a little slower.
"""

import time
from _functools import partial  # type: ignore[import-not-found]  # no stub; functools costs an import of collections
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def untouched(function: object) -> bool:
    """Whether a function of the module `time` is still the one written in C."""
    return type(function) is type(get_ident)


def _own() -> "Callable[[], float]":
    read: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if untouched(time.monotonic):
        read = partial(time.monotonic)
    return read


# Seconds since an arbitrary moment. Never goes back; the kernel's CLOCK_MONOTONIC, whoever reads it.
monotonic = _own()
