"""The daemon that notices deaths, and the line by which programs reach it.

May use: _settle, _journal, _system.
Used by: _durable and _run (client), integrations, testing, _cli (desk).
"""
