"""A host is cut off, and both sides live: what it hears, what others do, and what it does when it is back."""

from __future__ import annotations

import os
import signal

import pytest
from harness import Program, wait_until
from sharing import LONG, Fleet, Network, flush, join, judge, needs_server, plan

pytestmark = [needs_server, pytest.mark.xdist_group("reach"), pytest.mark.slow]

ON_DEMAND = """
import sys, lastly, cloud
print("ready", flush=True)
for line in sys.stdin:
    name = line.strip()
    if name == "lease":
        print("lease", lastly.lease().held, flush=True)
        continue
    try:
        lastly.defer(cloud.destroy, name)
    except lastly.NotRecorded as error:
        print(f"refused {name}: {type(error).__name__}: {error}", flush=True)
    else:
        cloud.rent(name)
        print(f"rented {name}", flush=True)
"""


def rent(host: Program, name: str) -> str:
    host.write(f"{name}\n")
    return host.line(f" {name}", within=LONG)


def holds(host: Program) -> bool:
    host.write("lease\n")
    return host.line("lease ", within=LONG) == "lease True"


def start(fleet: Fleet, network: Network, **query: object) -> tuple[Program, Program]:
    """A worker that is not cut off, and a host that may be."""
    worker = fleet.worker("--engine", "sql")
    worker.error_line("serves queue", within=LONG)
    host = fleet.host(ON_DEMAND, **{"host": network.folder, **query})
    host.line("ready", within=LONG)
    return worker, host


def host_states(fleet: Fleet) -> list[str]:
    return [state for (state,) in fleet.shared.all("SELECT state FROM lastly.hosts ORDER BY epoch")]


def test_a_partition_longer_than_the_lease(fleet: Fleet, network: Network) -> None:
    """Its plans are refused before it is judged; what it had is given back elsewhere; when it is back it hears so, once."""
    _, host = start(fleet, network, ttl=9, wait=6)
    assert rent(host, "old").startswith("rented")
    network.cut()
    wait_until(lambda: not holds(host), within=LONG)
    assert host_states(fleet) == ["alive"]  # it stops believing first
    assert rent(host, "during").startswith("refused during: NotRecorded: ")
    wait_until(lambda: fleet.cloud.left == [] and fleet.settled(), within=LONG)
    assert fleet.cloud.runs == ["old"]
    network.heal()
    heard = [wait_until(lambda: (said := rent(host, f"x{n}-{os.urandom(2).hex()}")) and "NotRecorded" not in said and said, within=LONG)
             for n in range(2)]  # fmt: skip
    assert ["LeaseLost" in said for said in heard] == [True, False]
    assert heard[1].startswith("rented")
    host.popen.stdin.close()
    host.wait(within=LONG)
    wait_until(fleet.all_given_back, within=LONG)
    assert fleet.cloud.runs.count("old") == 1


def test_a_partition_shorter_than_the_lease_is_none(fleet: Fleet, network: Network) -> None:
    """I18: who waits is answered when it is over, nobody was judged, and nothing of it is run elsewhere."""
    _, host = start(fleet, network, ttl=60, wait=40)
    assert rent(host, "one").startswith("rented")
    network.cut()
    host.write("two\n")
    relay_waits = "SELECT clock_timestamp() - max(beat_at) > interval '1 s' FROM lastly.hosts"
    wait_until(lambda: fleet.shared.one(relay_waits), within=LONG)
    network.heal()
    assert host.line(" two", within=LONG) == "rented two"
    assert (host_states(fleet), fleet.cloud.left, fleet.cloud.runs) == (["alive"], ["one", "two"], [])


def test_reaper_and_relay_are_killed_and_nothing_starts_them_again(fleet: Fleet, network: Network) -> None:
    """The host is judged although it lives: they want a supervisor. Its program hears so with its next plan."""
    _, host = start(fleet, network)
    assert rent(host, "old").startswith("rented")
    for signum in (signal.SIGSTOP, signal.SIGKILL):
        for pid in (*fleet.inside(host, "lastly-reaper"), *fleet.inside(host, "lastly-relay")):
            os.kill(pid, signum)
    wait_until(lambda: fleet.cloud.left == [] and fleet.settled(), within=LONG)
    assert "LeaseLost" in rent(host, "lost")
    assert rent(host, "new").startswith("rented")
    assert fleet.cloud.runs == ["old"]


def test_a_host_without_debts_gives_its_lease_back(fleet: Fleet) -> None:
    """At an orderly end, a pod's for example: nobody has to judge it. What it rents later is under another lease."""
    code = """
    import os, sys
    os.environ["LASTLY_REAPER_IDLE"] = "0.5"
    import lastly, cloud
    for line in sys.stdin:
        with lastly.Scope("a moment") as scope:
            scope.defer(cloud.destroy, line.strip())
            cloud.rent(line.strip())
        print("gave back", line.strip(), flush=True)
    """
    host = fleet.host(code, ttl=60)
    rent(host, "one")
    wait_until(lambda: host_states(fleet) == ["left"], within=LONG)
    rent(host, "two")
    wait_until(lambda: host_states(fleet) == ["left", "left"], within=LONG)
    assert fleet.states() == {"done": 2}


def test_two_hosts_of_one_name_are_two(fleet: Fleet) -> None:
    """A cloned machine: with the same boot, and even the same journal's name."""
    shared = fleet.shared
    one, two = join(shared), join(shared)
    assert flush(shared, one, [plan(args=["of one"])])
    assert flush(shared, two, [plan(args=["of two"])])
    [owner] = judge(shared, one)
    assert shared.all("SELECT owner, args ->> 0 FROM lastly.cleanups JOIN lastly.owners USING (owner) WHERE owners.state = 'orphan'") == [(owner, "of one")]
    assert flush(shared, two, [], [{"journal": plan()["journal"], "id": 1, "state": "done"}])
    assert fleet.states() == {"planned": 1, "done": 1}


def test_without_a_worker_nothing_is_lost_and_the_alarm_rises(fleet: Fleet) -> None:
    shared = fleet.shared
    epoch = join(shared)
    flush(shared, epoch, [plan(action="cloud:destroy")])
    judge(shared, epoch)
    alarm = "SELECT value FROM lastly.metrics WHERE name = 'oldest_orphan_seconds'"
    assert shared.one(alarm) < LONG
    shared.do("UPDATE lastly.owners SET next_at = next_at - interval '1 h'")
    assert shared.one(alarm) >= 3600
    assert fleet.states() == {"planned": 1}
    fleet.worker("--engine", "sql")
    wait_until(lambda: fleet.states() == {"done": 1}, within=LONG)
    assert shared.one(alarm) == 0
