"""A power cut: ext4 on a loop device, shut down in the middle; every remote cleanup whose defer returned is there.

FS_IOC_SHUTDOWN without flushing the log is what a power cut is to a file system: what was not synced is lost.
Needs root, loop devices and mkfs.ext4; where they are missing, test_actions_after_death asserts the order of
write, fdatasync and creation instead. LASTLY_POWER_CUTS sets the number of cuts.
"""

import fcntl
import os
import shutil
import signal
import struct
import subprocess
from pathlib import Path

import pytest
from harness import wait_until

from lastly.journal import home as journal_home
from lastly.journal.replay import read

CUTS = int(os.environ.get("LASTLY_POWER_CUTS", "5"))
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2

CODE = """
    import os, sys, lastly
    @lastly.action(remote=True)
    def destroy(name): ...
    @lastly.action
    def local(name): ...
    if __name__ == "__main__":
        scope = lastly.Scope()
        n = 0
        while True:
            n += 1
            scope.defer(local, "x" * 50).detach()
            handle = scope.defer(destroy, f"vm-{n}")
            if n % 3 == 0:
                handle.confirm({"n": n})
            print(f"vm-{n}", flush=True)
"""


@pytest.fixture
def disk(tmp_path):
    """A small ext4 of its own, mounted; gives (mount, unmount-and-mount-again)."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root and mkfs.ext4")
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)

    def mount():
        return subprocess.run(
            ["mount", "-o", "loop", str(image), str(folder)], check=False, capture_output=True
        )

    def again():
        subprocess.run(["umount", str(folder)], check=True)
        assert mount().returncode == 0

    if mount().returncode != 0:
        pytest.skip("no loop devices may be mounted here")
    yield folder, again
    subprocess.run(["umount", str(folder)], check=False, capture_output=True)


def cut(folder, pid):
    # The program stands still first. An fdatasync that runs *while* the journal of the file system is aborted may
    # return success (the aborted transaction counts as complete), and no power cut lets anything return.
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: b") T " in Path(f"/proc/{pid}/stat").read_bytes(), what="stopped")
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(fd)


@pytest.mark.root
@pytest.mark.timeout(600)
def test_no_remote_cleanup_is_lost(programs, disk, monkeypatch):
    """At whatever moment: a plan that was acknowledged is on the disk, with all its directories."""
    folder, again = disk
    for number in range(CUTS):
        home = folder / f"home-{number}"
        program = programs.start(CODE, env={"LASTLY_HOME": str(home), "LASTLY_REAPER": "0"})
        # The very first record, whose directories are new; or somewhere later.
        program.line(f"vm-{1 if number % 2 == 0 else 37 * number % 300 + 1}")
        cut(folder, program.pid)
        program.popen.kill()
        result = program.wait()
        again()
        monkeypatch.setenv("LASTLY_HOME", str(home))
        (path,) = journal_home.journals()
        found = read(path)
        assert not found.damage
        kept = {item.args[0] for item in found.items.values() if item.remote}
        said = set(result.lines)
        assert said <= kept, f"lost: {sorted(said - kept)}"
        confirmed = {item.args[0] for item in found.items.values() if item.known}
        assert {line for line in said if int(line[3:]) % 3 == 0} <= confirmed
