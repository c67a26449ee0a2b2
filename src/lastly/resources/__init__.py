"""Ready-made resources: planned before they are created, confirmed after, gone at the end.

Each is made in the same three steps, and killed between any two of them the program leaves nothing behind:

1. *plan*: the journal owes the removal of an unguessable name;
2. *create*, failing if the name exists;
3. *confirm*: the journal learns device, inode and birth time, so that later nothing else is taken for it.

May use: _durable, _exit, _scope, _journal, _system, actions.
Used by: users, testing, integrations.
"""

# Names only: subprocess costs 11 ms to import, socket 8; only for programs that start children, or listen.

from lastly._system import probe
from lastly.errors import UnsupportedPlatform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from lastly.resources._child import Popen, server
    from lastly.resources._lock_file import lock_file, pid_file
    from lastly.resources._process import Process, open_process
    from lastly.resources._replace import AtomicFile, atomic_write
    from lastly.resources._socket import UnixSocket, unix_socket
    from lastly.resources._temporary import Temporary, temp_dir, temp_file

__all__ = [
    "AtomicFile", "Popen", "Process", "Temporary", "UnixSocket", "atomic_write", "lock_file", "open_process",
    "pid_file", "server", "temp_dir", "temp_file", "unix_socket",
]  # fmt: skip
__dir__ = __all__.copy  # dir() shows what is public

_WHERE = {
    "AtomicFile": "_replace",
    "Popen": "_child",
    "Process": "_process",
    "Temporary": "_temporary",
    "UnixSocket": "_socket",
    "atomic_write": "_replace",
    "lock_file": "_lock_file",
    "open_process": "_process",
    "pid_file": "_lock_file",
    "server": "_child",
    "temp_dir": "_temporary",
    "temp_file": "_temporary",
    "unix_socket": "_socket",
}
# Whether the holder of a name is dead, and what file it is, can be judged on Linux only.
_LINUX = frozenset({"_lock_file", "_replace", "_socket"})


def _refusing(name: str, why: str) -> "Callable[..., NoReturn]":
    def refuse(*_: object, **__: object) -> "NoReturn":
        raise UnsupportedPlatform(f"lastly.{name} is not to be had here: {why}; nothing was made")

    return refuse


def __getattr__(name: str) -> object:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if where in _LINUX and (why := probe.no_reaper()):
        return _refusing(name, why)
    value: object = getattr(__import__(f"lastly.resources.{where}", fromlist=["*"]), name)
    globals()[name] = value
    return value
