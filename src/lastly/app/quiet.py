"""Silence: what ``-q`` takes away is standard output and the log on the console, never an error.

Standard error stays as it is. A traceback, argparse's usage error, a warning, a thread's last words are there
to be read also, and above all, when nobody watches.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

# More than one app can be quiet at a time, and they may end in any order: the first one takes the stream
# away, the last one brings it back.
_holders: set[int] = set()
_sink: "TextIO | None" = None
_stdout: "TextIO | None" = None


def suppress(app: object) -> None:
    """Let nothing printed reach standard output until *app* calls :func:`restore`; twice is once."""
    global _sink, _stdout
    if not _holders:
        _stdout = sys.stdout
        _sink = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # open until restore()
        sys.stdout = _sink
    _holders.add(id(app))


def restore(app: object) -> None:
    """Give standard output back, unless another app is still quiet; does nothing for an app that is not."""
    global _sink, _stdout
    if id(app) not in _holders:
        return
    _holders.discard(id(app))
    if _holders:
        return
    if sys.stdout is _sink and _stdout is not None:
        sys.stdout = _stdout
    if _sink is not None:
        _sink.close()
    _sink = _stdout = None
