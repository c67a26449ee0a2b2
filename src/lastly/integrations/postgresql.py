"""Databases, schemas and advisory locks on a PostgreSQL server, gone however the program ends.

Each is made through psycopg, in a session whose ``application_name`` is the plan's mark, and carries that
mark as its comment. So the undo can do without patience: it first ends every session under the mark, for the
server goes on with a statement whose client has died. When none is left, everything that will ever be there
is there, and is found by its comment.

**A name does not make it ours.** A database of the wanted name may belong to another program, and the program
may die between learning that and saying so. Hence a schema gets its comment in the transaction that creates
it; and a database, which cannot be created in one, gets a unique name, its comment, and then its own name.
"""

import os
from contextlib import suppress
from time import sleep

from lastly._action import Action
from lastly._durable import portable
from lastly._durable.configure import is_shared
from lastly._system.identity import machine
from lastly._words.clock import seconds
from lastly.errors import LastlyError
from lastly.integrations._rented.handle import Rented, at_least, planned, warn_of_secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Any

    import psycopg

    from lastly._action import AnyAction
    from lastly._scope.scope import Scope

    Connection = psycopg.Connection[tuple[Any, ...]]

__all__ = [
    "VARIABLES", "AdvisoryLock", "Database", "Schema", "advisory_lock", "database", "drop_database",
    "drop_schema", "end_sessions", "schema",
]  # fmt: skip
__dir__ = __all__.copy  # dir() shows what is public

# What the undo's process gets of the environment. None of them holds a password.
VARIABLES = (
    "KRB5CCNAME", "PGCHANNELBINDING", "PGCONNECT_TIMEOUT", "PGDATABASE", "PGGSSENCMODE", "PGGSSLIB", "PGHOST",
    "PGHOSTADDR", "PGKRBSRVNAME", "PGOPTIONS", "PGPASSFILE", "PGPORT", "PGREQUIREAUTH", "PGREQUIREPEER",
    "PGSERVICE", "PGSERVICEFILE", "PGSSLCERT", "PGSSLCRL", "PGSSLKEY", "PGSSLMODE", "PGSSLNEGOTIATION",
    "PGSSLROOTCERT", "PGSYSCONFDIR", "PGTARGETSESSIONATTRS", "PGUSER",
)  # fmt: skip

_UNDER = "SELECT set_config('application_name', %s, false)"  # a session says under which plan it works
_LONGEST = 2_147_483.0  # seconds: what the server can wait for a lock
_TARGET = ("host", "hostaddr", "port", "dbname", "user")
_SECRETS = ("password", "sslpassword", "oauth_client_secret")

# Of this process: what the journal must not hold, by the connection string that it holds; locks by token.
_secrets: "dict[str, dict[str, Any]]" = {}
_sessions: "dict[str, Connection]" = {}


class Database(Rented):
    """A database that is dropped however the program ends; made by `database`.

    .. versionadded:: 0.1
    """

    __slots__ = ()


class Schema(Rented):
    """A schema that is dropped with all in it however the program ends; made by `schema`.

    .. versionadded:: 0.1
    """

    __slots__ = ()


class AdvisoryLock(Rented):
    """An advisory lock, released however the program ends; made by `advisory_lock`.

    Attributes:
        connection: the session that holds it. When this breaks, the lock is lost.

    .. versionadded:: 0.1
    """

    __slots__ = ("connection",)

    connection: "Connection"


# ---- creating


def database(
    name: str | None = None, *, conninfo: str = "", template: str | None = None, scope: "Scope | None" = None
) -> Database:
    """Create a database, which is dropped however the program ends, even while clients are connected to it.

    Args:
        name: of the database; default: ``lastly_`` and the plan's token.
        conninfo: where the server is, as for libpq, with the database to be connected to meanwhile; what it
            does not say is taken from the environment (``PGHOST``, …).
        template: the database to copy; default: the server's.
        scope: whose end is its end; default: the process.

    Raises:
        NotRecorded: the journal cannot be written; nothing was created.
        ImportError: psycopg is missing or too old.
        psycopg.Error: what the server says: there is one of that name. Nothing is left of the attempt.

    .. versionadded:: 0.1
    """
    sql = _psycopg().sql
    with _connect(conninfo) as session:
        plan = planned(scope, drop_database, conninfo=conninfo)
        ours = _own_name(plan.token)
        copied = sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
        with plan:
            session.execute(_UNDER, [_mark(plan.token)])
            session.execute(sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(ours), copied))
            session.execute(_comment("DATABASE", ours, plan.token))
            if name is not None:
                renamed = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                session.execute(renamed.format(sql.Identifier(ours), sql.Identifier(name)))
    return Database(name or ours, plan.cleanup)


def schema(name: str | None = None, *, conninfo: str = "", scope: "Scope | None" = None) -> Schema:
    """Create a schema, which is dropped with all that is in it however the program ends.

    Args:
        name: of the schema; default: ``lastly_`` and the plan's token.
        conninfo: which database, as for libpq; what it does not say is taken from the environment.
        scope: whose end is its end; default: the process.

    Raises:
        NotRecorded: the journal cannot be written; nothing was created.
        ImportError: psycopg is missing or too old.
        psycopg.Error: what the server says: there is one of that name. Nothing is left of the attempt.

    .. versionadded:: 0.1
    """
    sql = _psycopg().sql
    with _connect(conninfo) as session:
        plan = planned(scope, drop_schema, conninfo=conninfo)
        name = name or _own_name(plan.token)
        with plan:
            session.execute(_UNDER, [_mark(plan.token)])
            with session.transaction():
                session.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
                session.execute(_comment("SCHEMA", name, plan.token))
    return Schema(name, plan.cleanup)


def advisory_lock(
    key: int | str, *, wait: "float | timedelta" = 0.0, conninfo: str = "", scope: "Scope | None" = None
) -> AdvisoryLock:
    """Take an advisory lock, which is released however the program ends.

    It belongs to a session of its own. The server notices by itself that the program at its other end is
    dead, unless a forked child has inherited the connection, a pooler stands between, or the machine has lost
    its power; with the undo it is released there, too.

    Args:
        key: of the lock: a number, or a string, of which the server makes one (``hashtextextended``).
        wait: seconds (or a timedelta) to wait for another holder, 24 days at most. Default 0: not at all.
        conninfo: which database, as for libpq; what it does not say is taken from the environment.
        scope: whose end is its end; default: the process.

    Raises:
        TimeoutError: another session holds it.
        TypeError: the key is neither a number nor a string; nothing was taken.
        NotRecorded: the journal cannot be written; it was not taken.
        ImportError: psycopg is missing or too old.
        psycopg.Error: what the server says.

    .. versionadded:: 0.1
    """
    psycopg = _psycopg()
    if not isinstance(key, int | str):  # of NULL the server makes no lock, and no error
        raise TypeError(f"advisory_lock: the key must be a number or a string, not {key!r}")
    limit = f"{max(1, round(min(seconds(wait, 'wait'), _LONGEST) * 1000))}ms"
    number = "hashtextextended(%s, 0)" if isinstance(key, str) else "%s::bigint"
    session = _connect(conninfo)
    try:
        plan = planned(scope, end_sessions, conninfo=conninfo)
    except BaseException:
        session.close()
        raise
    _sessions[plan.token] = session
    with plan:
        session.execute(_UNDER, [_mark(plan.token)])
        try:
            with session.transaction():
                session.execute("SELECT set_config('lock_timeout', %s, true)", [limit])
                session.execute(f"SELECT pg_advisory_lock({number})", [key])
        except psycopg.errors.LockNotAvailable:
            raise TimeoutError(f"the advisory lock {key!r} is held by another session") from None
    made = AdvisoryLock(str(key), plan.cleanup)
    made.connection = session
    return made


def _own_name(token: str) -> str:
    return f"lastly_{token.replace('.', '_')}"


def _mark(token: str) -> str:
    return f"lastly {token}"


def _comment(kind: str, name: str, token: str) -> "Any":
    sql = _psycopg().sql
    return sql.SQL("COMMENT ON {} {} IS {}").format(sql.SQL(kind), sql.Identifier(name), _mark(token))


# ---- undoing


def _drop_database(*names: str, conninfo: str = "", machine: str = "", token: str = "") -> None:
    """Drop databases, even while clients are connected to them; not there is success.

    Args:
        names: which; none: the one that was created under this plan, known by its comment.
        conninfo: where the server is, with another database of it.
        machine: given when deferred: the machine whose local server it is.
        token: given by the journal: what was created carries it.

    .. versionadded:: 0.1
    """
    psycopg = _psycopg()
    found = "SELECT datname FROM pg_database WHERE datname = %s OR shobj_description(oid, 'pg_database') = %s"
    with _connect(conninfo, machine) as session:
        if not names:
            _end(session, _mark(token))
            names = tuple(str(row[0]) for row in session.execute(found, [_own_name(token), _mark(token)]))
        for name in names:
            drop = psycopg.sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            session.execute(drop.format(psycopg.sql.Identifier(name)))


def _drop_schema(*names: str, conninfo: str = "", machine: str = "", token: str = "") -> None:
    """Drop schemas with all that is in them; not there is success.

    Waits for transactions that use what is in them, 30 seconds; then it fails, to be tried again.

    Args:
        names: which; none: the one that was created under this plan, known by its comment.
        conninfo: which database.
        machine: given when deferred: the machine whose local server it is.
        token: given by the journal: what was created carries it.

    .. versionadded:: 0.1
    """
    psycopg = _psycopg()
    found = "SELECT nspname FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') = %s"
    with _connect(conninfo, machine) as session:
        if not names:
            _end(session, _mark(token))
            names = tuple(str(row[0]) for row in session.execute(found, [_mark(token)]))
        session.execute("SET lock_timeout = '30s'")
        for name in names:
            drop = psycopg.sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE")
            session.execute(drop.format(psycopg.sql.Identifier(name)))


def _end_sessions(*, conninfo: str = "", machine: str = "", token: str = "") -> None:
    """End the sessions of this plan, and with them their locks and temporary tables; none is success.

    For a session of your own, planned with `Scope.planned`: set its ``application_name`` to ``lastly``, a
    blank, and the plan's token.

    Args:
        conninfo: any database of the server.
        machine: given when deferred: the machine whose local server it is.
        token: given by the journal: the sessions carry it.

    .. versionadded:: 0.1
    """
    psycopg = _psycopg()
    mine = _sessions.pop(token, None)
    if mine is not None:
        with mine, suppress(psycopg.Error):  # it is broken, or still waits for the lock
            mine.execute("SELECT pg_advisory_unlock_all()")  # closing alone releases them a moment later
            return
    with _connect(conninfo, machine) as session:
        _end(session, _mark(token))


def _end(session: "Connection", mark: str) -> None:
    """End all sessions with this mark, and wait until there is none."""
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
    while session.execute(ended, [mark]).fetchall():
        sleep(0.05)


# ---- connecting


def _psycopg() -> "Any":
    try:
        import psycopg
        import psycopg.conninfo
        import psycopg.sql
    except ImportError as error:
        raise ImportError(
            f'lastly.integrations.postgresql needs psycopg: pip install "lastly[postgresql]" ({error})'
        ) from None
    at_least(psycopg.__version__, (3, 1), "psycopg", "postgresql")
    return psycopg


def _connect(conninfo: str, where: str = "") -> "Connection":
    if where and (here := machine()) and here != where:
        raise LastlyError(f"{conninfo!r} can only be reached from another machine: run this undo there")
    session: Connection = _psycopg().connect(
        conninfo, autocommit=True, application_name="lastly", **_secrets.get(conninfo, {})
    )
    return session


def _prepare(
    action: "AnyAction", args: "tuple[Any, ...]", kwargs: "dict[str, Any]"
) -> "tuple[list[Any], dict[str, Any]]":
    """Say which server is meant, whatever the environment says when and where the undo is run.

    Passwords are taken out of the connection string; this process keeps them, they are not in the journal.
    """
    portable.check_call(action, args, kwargs)
    parse = _psycopg().conninfo
    given = parse.conninfo_to_dict(kwargs.get("conninfo", ""))
    secrets = {name: given.pop(name) for name in _SECRETS if name in given}
    target = {**_target(given), **given}
    if is_shared():
        target.pop("service", None)  # of this machine; what it says of the server is there
    plain = parse.make_conninfo("", **target)
    if _is_local(target):
        kwargs = {"machine": machine(), **kwargs}
    portable.allow(*VARIABLES)
    if secrets:
        _secrets[plain] = secrets
    if secrets or "PGPASSWORD" in os.environ:
        warn_of_secret(("PGPASSWORD",), "~/.pgpass, or the file that PGPASSFILE names")
    return portable.arguments(action, args, {**kwargs, "conninfo": plain})


def _target(given: "dict[str, Any]") -> "dict[str, Any]":
    """Where libpq would connect to: by a service, by the environment, by its own defaults."""
    pq = _psycopg().pq
    found: dict[str, Any] = {}
    try:
        found = {
            one.keyword.decode(): one.val.decode()
            for one in pq.Conninfo.get_defaults()
            if one.val and one.keyword.decode() in _TARGET
        }
    except MemoryError:  # its answer when PGSERVICE names none
        pass
    if service := given.get("service"):
        found.update(_service(service))
    if not {"host", "hostaddr"} & {*found, *given}:
        nobody = pq.PGconn.connect_start(b"host='' port=1 dbname=x user=x")  # it knows its folder of sockets
        found["host"] = nobody.host.decode()
        nobody.finish()
    if "hostaddr" in given and "host" not in given:
        found.pop("host", None)  # of another server
    found.setdefault("dbname", given.get("user") or found.get("user", ""))
    return found


def _service(name: str) -> "dict[str, str]":
    """What a service's file says of it: the user's, or else the system's."""
    from configparser import ConfigParser, Error

    parser = ConfigParser(delimiters=("=",), interpolation=None, strict=False, default_section="")
    system = os.path.join(os.environ.get("PGSYSCONFDIR", ""), "pg_service.conf")
    own = os.environ.get("PGSERVICEFILE") or os.path.expanduser("~/.pg_service.conf")
    for path in (system, own):
        with suppress(Error, UnicodeDecodeError):
            parser.read(path)
    return {key: value for key, value in parser.items(name) if key in _TARGET} if name in parser else {}


def _is_local(target: "dict[str, Any]") -> bool:
    host = str(target.get("hostaddr") or target.get("host") or "")
    return host.startswith(("/", "@", "127.")) or host in ("localhost", "::1")


def _action(fn: "Any") -> "AnyAction":
    fn.__name__ = fn.__qualname__ = fn.__name__[1:]  # its public name, in help(), repr() and the journal
    action: AnyAction = Action(
        fn, name=f"{__name__}:{fn.__name__}", prepare=lambda args, kwargs: _prepare(action, args, kwargs),
        remote=True, retries=8, timeout=300.0, backoff=5.0,
    )  # fmt: skip
    return action


drop_database = _action(_drop_database)
drop_schema = _action(_drop_schema)
end_sessions = _action(_end_sessions)
