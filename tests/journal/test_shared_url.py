"""The address of a shared journal: what is ours is taken out, and the rest reaches libpq as it was."""

from __future__ import annotations

import pytest

from lastly._journal.shared_url import SharedUrl


@pytest.mark.parametrize(
    ("text", "database", "label"),
    [
        ("postgresql:///lastly?queue=q&ttl=5", "postgresql:///lastly", "postgresql:///lastly"),
        ("postgresql://", "postgresql://", "postgresql://"),
        ("postgres://web1@db/x?wait=1", "postgresql://web1@db/x", "postgresql://web1@db/x"),
        ("postgresql://u:p%40ss@db:5433/x", "postgresql://u:p%40ss@db:5433/x", "postgresql://u@db:5433/x"),
        ("postgresql:///x?host=/run/pg&ttl=9&port=1", "postgresql:///x?host=/run/pg&port=1", "postgresql:///x"),
        ("postgresql://[::1]:5432/x?options=-c%20a%3Db", "postgresql://[::1]:5432/x?options=-c%20a%3Db", None),
    ],
)  # fmt: skip
def test_what_reaches_libpq(text: str, database: str, label: str | None) -> None:
    """Red with urlunsplit(), which makes postgresql:/lastly of an address without a host: the tutorial's."""
    psycopg = pytest.importorskip("psycopg")
    url = SharedUrl(text)
    assert url.database == database
    assert label in (None, url.label)
    psycopg.conninfo.conninfo_to_dict(url.database)


@pytest.mark.parametrize(
    "text",
    ["postgresql://u:s3c%2Fret@db/x", "postgresql://u@db/x?password=s3c%2Fret", "postgresql://u@db/x?sslpassword=s3c/ret"],
)
def test_no_message_shows_a_password(text: str) -> None:
    url = SharedUrl(text)
    for form in ("s3c/ret", "s3c%2Fret", text):
        assert "ret" not in url.without_secrets(f"failed for {form}!")
    assert "ret" not in url.label


@pytest.mark.parametrize("text", ["postgresql://u:s3c#ret@db/x", "postgresql://u:123#ret@db/x", "postgresql://u@db:s3cret/x"])
def test_no_error_shows_a_password(text: str) -> None:
    with pytest.raises(ValueError, match="the address of the shared journal: ") as caught:
        SharedUrl(text)
    assert not any(word in str(caught.value) for word in ("ret", "s3c", "123"))


def test_several_hosts() -> None:
    """As libpq takes them, for a primary and its standby."""
    url = SharedUrl("postgresql://u@one:1,two:2/x?target_session_attrs=read-write&queue=q")
    assert url.database == "postgresql://u@one:1,two:2/x?target_session_attrs=read-write"
    assert url.label == "postgresql://u@one:1,two:2/x"
