"""Change a variable where /proc/PID/environ shows it.

putenv makes a new string elsewhere; /proc shows the block the kernel laid down at exec, for ever. A
forked child that never execs has its parent's block, so a token that is to be found in it must be
written *into* it: over a placeholder of equal length that the launcher left there.

The reaper remembers children by pid and start time, too, once it has looked at them. It may have to be
started first, which takes 0.1 s: the children of a program that dies before that are found by this alone.
"""

import os

from lastly._system import proc


def overwrite(name: str, old: str, new: str) -> bool:
    """Replace the value of a variable in the block, if it is there and of equal length."""
    import ctypes

    start, end = map(int, proc.layout(os.getpid())[2:] or (0, 0))  # of the environment
    if not 0 < start < end:
        return False
    key = os.fsencode(name) + b"="
    before, after = key + os.fsencode(old) + b"\0", key + os.fsencode(new) + b"\0"
    at = ctypes.string_at(start, end - start).find(before)
    if at < 0 or len(before) != len(after):
        return False
    ctypes.memmove(start + at, after, len(after))
    return True
