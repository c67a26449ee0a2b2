"""Only one process of this user at a time works on a well-known path, such as that of a lock file.

To look whether the name is free, to remove what a dead process left there, and to take the name are several
steps. Two programs that both find a stale file must not remove each other's new one, and the reaper, which
removes what a killed holder left, must not remove its successor's.

The lock that says whose turn it is, is a file in the home, where no other user can open it. A lock on the
folder of the name (/tmp, /run/lock) could be held by anybody who may read that folder, for as long as they
like. The price: programs with different homes, and programs of different users, do not wait for each other.
"""

import os
from zlib import crc32

from lastly._journal import home, locks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class Turn:
    """A context manager: inside it no other process with this home works on the same path.

    Args:
        path: absolute, with the links in its folders resolved.
        wait: seconds to wait for the process that has the turn; that takes milliseconds unless it is stopped.

    Raises:
        TimeoutError: another process has the turn all that time.
        NotRecorded: there is no home.
    """

    def __init__(self, path: str, wait: float) -> None:
        self.path = path
        self.wait = wait
        self.lock = ""
        self.fd = -1

    def __enter__(self) -> "Self":
        folder = os.path.join(home.state_dir(), "turns")
        home.make(folder)
        raw = os.fsencode(self.path)
        self.lock = os.path.join(folder, f"{crc32(raw):08x}{crc32(raw[::-1]):08x}")
        try:
            fd = locks.exclusive(self.lock, self.wait)
        except OSError as error:
            raise home.unusable(folder, error) from error
        if fd is None:
            raise TimeoutError(f"another process of this user is working on {self.path!r}")
        self.fd = fd
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd < 0:
            return
        # Removed while it is locked: a process that waits for it sees that it has lost its name, and makes
        # another.
        try:
            os.unlink(self.lock)
        except OSError:  # the home was emptied, or cannot be written any more
            pass
        os.close(self.fd)
