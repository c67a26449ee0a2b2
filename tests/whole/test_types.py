"""What type checkers find in programs that use lastly: mypy and pyright, as a program's author runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT

TYPED = ROOT / "tests" / "typed"
CHECKERS = {
    "mypy": ["mypy", "--strict", "--config-file=", "--cache-dir", os.devnull, "--no-error-summary"],
    "pyright": ["pyright", "--pythonpath", sys.executable],
}
BOUND = 110  # seconds, on a busy machine


def found(checker: str, file: Path) -> dict[int, str]:
    """The first complaint of each line; from a folder of its own, as for a program elsewhere."""
    argv = [sys.executable, "-m", *CHECKERS[checker], str(file)]
    done = subprocess.run(argv, cwd=file.parent, capture_output=True, text=True, timeout=BOUND, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors: dict[int, str] = {}
    for line in done.stdout.splitlines():
        if match := re.match(rf"\s*\S*{re.escape(file.name)}:(\d+):.*error.*", line):
            errors.setdefault(int(match[1]), line)
    assert bool(errors) == bool(done.returncode), done.stdout + done.stderr
    return errors


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.slow(keep=1)
def test_what_is_right_is_clean(checker: str) -> None:
    assert found(checker, TYPED / "consumer.py") == {}


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.slow(keep=1)
def test_each_planted_mistake_is_found(checker: str, tmp_path: Path) -> None:
    """And nothing else in that file."""
    lines = (TYPED / "planted.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert len(wrong) >= 18
    file = tmp_path / "planted.py"
    file.write_text("\n".join(lines) + "\n")
    errors = found(checker, file)
    assert {n: lines[n - 1] for n in wrong - errors.keys()} == {}, "not found"
    assert {n: errors[n] for n in errors.keys() - wrong} == {}, "found, but right"


def test_brackets_mean_nothing_at_run_time() -> None:
    """Annotations may be evaluated, by a framework or where no future import keeps them texts."""
    from lastly import Action, Popen

    assert Action[[str], None].__origin__ is Action
    assert Popen[bytes].__origin__ is Popen
    assert Action.__mro__ == (Action, object)
