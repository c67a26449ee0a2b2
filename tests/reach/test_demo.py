"""examples/two_hosts.py, which `make demo` runs where a PostgreSQL is installed."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

import pytest
from harness import ROOT, Programs, wait_until
from sharing import LONG, Shared, needs_server, new_folder

pytest.importorskip("markdown")
pytestmark = [needs_server, pytest.mark.xdist_group("reach-demo"), pytest.mark.slow]


def test_a_host_dies_and_the_other_one_cleans_up(programs: Programs, shared: Shared) -> None:
    path = f"{shared.server._programs}:{os.environ['PATH']}"  # where there is no other PostgreSQL
    folder = Path(new_folder())
    folder.chmod(0o755)  # the server is another user's, where the tests are root's
    try:
        demo = programs.start_command(
            ["python", str(ROOT / "examples" / "two_hosts.py")], env={"PATH": path, "TMPDIR": str(folder)}
        )
        result = demo.wait(within=2 * LONG)
        assert result.status == 0, result.err
        wait_until(lambda: not os.listdir(folder), what="its folders are gone")
    finally:
        shutil.rmtree(folder)
    assert "gave back what it had rented (1 machine) after" in result.out
    assert [line for line in result.out.splitlines() if len(line) > 80] == []


def test_where_there_is_no_postgresql_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    two_hosts = importlib.import_module("two_hosts")
    monkeypatch.setattr(two_hosts, "PLACES", ())
    monkeypatch.setenv("PATH", "/nowhere")
    said = two_hosts.part("/nowhere", {}, "http://127.0.0.1:1", "/nowhere", "HEAD")
    assert said == "Left out: a host dies, and another cleans up (no PostgreSQL here)"
