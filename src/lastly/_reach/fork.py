"""Run functions in a forked child: bounded in time and output, and leaving nothing behind.

As `_settle.child`, without starting an interpreter: the modules are imported already. The child is kept for
the next function of the same owner as long as nothing is wrong with it: the last one succeeded in time, and
nothing that it started is left. Whatever a child leaves running becomes a child of this process, which
adopts orphans, and is killed.
"""

import fcntl
import json
import os
import select
import signal
import sys
import traceback

from lastly._settle.child import TAIL
from lastly._system import descriptors, kill, libc, proc, wait
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


class Runner:
    """A child for one function after the other, and another child when something is wrong with it."""

    def __init__(self, perform: "Callable[[dict[str, Any]], None]") -> None:
        """Begin without a child.

        Args:
            perform: what the child does with a request. What it raises is a failure, `NotOurs` for good.
        """
        self.perform = perform
        self.pid = 0
        self.question = self.answer = self.output = -1
        self.death: wait.Watch | None = None
        self.poll = select.poll()
        self.brood = self.own = proc.Brood(os.getpid())  # the child's, once there is one; and ours
        self.status = 0

    def run(self, request: bytes, limit: float, boss: int, *, fresh: bool) -> Outcome | None:
        """Have a request performed.

        Args:
            request: JSON, in one line.
            limit: seconds after which the child is killed.
            boss: the socket of whoever asked; with something to read there, nobody wants the answer any more.
            fresh: in a child that has performed nothing yet.

        Returns:
            how it went; None when nobody wants to know any more.
        """
        if fresh or not self.pid:
            self.end()
            self._start()
        said, printed = bytearray(), bytearray()
        try:
            _write(self.question, request + b"\n")
            how = self._watch({self.output: printed, self.answer: said}, boss, monotonic() + limit)
        except BaseException:
            self.end()
            raise
        told = json.loads(said) if said.endswith(b"\n") else None
        if told is None or told["state"] != "done" or not self._is_clean():
            self.end()
        text = printed.decode("utf-8", "replace")
        if told is not None:
            return Outcome(told["state"], told["error"], text)
        if how == "boss":
            return None
        if how == "late":
            return Outcome("failed", f"took longer than {limit:g} s and was killed", text)
        code = os.waitstatus_to_exitcode(self.status)
        died = f"died of signal {-code} ({signal_name(-code)})" if code < 0 else f"ended with status {code}"
        return Outcome("failed", f"its process {died} before the function returned", text)

    def _start(self) -> None:
        question, self.question = os.pipe()
        self.answer, answer = os.pipe()
        self.output, output = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(self.perform, question, answer, output, parent)
        for fd in (question, answer, output):
            os.close(fd)
        for fd in (self.answer, self.output):
            os.set_blocking(fd, False)
        self.death = wait.Watch(self.pid, proc.start_time(self.pid) or 0)
        self.brood = proc.Brood(self.pid)
        self.poll = select.poll()
        for listened in (self.answer, self.output, self.death.fd):
            if listened is not None:
                self.poll.register(listened, select.POLLIN)

    def _is_clean(self) -> bool:
        """Whether nothing is left of what it started: neither below it nor, orphaned, below us."""
        return not self.brood.now() and self.own.now() == [self.pid]

    def _watch(self, pipes: "dict[int, bytearray]", boss: int, until: float) -> str:
        """Read what it says until it has answered, ended, is late, or nobody waits."""
        death = self.death
        assert death is not None
        self.poll.register(boss, select.POLLIN)
        while (rest := until - monotonic()) > 0:
            ready = [fd for fd, _ in self.poll.poll(death.limit(rest))]
            if self.answer in ready or death.ended():
                for fd, kept in pipes.items():
                    _drain(fd, kept)
                if pipes[self.answer].endswith(b"\n"):
                    return "answered"
                if death.ended():
                    return "ended"
            elif self.output in ready and not _drain(self.output, pipes[self.output]):
                self.poll.unregister(self.output)  # it has closed its own: the answer is still to come
            if boss in ready:
                return "boss"
        return "late"

    def end(self) -> None:
        """Kill it, with all that it started; twice is fine."""
        if not self.pid:
            return
        self.status, self.pid = _end(self.pid), 0
        for fd in (self.question, self.answer, self.output):
            os.close(fd)
        self.brood.close()
        if self.death is not None:
            self.death.close()


def _write(fd: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        pass  # it has ended: that is seen next


def _drain(fd: int, kept: bytearray) -> bool:
    """Read what is there, keeping the end of it; False when there is no more."""

    def keep(data: bytes) -> None:
        kept.extend(data)
        if len(kept) > 4 * TAIL:
            del kept[:-TAIL]

    return descriptors.read_some(fd, keep)


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


def _be_child(
    perform: "Callable[[dict[str, Any]], None]", question: int, answer: int, output: int, parent: int
) -> "NoReturn":
    try:
        os.setsid()
        libc.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(125)  # it died before that line
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (question, answer)]
        os.dup2(output, 1)
        os.dup2(output, 2)
        for fd, to in zip(high, (3, 4), strict=True):
            os.dup2(fd, to, inheritable=False)
        os.closerange(5, os.sysconf("SC_OPEN_MAX"))
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(signum, signal.SIG_DFL)
        with os.fdopen(3, "rb") as requests:
            for request in requests:
                state, error = _perform(perform, json.loads(request))
                _flush()
                os.write(4, json.dumps({"state": state, "error": error}).encode("ascii") + b"\n")
    finally:
        os._exit(0)


def _perform(perform: "Callable[[dict[str, Any]], None]", request: "dict[str, Any]") -> tuple[str, str]:
    try:
        perform(request)
    except BaseException as raised:
        traceback.print_exc()
        state = "abandoned" if isinstance(raised, NotOurs) else "failed"
        return state, "".join(traceback.format_exception_only(raised)).strip()[-_ERROR:]
    return "done", ""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
