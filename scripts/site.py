"""Put a built site into a folder of versions, as the version selector of its pages expects it.

python scripts/site.py build/site 0.1 pages          the release 0.1, and "latest"
python scripts/site.py build/site dev pages          what is being worked on

Run again for a version, it replaces that version. The folder's front page leads to the latest release, or
to dev as long as there is none.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

FRONT = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={0}/">'
    '<a href="{0}/">{0}</a>\n'
)


def place(built: Path, version: str, pages: Path) -> None:
    """Copy *built* to ``pages/version``, and bring list and front page up to date."""
    pages.mkdir(parents=True, exist_ok=True)
    listed = pages / "versions.json"
    known = [entry["version"] for entry in json.loads(listed.read_text())] if listed.exists() else []
    versions = sorted({*known, version}, key=_order, reverse=True)
    releases = [each for each in versions if each != "dev"]
    names = [version, *(["latest"] if releases and version == releases[0] else [])]
    for name in names:
        shutil.rmtree(pages / name, ignore_errors=True)
        shutil.copytree(built, pages / name)
    entries = [
        {"version": each, "title": each, "aliases": ["latest"] if releases and each == releases[0] else []}
        for each in versions
    ]
    listed.write_text(json.dumps(entries, indent=2) + "\n")
    (pages / "index.html").write_text(FRONT.format("latest" if releases else "dev"))
    (pages / ".nojekyll").touch()


def _order(version: str) -> tuple[int, ...]:
    return (-1,) if version == "dev" else tuple(map(int, version.split(".")))


if __name__ == "__main__":
    place(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
