"""The small examples: a staged script under each of its signals, and exit functions as atexit has them."""

from __future__ import annotations

import signal

import pytest
from harness import ROOT, Programs

EXAMPLES = ROOT / "examples"
UNDONE = "stage {} undone ({})"


def stages(last: int, reason: str) -> tuple[list[str], list[str]]:
    begun = [f"stage {stage} begins" for stage in range(1, last + 1)]
    return begun, [UNDONE.format(stage, reason) for stage in range(last, 0, -1)]


def test_stages_are_undone_newest_first(programs: Programs) -> None:
    result = programs.run_command(["python", str(EXAMPLES / "stages.py")])
    begun, undone = stages(3, "the end")
    assert (result.status, result.lines) == (0, begun + undone)


def test_stages_are_undone_after_an_error(programs: Programs) -> None:
    """...only those that had begun; and the message and the status are the program's own."""
    result = programs.run_command(["python", str(EXAMPLES / "stages.py"), "2"])
    begun, undone = stages(2, "exit code 1")
    assert (result.status, result.lines, result.err) == (1, begun + undone, "stage 2 failed\n")


@pytest.mark.parametrize("status", ["signal", "code"])
@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "PIPE", "TERM"])
@pytest.mark.slow(keep=4)
def test_stages_are_undone_by_each_signal(name: str, status: str, programs: Programs) -> None:
    signum = signal.Signals[f"SIG{name}"]
    argv = ["python", str(EXAMPLES / "stages.py"), "3", "wait", "--status", status]
    program = programs.start_command(argv)
    program.line("waiting")
    program.send(signum)
    result = program.wait()
    begun, undone = stages(3, f"signal SIG{name}")
    assert result.lines == [*begun, "waiting", *undone]
    assert result.status == (-signum if status == "signal" else 128 + signum)
    assert "Traceback" not in result.err


def test_exit_functions_keep_the_contract_of_atexit(programs: Programs) -> None:
    result = programs.run_command(["python", str(EXAMPLES / "exit_functions.py")])
    assert result.lines == ["At work", "See you, Grace", "Goodbye, Ada", "This was registered first"]
    code = (EXAMPLES / "exit_functions.py").read_text()
    plain = programs.run(code.replace("from lastly import", "from atexit import"))
    assert (plain.status, plain.lines) == (result.status, result.lines)
