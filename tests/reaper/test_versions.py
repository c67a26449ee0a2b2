"""Versions that meet: a program of a later one has the reaper of an earlier one hand over. Two are installed."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from harness import SRC, Program, Programs, gone, process_gone, reaper_of, wait_process_gone, wait_until

OWNER = """
import sys, lastly
print("made", lastly.__version__, lastly.__file__, lastly.temp_dir(), flush=True)
sys.stdin.readline()
lastly.temp_dir()
print("again", flush=True)
sys.stdin.readline()
"""


def install(folder: Path, version: str, journal: int = 1) -> Path:
    """Put this source into a folder, as another version of it; what is compiled already comes along."""
    target = folder / version
    shutil.copytree(SRC / "lastly", target / "lastly")
    for name, before, after in (
        ("__init__.py", r'__version__ = ".*"', f'__version__ = "{version}"'),
        ("_journal/record.py", r"^VERSION = 1$", f"VERSION = {journal}"),
    ):
        path = target / "lastly" / name
        text, times = re.subn(before, after, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert times == 1, f"{name}: {before}"
        path.unlink()  # with its time: else what was compiled of the other text would still count
        path.write_text(text, encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("versions")
    return {"0.0.9": install(folder, "0.0.9"), "0.10.0": install(folder, "0.10.0", journal=2)}


def start(programs: Programs, target: Path) -> tuple[Program, str]:
    env = {"PYTHONPATH": str(target), "LASTLY_REAPER_IDLE": "1"}
    program = programs.start(OWNER, env=env, stdin=-1)
    _, version, file, made = program.line("made").split()
    assert (version, file) == (target.name, f"{target}/lastly/__init__.py")
    return program, made


def serving(programs: Programs) -> str:
    """The version that stands in reaper.run, once its holder answers."""
    wait_until(lambda: (programs.home / "reaper.run").exists() and (programs.home / "reaper.run").read_text())
    return (programs.home / "reaper.run").read_text().strip()


def end(program: Program, made: str) -> None:
    program.send(signal.SIGKILL)
    program.wait()
    wait_until(lambda: gone(made), what=f"{made} is removed")


@pytest.mark.parametrize("written", [None, "", "nonsense\n"])
@pytest.mark.slow(keep=1)
def test_a_later_version_takes_the_place_of_an_earlier_one(
    programs: Programs, installed: dict[str, Path], written: str | None
) -> None:
    """Its journals are of a later version, too: the earlier reaper would keep them for ever."""
    old, its = start(programs, installed["0.0.9"])
    wait_until(lambda: serving(programs) == "0.0.9")
    first = reaper_of(programs.home)
    if written is not None:  # by one that did not write its version down yet
        (programs.home / "reaper.run").write_text(written)
    new, made = start(programs, installed["0.10.0"])
    wait_until(lambda: serving(programs) == "0.10.0", what="the later version's reaper")
    wait_process_gone(first)
    end(new, made)
    end(old, its)  # the earlier version's program is served by the later one's reaper
    wait_until(lambda: not list(programs.home.glob("owners/*/*.j")), what="all archived")


def test_an_earlier_version_uses_the_reaper_of_a_later_one(programs: Programs, installed: dict[str, Path]) -> None:
    new, made = start(programs, installed["0.10.0"])
    wait_until(lambda: serving(programs) == "0.10.0")
    first = reaper_of(programs.home)
    old, its = start(programs, installed["0.0.9"])
    old.write("\n")
    old.line("again")
    end(old, its)
    assert not process_gone(first)
    assert serving(programs) == "0.10.0"
    end(new, made)


def test_the_earlier_version_goes_on_after_the_change(programs: Programs, installed: dict[str, Path]) -> None:
    """Its program has lost its reaper: with the next durable cleanup it finds the later one, and starts none."""
    old, its = start(programs, installed["0.0.9"])
    wait_until(lambda: serving(programs) == "0.0.9")
    new, made = start(programs, installed["0.10.0"])
    wait_until(lambda: serving(programs) == "0.10.0")
    end(new, made)
    old.write("\n")
    old.line("again")
    second = reaper_of(programs.home)
    end(old, its)
    assert serving(programs) == "0.10.0"
    assert second == reaper_of(programs.home) or process_gone(second)
    text = (programs.home / "reaper.log").read_text()
    assert re.findall(r' start version="(\S+)"', text) == ["0.0.9", "0.10.0"]


def test_an_earlier_reaper_that_hangs(programs: Programs, installed: dict[str, Path]) -> None:
    """Stopped, it does not leave. Continued, it does: the one that waits for that takes its place."""
    old, its = start(programs, installed["0.0.9"])
    wait_until(lambda: serving(programs) == "0.0.9")
    first = reaper_of(programs.home)
    os.kill(first, signal.SIGSTOP)
    new, made = start(programs, installed["0.10.0"])
    os.kill(first, signal.SIGCONT)
    wait_until(lambda: serving(programs) == "0.10.0", what="the later version's reaper")
    end(new, made)
    end(old, its)
