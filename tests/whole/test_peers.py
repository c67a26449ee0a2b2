"""The table of peers says what is left under each of them; here it is measured again."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from harness import ROOT

PAGE = ROOT / "docs" / "explanation" / "alternatives.md"

spec = importlib.util.spec_from_file_location("peers", ROOT / "examples" / "peers.py")
assert spec is not None
assert spec.loader is not None
peers = sys.modules["peers"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peers)


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("name", peers.PEERS)
def test_a_row_is_what_is_measured(name: str) -> None:
    if not peers.PEERS[name].is_here():
        pytest.skip(f"needs {name}")
    assert peers.row(name) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_table_has_each_peer() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in peers.PEERS if f"| {name} |" not in text] == []
