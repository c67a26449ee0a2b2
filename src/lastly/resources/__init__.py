"""Ready-made resources: planned before they are created, confirmed after, gone at the end.

Each is made in the same three steps, and killed between any two of them the program leaves nothing behind:

1. *plan*: the journal owes the removal of a name that nobody else can guess;
2. *create*, failing if the name exists;
3. *confirm*: the journal learns device, inode and birth time, so that later nothing else is taken for it.

May use: _durable, _exit, _scope, _journal, _system, actions.
Used by: users, testing.
"""

# Names only: subprocess costs 11 ms to import, socket 8; only for those who start children, or listen.

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly.resources._child import Popen, server
    from lastly.resources._lock_file import lock_file, pid_file
    from lastly.resources._process import Process, open_process
    from lastly.resources._replace import atomic_write
    from lastly.resources._socket import unix_socket
    from lastly.resources._temporary import Temporary, temp_dir, temp_file

__all__ = [
    "Popen", "Process", "Temporary", "atomic_write", "lock_file", "open_process", "pid_file", "server",
    "temp_dir", "temp_file", "unix_socket",
]  # fmt: skip

_WHERE = {
    "Popen": "_child",
    "Process": "_process",
    "Temporary": "_temporary",
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


def __dir__() -> list[str]:
    return sorted(__all__)
