"""Find cleanups by what people call them: anything that a table shows of them."""

import json
import os

from lastly._journal import home, replay
from lastly._settle import history
from lastly._settle.sweep import parts, reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lastly._journal.replay import Replay


def called(text: str) -> list[str]:
    """Return the references of the cleanups that this may mean.

    Args:
        text: a reference (3f2a9c1b.2), or the part before its dot, or the first four digits or more of it; a
            pid; the name or path of a program; a scope; a path that is to be removed. Of an owner these are
            all its cleanups: those that are owed, or else those that are done.
    """
    if (chosen := parts(text)) is not None and chosen[1] is not None:
        return [text]
    if not text:  # what most cleanups have as their scope
        return []
    found: list[str] = []
    for path in home.journals():
        try:
            found += _owed(replay.read(path), text)
        except OSError:
            continue
    return found or list(_filed(text))


def _owed(seen: "Replay", text: str) -> list[str]:
    owner = reference(seen.path)
    program = (seen.header or {}).get("argv0", "")
    pid = str(seen.identity.pid) if seen.identity is not None else ""
    items = list(seen.items.unsettled())
    if not (text in (pid, program, os.path.basename(program)) or _begins(owner, text)):
        items = [
            item
            for item in items
            if text in (item.scope, *item.args[:1]) or os.path.abspath(text) in item.args[:1]
        ]
    elif not items:
        items = list(seen.items.values())
    return [f"{owner}.{item.id}" for item in items]


def _filed(text: str) -> "Iterator[str]":
    base = history.connect()
    if base is None:
        return
    wanted = {
        "pid": int(text) if text.isdecimal() and len(text) < 10 else -1,
        "text": text,
        "removed": json.dumps([os.path.abspath(text)]),
        "owner": f"%.{text}%.j" if len(text) >= 4 and text.isalnum() else "",
    }
    try:
        rows = base.execute(history.SQL["called"], wanted).fetchall()
    finally:
        base.close()
    for row in rows:
        owner = reference(row["journal"])
        # The pattern may also find its start time, which stands before it.
        if row["by_name"] or _begins(owner, text):
            yield f"{owner}.{row['id']}"


def _begins(owner: str, text: str) -> bool:
    return len(text) >= 4 and owner.startswith(text)
