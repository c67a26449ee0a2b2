"""Running what one dead owner owes, and filing what became of it.

May use: _journal, _system, actions.
Used by: _reaper, testing, _cli.

runner.py is the program of another process, the owner's interpreter, and may use _durable.
"""
