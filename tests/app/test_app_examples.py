"""The example applications, run as their documentation says."""

from __future__ import annotations

import os
import signal

import pytest
from harness import ROOT, Programs

CLEANUP = str(ROOT / "examples" / "cement_cleanup.py")


def left(programs: Programs, output: str) -> list[str]:
    """The work files that the output names and that are still there."""
    words = [word for word in output.split() if "thumbnails-" in word]
    assert words, output
    return [word for word in words if os.path.exists(word)]


@pytest.mark.parametrize(
    ("args", "status"), [([], 0), (["--fail"], 1), (["--leave", "3"], 3), (["--help"], 0), (["--nonsense"], 2)]
)
@pytest.mark.slow(keep=2)
def test_work_file_is_removed(programs: Programs, args: list[str], status: int) -> None:
    result = programs.run_command(["python", CLEANUP, *args])
    assert result.status == status
    assert "WARNING: removing work file: " in result.err
    assert left(programs, result.err) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.slow(keep=2)
def test_work_file_is_removed_after_a_signal(programs: Programs, signum: int) -> None:
    program = programs.start_command(["python", CLEANUP, "--wait"])
    program.line("working on")
    program.send(signum)
    result = program.wait()
    assert (result.status, left(programs, result.out)) == (-signum, [])


@pytest.mark.parametrize(("file", "status", "out"), [(__file__, 0, "lines"), ("no-such-file", 66, ""), ("/", 74, "")])
def test_exit_codes(programs: Programs, file: str, status: int, out: str) -> None:
    result = programs.run_command(["python", str(ROOT / "examples" / "cement_exit_codes.py"), file])
    with open(__file__, encoding="utf-8") as this:
        expected = f"{len(this.readlines())}\n" if out else ""
    assert (result.status, result.out) == (status, expected)


def test_extension_and_plugin(programs: Programs) -> None:
    result = programs.run_command(["python", str(ROOT / "examples" / "cement_extension.py")])
    assert (result.lines, result.status) == (
        ["scratch is there: True", "plugin: goodbye from scratchpad", "scratch is there: False"],
        0,
    )
