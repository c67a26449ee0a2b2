"""One file per framework, imported only by who uses it. `health` needs none, and the others build on it.

May use: app, _durable, _exit, _scope, _reaper, _journal, _system.
Used by: users.
"""
