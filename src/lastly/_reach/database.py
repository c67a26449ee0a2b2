"""Connections to the shared journal, and what is wrong when there is none: one line, without the password."""

import re

from lastly.errors import LastlyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._journal.shared_url import SharedUrl

SCHEMA = 1  # the last migration that this version brings and works with


class Unusable(LastlyError):  # noqa: N818 - as in errors.py: the name says what happened
    """The shared journal cannot be used as it is; ``lasting``: asking again will not help."""

    def __init__(self, text: str, *, lasting: bool = False) -> None:
        super().__init__(text)
        self.lasting = lasting


def driver() -> "Any":
    """Import psycopg.

    Raises:
        Unusable: it is not installed.
    """
    try:
        import psycopg
    except ImportError as error:
        raise Unusable(
            f'psycopg is missing ({error}); pip install "lastly[reach]" for the interpreter of this program',
            lasting=True,
        ) from None
    return psycopg


def connect(url: "SharedUrl", *, check: bool = True, timeout: float = 10.0, **more: "Any") -> "Any":
    """Open a connection in autocommit mode.

    Args:
        url: where.
        check: also see whether its schema is one that this version can work with.
        timeout: seconds after which a server that does not answer counts as gone.
        more: further parameters of libpq.

    Raises:
        Unusable: it cannot be used; the message says what to do.
    """
    psycopg = driver()
    kept = {
        "connect_timeout": max(2, int(timeout)), "tcp_user_timeout": int(timeout * 1000),
        "keepalives_idle": max(1, int(timeout / 3)), "keepalives_interval": max(1, int(timeout / 3)),
        "keepalives_count": 3, "application_name": "lastly", "client_encoding": "UTF8",
    }  # fmt: skip
    try:
        given = psycopg.conninfo.conninfo_to_dict(url.database)
    except psycopg.Error as error:
        said = url.without_secrets(" ".join(str(error).split()))
        raise Unusable(f"the address of shared journal {url.label}: {said}", lasting=True) from None
    try:
        more |= {name: value for name, value in kept.items() if name not in given}
        made = psycopg.connect(url.database, autocommit=True, **more)
    except psycopg.Error as error:
        raise unusable(url, error) from None
    if check:
        try:
            check_schema(url, made)
        except BaseException:
            made.close()
            raise
    return made


def check_schema(url: "SharedUrl", connection: "Any") -> None:
    """See that both sides know the same schema.

    Raises:
        Unusable: there is none, or one of the two is too old.
    """
    psycopg = driver()
    try:
        schema, oldest = connection.execute("SELECT * FROM lastly.versions()").fetchone()
    except psycopg.Error as error:
        raise unusable(url, error) from None
    if schema < SCHEMA:
        raise Unusable(
            f"{url.label} has schema {schema} and this lastly needs {SCHEMA}: run `lastly journal migrate "
            "URL` as its admin",
            lasting=True,
        )
    if oldest > SCHEMA:
        raise Unusable(
            f"{url.label} has schema {schema}, of a later lastly than this one: upgrade lastly here",
            lasting=True,
        )


def unusable(url: "SharedUrl", error: Exception) -> Unusable:
    """Say what an error of the driver's means, in one line."""
    psycopg = driver()
    code = getattr(error, "sqlstate", None) or ""
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    text = " ".join((said or str(error)).split())
    text = re.sub(r"^connection failed: ", "", text)
    text = re.sub(r"^connection to server (at|on) .*? failed: (FATAL: +)?", "", text)
    if code in ("3F000", "42883", "42P01"):
        why, lasting = "it has no schema of lastly: run `lastly journal migrate URL` as its admin", True
    elif isinstance(error, psycopg.errors.InsufficientPrivilege):
        why, lasting = (
            f"{text}; grant this login one of lastly's roles: see docs/how-to/shared-journal.md",
            True,
        )
    elif code.startswith("28") or "password" in text:
        why, lasting = f"{text}; see its user and password", True
    elif code == "3D000" or ("database" in text and "does not exist" in text):
        why, lasting = f"{text}; create it, then run `lastly journal migrate URL`", True
    else:
        why, lasting = text or type(error).__name__, False
    return Unusable(f"shared journal {url.label}: {url.without_secrets(why)}", lasting=lasting)
