"""How a process ended, asked of its pidfd: Linux tells it since 6.15, to whoever held the pidfd before."""

import fcntl
import os
import struct

from lastly.errors import signal_name

# ioctl PIDFD_GET_INFO = _IOWR(0xFF, 11, struct pidfd_info of 64 bytes); mask first, exit code last
_GET_INFO = 0xC040FF0B
_INFO_EXIT = 1 << 3
_LAYOUT = struct.Struct("=Q52xi")


def status(pidfd: int) -> int | None:
    """Return the exit status (negative: the signal), or None when the kernel does not tell (yet).

    It tells once the process has been waited for by its parent.
    """
    buffer = bytearray(_LAYOUT.size)
    _LAYOUT.pack_into(buffer, 0, _INFO_EXIT, 0)
    try:
        fcntl.ioctl(pidfd, _GET_INFO, buffer)
    except OSError:
        return None
    mask, code = _LAYOUT.unpack(buffer)
    return os.waitstatus_to_exitcode(code) if mask & _INFO_EXIT else None


def describe(code: int | None) -> str:
    """For people: ``killed by SIGKILL``, ``exited with status 3``; empty when it is not known."""
    if code is None:
        return ""
    if code >= 0:
        return f"exited with status {code}"
    return f"killed by {signal_name(-code)}"
