"""The open descriptors of this process, and the paths that lead to them."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_OWN = "/proc/self/fd"


def numbers() -> list[int]:
    """Return their numbers, with that of the listing itself, which is closed by now."""
    return [int(name) for name in os.listdir(_OWN)]


def close_all_but(keep: "Iterable[int]") -> None:
    """Close all of them but these."""
    kept = sorted(set(keep))
    top = max(numbers()) + 1
    for low, high in zip([-1, *kept], [*kept, top], strict=True):
        if low + 1 < high:  # closerange(0, 0) would close all: its last number is then -1
            os.closerange(low + 1, high)


def read_some(fd: int, take: "Callable[[bytes], object]") -> bool:
    """Read what is there, from a descriptor that does not block; False at the end of it.

    Bounded in time too: a program may print faster than we read.
    """
    for _ in range(64):
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        take(data)
    return True


def path(fd: int) -> str:
    """Return a path to what is open there, for calls that take no such descriptor."""
    return f"{_OWN}/{fd}"


def is_their_folder(folder: str) -> bool:
    """Whether a path without links is the folder whose names are our descriptors, as /dev/stdout leads to."""
    return folder == f"/proc/{os.getpid()}/fd"
