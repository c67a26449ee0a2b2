"""Ends a program on purpose, at a place it names. For the demo and the tests.

    FAILPOINT=upload=SIGKILL python build_site.py …

`failpoint("upload")` stands in the middle of the upload; without the variable it does nothing. The ways to die are
real: the signal is sent by the kernel, the segmentation fault reads address 0.
"""

from __future__ import annotations

import os
import signal


def failpoint(place: str) -> None:
    """End here, the way that the environment says, when it names this place."""
    where, _, how = os.environ.get("FAILPOINT", "").partition("=")
    if not where or where != place:
        return
    if how == "exception":
        raise RuntimeError(f"something went wrong in {place}")
    if how == "os._exit":
        os._exit(70)
    if how == "segfault":
        import ctypes

        ctypes.string_at(0)
    if how == "pause":  # until a signal ends it: an older build that a newer one meets
        print(f"paused in {place}", flush=True)
        while True:
            signal.pause()
    os.kill(os.getpid(), signal.Signals[how])
