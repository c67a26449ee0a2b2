"""Writing an action down before its resource exists: the seam between the program and the journal.

May use: _exit, _scope, _reaper, _journal, _system.
Used by: actions, resources, integrations; _scope by the one arrow that runs up, from scope.py to seam.py.
"""
