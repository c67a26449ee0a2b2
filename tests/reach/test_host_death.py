"""A whole machine dies: workers on other machines give back what its programs had."""

from __future__ import annotations

import signal

import pytest
from harness import wait_until
from sharing import LONG, RENT, Fleet, needs_server

pytestmark = [needs_server, pytest.mark.xdist_group("reach-host-death")]


@pytest.mark.parametrize("engine", ["procrastinate", "sql"])
def test_what_a_dead_host_had_is_given_back_once(fleet: Fleet, engine: str) -> None:
    worker = fleet.worker("--engine", engine)
    worker.error_line("serves queue", within=LONG)
    host, other = fleet.host(RENT, *(f"vm-{n}" for n in range(10))), fleet.host(RENT, "theirs")
    host.line("ready", within=LONG)
    other.line("ready", within=LONG)
    assert len(fleet.cloud.left) == 11
    fleet.kill(host)
    wait_until(lambda: fleet.cloud.left == ["theirs"], within=LONG)
    wait_until(lambda: fleet.states() == {"done": 10, "planned": 1}, within=LONG)
    assert sorted(fleet.cloud.runs) == sorted(f"vm-{n}" for n in range(10))
    other.write("\n")
    other.wait(within=LONG)
    wait_until(fleet.all_given_back, within=LONG)
    assert fleet.cloud.runs[-1] == "theirs"
    worker.send(signal.SIGTERM, busy=True)
    assert worker.wait(within=LONG).status == 0
