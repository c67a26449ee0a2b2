"""What PyInstaller has to know about lastly; it finds this through the entry point ``pyinstaller40``.

May use: _reaper, _settle, _system.
Used by: PyInstaller, while it builds; rthooks/, in the program that it has built.
"""

import os


def get_hook_dirs() -> list[str]:
    """Return the folder with the hook, and the table of run-time hooks."""
    return [os.path.dirname(__file__)]
