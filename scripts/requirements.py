"""Print what a dependency group of pyproject.toml holds, one requirement a line, for any installer.

python scripts/requirements.py dev
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirements(name: str, project: dict[str, object]) -> list[str]:
    """Return the requirements of a group, those of included groups and of our own extras among them."""
    groups: dict[str, list[object]] = project["dependency-groups"]  # type: ignore[assignment]
    extras: dict[str, list[str]] = project["project"]["optional-dependencies"]  # type: ignore[index]
    found: list[str] = []
    for entry in groups[name]:
        if isinstance(entry, dict):
            found += requirements(entry["include-group"], project)
        elif isinstance(entry, str) and entry.startswith("lastly["):
            found += [each for extra in entry[7:-1].split(",") for each in extras[extra.strip()]]
        else:
            found.append(str(entry))
    return found


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1], tomllib.loads(PROJECT.read_text(encoding="utf-8")))))
