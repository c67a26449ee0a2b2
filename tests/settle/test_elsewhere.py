"""What a container owed that is gone for good: journals of another pid namespace, on a volume that outlives it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from harness import SRC, Programs, gone, wait_until

NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]

try:
    MAY = subprocess.run([*NAMESPACE, "true"], capture_output=True, timeout=60).returncode == 0
except OSError:
    MAY = False

pytestmark = pytest.mark.skipif(not MAY, reason="needs a pid namespace of its own: unshare --pid")

PROGRAM = """
import lastly, time
from lastly import actions
open("work", "w").close()
lastly.defer(actions.remove, "work")
print("ready", flush=True)
time.sleep(600)
"""


def test_another_container(programs: Programs) -> None:
    """Without a word nothing is touched; with --elsewhere the living are still left alone, and the dead are not."""
    program = programs.start_command(
        [*NAMESPACE, sys.executable, "-c", PROGRAM], env={"PYTHONPATH": str(SRC), "LASTLY_REAPER": "0"}
    )
    program.line("ready")
    work = program.cwd / "work"

    def reap(*args: str) -> None:
        programs.run_command([*NAMESPACE, sys.executable, "-m", "lastly", "reap", *args], env={"LASTLY_REAPER": "0"})

    reap("--elsewhere")
    assert work.exists()
    program.send(signal.SIGKILL)
    program.wait()
    reap()
    assert work.exists()

    def reaped() -> bool:  # its namespace takes a moment to end
        reap("--elsewhere")
        return gone(work)

    wait_until(reaped)
