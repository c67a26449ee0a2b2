"""Many hosts: killed at random, and silent ones among living ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from sharing import needs_server

pytestmark = [needs_server, pytest.mark.xdist_group("reach-chaos-hosts")]


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"reach_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_leases_and_a_server_that_stops_and_hangs() -> None:
    """I13: who can reach PostgreSQL within every ttl is never judged; `make leases` has 10,000 of them."""
    load("leases").run(200, 4.0, say=lambda _text: None)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hosts_are_killed_at_random() -> None:
    """I12: what `defer` acknowledged is a committed row, whenever the host dies; `make chaos-hosts`: 300 times."""
    rented, left = load("chaos").campaign(20, 7, say=lambda _text: None)
    assert rented > 20
    assert left == 0
