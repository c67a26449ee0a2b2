"""One file per framework, imported only by its users. `health` needs none, and the others build on it.

May use: app, resources, _durable, _exit, _scope, _reaper, _journal, _system.
Used by: users.
"""

__all__: "list[str]" = []  # each is imported by its own name, with the framework that it is for


def __dir__() -> "list[str]":
    return [name for name in globals() if name[0].isalpha()]
