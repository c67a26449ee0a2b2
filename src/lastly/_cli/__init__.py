"""The command line: what each command does, how it is told, and what the doctor looks at.

May use: testing, _reach, _run, _reaper, _settle, _journal, _system.
Used by: __main__.
"""
