"""The examples that stand in the pages of docs/: how they are marked is told by tests/whole/test_docs.py."""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple

from harness import ROOT

FENCE = re.compile(
    r"(?:^[ ]*`(?P<name>[^`\n]+)`:\n\n)?"
    r"(?P<notes>(?:^[ ]*<!--[^\n]*-->[ ]*\n)*)"
    r"^(?P<indent>[ ]*)```(?P<lang>\w+)[^\n]*\n(?P<body>.*?)^[ ]*```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
NOTE = re.compile(r"<!--\s*(\w+)(?::\s*(.*?))?\s*-->")


class Example(NamedTuple):
    line: int
    language: str
    code: str
    notes: dict[str, str]
    expected: str | None
    name: str | None


def examples(text: str) -> list[Example]:
    found: list[Example] = []
    end = 0
    for match in FENCE.finditer(text):
        code = textwrap.dedent(match["body"])
        between = text[end : match.start()]
        end = match.end()
        if match["lang"] == "text":
            if found and found[-1].language == "python" and not between.strip():
                found[-1] = found[-1]._replace(expected=code)
            continue
        line = text.count("\n", 0, match.start("body")) + 1
        found.append(Example(line, match["lang"], code, dict(NOTE.findall(match["notes"])), None, match["name"]))
    return found


def code(page: str, name: str) -> str:
    """The example of a page of docs/ that is the file of this name."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return next(example.code for example in examples(text) if example.name == name)
