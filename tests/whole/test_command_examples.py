"""The examples with click and with Cement, ended in each way: the exit status, and that nothing is left."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from harness import ROOT, Programs, gone, wait_process_gone, wait_until

EXAMPLES = ROOT / "examples"
# Cement's own: a signal that the program catches and does not answer by a code is no error.
CLICK, CEMENT = "click_build.py", "cement_kept.py"

ENDS = [
    (CLICK, [], 0, ""),
    (CLICK, ["--code", "3"], 3, ""),
    (CLICK, ["--fail"], 1, "Error: it cannot be built\n"),
    (CEMENT, [], 0, ""),
    (CEMENT, ["fail"], 1, "RuntimeError: it cannot be built\n"),
    (CEMENT, ["--no-such-option"], 2, "unrecognized arguments: --no-such-option\n"),
]


def left(line: str) -> tuple[Path, int]:
    """What the program said it has taken: its folder and its helper."""
    words = line.split()
    return Path(words[2]), int(words[-1])


@pytest.mark.parametrize(("name", "args", "status", "said"), ENDS)
@pytest.mark.slow(keep=2)
def test_ends(name: str, args: list[str], status: int, said: str, programs: Programs) -> None:
    result = programs.run_command(["python", str(EXAMPLES / name), *args])
    assert result.status == status
    assert result.err.endswith(said) and bool(result.err) == bool(said)
    assert result.lines[-1] == "closed"
    work, helper = left(result.lines[0])
    wait_process_gone(helper)
    assert gone(work)


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "KILL"])
@pytest.mark.parametrize("example", [CLICK, CEMENT])
@pytest.mark.slow(keep=2)
def test_signals(example: str, name: str, programs: Programs) -> None:
    signum = signal.Signals[f"SIG{name}"]
    wait = "--wait" if example == CLICK else "wait"
    program = programs.start_command(["python", str(EXAMPLES / example), wait])
    work, helper = left(program.line("building in"))
    program.send(signum)
    result = program.wait()
    caught = example == CEMENT and name in ("TERM", "INT", "HUP")
    assert result.status == (0 if caught else -signum)
    wait_process_gone(helper)
    wait_until(lambda: gone(work))
