"""Waiting for other processes."""

from time import sleep

from lastly._clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen
    from typing import Any


def ends(child: "Popen[Any]", within: float) -> bool:
    """Wait at most `within` seconds for a child; return whether it has ended.

    `Popen.wait` with a timeout asks a clock that test tools replace: it may never return.
    """
    until = monotonic() + within
    pause = 0.0005
    while child.poll() is None:
        left = until - monotonic()
        if left <= 0:
            return False
        pause = min(2 * pause, left, 0.05)
        sleep(pause)
    return True
