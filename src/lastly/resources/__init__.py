"""Ready-made resources: planned before they are created, confirmed after, gone at the end.

Each is made in the same three steps, and killed between any two of them the program leaves nothing behind:

1. *plan*: the journal owes the removal of a name that nobody else can guess;
2. *create*, failing if the name exists;
3. *confirm*: the journal learns device, inode and birth time, so that later nothing else is taken for it.

May use: _durable, _exit, _scope, _journal, _system, actions.
Used by: users, testing, integrations.
"""

# Names only: subprocess costs 11 ms to import, socket 8; only for those who start children, or listen.

TYPE_CHECKING = False
if TYPE_CHECKING:
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


def __getattr__(name: str) -> object:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(__import__(f"lastly.resources.{where}", fromlist=["*"]), name)
    globals()[name] = value
    return value
