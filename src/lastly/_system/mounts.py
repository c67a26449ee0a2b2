"""What is mounted where, as a process sees it: the one reader of mountinfo."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Mount:
    """One line of a mountinfo; ``device`` is ``major:minor``, ``root`` what of that device is mounted."""

    __slots__ = ("device", "kind", "options", "point", "root")

    def __init__(self, line: str) -> None:
        place, _, what = line.rstrip("\n").partition(" - ")
        fields, rest = place.split(" "), what.split(" ")
        self.device = fields[2]
        self.root, self.point = _plain(fields[3]), _plain(fields[4])
        self.kind = rest[0]
        self.options = [*fields[5].split(","), *rest[-1].split(",")]


def mounts(pid: "int | None" = None) -> "Iterator[Mount]":
    """Yield the mounts that a process sees, by default this one.

    Raises:
        OSError: it has gone, or is not ours to look at.
    """
    with open(f"/proc/{pid or 'self'}/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        yield from map(Mount, lines)


def kind_at(path: str) -> str:
    """Return the type of the file system that holds a path, as mount prints it; "" when nobody tells."""
    try:
        device = os.stat(path).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        return next((mount.kind for mount in mounts() if mount.device == wanted), "")
    except OSError:
        return ""


def _plain(name: str) -> str:
    r"""Undo the kernel's way of writing a space, \040."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        name = name.replace(code, char)
    return name
