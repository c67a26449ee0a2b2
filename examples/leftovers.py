"""What a program left behind: looked up on the disk, in the process table and at the cloud, never in what it says.

Also ends what was found, and only that: a process is taken by pidfd and looked at again before it is killed.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUIET = 2.0  # seconds without any change after which nobody is cleaning up any more, where nobody owes it
AT_MOST = 120.0  # seconds that whoever owes it may take, on a machine that is busy with other work


class Left(NamedTuple):
    """How much of each kind is left."""

    files: int = 0
    processes: int = 0
    machines: int = 0
    locks: int = 0

    def __str__(self) -> str:
        names = (("file", "files"), ("process", "processes"), ("machine", "machines"), ("lock", "locks"))
        counts = zip(self, names, strict=True)
        return ", ".join(f"{n} {one if n == 1 else more}" for n, (one, more) in counts if n) or "nothing"


class Watched(NamedTuple):
    """One run of build_site.py: where it works, and how to recognize what belongs to it."""

    site: str
    temporary: str  # its TMPDIR
    mark: str  # NAME=value in the environment of all its processes
    cloud: str
    build: str  # the token of its machine

    def left(self) -> Left:
        return Left(
            files=sum(1 for _ in self.files()),
            processes=len(self.processes()),
            machines=len(self.machines()),
            locks=sum(name.endswith(".lock") for name in os.listdir(self.site)),
        )

    def files(self) -> Iterator[str]:
        """Everything but the site that is being served: files, links, and folders."""
        served = os.path.realpath(os.path.join(self.site, "current"))
        expected = {served, os.path.join(self.site, "current"), os.path.join(self.site, "releases")}
        for top in (self.site, self.temporary):
            for where, folders, names in os.walk(top):
                for name in folders + names:
                    path = os.path.join(where, name)
                    if path not in expected and not name.endswith(".lock"):
                        yield path
                folders[:] = [name for name in folders if os.path.join(where, name) != served]

    def processes(self) -> list[int]:
        return with_environment(self.mark)

    def machines(self) -> set[str]:
        """By the provider's list and by the process table: either is enough."""
        listed = {machine["token"] for machine in request(self.cloud, "GET", "/machines")} & {self.build}
        return listed | ({self.build} if with_environment(f"RENTED_MACHINE={self.build}") else set())

    def settled(self, owed: Callable[[], bool] = lambda: False) -> tuple[Left, float]:
        """Wait until nothing is left, or nothing is owed and nothing changes any more.

        Returns what is left, and after how many seconds that was so.
        """
        begin = changed = time.monotonic()
        left, pause = self.left(), 0.005
        while any(left) and time.monotonic() < begin + AT_MOST:
            if time.monotonic() > changed + QUIET and not owed():
                break
            time.sleep(pause)
            pause = min(pause * 1.3, 0.2)
            now = self.left()
            if now != left:
                left, changed = now, time.monotonic()
        return left, changed - begin

    def end(self) -> None:
        """End what is left: the processes and the machine. The folders are their owner's."""
        for pid in self.processes():
            kill(pid, self.mark)
        for token in self.machines():
            request(self.cloud, "DELETE", f"/machines/{token}")


def with_environment(entry: str) -> list[int]:
    """The processes that have exactly this NAME=value in their environment; zombies have none."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and has_environment(name, entry)]


def has_environment(pid: int | str, entry: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return entry.encode() in file.read().split(b"\0")
    except OSError:  # gone, or somebody else's
        return False


def kill(pid: int, mark: str) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if has_environment(pid, mark):  # still the one that we found
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def request(server: str, method: str, path: str) -> list[dict[str, object]]:
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=30)
    try:
        connection.request(method, path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()
