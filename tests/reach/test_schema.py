"""The shared journal's functions and roles, statement by statement, against a real PostgreSQL."""

from __future__ import annotations

import json

import pytest
from sharing import (
    KNOWN,
    Shared,
    claim,
    flush,
    join,
    judge,
    needs_server,
    plan,
    psycopg,
    silence,
    step,
    steps,
)

from lastly._journal.shared_url import SharedUrl
from lastly._reach.migrate import migrate

pytestmark = [needs_server, pytest.mark.xdist_group("reach-schema")]

def states(shared: Shared) -> list[tuple[int, str, int]]:
    return [tuple(row) for row in shared.all("SELECT id, state, attempts FROM lastly.cleanups ORDER BY owner, id")]


def test_a_second_migration_does_nothing(shared: Shared) -> None:
    assert migrate(SharedUrl(shared.url("postgres")), plan=True) == []
    assert migrate(SharedUrl(shared.url("postgres"))) == []


def test_a_plan_is_a_row_once_and_words_change_it(shared: Shared) -> None:
    epoch = join(shared)
    assert flush(shared, epoch, [plan(), plan(number=2)])
    assert flush(shared, epoch, [plan()])  # its acknowledgement was lost: sent again
    assert states(shared) == [(1, "planned", 0), (2, "planned", 0)]
    assert flush(shared, epoch, [], [{"journal": plan()["journal"], "id": 1, "known": {"ip": "192.0.2.1"}}])
    assert states(shared)[0] == (1, "active", 0)
    assert flush(shared, epoch, [], [{"journal": plan()["journal"], "id": 1, "state": "done"}])
    assert flush(shared, epoch, [], [{"journal": plan()["journal"], "id": 1, "state": "failed"}])  # a last word stays
    assert states(shared)[0] == (1, "done", 0)
    assert shared.one("SELECT known FROM lastly.cleanups WHERE id = 1") == {"ip": "192.0.2.1"}


def test_the_end_of_a_journal_releases_what_it_still_said(shared: Shared) -> None:
    epoch = join(shared)
    flush(shared, epoch, [plan(), plan(number=2)], [{"journal": plan()["journal"], "id": 1, "state": "done"}])
    flush(shared, epoch, [], [{"journal": plan()["journal"], "id": 0, "state": "ended"}])
    assert states(shared) == [(1, "done", 0), (2, "released", 0)]
    assert shared.one("SELECT lastly.leave(%s)", epoch, user="web1") is True


def test_who_owes_something_cannot_leave(shared: Shared) -> None:
    epoch = join(shared)
    flush(shared, epoch, [plan()])
    assert shared.one("SELECT lastly.leave(%s)", epoch, user="web1") is False
    assert flush(shared, epoch)


def test_a_judged_host_plans_nothing_more(shared: Shared) -> None:
    """I14: red without the epoch in `flush`."""
    epoch = join(shared)
    flush(shared, epoch, [plan()])
    [owner] = judge(shared, epoch)
    assert flush(shared, epoch, [plan(number=2)]) is False
    assert states(shared) == [(1, "planned", 0)]
    assert shared.one("SELECT state FROM lastly.owners WHERE owner = %s", owner) == "orphan"


@pytest.mark.parametrize("why", ["beats", "has just beaten", "was judged"])
def test_a_host_is_not_judged(shared: Shared, why: str) -> None:
    epoch = join(shared)
    flush(shared, epoch, [plan()])
    beat = silence(shared, epoch)
    if why == "beats":  # between the judge's look and its verdict
        flush(shared, epoch)
        silence(shared, epoch)
    elif why == "has just beaten":
        flush(shared, epoch)
        beat += 1
    else:
        judge(shared, epoch)
    with shared.as_("hand1") as worker:
        assert worker.execute("SELECT * FROM lastly.judge(%s, %s)", [epoch, beat]).fetchall() == []


def test_a_host_that_returns_takes_back_what_nobody_claimed(shared: Shared) -> None:
    epoch = join(shared)
    flush(shared, epoch, [plan("h-b/1.j"), plan("h-b/2.j")])
    one, _two = judge(shared, epoch)
    claim(shared, one)
    again = join(shared)
    sql = "SELECT journal, lost, cleanups FROM lastly.reclaim(%s, %s) ORDER BY journal"
    with shared.as_("web1") as host:
        found = host.execute(sql, [again, ["h-b/1.j", "h-b/2.j"]]).fetchall()
    assert [(journal, lost) for journal, lost, _ in found] == [("h-b/1.j", True), ("h-b/2.j", False)]
    assert found[0][2] == [{"id": 1, "state": "running", "by": "w"}]
    assert flush(shared, again, [plan("h-b/1.j", 2)])  # a row of the new lease
    assert shared.one("SELECT count(*) FROM lastly.owners WHERE epoch = %s", again) == 2


def test_owners_run_by_phase_then_newest_first(shared: Shared) -> None:
    epoch = join(shared)
    flush(shared, epoch, [plan(number=1, phase=1), plan(number=2), plan(number=3), plan(number=4, action="shop:other")])
    [owner] = judge(shared, epoch)
    got = claim(shared, owner)
    assert [cleanup["id"] for cleanup in got["cleanups"]] == [3, 2, 1]
    assert states(shared)[2] == (3, "running", 1)  # the first one is begun, in the same trip
    assert claim(shared, owner, by="another") is None
    assert step(shared, got, ended=3, outcome="done", begin=2) == {"state": "held"}
    assert step(shared, got, ended=2, outcome="done", begin=1) == {"state": "held"}
    left = step(shared, got, ended=1, outcome="done", finish=True)
    assert left["state"] == "orphan"
    assert states(shared)[3] == (4, "planned", 0)  # unknown is not failed: no attempt
    with shared.as_("eye") as reader:
        told = reader.execute("SELECT id, blocked FROM lastly.cleanup_list WHERE blocked IS NOT NULL").fetchall()
    assert told == [(4, "no worker knows shop:other")]


def test_a_worker_that_lost_its_claim_changes_nothing(shared: Shared) -> None:
    """I15: red without the claim in `step`."""
    epoch = join(shared)
    flush(shared, epoch, [plan(), plan(number=2)])
    [owner] = judge(shared, epoch)
    frozen = claim(shared, owner, secs=-1)  # over at once
    other = claim(shared, owner, by="other")
    assert other is not None
    assert other["claim"] > frozen["claim"]
    assert step(shared, frozen, ended=2, outcome="done", begin=1) is None
    assert states(shared) == [(1, "running", 1), (2, "failed", 1)]  # 2: begun under the lost claim, an attempt
    assert step(shared, other, ended=1, outcome="done", finish=True)["state"] == "orphan"


def test_many_owners_step_in_one_trip_each_under_its_own_claim(shared: Shared) -> None:
    """I15: red when one claim, or one look at the claims, serves for all."""
    epoch = join(shared)
    flush(shared, epoch, [plan(f"h-b/{owner}.j", number) for owner in range(4) for number in (1, 2)])
    held = [claim(shared, owner, secs=-1 if owner == 2 else 60.0) for owner in judge(shared, epoch)]
    other = claim(shared, held[1]["owner"], by="other")
    said = [{"owner": got["owner"], "claim": got["claim"], "ended": 2, "outcome": "done", "begin": 1} for got in held]
    said[2] |= {"outcome": "failed", "error": "no", "begin": None, "finish": True}
    said[3] |= {"begin": 7}  # which a person has forgotten
    before, *answers = states(shared), *steps(shared, *said)
    assert [answer and answer["state"] for answer in answers] == ["held", None, "orphan", "skip"]
    after = states(shared)
    assert after[:2] == [(1, "running", 1), (2, "done", 1)]
    assert after[2:4] == before[2:4] == [(1, "running", 1), (2, "failed", 1)]
    assert after[4:] == [(1, "planned", 0), (2, "failed", 1), (1, "planned", 0), (2, "done", 1)]
    assert steps(shared) == []
    assert step(shared, other, ended=1, outcome="done", finish=True)["state"] == "orphan"


def test_an_attempt_that_fails_is_repeated_then_given_up(shared: Shared) -> None:
    epoch = join(shared)
    flush(shared, epoch, [plan(retries=1, backoff=0)])
    [owner] = judge(shared, epoch)
    for attempt, state in ((1, "orphan"), (2, "settled")):
        got = claim(shared, owner)
        assert got["cleanups"][0]["attempts"] == attempt - 1
        assert step(shared, got, ended=1, outcome="failed", error="no", finish=True)["state"] == state
    assert states(shared) == [(1, "abandoned", 2)]
    assert shared.one("SELECT lastly.retry(%s, 1)", owner, user="boss") is True
    assert claim(shared, owner) is not None


def test_something_else_is_there_ends_it_at_once(shared: Shared) -> None:
    epoch = join(shared)
    flush(shared, epoch, [plan()])
    [owner] = judge(shared, epoch)
    step(shared, claim(shared, owner), ended=1, outcome="abandoned", error="not ours", finish=True)
    assert states(shared) == [(1, "abandoned", 1)]
    assert shared.one("SELECT lastly.forget(%s, 1)", owner, user="boss") is True
    assert shared.one("SELECT reason FROM lastly.cleanups") == "forgotten by boss"


def test_due_owners_are_claimed_once_and_only_by_who_knows(shared: Shared) -> None:
    epoch = join(shared)
    flush(shared, epoch, [plan(f"h-b/{n}.j") for n in range(5)] + [plan("h-b/x.j", action="shop:other")])
    judge(shared, epoch)
    with shared.as_("hand1") as one, shared.as_("hand1") as two:
        sql = "SELECT lastly.claim_due('shop', %s, 60, %s, %s)"
        first = one.execute(sql, ["one", KNOWN, 3]).fetchall()
        second = two.execute(sql, ["two", KNOWN, 10]).fetchall()
    assert (len(first), len(second)) == (3, 2)
    assert len({got["owner"] for (got,) in first + second}) == 5


def test_what_lives_under_a_dead_host_is_found(shared: Shared) -> None:
    epoch = join(shared)
    flush(shared, epoch, [plan()])
    shared.all("UPDATE lastly.hosts SET state = 'dead' RETURNING 1")
    with shared.as_("hand1") as worker:
        assert len(worker.execute("SELECT * FROM lastly.reconcile()").fetchall()) == 1


def test_settled_owners_go_abandoned_ones_stay(shared: Shared) -> None:
    epoch = join(shared)
    flush(shared, epoch, [plan("h-b/1.j"), plan("h-b/2.j")])
    one, two = judge(shared, epoch)
    step(shared, claim(shared, one), ended=1, outcome="done", finish=True)
    step(shared, claim(shared, two), ended=1, outcome="abandoned", error="no", finish=True)
    assert shared.one("SELECT lastly.tidy(1, 1000)", user="hand1") == 0
    shared.all("UPDATE lastly.owners SET settled = settled - interval '2 days' RETURNING 1")
    assert shared.one("SELECT lastly.tidy(1, 1000)", user="hand1") == 1
    assert states(shared) == [(1, "abandoned", 1)]


def test_a_drained_host_takes_no_new_plans(shared: Shared) -> None:
    """What it has stays its own: it is reported, told again after a reconnection, and confirmed a second time."""
    epoch = join(shared)
    flush(shared, epoch, [plan()])
    assert shared.one("SELECT lastly.drain('host', true)", user="boss") is True
    assert shared.one("SELECT lastly.drain('host', true)", user="boss") is False
    with pytest.raises(psycopg.errors.IntegrityError, match="this host is drained"):
        flush(shared, epoch, [plan(number=2)])
    assert flush(shared, epoch, [plan()])  # its acknowledgement was lost
    again = shared.one("SELECT lastly.flush(%s, %s, '[]', true)", epoch, json.dumps([plan(number=3)]), user="web1")
    assert again is True  # owed already, and the server had lost it
    assert flush(shared, epoch, [], [{"journal": plan()["journal"], "id": 1, "state": "done"}])
    assert states(shared) == [(1, "done", 0), (3, "planned", 0)]
    assert shared.one("SELECT drained FROM lastly.host_list") is True
    assert shared.one("SELECT lastly.drain('host', false)", user="boss") is True
    assert flush(shared, epoch, [plan(number=2)])


def test_a_queue_may_be_for_some_logins_alone(shared: Shared) -> None:
    """Others neither plan into it, nor run, see, retry or forget what is in it."""
    epoch = join(shared)
    flush(shared, epoch, [plan()])
    [owner] = judge(shared, epoch)
    with shared.as_("boss") as admin:
        admin.execute("INSERT INTO lastly.queue_logins VALUES ('shop', 'web2'), ('shop', 'lastly_reader')")
    with pytest.raises(psycopg.errors.IntegrityError, match="queue shop is not for the login web1"):
        flush(shared, join(shared), [plan("h-b/2.j")])
    assert flush(shared, join(shared, "web2"), [plan("h-b/3.j")], user="web2")
    assert claim(shared, owner) is None
    with shared.as_("hand1") as worker:
        due = "SELECT * FROM lastly.claim_due('shop', 'w', 60, %s, 9)"
        assert worker.execute(due, [KNOWN]).fetchall() == []
        for seen in ("cleanup_list", "owners"):
            assert worker.execute(f"SELECT * FROM lastly.{seen}").fetchall() == []
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="queue shop is not for the login hand1"):
            worker.execute("SELECT lastly.worker_seen('w', 'shop', '{}', '')")
    for change in ("retry", "forget"):
        assert shared.one(f"SELECT lastly.{change}(%s, 1)", owner, user="boss") is False
    assert shared.one("SELECT count(*) FROM lastly.cleanup_list", user="eye") == 2  # by its role
    shared.do("INSERT INTO lastly.queue_logins VALUES ('shop', 'hand1')")
    assert claim(shared, owner) is not None


def test_a_worker_of_one_version_leaves_the_others(shared: Shared) -> None:
    epoch = join(shared)
    flush(shared, epoch, [plan("h-b/1.j", about={"version": "1"}), plan("h-b/2.j", about={"version": "2"}), plan("h-b/3.j")])
    judge(shared, epoch)
    sql = "SELECT lastly.claim_due('shop', 'w', 60, %s, 9, %s)"
    with shared.as_("hand1") as worker:
        [(got,)] = worker.execute(sql, [KNOWN, "2"]).fetchall()
        assert got["journal"] == "h-b/2.j"
        worker.execute("SELECT lastly.worker_seen('w', 'shop', %s, '2', false, true)", [KNOWN])
        blocked = worker.execute("SELECT journal FROM lastly.cleanup_list WHERE blocked IS NOT NULL ORDER BY 1").fetchall()
        assert blocked == [("h-b/1.j",), ("h-b/3.j",)]
        assert len(worker.execute(sql, [KNOWN, None]).fetchall()) == 2


def test_what_relays_measure_is_a_metric(shared: Shared) -> None:
    for number, seconds in enumerate((0.001, 0.003), 1):
        told = json.dumps({"flush_seconds": seconds, "flush_batch": number, "relay_lag_seconds": 0})
        shared.one("SELECT lastly.flush(%s, '[]', '[]', false, %s)", join(shared), told, user="web1")
    rows = shared.all("SELECT name, labels ->> 'quantile', value FROM lastly.metrics WHERE labels ? 'quantile'")
    found = {(name, quantile): value for name, quantile, value in rows}
    assert found["flush_seconds", "0.5"] == pytest.approx(0.002)
    assert (found["flush_batch", "1"], found["relay_lag_seconds", "1"]) == (2, 0)


# -- who may do what


FORBIDDEN = {
    "web1": (
        "SELECT * FROM lastly.cleanups", "SELECT * FROM lastly.hosts", "SELECT * FROM lastly.cleanup_list",
        "INSERT INTO lastly.hosts (name, boot, login, ttl) VALUES ('a', 'b', 'c', 30)",
        "SELECT lastly.drain('host', true)", "SELECT * FROM lastly.queue_logins", "SELECT lastly.once('lastly.claims')",
        "SELECT lastly.check_plans('h', 1, '[]')", "UPDATE lastly.hosts SET beat = 0", "DELETE FROM lastly.owners", "SELECT nextval('lastly.claims')",
        "SELECT lastly.judge(1, 0)", "SELECT lastly.judge_host(1)", "SELECT lastly.orphan(1)",
        "SELECT lastly.claim(1, 'me', 60, '{}')", "SELECT lastly.claim_due('shop', 'me', 60, '{}', 1)",
        "SELECT lastly.steps(60, '[]')", "SELECT lastly.retry(1, 1)", "SELECT lastly.forget(1, 1)",
        "SELECT lastly.reconcile()", "SELECT lastly.tidy(0, 1)", "SELECT lastly.worker_seen('a', 'b', '{}', '')",
        "SELECT * FROM lastly_queue.procrastinate_jobs", "CREATE TABLE lastly.mine (a int)",
    ),
    "hand1": (
        "INSERT INTO lastly.cleanups (owner, id, action, args, kwargs) VALUES (1, 9, 'os:system', '[]', '{}')",
        "UPDATE lastly.cleanups SET action = 'os:system'", "UPDATE lastly.cleanups SET args = '[\"rm -rf /\"]'",
        "SELECT * FROM lastly.cleanups", "SELECT * FROM lastly.events", "SELECT lastly.drain('host', true)",
        "INSERT INTO lastly.queue_logins VALUES ('shop', 'hand1')",
        "DELETE FROM lastly.cleanups", "UPDATE lastly.owners SET claim = 99", "UPDATE lastly.hosts SET state = 'dead'",
        "SELECT nextval('lastly.claims')", "SELECT lastly.flush(1)", "SELECT lastly.join_host('a', 'b', 30)",
        "SELECT lastly.reclaim(1, '{}')", "SELECT lastly.leave(1)", "SELECT lastly.orphan(1)", "SELECT lastly.finish(1)",
        "SELECT lastly.step(1, 1, 60, NULL, NULL, NULL, NULL, true)",
        "SELECT lastly.failed(1, 1, 'no', 'me')", "SELECT lastly.judge_host(1)", "SELECT lastly.forget(1, 1)",
        "SELECT lastly.retry(1, 1)", "DROP SCHEMA lastly CASCADE",
    ),
    "boss": ("UPDATE lastly.cleanups SET action = 'os:system'", "SELECT lastly.flush(1)", "SELECT lastly.claim(1, 'me', 60, '{}')"),
    "eye": (
        "SELECT * FROM lastly.cleanups", "SELECT lastly.forget(1, 1)", "SELECT lastly.retry(1, 1)",
        "SELECT lastly.claim(1, 'me', 60, '{}')", "SELECT lastly.flush(1)",
    ),
    "nobody1": ("SELECT * FROM lastly.versions()", "SELECT * FROM lastly.hosts", "SELECT lastly.flush(1)"),
}  # fmt: skip


RIGHTS = {
    "lastly_host": "join_host flush leave reclaim served who_serves versions",
    "lastly_worker": "judge claim claim_due steps worker_seen reconcile tidy owed may who_serves versions",
    "lastly_admin": "judge_host drain retry forget owed may who_serves versions",
    "lastly_reader": "owed may who_serves versions",
}
VIEWS = {"host_list", "cleanup_list", "event_list", "metrics"}
TABLES = {
    "lastly_host": set(),
    "lastly_worker": {(name, "SELECT") for name in {*VIEWS, "version", "hosts", "owners", "workers"}},
    "lastly_admin": {(name, "SELECT") for name in VIEWS} | {("queue_logins", what) for what in ("SELECT", "INSERT", "DELETE")},
    "lastly_reader": {(name, "SELECT") for name in VIEWS},
}  # fmt: skip


@pytest.mark.parametrize("role", RIGHTS)
def test_what_a_role_may_do_is_this_and_nothing_more(shared: Shared, role: str) -> None:
    """Every function, table and column: what is added stands here, or the test fails. And nobody else may anything."""
    functions = "SELECT routine_name FROM information_schema.routine_privileges WHERE routine_schema = 'lastly' AND grantee = %s"
    assert {name for (name,) in shared.all(functions, role)} == set(RIGHTS[role].split())
    tables = "SELECT table_name, privilege_type FROM information_schema.table_privileges WHERE table_schema = 'lastly' AND grantee = %s"
    assert set(shared.all(tables, role)) == TABLES[role]
    assert shared.all(functions, "PUBLIC") + shared.all(tables, "PUBLIC") == []


@pytest.mark.parametrize(
    ("user", "statements"),
    {
        "web1": ("SELECT lastly.join_host('a', 'b', 30)", "SELECT lastly.flush(1)", "SELECT lastly.leave(1)",
                 "SELECT lastly.reclaim(1, '{}')", "SELECT lastly.served('q')", "SELECT lastly.who_serves('q')"),
        "hand1": ("SELECT lastly.judge(1, 0)", "SELECT lastly.claim(1, 'me', 60, '{}')", "SELECT lastly.steps(60, '[]')",
                  "SELECT lastly.claim_due('shop', 'me', 60, '{}', 1)", "SELECT lastly.reconcile()", "SELECT lastly.tidy(9, 1)",
                  "SELECT lastly.worker_seen('a', 'b', '{}', '')", "TABLE lastly.hosts", "TABLE lastly.owners", "TABLE lastly.cleanup_list"),
        "boss": ("SELECT lastly.judge_host(9)", "SELECT lastly.retry(9, 1)", "SELECT lastly.forget(9, 1)", "SELECT lastly.drain('h', true)",
                 "INSERT INTO lastly.queue_logins VALUES ('q', 'web1')", "DELETE FROM lastly.queue_logins", "TABLE lastly.host_list"),
        "eye": ("TABLE lastly.host_list", "TABLE lastly.cleanup_list", "TABLE lastly.event_list", "TABLE lastly.metrics"),
    }.items(),
)  # fmt: skip
def test_a_role_can_do_its_work(shared: Shared, user: str, statements: tuple[str, ...]) -> None:
    flush(shared, join(shared), [plan()])
    connection = shared.as_(user)
    for statement in statements:
        connection.execute(statement)


@pytest.mark.parametrize("user", FORBIDDEN)
def test_what_a_role_may_not_do(shared: Shared, user: str) -> None:
    """I17: a host acts through its functions alone; a worker changes no action and no argument."""
    epoch = join(shared)
    flush(shared, epoch, [plan()])
    connection = shared.as_(user)
    for statement in FORBIDDEN[user]:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)
    assert states(shared) == [(1, "planned", 0)]


def test_another_hosts_lease_and_words_are_not_a_hosts_own(shared: Shared) -> None:
    epoch, other = join(shared), join(shared, "web2")
    flush(shared, epoch, [plan()])
    done = [{"journal": plan()["journal"], "id": 1, "state": "done"}]
    assert flush(shared, epoch, [plan(number=2)], done, user="web2") is False  # under its lease
    assert flush(shared, other, [], done, user="web2") is True  # under one's own it means nobody's
    assert shared.one("SELECT lastly.leave(%s)", epoch, user="web2") is False
    with shared.as_("web2") as host:
        assert host.execute("SELECT * FROM lastly.reclaim(%s, %s)", [other, [plan()["journal"]]]).fetchall() == []
        assert host.execute("SELECT * FROM lastly.reclaim(%s, %s)", [epoch, [plan()["journal"]]]).fetchall() == []
    assert states(shared) == [(1, "planned", 0)]


def test_a_forged_claim_is_nobodys(shared: Shared) -> None:
    epoch = join(shared)
    flush(shared, epoch, [plan()])
    [owner] = judge(shared, epoch)
    got = claim(shared, owner)
    for forged in (0, got["claim"] - 1, got["claim"] + 1, 10**12):
        assert step(shared, {**got, "claim": forged}, ended=1, outcome="done", finish=True) is None
    assert states(shared) == [(1, "running", 1)]


@pytest.mark.parametrize("action", ["os", "../os:system", "a b:c", "a:b;c", "", "x" * 300 + ":y"])
def test_a_name_that_is_none_is_refused(shared: Shared, action: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        flush(shared, join(shared), [plan(action=action)])


def test_too_large_arguments_are_refused(shared: Shared) -> None:
    import os

    with pytest.raises(psycopg.errors.CheckViolation):
        flush(shared, join(shared), [plan(args=[os.urandom(70_000).hex()])])


def test_a_cut_is_one_although_its_hosts_beat_at_different_moments() -> None:
    """Red when only those count that are dead at the same look: they would be judged one after the other."""
    from lastly._reach.judge import Judge

    now = 0.0
    judge = Judge(lambda: now)
    judged: set[int] = set()
    for tick in range(200):
        now = tick * 0.25
        # a host beats each second, in its own quarter of it; 40 of 100 fall silent at 10 s
        rows = [
            (host, int((10 if host < 40 and now > 10 else now) + host % 4 / 4), 6.0) for host in range(100)
        ]  # fmt: skip
        judged |= {epoch for epoch, _beat in judge.silent(rows, now)}
    assert judged == set()
    assert judge.open == "40 of 100 hosts are silent at once: nobody is judged"
