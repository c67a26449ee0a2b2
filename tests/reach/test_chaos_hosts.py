"""I12: what `defer` acknowledged is a committed row, at whatever instruction the host dies."""

from __future__ import annotations

import pytest
from sharing import may_unshare, needs_server

pytestmark = [needs_server, pytest.mark.xdist_group("reach")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hosts_are_killed_at_random() -> None:
    """`make chaos-hosts` does it 300 times."""
    if not may_unshare():
        pytest.skip("no pid and network namespaces may be made here: hosts cannot be killed as a whole")
    import importlib.util
    from pathlib import Path

    path = Path(__file__).with_name("chaos.py")
    spec = importlib.util.spec_from_file_location("chaos_hosts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rented, left = module.campaign(20, 7, say=lambda _text: None)
    assert rented > 20
    assert left == 0
