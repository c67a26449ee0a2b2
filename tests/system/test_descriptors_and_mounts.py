"""The open descriptors of this process, and what is mounted where."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from harness import SRC

from lastly._system import cgroup, descriptors, mounts, proc


def test_all_are_closed_but_some(tmp_path: Path) -> None:
    """Those between, above and below the ones that stay; numbers that are not open do no harm."""
    code = """
import os, sys
sys.path.insert(0, sys.argv[1])
from lastly._system import descriptors
null = os.open("/dev/null", os.O_RDWR)
for fd in (7, 8, 40, 41, 99):
    os.dup2(null, fd)
descriptors.close_all_but([0, 1, 2, 8, 40, 60])
print([fd for fd in descriptors.numbers() if fd > 2 and fd != min(set(range(3, 7)))])
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(SRC)], capture_output=True, text=True, check=True)
    assert done.stdout == "[8, 40]\n"


def test_a_path_leads_to_what_is_open(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("it")
    fd = os.open(file, os.O_PATH)
    try:
        os.chmod(descriptors.path(fd), 0o640)
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        assert fd in descriptors.numbers()
    finally:
        os.close(fd)
    assert descriptors.is_their_folder(os.path.realpath("/dev/fd"))
    assert not descriptors.is_their_folder(f"/proc/{os.getppid()}/fd")


def test_file_systems() -> None:
    """What holds /proc is told by name."""
    assert mounts.kind_at("/proc") == "proc"
    assert mounts.kind_at("/nowhere") == ""


def test_a_line_of_mountinfo() -> None:
    """Names with spaces are written in octal, and there may be any number of optional fields."""
    line = "36 35 98:0 /a\\040b /mnt\\134x rw,noatime shared:1 master:2 - ext3 /dev/root rw,hidepid=2\n"
    made = mounts.Mount(line)
    assert (made.device, made.root, made.point, made.kind) == ("98:0", "/a b", "/mnt\\x", "ext3")
    assert made.options == ["rw", "noatime", "rw", "hidepid=2"]
    assert mounts.Mount("36 35 0:5 / /proc rw - proc proc rw\n").kind == "proc"


def test_another_process(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        child.stdout.readline()
        assert [m.point for m in mounts.mounts(child.pid)] == [m.point for m in mounts.mounts()]
        assert proc.namespace("pid", child.pid) == proc.namespace("pid") == str(os.stat("/proc/self/ns/pid").st_ino)
        assert proc.program(child.pid).startswith("python")
        python_own = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
        assert proc.ignored(child.pid) & (python_own | 1 << signal.SIGUSR1 - 1) == python_own  # more may be inherited
    assert proc.ignored(child.pid) is None
    assert proc.namespace("pid", child.pid) == proc.program(child.pid) == ""
    with pytest.raises(OSError):
        list(mounts.mounts(child.pid))


def test_the_groups_of_this_process() -> None:
    raw = Path("/proc/self/cgroup").read_text().splitlines()
    assert [f"{h}::{p}" for h, p in cgroup.paths() if h == "0"] == [line for line in raw if line.startswith("0:")]
    assert len(cgroup.paths()) == len(raw)
