"""A lock that says who holds it, so that a newer build can ask an older one to end and take its place.

It stays behind when its holder is killed: the kernel knows nothing of it. (Where all builds run on one computer, an
flock is the better lock; this one also works for builds in containers and on other computers that share the folder.)
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import NamedTuple

from failpoint import failpoint
from lastly import action


class Holder(NamedTuple):
    """Who holds the lock, told so exactly that a recycled process number is not taken for it."""

    build: str
    boot: str  # of this machine, since when
    namespace: str  # in which the process number counts
    pid: int
    start: int  # of the process, in clock ticks since boot

    @classmethod
    def this_process(cls, build: str) -> Holder:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return cls(build, boot, os.readlink("/proc/self/ns/pid"), os.getpid(), start_time(os.getpid()))

    @classmethod
    def parse(cls, text: str) -> Holder:
        build, boot, namespace, pid, start = text.split(" ")
        return cls(build, boot, namespace, int(pid), int(start))

    def text(self) -> str:
        return " ".join(map(str, self))

    def terminate(self) -> bool:
        """Ask this very process to end; False when it is gone already, or not ours to judge from here."""
        here = Holder.this_process("")
        if (self.boot, self.namespace) != (here.boot, here.namespace):
            return False
        try:
            pidfd = os.pidfd_open(self.pid)  # from here on the number cannot be recycled under us
        except ProcessLookupError:
            return False
        try:
            if start_time(self.pid) != self.start:
                return False
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        except (FileNotFoundError, ProcessLookupError):
            return False
        finally:
            os.close(pidfd)
        return True


def start_time(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def take_lock(lock: str, me: Holder, patience: float) -> None:
    """Wait for our turn. An older build is asked to end, once; a newer one has the right of way."""
    asked, deadline = "", time.monotonic() + patience
    while True:
        try:
            # A symbolic link comes into being together with what it says: no lock is ever half written.
            os.symlink(me.text(), lock)
            failpoint("lock")
            return
        except FileExistsError:
            pass
        try:
            holder = os.readlink(lock)
        except FileNotFoundError:
            continue
        older = Holder.parse(holder)
        if older.build > me.build:
            sys.exit("a newer build is under way")
        if holder != asked:
            asked = holder
            how = "asked to end" if older.terminate() else "not running: waiting for its lock to be released"
            print(f"         build {older.build} (process {older.pid}): {how}", flush=True)
        if time.monotonic() > deadline:
            sys.exit(f"{lock} is still held by build {older.build}, process {older.pid}")
        time.sleep(0.02)


@action
def release_lock(lock: str, me: str) -> None:
    """Give the lock back if it is ours. Owed before it is taken, so it may be somebody else's."""
    try:
        if os.readlink(lock) == me:
            os.unlink(lock)
    except FileNotFoundError:
        pass
