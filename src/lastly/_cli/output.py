"""What commands say to programs, and how they fail."""

import json
import math
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Failed(Exception):  # noqa: N818  # the message is for a person, who reads "lastly: …"
    """A command could not do what it was asked for; the message is one line."""


def emit(**values: "Any") -> None:
    """Write one JSON object; bytes that are no text come as lone surrogates, as in the journal."""
    made = {"version": 1, **values}
    try:
        text = json.dumps(made, indent=2, allow_nan=False)
    except ValueError:  # 1e999 in a record
        text = json.dumps(_finite(made), indent=2)
    sys.stdout.write(text + "\n")


def _finite(value: "Any") -> "Any":
    """JSON has no infinity: as text."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def by(command: str) -> str:
    """Which tool is doing this, for the history."""
    return f"lastly {command}, pid {os.getpid()}"
