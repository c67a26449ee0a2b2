"""What outlives the machine is on the disk before it exists.

The order of write, fdatasync and creation is asserted everywhere; where loop devices may be used, the power goes off.
``python tests/whole/test_power_cut.py 50`` makes fifty cuts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from harness import Programs

HERE = Path(__file__).parent

ORDER = """
import os, stat, sys
import lastly, lastly._durable.seam

# What reaches the system, and of which file: interpreted below.
calls = []
def wrap(name):
    real = getattr(os, name)
    def wrapped(first, *rest, **more):
        what = first
        if isinstance(first, int):
            path = os.readlink(f"/proc/self/fd/{first}")
            what = "folder" if stat.S_ISDIR(os.fstat(first).st_mode) else os.path.splitext(path)[1]
        calls.append(f"{name} {what}")
        return real(first, *rest, **more)
    setattr(os, name, wrapped)
for name in ("write", "fdatasync", "fsync"):
    wrap(name)

@lastly.action(remote=True)
def destroy(name): print("destroyed", name)

if __name__ == "__main__":
    scope = lastly.Scope()
    for name in ("one", "two"):
        with scope.planned(destroy, name) as plan:
            calls.append("create")
            plan.confirm(made=True)
    print(*calls, sep=", ", flush=True)
    scope.detach_all()
"""


def test_the_order_of_writing_syncing_and_creating(programs: Programs) -> None:
    """The first pays for the folders' names, the second one only for its own record."""
    result = programs.run(ORDER)
    assert result.status == 0, result.err
    calls = [call for call in result.lines[0].split(", ") if call != "write .tmp"]  # the header, before its rename
    first = calls.index("create")
    before = calls[:first]
    assert before[-4:-3] == ["fdatasync .j"]
    assert before[-3:] == ["fsync folder"] * 3
    assert "write .j" in before[:-4]
    assert calls[first + 1 :] == [
        "write .j", "fdatasync .j",  # confirmed
        "write .j", "fdatasync .j", "create",
        "write .j", "fdatasync .j",
    ]  # fmt: skip


def cut_the_power(folder: str, cuts: int) -> subprocess.CompletedProcess[str]:
    argv = ["unshare", "--mount", sys.executable, str(HERE / "power_cut.py"), folder, str(cuts)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def why_not() -> str:
    """Why no file can be mounted here; empty when one can."""
    if os.geteuid() != 0:
        return "needs root: loop devices, mounts"
    if missing := [name for name in ("unshare", "mkfs.ext4", "mount") if shutil.which(name) is None]:
        return f"needs {missing}"
    return "" if os.path.exists("/dev/loop-control") else "needs loop devices"


@pytest.mark.root
def test_the_power_goes_off(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    result = cut_the_power(str(tmp_path), 8)
    if "failed to setup loop device" in result.stderr or "not here" in result.stdout:
        pytest.skip("no loop device, or no FS_IOC_SHUTDOWN: " + result.stdout + result.stderr[-200:])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "lost: 0" in result.stdout


if __name__ == "__main__":
    if reason := why_not():
        sys.exit(f"no power cuts: {reason}")
    folder = tempfile.mkdtemp(prefix="lt-", dir="/tmp")
    try:
        done = cut_the_power(folder, int(sys.argv[1]))
        print(done.stdout, done.stderr[-2000:], sep="", end="")
        sys.exit(done.returncode)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
