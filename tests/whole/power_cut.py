"""The power goes off: cleanups of what outlives the machine are still owed afterwards. Needs root and a loop device.

The home lies on an ext4 of its own, in a file, which is shut down (FS_IOC_SHUTDOWN, its journal not flushed) at a
random moment while a program plans, creates and destroys "machines" that live elsewhere. Then it is mounted again, as
after a boot, and swept once. A machine that exists then is one whose cleanup was lost.

Without power nothing goes on, but here the programs do, for a moment, and an fdatasync that races with the shutdown
may return success: what they make after the cut does not count. A machine is a link that says when it was made.

To be run in a mount namespace of its own:  unshare --mount python power_cut.py FOLDER CUTS [SEED]
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import lastly
from lastly import action

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN = _IOR('X', 125, __u32)
NO_LOG_FLUSH = 2
SIZE = 8 << 20


@action(remote=True)
def destroy(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def owner(cloud: Path) -> None:
    """Plan, create, confirm; some are destroyed in good order."""
    warnings.simplefilter("ignore")
    number = 0
    while True:
        number += 1
        machine = cloud / f"{os.getpid()}-{number}"
        scope = lastly.Scope()
        try:
            with scope.planned(destroy, str(machine)) as plan:
                machine.symlink_to(str(time.monotonic_ns()))
                plan.confirm(machine=machine.name)
        except (lastly.NotRecorded, FileNotFoundError):
            signal.pause()  # the power is off
        if number % 3 == 0:
            scope.close()
        else:
            lastly.defer(scope.close)


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def cut(folder: Path, chance: random.Random) -> tuple[int, list[str]]:
    """One cut; how many machines there were, and which were lost."""
    disk, mount, cloud = folder / "disk", folder / "mount", folder / "cloud"
    for path in (mount, cloud):
        path.mkdir(exist_ok=True)
    with open(disk, "wb") as file:
        file.truncate(SIZE)
    run("mkfs.ext4", "-q", "-F", str(disk))
    run("mount", "-o", "loop", str(disk), str(mount))
    pids = []
    try:
        for _ in range(2):
            pid = os.fork()
            if not pid:
                try:
                    owner(cloud)
                finally:
                    os._exit(1)
            pids.append(pid)
        until = time.monotonic() + 10.0
        while not any(cloud.iterdir()) and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.03))
        fd = os.open(mount, os.O_RDONLY)
        try:
            off = time.monotonic_ns()
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        run("umount", str(mount))
    there = len(list(cloud.iterdir()))
    run("mount", "-o", "loop", str(disk), str(mount))
    try:
        subprocess.run([sys.executable, "-m", "lastly", "reap"], capture_output=True, check=False)
        return there, sorted(path.name for path in cloud.iterdir() if int(os.readlink(path)) < off)
    finally:
        shutil.rmtree(cloud)
        run("umount", str(mount))


def main(folder: str, cuts: str, seed: str = "1") -> int:
    os.environ.update(LASTLY_HOME=os.path.join(folder, "mount", "home"), LASTLY_REAPER="0")
    chance = random.Random(seed)
    machines = lost = 0
    for number in range(int(cuts)):
        try:
            there, left = cut(Path(folder), chance)
        except OSError as error:
            if number == 0 and error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM):
                print("not here:", error)
                return 0
            raise
        machines += there
        lost += len(left)
        if left:
            print(f"cut {number}: lost {left}")
    print(f"{cuts} cuts, {machines} machines, lost: {lost}")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
