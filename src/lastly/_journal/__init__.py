"""The file format and its locks: what is owed, on disk, whatever happened to it.

May use: _system.
Used by: _durable, _settle, _reaper, _reach, _run, resources, integrations, _cli.
"""
