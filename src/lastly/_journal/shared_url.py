"""The address of a shared journal: ``postgresql://user@host/database?queue=shop&ttl=30``.

What is ours in the query is taken out; the rest is libpq's. The address may hold a password, so it is never
shown: `label` is what messages call it.
"""

from urllib.parse import parse_qsl, quote, unquote, urlsplit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SECRETS = ("password", "sslpassword", "oauth_client_secret")
_SECONDS = {"ttl": (1.0, 86400.0), "wait": (0.0, 3600.0)}
_CHOICES = {
    "on_unreachable": ("refuse", "local"),
    "on_lease_lost": ("notify", "stop", "kill"),
    "scripts": ("refuse", "allow"),
}  # the first one is the default


class SharedUrl:
    """An address, taken apart.

    Attributes:
        text: the address as it was given. database: libpq's part of it. label: it without a password.
        key: a name for it in file names, from which it cannot be read.
        queue: whose workers run what is owed. Default "default".
        ttl: seconds of silence after which a host counts as dead. Default 30; less than 5 is for tests.
        wait: seconds that ``defer()`` waits for the acknowledgement. Default 2.
        on_unreachable, on_lease_lost, scripts: see docs/reference/shared-journal.md.
    """

    __slots__ = (
        "_secrets", "database", "key", "label", "on_lease_lost", "on_unreachable", "queue", "scripts", "text",
        "ttl", "wait",
    )  # fmt: skip

    def __init__(self, text: str) -> None:
        """Take an address apart.

        Raises:
            ValueError: it is not one; the message does not show it.
        """
        self.text = text
        try:
            parts = urlsplit(text)
            _check(parts)
        except ValueError as error:
            raise ValueError(f"the address of the shared journal: {_hidden(error, text)}") from None
        if parts.scheme not in ("postgresql", "postgres"):
            raise ValueError("the address of the shared journal must begin with postgresql://")
        given: dict[str, str] = {}
        rest = []
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name in ("queue", *_SECONDS, *_CHOICES):
                given[name] = value
            else:
                rest.append((name, value))
        query = "&".join(f"{quote(name)}={quote(value, safe='/')}" for name, value in rest)
        # By hand: urlunsplit makes postgresql:/lastly of an address without a host.
        self.database = f"postgresql://{parts.netloc}{parts.path}{'?' * bool(query)}{query}"
        words = [parts.password or "", *(value for name, value in rest if name in _SECRETS)]
        self._secrets = sorted(
            {*words, *map(unquote, words), *(quote(word, safe="") for word in words)} - {""},
            key=len,
            reverse=True,
        )
        self.label = _label(parts)
        self.queue = given.get("queue") or "default"
        if len(self.queue) > 200:
            raise ValueError("queue= of the shared journal must have at most 200 characters")
        self.ttl = _seconds("ttl", given.get("ttl"), 30.0)
        self.wait = _seconds("wait", given.get("wait"), 2.0)
        for name, choices in _CHOICES.items():
            value = given.get(name) or choices[0]
            if value not in choices:
                raise ValueError(
                    f"{name}= of the shared journal must be {' or '.join(choices)}, not {value!r}"
                )
            setattr(self, name, value)
        self.key = _key(text)

    on_unreachable: str
    on_lease_lost: str
    scripts: str

    def without_secrets(self, text: str) -> str:
        """A message of libpq's, without the passwords of this address."""
        for secret in self._secrets:
            text = text.replace(secret, "********")
        return text


def _label(parts: "Any") -> str:
    user, at, hosts = parts.netloc.rpartition("@")
    return f"postgresql://{unquote(user.partition(':')[0])}{at}{hosts}{parts.path}"


def _check(parts: "Any") -> None:
    """Raise ValueError for what libpq would misunderstand; it takes several hosts, each with a port."""
    if parts.fragment:
        raise ValueError("write # as %23")
    for host in parts.netloc.rpartition("@")[2].split(","):
        _, colon, port = host.rpartition(":")
        if colon and not host.endswith("]") and not (port.isascii() and port.isdecimal()):
            raise ValueError("a port must be a number")  # it may be a part of a password


def _hidden(error: ValueError, text: str) -> str:
    said = str(error)
    secret = any(part and part in said for part in (text, text.partition("@")[0][13:]))
    return "it is not a URL" if secret else said


def _seconds(name: str, value: str | None, usual: float) -> float:
    if value is None:
        return usual
    least, most = _SECONDS[name]
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not least <= number <= most:
        raise ValueError(
            f"{name}= of the shared journal must be seconds from {least:g} to {most:g}, not {value!r}"
        )
    return number


def _key(text: str) -> str:
    from hashlib import blake2b

    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8, person=b"lastly").hexdigest()
