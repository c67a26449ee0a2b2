"""`lastly run`: an unmodified program gets what one written with lastly has.

May use: _exit, _reaper, _journal, _system.
Used by: __main__, _cli.
"""
