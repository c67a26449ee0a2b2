"""A standby takes over: what is kept, and what an asynchronous one cannot keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import wait_until
from sharing import LONG, RENT, Fleet, Pair, claim, flush, join, judge, needs_server, plan, step

pytestmark = [needs_server, pytest.mark.xdist_group("reach-failover"), pytest.mark.slow, pytest.mark.timeout(600)]

THINGS = 60


@pytest.mark.parametrize("engine", ["procrastinate", "sql"])
def test_with_a_synchronous_standby_nothing_is_lost_and_nothing_begun_runs_twice(
    fleet: Fleet, new_pair: Callable[..., Pair], engine: str
) -> None:
    """In the middle of the work of a dead host; the others live on, and are not judged. Red when `step` does not wait.

    The standby is cut off a moment before: what is confirmed although it has not heard of it would be forgotten.
    """
    pair = new_pair(synchronous=True)
    fleet.shared = shared = pair.shared
    host = fleet.host(RENT, "mine")
    host.line("ready", within=LONG)
    dead = join(shared)
    plans = [
        plan(f"h-b/{number // 20}.j", number, "cloud:destroy", args=[f"vm-{number}"]) for number in range(1, THINGS + 1)
    ]  # fmt: skip
    flush(shared, dead, plans)
    shared.one("SELECT count(*) FROM lastly.judge_host(%s)", dead)
    worker = fleet.worker("--engine", engine, "--slots", "1")
    wait_until(lambda: len(fleet.cloud.runs) > 25, within=LONG)  # in the middle of the second owner
    pair.standby.stop()
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query ~ 'lastly.(step|claim)'"
    wait_until(lambda: shared.one(waits), within=LONG)
    pair.fail_over()
    wait_until(lambda: worker.hear() or fleet.states() == {"done": THINGS, "planned": 1}, within=240)
    runs = fleet.cloud.runs
    assert len(set(runs)) == THINGS
    assert len(runs) == THINGS
    living = "SELECT epoch, state, beat FROM lastly.hosts WHERE name <> 'host'"
    [(epoch, state, beat)] = shared.all(living)
    wait_until(lambda: shared.all(living)[0][2] > beat + 12, within=LONG)  # two ttl of beats
    assert (epoch, state, fleet.cloud.left) == (1, "alive", ["mine"])


def test_an_asynchronous_standby_forgets_what_only_the_dead_knew(fleet: Fleet, new_pair: Callable[..., Pair]) -> None:
    """The relays of living hosts tell it once more; a host that died before it could is the loss that the page names."""
    pair = new_pair(synchronous=False)
    fleet.shared = shared = pair.shared
    host, dying = fleet.host(RENT.replace("for name in sys.argv[1:]:", "for name in map(str.strip, iter(sys.stdin.readline, '')):")
                             .replace("    cloud.rent(name)", "    cloud.rent(name)\n    print('rented', flush=True)")), fleet.host(RENT, "known")
    dying.line("ready", within=LONG)
    host.write("first\n")
    host.line("rented", within=LONG)
    wait_until(lambda: shared.one("SELECT replay_lsn = pg_current_wal_insert_lsn() FROM pg_stat_replication"), within=LONG)
    pair.standby.stop()  # what is committed from here on it never hears
    host.write("second\n")
    host.line("rented", within=LONG)
    late = fleet.host(RENT, "unknown")
    late.line("ready", within=LONG)
    for one in (late, dying):
        fleet.kill(one)
    pair.fail_over()
    standing = "SELECT args ->> 0 FROM lastly.cleanups WHERE state = 'planned' ORDER BY 1"
    wait_until(lambda: shared.all(standing) == [("first",), ("known",), ("second",)], within=LONG)
    worker = fleet.worker("--engine", "sql")
    wait_until(lambda: worker.hear() or fleet.cloud.left == ["first", "second", "unknown"], within=LONG)


def test_numbers_are_used_once_whatever_a_standby_has_missed(new_pair: Callable[..., Pair]) -> None:
    """An old host's epoch must not keep another host's lease, nor an old worker's claim let it write. Red with a bare sequence."""
    pair = new_pair(synchronous=False)
    shared = pair.shared
    sure = join(shared)
    flush(shared, sure, [plan(retries=1000, backoff=0)])
    [owner] = judge(shared, sure)
    wait_until(lambda: shared.one("SELECT replay_lsn = pg_current_wal_insert_lsn() FROM pg_stat_replication"), within=LONG)
    pair.standby.stop()
    epochs = {join(shared) for _ in range(40)}  # more than the 32 that a sequence writes down ahead
    claims = []
    for _ in range(40):
        claims.append(claim(shared, owner, secs=-1))
    pair.fail_over()
    assert {join(shared) for _ in range(80)} & epochs == set()
    later = [claim(shared, owner, secs=-1)["claim"] for _ in range(5)]
    assert min(later) > max(one["claim"] for one in claims)
    for old in claims:
        assert step(shared, old, ended=1, outcome="done", finish=True) is None
    assert shared.one("SELECT count(*) FROM lastly.cleanups WHERE state = 'done'") == 0
