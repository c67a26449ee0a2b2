"""What `lastly run` tells the program it becomes, and how the program puts it out of sight.

Three variables. LASTLY_TOKEN stays visible, on purpose: it is how children are found, and a child
started with `env={**os.environ, …}` or by os.posix_spawn(…, os.environ) must carry it on. PYTHONPATH
(with our folder in front) and LASTLY_RUN are taken out of os.environ but not out of the C environment:
os.environ is as without us, and a child that inherits the environment is still injected. A child that
gets an environment of its own is not; it is still found by its token.
"""

import os
import posix

from lastly._system import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

VERSION: "Final" = "1"
RUN: "Final" = "LASTLY_RUN"
MAIN: "Final" = "LASTLY_RUN_MAIN"
TOKEN: "Final" = "LASTLY_TOKEN"  # noqa: S105  # a name, not a secret
ROOM: "Final" = "-" * 24  # at the end of the chain of tokens: as long as one (see relabel)


class Handover:
    """The settings of one `lastly run`, and the process it became: the run lasts as long as that."""

    __slots__ = ("empty_path", "grace", "mode", "pid", "pidns", "start", "token")

    def __init__(
        self,
        pid: int,
        start: int,
        token: str,
        *,
        grace: float,
        mode: str,
        empty_path: bool = False,
        pidns: int = 0,
    ) -> None:
        self.pid = pid
        self.start = start
        self.token = token
        self.grace = grace
        self.mode = mode  # auto | keep | always
        self.pidns = pidns or pid_namespace()
        self.empty_path = empty_path  # PYTHONPATH was set to "", which is not the same as unset

    def encode(self) -> str:
        fields = (VERSION, self.pid, self.start, self.token, self.grace, self.mode, int(self.empty_path))
        return " ".join(map(str, (*fields, self.pidns)))

    @classmethod
    def decode(cls, text: str) -> "Handover":
        """Read what encode() wrote. Raises ValueError for another version's."""
        fields = text.split(" ")
        if fields[0] != VERSION:
            raise ValueError(f"{RUN} is of version {fields[0]!r}, this lastly reads {VERSION!r}")
        _, pid, start, token, grace, mode, empty = fields[:7]
        pidns = int(fields[7]) if len(fields) > 7 else 0  # an earlier lastly's launcher does not say
        return cls(
            int(pid), int(start), token, grace=float(grace), mode=mode, empty_path=empty == "1", pidns=pidns
        )


def new_token() -> str:
    """Return a token that nobody can guess: we may kill whatever carries it."""
    return os.urandom(12).hex()


def pid_namespace() -> int:
    """Return the number of the namespace in which our pids count; 0 where /proc does not show it."""
    return int(proc.namespace("pid") or 0)


def take(site_dir: str) -> tuple["Handover | None", str | None]:
    """Hide our variables from the program; return the settings and the main process's `pid.start`."""
    text, main = os.environ.get(RUN), os.environ.get(MAIN)
    settings = Handover.decode(text) if text else None
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    rest = [entry for entry in entries if entry != site_dir]
    empty = rest == [""] or (not rest and settings is not None and settings.empty_path)
    _show("PYTHONPATH", os.pathsep.join(rest) if rest else ("" if empty else None))
    _show(RUN, None)
    _show(MAIN, None)
    return settings, main


def forget() -> None:
    """Take our variables from what children inherit: they are plain programs from here on."""
    for name in (RUN, MAIN):
        posix.unsetenv(os.fsencode(name))
    path = os.environ.get("PYTHONPATH")
    if path is None:
        posix.unsetenv(b"PYTHONPATH")
    else:
        posix.putenv(b"PYTHONPATH", os.fsencode(path))


def _show(name: str, value: str | None) -> None:
    """Change what the program sees of one variable, and not what its children inherit."""
    key = os.fsencode(name)
    for mapping in (os.environ._data, posix.environ):  # type: ignore[attr-defined]  # noqa: SLF001  # the copies that Python code reads
        if value is None:
            mapping.pop(key, None)
        elif key in mapping:
            mapping[key] = os.fsencode(value)


def tell_children(name: str, value: str) -> None:
    """Set a variable for children that inherit the environment, unseen by the program itself."""
    posix.putenv(os.fsencode(name), os.fsencode(value))
