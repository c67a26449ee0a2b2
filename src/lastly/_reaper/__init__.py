"""The daemon that notices deaths, and the line by which programs reach it.

May use: _settle, _journal, _system.
Used by: _durable and _run, for its client; _reach; _cli and testing, for the desk; integrations;
_pyinstaller.
"""
