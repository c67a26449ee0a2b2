r"""One line of a journal: ``crc32hex SP json LF``.

The JSON is ASCII: no byte of it can be a newline, whatever a file name holds, and a text tool may cut the
file anywhere. A name that is not valid UTF-8 is a ``str`` with lone surrogates (`os.fsdecode`), which JSON
writes as ``\udcff`` and gives back byte-exact through `os.fsencode`. Where names are not read as UTF-8 (in a
Latin-1 locale), all bytes that are not ASCII are written so: the reader may live in another locale.

The newline rule: a process that appends after a write that may be torn starts with LF. The torn line then
stands alone, its CRC is wrong, and it harms no other one. An empty line means nothing.
"""

import os
import sys
from zlib import crc32

from lastly._words import built_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
LIMIT = 1 << 20  # bytes in one record; what is larger belongs into a file whose path is the argument


def _refuse(value: "Any") -> "Any":
    raise TypeError(f"{value.__class__.__name__} is not JSON")


def _no_json(word: str) -> "Any":
    raise ValueError(f"{word} is not JSON")


class _Strict:
    """How the scanner reads; JSON has neither NaN nor Infinity."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float, parse_int, parse_constant = float, int, _no_json
    memo: "dict[str, str]" = {}  # noqa: RUF012  # the scanner's own


try:
    # What the json module itself works with: its Python half costs 8 ms to import, in every program that
    # defers an action, and a program under `lastly run` may have a json.py of its own beside its script.
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    _chunks = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)
    _scan = make_scanner(_Strict)  # type: ignore[arg-type]  # the stub takes only its own result

    def dumps(value: "Any") -> str:
        """Make JSON of it."""
        return "".join(_chunks(value, 0))

    def loads(text: str) -> "Any":
        """Read JSON; ValueError when it is none."""
        try:
            found, end = _scan(text, 0)
        except (StopIteration, ImportError):  # it asks the json module for its error
            raise ValueError("not JSON") from None
        if end != len(text):
            raise ValueError("more than one value")
        return found

except (ImportError, TypeError, AttributeError):  # pragma: no cover  # another Python, or a later one
    import json

    def dumps(value: "Any") -> str:
        """Make JSON of it."""
        return json.dumps(value, allow_nan=False, check_circular=False, separators=(",", ":"))

    def loads(text: str) -> "Any":
        """Read JSON; ValueError when it is none."""
        return json.loads(text, parse_constant=_no_json)


_utf8 = sys.getfilesystemencoding() == "utf-8"


def _bytewise(value: "Any") -> "Any":
    """Names and words for the system, so written that every process makes the same bytes of them."""
    if value.__class__ is str:
        return value if value.isascii() else os.fsencode(value).decode("ascii", "surrogateescape")
    if value.__class__ is list:
        return [_bytewise(one) for one in value]
    if value.__class__ is dict:
        return {key: _bytewise(one) for key, one in value.items()}
    return value


def _for_the_system(record: "dict[str, Any]") -> bool:
    """Whether all its texts are: arguments of a user's function are that function's business."""
    kind = record.get("kind")
    return kind in ("owner", "context") or (kind == "plan" and record["action"].startswith(built_in.PREFIX))


def encode(record: "dict[str, Any]") -> bytes:
    """Make the line of a record.

    Raises:
        ValueError, TypeError, RecursionError: it is not JSON.
    """
    if not _utf8 and _for_the_system(record):
        record = _bytewise(record)
    raw = dumps(record).encode("ascii")
    return b"%08x %b\n" % (crc32(raw), raw)


def decode(line: bytes) -> "dict[str, Any]":
    """Read one line, without its LF.

    Raises:
        ValueError: it is damaged, or not an object with a ``kind``.
    """
    if len(line) < 11 or line[8] != 0x20:
        raise ValueError("not a record")
    raw = line[9:]
    # Compared as text: int(…, 16) would take "+1234567" or "0x123456" for a checksum.
    if line[:8] != b"%08x" % crc32(raw):
        raise ValueError("wrong checksum")
    try:
        record = loads(raw.decode())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if record.__class__ is not dict or record.get("kind").__class__ is not str:
        raise ValueError("not an object with a kind")
    return record
