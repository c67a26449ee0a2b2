"""The same promise when the machine dies: a shared journal in PostgreSQL, its relay and its workers.

May use: _reaper, _settle, _journal, _system.
Used by: _cli.
"""
