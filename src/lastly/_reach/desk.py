"""What the shared journal says, as plain data for all who show it, and what people may change there."""

import re

from lastly._reach.database import Unusable, connect, driver, unusable
from lastly._words import naming

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._journal.shared_url import SharedUrl

_REF = re.compile(r"s(\d{1,18})\.(\d{1,18})")


def hosts(url: "SharedUrl") -> "list[dict[str, Any]]":
    """Every host that has a lease, or owes something although its lease is over."""
    sql = (
        "SELECT epoch, name, boot, login, ttl, state, extract(epoch FROM joined)::float8 AS joined, silent,"
        " owners, owed, drained FROM lastly.host_list WHERE state = 'alive' OR owed > 0 ORDER BY name, epoch"
    )
    return _rows(url, sql, [])


def cleanups(
    url: "SharedUrl", *, queue: str | None = None, abandoned: bool = False
) -> "list[dict[str, Any]]":
    """What is owed anywhere, or was given up.

    Args:
        url: the journal.
        queue: of this queue only.
        abandoned: only what was given up.
    """
    states = ["abandoned"] if abandoned else ["planned", "active", "running", "failed", "abandoned"]
    sql = (
        "SELECT * FROM lastly.cleanup_list WHERE state = ANY(%s) AND (%s::text IS NULL OR queue = %s)"
        " ORDER BY owner, phase, id DESC"
    )
    return [_cleanup(row) for row in _rows(url, sql, [states, queue, queue])]


def why(url: "SharedUrl", ref: str) -> "dict[str, Any]":
    """Everything about one cleanup.

    Raises:
        Unusable: there is none of that name.
    """
    owner, number = _parts(ref)
    sql = "SELECT * FROM lastly.cleanup_list WHERE owner = %s AND id = %s"
    found = _rows(url, sql, [owner, number])
    if not found:
        raise Unusable(f"no cleanup {ref!r} in {url.label}")
    events = (
        "SELECT extract(epoch FROM at)::float8 AS t, what, by, claim, detail FROM lastly.event_list"
        " WHERE owner = %s AND (id = %s OR id IS NULL) ORDER BY at"
    )
    return {**_cleanup(found[0]), "events": _rows(url, events, [owner, number])}


def retry(url: "SharedUrl", ref: str) -> None:
    """Have it run again, now.

    Raises:
        Unusable: it cannot be.
    """
    _change(url, ref, "SELECT lastly.retry(%s, %s)")


def forget(url: "SharedUrl", ref: str) -> None:
    """Owe it no more.

    Raises:
        Unusable: it cannot be forgotten.
    """
    _change(url, ref, "SELECT lastly.forget(%s, %s)")


def judge(url: "SharedUrl", name: str) -> tuple[int, int]:
    """Declare a host dead; returns its epoch, and how many owners it leaves.

    Args:
        url: the journal.
        name: its epoch or its name.

    Raises:
        Unusable: there is no such host that lives, or there are several.
    """
    living = [host for host in hosts(url) if host["state"] == "alive"]
    found = [host["epoch"] for host in living if name in (str(host["epoch"]), host["name"])]
    if not found:
        raise Unusable(f"no living host {name!r} in {url.label}: see `lastly hosts`")
    if len(found) > 1:
        raise Unusable(
            f"{len(found)} living hosts are called {name!r}: give the epoch that `lastly hosts` shows"
        )
    return found[0], len(_rows(url, "SELECT * FROM lastly.judge_host(%s)", found))


def drain(url: "SharedUrl", name: str, *, drained: bool) -> int:
    """Have a host take no new plans, or take them again; returns how many cleanups it still owes.

    Args:
        url: the journal.
        name: of the host. It may have none yet, or several leases.
        drained: whether it is to take none.
    """
    _rows(url, "SELECT lastly.drain(%s, %s)", [name, drained])
    return sum(int(host["owed"]) for host in hosts(url) if host["name"] == name)


def due(url: "SharedUrl", queue: str) -> "list[dict[str, Any]]":
    """What dead hosts owe and workers of this queue would run, in the order of their attempts."""
    sql = (
        "SELECT * FROM lastly.cleanup_list WHERE owner_state = 'orphan' AND queue = %s"
        " AND state IN ('planned', 'active', 'running', 'failed') ORDER BY owner, phase, id DESC"
    )
    return [_cleanup(row) for row in _rows(url, sql, [queue])]


def serving(url: "SharedUrl") -> "dict[str, int]":
    """Of the journal's queue: workers, machines that they are on, and blocked: what no worker knows."""
    [row] = _rows(url, "SELECT * FROM lastly.who_serves(%s)", [url.queue])
    return row


def metrics(url: "SharedUrl") -> "list[dict[str, Any]]":
    """What the database counts: name, labels, value."""
    return _rows(url, "SELECT name, labels, value FROM lastly.metrics ORDER BY name, labels::text", [])


def _change(url: "SharedUrl", ref: str, sql: str) -> None:
    about = why(url, ref)
    [row] = _rows(url, f"{sql} AS done", list(_parts(ref)))
    if row["done"]:
        return
    if about["owner_state"] == "live":
        raise Unusable(f"{ref}: its host {about['host']} lives, and settles it there")
    raise Unusable(f"{ref}: it is {about['state']}")


def parts(ref: str) -> tuple[int, int] | None:
    """Owner and number of s1234.2, a cleanup of the shared journal; None: another kind of reference."""
    match = _REF.fullmatch(ref)
    return (int(match[1]), int(match[2])) if match else None


def _parts(ref: str) -> tuple[int, int]:
    found = parts(ref)
    if found is None:
        raise Unusable(f"{ref!r} is not a cleanup of a shared journal: these look like s1234.2")
    return found


def _cleanup(row: "dict[str, Any]") -> "dict[str, Any]":
    made = {
        **row, "ref": f"s{row['owner']}.{row['id']}", "scope": "", "remote": True,
        "error": row["error"] or "", "reason": row["reason"] or "", "where": row["host"],
    }  # fmt: skip
    return {**made, "what": naming.cleanup(made)}


def _rows(url: "SharedUrl", sql: str, values: "list[Any]") -> "list[dict[str, Any]]":
    psycopg = driver()
    with connect(url) as connection:
        try:
            cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
            found: list[dict[str, Any]] = cursor.execute(sql, values).fetchall()
        except psycopg.Error as error:
            raise unusable(url, error) from None
    return found
