"""A program frozen by PyInstaller has no interpreter beside it: it is its own reaper, by a hidden switch.

Started with one of these words it is the reaper, or runs one action, before its first own line. That is for a
run-time hook to see to (:mod:`lastly._pyinstaller`), which also opens the door here. Another freezer knows no
such hook: there a start of the program would be a second run of it, so there is no reaper, and that is said.
"""

REAPER, ACTION = "--lastly-reaper", "--lastly-action"

is_open = False  # whether the program understands them


def open_door() -> None:
    """The program understands them from now on: called by the run-time hook."""
    global is_open
    is_open = True
