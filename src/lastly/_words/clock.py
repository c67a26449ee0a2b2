"""Lengths of time: how people give them, what an action gets by default, the one clock that measures them.

Tools that freeze time in tests replace `time.monotonic`, and also every attribute of a loaded module that
*is* that function: a grace measured by it never ends, or is over at once. So it is called through another
object, which they do not find. Where it has been replaced before this module is loaded, `time.clock_gettime`
reads the same clock, a little slower.
"""

import time
from _thread import get_ident

from lastly._words.pythons import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from typing import Any

# What an action gets that says nothing: further attempts; seconds for each; seconds before the second one.
RETRIES, TIMEOUT, BACKOFF = 5, 60.0, 1.0


def untouched(function: object) -> bool:
    """Whether a function of the module `time` is still the one written in C."""
    return type(function) is type(get_ident)


def _own() -> "Callable[[], float]":
    read: Callable[[], float] = partial(time.monotonic)
    if not untouched(time.monotonic) and hasattr(time, "clock_gettime"):  # Windows has the one clock only
        read = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    return read


# Seconds since an arbitrary moment. Never goes back; the kernel's CLOCK_MONOTONIC, whoever reads it.
monotonic = _own()


def seconds(value: "float | timedelta", what: str) -> float:
    """Return a length of time as a float; it must be a number and not negative.

    A string is refused, though ``float("60")`` works: what comes from a file or the environment is converted
    where it is read, and a mistake is found there. True is refused as well, which is 1 to `float`.
    """
    total: Any = getattr(value, "total_seconds", None)
    number: Any = value
    try:
        if isinstance(number, (str, bytes, bytearray, bool)):
            raise TypeError  # noqa: TRY301  # its words are below
        result = float(total() if total is not None else number)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{what} must be a number of seconds or a timedelta, not {value!r}") from None
    if not result >= 0:
        raise ValueError(f"{what} must be 0 or more, not {value!r}")
    return result
