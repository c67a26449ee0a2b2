"""What people see and do: hosts, ls, why, retry, forget; and one clear line for all that is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Programs, wait_until
from sharing import LONG, RENT, Cloud, Shared, claim, flush, join, judge, needs_server, plan, step

pytestmark = [needs_server, pytest.mark.xdist_group("reach-commands")]


def said(programs: Programs, shared: Shared, *words: str, user: str = "boss") -> Any:
    result = programs.run_command(["lastly", *words], env={"LASTLY_JOURNAL": shared.url(user)}, within=LONG)
    assert result.status == 0, result.err
    return json.loads(result.out) if "--json" in words else result.out


@pytest.fixture
def dead(shared: Shared) -> int:
    """The owner of a dead host, which owes two things; the second was given up."""
    epoch = join(shared)
    flush(shared, epoch, [plan(number=1), plan(number=2, retries=0)])
    [owner] = judge(shared, epoch)
    got = claim(shared, owner)
    step(shared, got, ended=2, outcome="failed", error="no route", finish=True)
    return owner


def test_hosts_and_what_they_owe(programs: Programs, shared: Shared, dead: int) -> None:
    alive = join(shared, "web2")
    [one, two] = said(programs, shared, "hosts", "--json")["hosts"]
    assert [(host["state"], host["owed"]) for host in (one, two)] == [("dead", 1), ("alive", 0)]
    assert "dead" in said(programs, shared, "hosts")
    assert said(programs, shared, "hosts", "--judge", str(alive), "--json")["owners"] == 0
    assert shared.one("SELECT state FROM lastly.hosts WHERE epoch = %s", alive) == "dead"


def test_a_host_is_judged_by_its_name_where_there_is_one_of_it(programs: Programs, shared: Shared) -> None:
    for _ in range(2):
        join(shared)
    env: dict[str, str | None] = {"LASTLY_JOURNAL": shared.url("boss")}
    result = programs.run_command(["lastly", "hosts", "--judge", "host"], env=env, within=LONG)
    assert (result.status, "2 living hosts are called 'host'" in result.err) == (1, True), result.err
    judge(shared, 1)
    assert said(programs, shared, "hosts", "--judge", "host", "--json")["judged"] == 2


def test_a_host_is_drained(programs: Programs, shared: Shared, cloud: Cloud) -> None:
    """What it has stays until its program ends; what is new is refused before it exists."""
    code = RENT.replace("for name in sys.argv[1:]:", "for name in map(str.strip, iter(sys.stdin.readline, '')):")
    code = code.replace("    cloud.rent(name)", "    cloud.rent(name)\n    print('rented', flush=True)")
    env: dict[str, str | None] = {**cloud.env, "LASTLY_JOURNAL": shared.url(wait=20)}
    program = programs.start(code, env=env, stdin=-1)
    program.write("vm-1\n")
    program.line("rented", within=LONG)
    name = os.uname().nodename
    assert "takes no new plans; it still owes 1 cleanup" in said(programs, shared, "hosts", "--drain", name)
    assert "alive, drained" in said(programs, shared, "hosts")
    program.write("vm-2\n")
    assert program.wait(within=LONG).status == 1
    assert f"this host is drained: use another, or run `lastly hosts --undrain {name}`" in program.err
    assert cloud.left == []
    assert cloud.runs == ["vm-1"]
    said(programs, shared, "hosts", "--undrain", name)
    program = programs.start(RENT, "vm-3", env=env, stdin=-1)
    program.line("ready", within=LONG)


def test_what_a_worker_would_run(programs: Programs, shared: Shared, cloud: Cloud) -> None:
    """Nothing is run, claimed or registered."""
    epoch = join(shared)
    flush(shared, epoch, [plan(number=1, action="cloud:destroy"), plan("h-b/2.j", about={"version": "2"}, action="cloud:destroy"), plan("h-b/3.j")])
    judge(shared, epoch)
    before = shared.all("SELECT * FROM lastly.owners ORDER BY owner")

    def run(*words: str, **env: str) -> Any:
        done = programs.run_command(
            ["lastly", "worker", "--actions", "cloud", "--queue", "shop", "--dry-run", "--json", *words],
            env={**cloud.env, "LASTLY_JOURNAL": shared.url("hand1"), **env}, within=LONG,
        )  # fmt: skip
        assert done.status == 0, done.err
        return [item["served"] for item in json.loads(done.out)["cleanups"]]

    assert run() == [True, True, False]
    assert run("--same-version", LASTLY_VERSION="2") == [False, True, False]
    assert shared.all("SELECT * FROM lastly.owners ORDER BY owner") == before
    assert shared.one("SELECT count(*) FROM lastly.workers") == 0
    shown = programs.run_command(
        ["lastly", "worker", "--actions", "cloud", "--queue", "shop", "--dry-run"],
        env={**cloud.env, "LASTLY_JOURNAL": shared.url("hand1")}, within=LONG,
    )  # fmt: skip
    assert shown.out.count("would run it") == 2


@pytest.mark.parametrize("engine", ["procrastinate", "sql"])
def test_a_worker_serves_its_own_version(programs: Programs, shared: Shared, cloud: Cloud, engine: str) -> None:
    epoch = join(shared)
    flush(shared, epoch, [plan(f"h-b/{n}.j", args=[f"vm-{n}"], about={"version": str(n)}, action="cloud:destroy") for n in (1, 2)])
    judge(shared, epoch)
    done = programs.run_command(
        ["lastly", "worker", "--actions", "cloud", "--queue", "shop", "--once", "--same-version", "--engine", engine],
        env={**cloud.env, "LASTLY_JOURNAL": shared.url("hand1"), "LASTLY_VERSION": "2"}, within=LONG,
    )  # fmt: skip
    assert (done.status, cloud.runs) == (0, ["vm-2"]), done.err


def test_ls_of_all_hosts(programs: Programs, shared: Shared, dead: int) -> None:
    found = said(programs, shared, "ls", "--all-hosts", "--json", user="eye")["cleanups"]
    assert [(item["ref"], item["state"]) for item in found] == [(f"s{dead}.2", "abandoned"), (f"s{dead}.1", "planned")]
    assert found[1]["blocked"] == "no worker knows shop.cloud:destroy_vm"
    assert found[1]["what"] == "destroy_vm vm-1"
    shown = said(programs, shared, "ls", "--all-hosts")
    assert "no worker knows shop.cloud:destroy_vm" in shown
    assert "gave up after attempt 1: no route" in shown
    assert said(programs, shared, "ls", "--all-hosts", "--queue", "other") == "nothing is owed anywhere\n"
    assert len(said(programs, shared, "ls", "--all-hosts", "--abandoned", "--json")["cleanups"]) == 1


def test_why_retry_and_forget(programs: Programs, shared: Shared, dead: int) -> None:
    about = said(programs, shared, "why", f"s{dead}.2", "--json")["cleanup"]
    assert about["state"] == "abandoned"
    assert [event["what"] for event in about["events"]] == ["claimed", "abandoned"]
    assert "no route" in said(programs, shared, "why", f"s{dead}.2")
    said(programs, shared, "retry", f"s{dead}.2")
    assert shared.one("SELECT state FROM lastly.cleanups WHERE id = 2") == "failed"
    said(programs, shared, "forget", "--yes", f"s{dead}.2")
    assert shared.one("SELECT reason FROM lastly.cleanups WHERE id = 2") == "forgotten by boss"


@pytest.mark.parametrize(
    ("words", "user", "text"),
    [
        (("why", "s99.1"), "boss", "no cleanup 's99.1'"),
        (("retry", "s99.1"), "boss", "no cleanup 's99.1'"),
        (("hosts", "--judge", "99"), "boss", "no living host '99'"),
        (("hosts",), "web1", "permission denied"),
        (("ls", "--all-hosts"), "nobody1", "permission denied"),
        (("worker", "--actions", "cloud"), "web1", "permission denied"),
        (("worker", "--actions", "no_such_module"), "hand1", "No module named 'no_such_module'"),
        (("worker", "--actions", "os.path"), "hand1", "os.path has no action with remote=True"),
        (("worker",), "hand1", "no actions to serve"),
        (("hosts", "--journal", "postgresql://web1:s3cr3t@/x?sslmod=on"), "boss", 'invalid URI query parameter: "sslmod"'),
        (("worker", "--actions", "cloud", "--same-version"), "hand1", "set LASTLY_VERSION"),
        (("hosts", "--drain", "web1"), "web1", "permission denied"),
    ],
)  # fmt: skip
@pytest.mark.slow(keep=4)
def test_one_line_says_what_is_wrong(
    programs: Programs, shared: Shared, cloud: Cloud, words: tuple[str, ...], user: str, text: str
) -> None:
    env: dict[str, str | None] = {**cloud.env, "LASTLY_JOURNAL": shared.url(user)}
    result = programs.run_command(["lastly", *words], env=env, within=LONG)
    assert result.status == 1
    last = result.err.splitlines()[-1]
    assert last.startswith("lastly: ")
    assert text in last


def test_what_a_living_host_owes_is_settled_there(programs: Programs, shared: Shared) -> None:
    flush(shared, join(shared), [plan()])
    owner = shared.one("SELECT owner FROM lastly.owners")
    env: dict[str, str | None] = {"LASTLY_JOURNAL": shared.url("boss")}
    for command in (("retry",), ("forget", "--yes")):
        result = programs.run_command(["lastly", *command, f"s{owner}.1"], env=env, within=LONG)
        assert result.status == 1
        assert "its host host lives, and settles it there" in result.err


@pytest.mark.parametrize("fails", [False, True])
def test_a_worker_runs_an_async_action_to_its_end(programs: Programs, shared: Shared, cloud: Cloud, fails: bool) -> None:
    (cloud.folder / "waiting.py").write_text(
        "import asyncio, cloud, lastly\n"
        "@lastly.action(remote=True, retries=0)\n"
        "async def destroy(name, fails):\n"
        "    await asyncio.sleep(0)\n    cloud.give_back(name)\n    await asyncio.sleep(0)\n"
        "    if fails: raise OSError('no route')\n"
    )
    flush(shared, epoch := join(shared), [plan(action="waiting:destroy", args=["vm-1", fails], retries=0)])
    judge(shared, epoch)
    done = programs.run_command(
        ["lastly", "worker", "--actions", "waiting", "--queue", "shop", "--once", "--engine", "sql"],
        env={**cloud.env, "LASTLY_JOURNAL": shared.url("hand1")}, within=LONG,
    )  # fmt: skip
    assert (done.status, cloud.runs) == (int(fails), ["vm-1"]), done.err
    assert shared.all("SELECT state, error FROM lastly.cleanups") == [("abandoned", "OSError: no route") if fails else ("done", None)]


def test_migrate_says_what_it_does(programs: Programs, shared: Shared) -> None:
    admin = shared.url("postgres")
    assert "nothing to do" in programs.run_command(["lastly", "journal", "migrate", admin]).out
    shared.do("DROP SCHEMA lastly CASCADE")
    plan = programs.run_command(["lastly", "journal", "migrate", admin, "--plan"])
    assert "CREATE TABLE lastly.hosts" in plan.out, plan.err
    assert shared.one("SELECT to_regclass('lastly.hosts')") is None
    done = programs.run_command(["lastly", "journal", "migrate", admin, "--json"])
    assert json.loads(done.out)["steps"] == ["schema 1"]
    result = programs.run_command(["lastly", "journal", "migrate", shared.url("web1").replace("web1", "nobody1")])
    assert result.status == 1
    assert "permission denied" in result.err


# -- before anything is created


def wrong(kind: str, shared: Shared) -> str:
    """An address with one mistake, or the right one after something happened to the database."""
    if kind == "no server":
        return f"postgresql://web1@/x?host={shared.server.folder}/nowhere"
    if kind == "no database":
        return shared.server.url("web1", "nowhere")
    if kind == "not migrated":
        shared.do("DROP SCHEMA lastly CASCADE")
    if kind == "newer":
        shared.do("UPDATE lastly.version SET schema = 99, oldest = 99")
    if kind == "older":
        shared.do("UPDATE lastly.version SET schema = 0, oldest = 0")
    return {
        "no parameter": shared.url(sslmod="verify-full"), "no role": shared.url("nobody1"), "no login": shared.url("stranger"), "not an address": "mysql://db/x",
        "odd ttl": shared.url(ttl="soon"), "odd policy": shared.url(on_unreachable="hope"),
    }.get(kind, shared.url())  # fmt: skip


WRONG = {
    "no server": "no answer from PostgreSQL|connection", "no database": "does not exist",
    "not migrated": "lastly journal migrate", "newer": "upgrade lastly here", "older": "lastly journal migrate",
    "no parameter": "invalid URI query parameter.*sslmod",
    "no role": "permission denied", "no login": "stranger", "not an address": "must begin with postgresql://",
    "odd ttl": "ttl= of the shared journal must be", "odd policy": "on_unreachable= of the shared journal must be",
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.slow(keep=4)
def test_nothing_is_created_that_nobody_else_sees(programs: Programs, shared: Shared, cloud: Cloud, kind: str) -> None:
    import re

    env: dict[str, str | None] = {**cloud.env, "LASTLY_JOURNAL": wrong(kind, shared)}
    result = programs.run(RENT, "vm-1", env=env, within=LONG)
    assert result.status == 1
    last = result.err.splitlines()[-1]
    assert "NotRecorded: cannot record a cleanup: " in last
    assert re.search(WRONG[kind], last)
    assert cloud.left == []
    left = programs.run_command(["lastly", "ls", "--json"])
    assert json.loads(left.out)["owners"] == []  # the local plan was released


def test_an_action_of_a_script_is_refused(programs: Programs, shared: Shared) -> None:
    code = """
    import lastly

    @lastly.action(remote=True)
    def undo():
        print("undone")

    lastly.defer(undo)
    """
    result = programs.run(code, env={"LASTLY_JOURNAL": shared.url()}, within=LONG)
    assert result.status == 1
    assert "TypeError: cannot defer undo() with a shared journal: it is in the script itself" in result.err
    allowed = programs.run(code, env={"LASTLY_JOURNAL": shared.url(scripts="allow", wait=20)}, within=LONG)
    assert (allowed.status, allowed.out) == (0, "undone\n"), allowed.err


def test_a_full_disk_comes_first(programs: Programs, shared: Shared, cloud: Cloud) -> None:
    code = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n" + RENT
    env: dict[str, str | None] = {**cloud.env, "LASTLY_JOURNAL": shared.url(wait=20)}
    result = programs.run(code, *(f"vm-{n}" for n in range(20)), env=env, within=LONG)
    assert "NotRecorded: cannot record a cleanup in " in result.err
    assert cloud.left == []
    wait_until(lambda: not shared.one("SELECT count(*) FROM lastly.cleanups WHERE lastly.owed(state)"), within=LONG)


# -- no password anywhere


@pytest.mark.slow
def test_a_password_is_seen_nowhere(programs: Programs, shared: Shared, cloud: Cloud) -> None:
    secret = "s3cr3t-7a1f"
    url = shared.url(wait=20).replace("web1@", f"web1:{secret}@")
    code = RENT.replace("for name", f"lastly.configure(journal={url!r})\nfor name")
    program = programs.start(code, "vm-1", env=cloud.env)
    program.line("ready", within=LONG)
    program.wait(within=LONG)
    for path in programs.home.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    relays = 0
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            told = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cmdline", "comm")]
        except OSError:
            continue
        relays += os.fsencode(str(programs.home)) in told[1] and told[2].startswith(b"lastly-relay")
        assert secret.encode() not in told[0] + told[1]
    assert relays == 1
    bad = programs.run(RENT, "vm-2", env={**cloud.env, "LASTLY_JOURNAL": url.replace(f"/{shared.name}?", "/nowhere?")}, within=LONG)
    assert "does not exist" in bad.err
    assert secret not in bad.err


@pytest.mark.parametrize("given", ["in a file", "wrong", "none"])
@pytest.mark.slow(keep=2)
def test_a_login_with_a_password(
    programs: Programs, cloud: Cloud, own_server: Callable[[], Shared], tmp_path: Path, given: str
) -> None:
    """A wrong one, or none: nothing is created, and one line says so. A file of libpq's serves the relay as well."""
    shared, secret = own_server(), "s3cr3t-7a1f"
    shared.do(f"ALTER ROLE web1 PASSWORD '{secret}'")
    shared.server.require_password("web1")
    file = tmp_path / "pgpass"
    file.write_text(f"*:*:*:web1:{secret}\n")
    file.chmod(0o600)
    url = shared.url(wait=20, passfile=file) if given == "in a file" else shared.url(wait=10)
    if given == "wrong":
        url = url.replace("web1@", "web1:f0rg0tten@")
    result = programs.run(RENT, "vm-1", env={**cloud.env, "LASTLY_JOURNAL": url}, within=LONG)
    if given == "in a file":
        assert (result.status, cloud.runs) == (0, ["vm-1"]), result.err
        return
    last = result.err.splitlines()[-1]
    assert "NotRecorded: cannot record a cleanup: shared journal postgresql://web1@" in last
    assert "password" in last
    assert "f0rg0tten" not in result.err
    assert cloud.left == []


@pytest.mark.slow
def test_the_doctor_says_whether_the_lease_holds(programs: Programs, shared: Shared, cloud: Cloud) -> None:
    env: dict[str, str | None] = {**cloud.env, "LASTLY_JOURNAL": shared.url(wait=20)}
    program = programs.start(RENT, "vm-1", env=env, stdin=-1)
    program.line("ready", within=LONG)

    def found() -> dict[str, Any]:
        result = programs.run_command(["lastly", "doctor", "--json"], env=env, within=LONG)
        return {one["name"]: one for one in json.loads(result.out)["findings"]}

    now = found()
    assert "lease 1 holds, 1 cleanups are shared" in now["shared_journal"]["what"]
    assert now["workers"]["what"].startswith("no worker serves queue 'default'")
    assert now["lease"]["level"] == "unprotected"
    for name, said in (("one:1:a", "on one machine"), ("two:1:a", "2 workers on 2 machines serve")):
        shared.one("SELECT lastly.worker_seen(%s, 'default', '{}', '')", name, user="hand1")
        assert said in found()["workers"]["what"]
    flush(shared, epoch := join(shared, "web2"), [plan(queue="default")], user="web2")
    judge(shared, epoch)
    assert found()["blocked"]["what"].startswith("1 cleanup of dead machines: no worker knows the action")
    shared.do("UPDATE lastly.hosts SET state = 'dead'; REVOKE EXECUTE ON FUNCTION lastly.join_host FROM lastly_host")
    wait_until(lambda: found()["shared_journal"]["level"] == "wrong", within=LONG)
    assert "permission denied" in found()["shared_journal"]["what"]
