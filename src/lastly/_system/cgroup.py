"""A control group around a supervised program, where this process may make one.

It is a second net under the subreaper: `cgroup.kill` ends all members at once, those that cannot be seen
(another pid namespace) included. Needs cgroup v2 and a delegated subtree: root, a systemd user service, a
container started with a writable cgroup. Everywhere else there is none, and nothing is said.
"""

import os

from lastly._system.mounts import mounts


class Group:
    """A control group of our own, or the lack of one (`path` is empty)."""

    def __init__(self, path: str = "") -> None:
        self.path = path

    @classmethod
    def make(cls) -> "Group":
        """Make a group below our own."""
        parent = own_group()
        if not parent or not os.access(os.path.join(parent, "cgroup.procs"), os.W_OK):
            return cls()
        path = os.path.join(parent, f"lastly-{os.getpid()}-{os.urandom(4).hex()}")
        try:
            os.mkdir(path)
        except OSError:
            return cls()
        if not os.path.exists(os.path.join(path, "cgroup.kill")):  # before Linux 5.14: not worth the trouble
            os.rmdir(path)
            return cls()
        return cls(path)

    def enter(self) -> None:
        """Move this process into the group."""
        self._write("cgroup.procs", b"0")

    def kill(self) -> None:
        """SIGKILL for every member."""
        self._write("cgroup.kill", b"1")

    def remove(self) -> None:
        """Remove the group and those made inside it; what still has members stays."""
        if self.path:
            for folder, _, _ in os.walk(self.path, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass
            self.path = ""

    def _write(self, name: str, data: bytes) -> None:
        if not self.path:
            return
        try:
            fd = os.open(os.path.join(self.path, name), os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)
        except OSError:
            pass


def own_group() -> str:
    """Return the folder of this process's cgroup v2, or an empty string."""
    try:
        names = [path for hierarchy, path in paths() if hierarchy == "0"]
        mount = next((mount for mount in mounts() if mount.kind == "cgroup2"), None)
    except OSError:
        return ""
    if not names or mount is None:
        return ""
    inside = os.path.relpath(names[0], mount.root)
    if inside.startswith(".."):
        return ""  # we live outside of what is mounted here
    return os.path.normpath(os.path.join(mount.point, inside))


def paths() -> list[tuple[str, str]]:
    """Return the groups of this process, each with the number of its hierarchy; cgroup v2 has "0".

    Raises:
        OSError: /proc cannot be read.
    """
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
        words = [line.rstrip("\n").split(":", 2) for line in lines]
    return [(hierarchy, path) for hierarchy, _, path in words]
