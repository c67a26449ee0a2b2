"""The demo in a reduced form: its table, its status, its tidiness."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import ROOT, Programs, wait_until

DEMO = ["python", str(ROOT / "examples" / "demo.py")]


@pytest.mark.slow
def test_the_demo_shows_zeros_for_lastly_and_leaves_nothing(programs: Programs, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- demo-table -->\nold\n<!-- /demo-table -->\nafter\n")
    demo = programs.start_command([*DEMO, "--ways", "SIGTERM,os._exit", "--into", str(page)])
    result = demo.wait(within=120)
    assert result.status == 0, result.out + result.err
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| how it ends", "| SIGTERM", "| os._exit"]
    assert [row[-1] for row in rows[1:]] == ["nothing |"] * 2
    assert all("1 machine" in row[2] for row in rows[1:])  # atexit's column: the count does find things
    assert page.read_text().startswith("before\n<!-- demo-table -->\n| how it ends")
    assert page.read_text().endswith("|\n<!-- /demo-table -->\nafter\n")
    assert "old" not in page.read_text()
    assert [name for name in os.listdir(demo.tmp) if name.startswith("lastly-demo-")] == []


@pytest.mark.slow
def test_the_demo_interrupted_leaves_nothing(programs: Programs) -> None:
    demo = programs.start_command(DEMO)
    demo.error_line("[ 2/", within=120)
    demo.send(2)
    assert demo.wait(within=120).status == -2
    wait_until(lambda: not os.listdir(demo.tmp), what="its folder is gone")


@pytest.mark.slow
def test_the_demo_killed_leaves_nothing(programs: Programs) -> None:
    """Neither its folder nor its cloud with the machines, nor a deployment with its tunnel."""
    demo = programs.start_command([*DEMO, "--ways", "SIGTERM,os._exit"])
    demo.error_line("[ 1/", within=120)
    assert processes_naming(str(demo.tmp))
    demo.send(9)
    assert demo.wait(within=120).status == -9
    wait_until(lambda: not processes_naming(str(demo.tmp)), what="its processes are gone")
    wait_until(lambda: not os.listdir(demo.tmp), what="its folder is gone")


@pytest.mark.slow
def test_what_the_demo_prints_fits_into_80_columns(programs: Programs) -> None:
    result = programs.run_command([*DEMO, "--ways", "newer build"], within=120)
    assert result.status == 0, result.out + result.err
    assert [line for line in (result.out + result.err).splitlines() if len(line) > 80] == []


def processes_naming(text: str) -> list[int]:
    """Those with this text in their environment or on their command line."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        for file in ("environ", "cmdline"):
            try:
                if text.encode() in Path("/proc", name, file).read_bytes():
                    found.append(int(name))
                    break
            except OSError:  # gone
                break
    return found
