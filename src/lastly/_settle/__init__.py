"""Running what one dead owner owes, trying again what failed, and filing what became of it.

May use: _journal, _system.
Used by: _reaper, _reach, testing, _cli, _pyinstaller.

runner.py is the program of another process, the owner's interpreter, and may use _durable.
"""
