"""How large the things are that are to be removed, for the person who decides about them."""

import os
import stat

from lastly._words import built_in
from lastly._words.counts import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST = 10_000  # entries of folders that are looked at, for one table


class Looker:
    """Looks at what is to be removed; when it has seen 10,000 entries, it tells files from trees only."""

    def __init__(self, most: int = MOST) -> None:
        self.left = most

    def size(self, row: "dict[str, Any]") -> str:
        """Return "tree, 427 files", "file", "link" or "not there"; empty where that cannot be told."""
        if row["action"] != built_in.REMOVE or not row["args"]:
            return ""
        path = row["args"][0]
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return "not there"
        except (OSError, TypeError, ValueError):  # as it stands in a record
            return ""
        expected = row["known"].get("ino") or (row["kwargs"].get("expect") or {}).get("ino")
        if expected is not None and expected != found.st_ino:
            return ""
        if not stat.S_ISDIR(found.st_mode):
            return "link" if stat.S_ISLNK(found.st_mode) else "file"
        count = self._files(path)
        return "tree" if count is None else f"tree, {counted(count, 'file')}"

    def _files(self, path: str) -> int | None:
        """How many files are in it; None when that is too much to count."""
        count, folders = 0, [path]
        while folders:
            try:
                with os.scandir(folders.pop()) as entries:
                    for entry in entries:
                        if self.left <= 0:
                            return None
                        self.left -= 1
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                        else:
                            count += 1
            except OSError:  # not ours to read, or just removed
                return None
        return count
