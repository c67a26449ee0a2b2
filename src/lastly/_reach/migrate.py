"""Bring a database to the schema of this version: ours, its roles, and the job queue's.

Migrations are numbered files, applied in one transaction with the row that says how far they came. They only
add, so that what runs meanwhile goes on. procrastinate's tables have a schema of their own, so that an
application may use the same library in the same database.
"""

import os
import re

from lastly._reach.database import SCHEMA, Unusable, connect, driver, unusable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._journal.shared_url import SharedUrl

ROLES = ("lastly_host", "lastly_worker", "lastly_admin", "lastly_reader")
QUEUE = "lastly_queue"  # the schema of procrastinate's tables
_OLDEST = {1: 1}  # by migration: the oldest schema whose programs still work after it
_LOCK = 0x6C6173746C79  # one migration at a time: an advisory lock


class Step:
    """One thing to be done: its name, and its SQL."""

    def __init__(self, name: str, sql: str, schema: int = 0) -> None:
        self.name, self.sql, self.schema = name, sql, schema


def migrate(url: "SharedUrl", *, plan: bool = False) -> list[Step]:
    """Do what is not done yet; a second call does nothing.

    Args:
        url: the database, with a login that may create schemas and roles.
        plan: do nothing, only say what would be done.

    Returns:
        what was done, or would be.

    Raises:
        Unusable: it could not be done.
    """
    psycopg = driver()
    with connect(url, check=False) as connection:
        try:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
                steps = _steps(url, connection)
                for step in () if plan else steps:
                    connection.execute(step.sql, prepare=False)
                    if step.schema:
                        connection.execute(
                            "INSERT INTO lastly.version (schema, oldest) VALUES (%s, %s)"
                            " ON CONFLICT (one)"
                            " DO UPDATE SET schema = excluded.schema, oldest = excluded.oldest",
                            [step.schema, _OLDEST[step.schema]],
                        )
        except psycopg.Error as error:
            raise unusable(url, error) from None
    return steps


def _steps(url: "SharedUrl", connection: "Any") -> list[Step]:
    steps = []
    have = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    if missing := [role for role in ROLES if role not in have]:
        steps.append(Step("roles", "".join(f"CREATE ROLE {role} NOLOGIN;\n" for role in missing)))
    current = 0
    if connection.execute("SELECT to_regclass('lastly.version')").fetchone()[0] is not None:
        current, oldest = connection.execute("SELECT schema, oldest FROM lastly.version").fetchone()
        if oldest > SCHEMA:
            raise Unusable(
                f"{url.label} has schema {current}, of a later lastly than this one: upgrade lastly here"
            )
    folder = os.path.join(os.path.dirname(__file__), "sql")
    for file in sorted(os.listdir(folder)):
        number = int(file[:4])
        if number > current:
            with open(os.path.join(folder, file), encoding="utf-8") as text:
                steps.append(Step(f"schema {number}", text.read(), number))
    return steps + _queue_steps(connection)


def _queue_steps(connection: "Any") -> list[Step]:
    """What procrastinate's own schema needs, if it is installed here."""
    try:
        from importlib.metadata import version

        from procrastinate.schema import SchemaManager
    except ImportError:
        return []
    installed = version("procrastinate")
    use = f"SET LOCAL search_path = {QUEUE};\n"
    row = None
    if connection.execute("SELECT to_regnamespace(%s)", [QUEUE]).fetchone()[0] is not None:
        row = connection.execute(f"SELECT obj_description('{QUEUE}'::regnamespace)").fetchone()
    before = re.match(r"procrastinate (\S+)", (row and row[0]) or "")
    mark = f"COMMENT ON SCHEMA {QUEUE} IS 'procrastinate {installed}';\n"
    if before is None:
        sql = f"CREATE SCHEMA {QUEUE};\n{use}{SchemaManager.get_schema()}\n{mark}{_grants()}"
        return [Step(f"procrastinate {installed}", sql)]
    steps = []
    folder = SchemaManager.get_migrations_path()
    for file in sorted(name for name in os.listdir(folder) if name.endswith(".sql")):
        if _numbers(before[1]) < _numbers(file.partition("_")[0]) <= _numbers(installed):
            with open(os.path.join(folder, file), encoding="utf-8") as text:
                steps.append(Step(f"procrastinate {file}", use + text.read()))
    if before[1] != installed and _numbers(before[1]) < _numbers(installed):
        steps.append(Step(f"procrastinate {installed}", mark + _grants()))
    return steps


def _grants() -> str:
    return (
        f"GRANT USAGE ON SCHEMA {QUEUE} TO lastly_worker;\n"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {QUEUE} TO lastly_worker;\n"
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {QUEUE} TO lastly_worker;\n"
        "SET LOCAL search_path = DEFAULT;\n"
    )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]
