"""Run a function in a forked child: bounded in time and output, and leaving nothing behind.

As `_settle.child`, without starting an interpreter: the modules are imported already. Whatever the child
leaves running becomes a child of this process, which adopts orphans, and is killed.
"""

import json
import os
import select
import signal

from lastly._settle.child import TAIL
from lastly._system import kill, libc, proc, wait
from lastly._words.clock import monotonic
from lastly._words.signal_names import signal_name
from lastly.errors import NotOurs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_ERROR = 4000  # characters


class Outcome:
    """How a call went: `done`, `failed` or `abandoned`, with what it said."""

    __slots__ = ("error", "output", "state")

    def __init__(self, state: str, error: str = "", output: str = "") -> None:
        self.state, self.error, self.output = state, error, output

    def to_mapping(self) -> "dict[str, Any]":
        """The same as JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def call(function: "Callable[[], None]", limit: float, boss: int) -> Outcome | None:
    """Call it in a child.

    Args:
        function: what to call; what it raises is a failure, `NotOurs` for good.
        limit: seconds after which it is killed.
        boss: the socket of whoever asked; once there is something to read, nobody wants the answer any more.

    Returns:
        how it went; None when nobody wants to know any more.
    """
    output, its_output = os.pipe()
    answer, its_answer = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_child(function, its_output, its_answer, parent)
    os.close(its_output)
    os.close(its_answer)
    os.set_blocking(output, False)
    os.set_blocking(answer, False)
    said, printed = bytearray(), bytearray()
    try:
        how = _watch(pid, {output: printed, answer: said}, answer, boss, monotonic() + limit)
    finally:
        status = _end(pid)
        for fd in (output, answer):
            os.close(fd)
    text = printed.decode("utf-8", "replace")
    if how == "boss":
        return None
    if said:
        told = json.loads(said)
        return Outcome(told["state"], told["error"], text)
    if how == "late":
        return Outcome("failed", f"took longer than {limit:g} s and was killed", text)
    code = os.waitstatus_to_exitcode(status)
    died = f"died of signal {-code} ({signal_name(-code)})" if code < 0 else f"ended with status {code}"
    return Outcome("failed", f"its process {died} before the function returned", text)


def _watch(pid: int, pipes: "dict[int, bytearray]", answer: int, boss: int, until: float) -> str:
    """Read what it says until it has answered, ended, is late, or nobody waits."""
    death = wait.Watch(pid, proc.start_time(pid) or 0)
    poll = select.poll()
    for fd in (boss, *pipes, *([death.fd] if death.fd is not None else [])):
        poll.register(fd, select.POLLIN)
    try:
        while (rest := until - monotonic()) > 0:
            ready = [fd for fd, _ in poll.poll(death.limit(rest))]
            for fd in pipes:
                if fd in ready and not _drain(fd, pipes[fd]):
                    poll.unregister(fd)
            if pipes[answer].endswith(b"\n"):
                return "answered"
            if death.ended():
                for fd, kept in pipes.items():
                    _drain(fd, kept)
                return "ended"
            if boss in ready:
                return "boss"
    finally:
        death.close()
    return "late"


def _drain(fd: int, kept: bytearray) -> bool:
    """Read what is there; False at the end. Bounded in time too: somebody may print faster than we read."""
    for _ in range(64):
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        kept += data
        if len(kept) > 4 * TAIL:
            del kept[:-TAIL]
    return True


def _end(pid: int) -> int:
    """Kill what is left of it; returns its wait status."""
    try:
        os.killpg(pid, signal.SIGKILL)  # not waited for yet: the number is still its own
    except (ProcessLookupError, PermissionError):
        try:
            os.kill(pid, signal.SIGKILL)  # it has no group of its own yet
        except ProcessLookupError:
            pass
    _, status = os.waitpid(pid, 0)
    try:
        while True:  # what it started and left became ours: as a rule there is nothing
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                kill.kill_tree(kill.identity(os.getpid()), grace=0, only_children=True)
    except (ChildProcessError, OSError):
        pass
    return status


def _be_child(function: "Callable[[], None]", output: int, answer: int, parent: int) -> "NoReturn":
    try:
        os.setsid()
        libc.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(125)  # it died before that line
        os.dup2(output, 1)
        os.dup2(output, 2)
        answer = os.dup2(answer, 3) if answer != 3 else 3
        os.set_inheritable(3, False)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(signum, signal.SIG_DFL)
        state, error = "done", ""
        try:
            function()
        except BaseException as raised:
            import traceback

            traceback.print_exc()
            state = "abandoned" if isinstance(raised, NotOurs) else "failed"
            error = "".join(traceback.format_exception_only(raised)).strip()[-_ERROR:]
        _flush()
        os.write(answer, json.dumps({"state": state, "error": error}).encode("ascii") + b"\n")
    finally:
        os._exit(0)


def _flush() -> None:
    import sys

    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
