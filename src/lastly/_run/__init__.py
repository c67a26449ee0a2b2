"""`lastly run`: an unmodified program gets what one written with lastly has.

May use: _exit, _scope, _reaper, _journal, _system.
Used by: _cli.
"""
