"""What no import statement shows: the reaper, which another process imports, and two files that are read."""
# ruff: noqa: N999
#   (the file's name is PyInstaller's)

from PyInstaller.utils.hooks import (  # type: ignore[import-untyped]  # its stubs are not for everybody
    collect_data_files,
    collect_submodules,
)

hiddenimports = [
    name
    for package in ("_journal", "_settle", "_reaper", "_system")
    for name in collect_submodules(f"lastly.{package}")
]
datas = collect_data_files("lastly", include_py_files=True, includes=["**/*.sql", "_settle/runner.py"])
# lastly uses them where the program has them; it does not need them itself.
excludedimports = ["IPython", "anyio", "rich", "trio"]
