"""Check that CHANGELOG.md, pyproject.toml and the code tell of the same release, and print its changes.

python scripts/changelog.py            the version that is being worked on: the files agree
python scripts/changelog.py 0.1.0      a release: its section is there, dated, and not empty
"""

from __future__ import annotations

import re
import sys
import tomllib
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADING = re.compile(r"^## (\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d|not released yet)\)$", re.MULTILINE)


def sections(text: str) -> dict[str, tuple[str, str]]:
    """Return date and changes by version, newest first."""
    found = list(HEADING.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)][: len(found)]
    return {
        match[1]: (match[2], text[match.end() : end].strip()) for match, end in zip(found, ends, strict=True)
    }


def problems(root: Path, release: str = "") -> list[str]:
    """Return what is wrong, a line each."""
    told = sections((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    declared = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    source = (root / "src/lastly/__init__.py").read_text(encoding="utf-8")
    code = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    wrong = []
    if code is None or code[1] != declared:
        wrong.append(f"lastly.__version__ is {code and code[1]}, pyproject.toml says {declared}")
    if not told:
        return [*wrong, "CHANGELOG.md has no heading like '## 1.2.3 (2026-05-01)'"]
    newest = next(iter(told))
    if newest != declared:
        wrong.append(f"CHANGELOG.md begins with {newest}, pyproject.toml says {declared}")
    versions = [tuple(map(int, version.split("."))) for version in told]
    if versions != sorted(set(versions), reverse=True):
        wrong.append("CHANGELOG.md: versions are not in order, newest first")
    for version, (day, changes) in told.items():
        if not changes:
            wrong.append(f"CHANGELOG.md: {version} has no changes")
        if day == "not released yet" and version != newest:
            wrong.append(f"CHANGELOG.md: {version} is older than {newest}, and not released")
        if day != "not released yet" and date.fromisoformat(day) > date.today():  # noqa: DTZ011  # a day is enough
            wrong.append(f"CHANGELOG.md: {version} is of a day to come")
    if release and (release not in told or told[release][0] == "not released yet" or release != declared):
        wrong.append(f"{release} is not both the newest dated section of CHANGELOG.md and the version")
    return wrong


def main() -> int:
    """Print what is wrong, or the changes of a release."""
    release = sys.argv[1] if sys.argv[1:] else ""
    wrong = problems(ROOT, release)
    for line in wrong:
        print(f"changelog: {line}", file=sys.stderr)
    if release and not wrong:
        print(sections((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[release][1])
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
