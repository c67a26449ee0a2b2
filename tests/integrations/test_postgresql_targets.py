"""Which PostgreSQL server an undo means stands in the journal, whatever the environment says later. No server needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from harness import Programs

from lastly._reaper import desk

conninfo_to_dict = pytest.importorskip("psycopg.conninfo").conninfo_to_dict

NONE = dict.fromkeys(name for name in os.environ if name.startswith("PG"))
SERVICE = "# of the shop\n[shop]\nhost=db-of-shop\nport=5433\ndbname=shop\npassword=s3cr3t\n[other]\nhost=other\n"


def recorded(
    programs: Programs, conninfo: str = "", env: dict[str, str] | None = None, before: str = ""
) -> dict[str, Any]:
    """The arguments of each of the three undos, as the journal has them: all alike."""
    code = f"""
    import os, lastly
    from lastly.integrations import postgresql
    {before}
    for undo in (postgresql.drop_database, postgresql.drop_schema, postgresql.end_sessions):
        lastly.defer(undo, conninfo={conninfo!r})
    os.kill(os.getpid(), 9)
    """
    result = programs.run(code, env={**NONE, "LASTLY_REAPER": "later", **(env or {})})
    assert result.status == -9, result.err
    [owner] = desk.owners()
    told = [cleanup["kwargs"] for cleanup in owner["cleanups"]]
    assert len(told) == 3
    assert told[0] == told[1] == told[2]
    return dict(told[0])


def where(told: dict[str, Any]) -> dict[str, str]:
    found = conninfo_to_dict(told["conninfo"])
    return {name: found.get(name) for name in ("host", "port", "dbname", "user") if name in found}


def test_from_the_environment(programs: Programs, home: Path) -> None:
    env = {"PGHOST": "db-of-shop", "PGPORT": "5433", "PGDATABASE": "shop", "PGUSER": "clerk", "PGPASSWORD": "s3cr3t"}
    told = recorded(programs, env=env)
    assert where(told) == {"host": "db-of-shop", "port": "5433", "dbname": "shop", "user": "clerk"}
    assert "s3cr3t" not in str(told)


def test_what_is_given_counts_more(programs: Programs, home: Path) -> None:
    told = recorded(programs, "host=theirs user=me", env={"PGHOST": "db-of-shop", "PGUSER": "clerk"})
    assert where(told) == {"host": "theirs", "port": "5432", "dbname": "me", "user": "me"}


def test_an_address_is_not_mixed_with_the_environment_s_host(programs: Programs, home: Path) -> None:
    told = recorded(programs, "hostaddr=192.0.2.7", env={"PGHOST": "db-of-shop"})
    assert "db-of-shop" not in told["conninfo"]


@pytest.mark.parametrize("how", ["environment", "argument"])
@pytest.mark.parametrize("file", ["named", "home", "system"])
@pytest.mark.slow(keep=2)
def test_from_a_service(programs: Programs, home: Path, tmp_path: Path, how: str, file: str) -> None:
    (tmp_path / {"named": "x", "home": ".pg_service.conf", "system": "pg_service.conf"}[file]).write_text(SERVICE)
    env = {
        "named": {"PGSERVICEFILE": str(tmp_path / "x")},
        "home": {"HOME": str(tmp_path)},
        "system": {"PGSYSCONFDIR": str(tmp_path)},
    }[file]
    if how == "environment":
        env = {**env, "PGSERVICE": "shop"}
    told = recorded(programs, "service=shop user=me" if how == "argument" else "user=me", env=env)
    assert {**where(told), "user": ""} == {"host": "db-of-shop", "port": "5433", "dbname": "shop", "user": ""}
    assert "s3cr3t" not in str(told)


def test_the_local_server_of_this_machine(programs: Programs, home: Path) -> None:
    """Libpq's own folder of sockets: elsewhere it is another server's, and its undo says so."""
    told = recorded(programs)
    assert where(told)["host"].startswith("/")
    elsewhere = recorded_elsewhere(programs, "")
    assert "can only be reached from another machine" in elsewhere


@pytest.mark.parametrize("conninfo", ["host=localhost", "hostaddr=127.0.0.1", "host=/run/postgresql"])
@pytest.mark.slow(keep=2)
def test_a_local_server_is_not_looked_for_elsewhere(programs: Programs, home: Path, conninfo: str) -> None:
    assert "can only be reached from another machine" in recorded_elsewhere(programs, conninfo)


def recorded_elsewhere(programs: Programs, conninfo: str) -> str:
    """What an undo says on another machine than that where it was deferred."""
    code = f"""
    import lastly
    from lastly._system import identity
    from lastly.integrations import postgresql
    postgresql.machine = lambda: "cafebabe"
    scope = lastly.Scope("there")
    scope.defer(postgresql.drop_database, "shop", conninfo={conninfo!r})
    postgresql.machine = lambda: "deadbeef"
    try:
        scope.close()
    except lastly.CleanupFailed as error:
        print(error.exceptions[0])
    """
    result = programs.run(code, env={**NONE, "LASTLY_REAPER": "later"})
    return result.out
