"""A program frozen by PyInstaller has no interpreter beside it: it is its own reaper, by a hidden switch.

Started with one of these words it is the reaper, or runs one action, before its first own line. That is for a
run-time hook to see to (:mod:`lastly._pyinstaller`), which also calls `open_door`. Other freezers run no such
hook: to start the program would be to run it a second time. So there is no reaper there, and a warning says
so.
"""

REAPER, ACTION = "--lastly-reaper", "--lastly-action"

is_open = False  # whether the program understands them


def open_door() -> None:
    """Note that the program understands them; the run-time hook calls this."""
    global is_open
    is_open = True
