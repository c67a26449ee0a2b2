"""How this process ends: the root scope, atexit's contract, signals, the true status.

May use: _scope, _system.
Used by: _durable, resources, app, _run, integrations, testing.
"""
