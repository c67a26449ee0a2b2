"""A child that runs a user's code: bounded in time and output, and leaving nothing behind.

It has a session of its own, no terminal, an empty standard input, and dies with the worker that started it
(PR_SET_PDEATHSIG). What it forks is found by process group, by a token in its environment, and because its
orphans become the worker's children; when the child has ended, well or badly, the rest is killed: a cleanup
must not leave servers behind.
"""

import json
import os
import resource
import select

from lastly._system import descriptors, kill, libc, probe, proc, wait
from lastly._words.clock import monotonic
from lastly._words.signal_names import signal_name
from lastly.errors import LastlyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums of `signal`, in which every answer is wrapped
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

TAIL = 4000  # bytes of output that are kept: the last ones
_RESULT = 65536
_limits = resource.getrlimit(resource.RLIMIT_NOFILE)  # as it was before the reaper raised it


class ActionFailed(LastlyError):  # noqa: N818 - as in errors.py: the name says what happened
    """An action did not succeed; ``output`` is the end of what it printed, ``status`` its exit status."""

    def __init__(self, text: str, output: str = "", status: int | None = None) -> None:
        super().__init__(text)
        self.output = output
        self.status = status


_adopting = False


def adopt_orphans() -> None:
    """Make this process the parent of what its children leave behind.

    For workers, whose only children these are.
    """
    global _adopting
    _adopting = True
    libc.adopt_orphans()


def run(
    argv: list[str],
    env: dict[str, str],
    cwd: str,
    limit: float,
    request: "dict[str, Any] | None",
    *,
    ok: "Container[int]" = (0,),
) -> None:
    """Run the program to its end, or to its limit.

    Args:
        argv: the program and its arguments.
        env: its whole environment; only the token is added.
        cwd: where to run it.
        limit: seconds after which it is killed.
        ok: exit statuses that mean success.
        request: given to it on descriptor 3 as JSON; it then has to answer ``{"ok": true}`` on descriptor 4.

    Raises:
        ActionFailed: it could not be started, failed, or took longer than ``limit`` seconds.
    """
    token = os.urandom(12).hex()
    started = _Child(argv, {**env, "LASTLY_TOKEN": token}, cwd, request)
    try:
        ended = started.watch(monotonic() + limit)
    finally:
        status = started.end(token)
    output = started.output.decode("utf-8", "replace")
    if not ended and not (request is not None and b'"ok"' in started.answer):
        raise ActionFailed(f"took longer than {limit:g} s and was killed", output)
    if _answered(bytes(started.answer), output):
        return  # how its interpreter ended after that does not concern the cleanup
    _judge(argv, status, ok, output)
    if request is not None:
        raise ActionFailed("its process ended before the function returned", output)


def _answered(answer: bytes, output: str) -> bool:
    """Whether it said that it is done; ActionFailed: it said why not, or why it could not be started."""
    try:
        said = json.loads(answer) if answer else {}
    except ValueError:
        said = {}
    if said.get("error"):
        raise ActionFailed(str(said["error"]), output)
    return bool(said.get("ok"))


def _judge(argv: list[str], status: int, ok: "Container[int]", output: str) -> None:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        raise ActionFailed(f"its process died of signal {-code} ({signal_name(-code)})", output)
    if code not in ok:
        last = output.strip().rpartition("\n")[2]
        text = f"{argv[0]!r} ended with status {code}" + (f": {last}" if last else "")
        raise ActionFailed(text, output, code)


class _Child:
    def __init__(
        self, argv: list[str], env: dict[str, str], cwd: str, request: "dict[str, Any] | None"
    ) -> None:
        self.output = bytearray()
        self.answer = bytearray()
        self.pipes: dict[int, bytearray] = {}
        self.death: wait.Watch | None = None
        its: list[int] = []
        try:
            for kept in (self.output, self.answer):
                ours, end = os.pipe()
                self.pipes[ours] = kept
                its.append(end)
                os.set_blocking(ours, False)
            its.append(probe.unnamed_file("request"))
            out, answer, question = its
            if request is not None:
                os.write(question, json.dumps(request).encode("ascii"))
                os.lseek(question, 0, os.SEEK_SET)
            parent = os.getpid()
            self.pid = os.fork()
            if self.pid == 0:
                _exec_program(argv, env, cwd, parent, (out, question, answer))
            self._look()
        except BaseException:
            self._close()
            raise
        finally:
            for fd in its:
                os.close(fd)

    def _look(self) -> None:
        """Open a pidfd to watch it by; without one it must not run."""
        try:
            self.root = kill.identity(self.pid)
            self.death = wait.Watch(self.pid, proc.start_time(self.pid) or 0)
        except BaseException:
            os.kill(self.pid, signal.SIGKILL)  # not waited for yet: the number is still its own
            os.waitpid(self.pid, 0)
            raise

    def _close(self) -> None:
        for fd in self.pipes:
            os.close(fd)
        if self.death is not None:
            self.death.close()

    def watch(self, until: float) -> bool:
        """Read what it says until it ends; False when its time is over."""
        poll = select.poll()
        assert self.death is not None
        for fd in (*self.pipes, *([self.death.fd] if self.death.fd is not None else [])):
            poll.register(fd, select.POLLIN)
        while True:
            rest = until - monotonic()
            if rest <= 0:
                return False
            ready = [fd for fd, _ in poll.poll(self.death.limit(rest))]
            if self.death.ended():
                for pipe in self.pipes:
                    self._drain(pipe)
                return True
            for fd in ready:
                if fd in self.pipes and not self._drain(fd):
                    poll.unregister(fd)

    def _drain(self, fd: int) -> bool:
        """Read what is there, keeping a bounded part; False at the end of it."""
        kept = self.pipes[fd]

        def keep(data: bytes) -> None:
            if kept is self.answer:
                kept.extend(data[: _RESULT - len(kept)])
            else:
                kept.extend(data)
                if len(kept) > TAIL:
                    del kept[:-TAIL]

        return descriptors.read_some(fd, keep)

    def end(self, token: str) -> int:
        """Kill what is left of it; returns its wait status."""
        try:
            os.killpg(self.pid, signal.SIGKILL)  # not waited for yet: the number is still its own
        except (ProcessLookupError, PermissionError):
            pass
        try:
            kill.kill_tree(self.root, token=token, grace=0)
            if _adopting:
                kill.kill_tree(kill.identity(os.getpid()), grace=0, only_children=True)
        except OSError:
            pass  # stuck in the kernel, or no descriptor to look with; the next attempt meets it again
        _, status = os.waitpid(self.pid, 0)
        self._close()
        if _adopting:
            _bury()
        return status


def _bury() -> None:
    """Wait for the orphans that became our children."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _exec_program(
    argv: list[str], env: dict[str, str], cwd: str, parent: int, fds: tuple[int, int, int]
) -> None:
    """In the forked child: turn into the program. Never returns."""
    out, question, answer = fds
    tell = answer
    try:
        os.setsid()
        libc.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(125)  # the worker died before that line
        high = [os.dup(fd) if fd < 5 else fd for fd in (out, question, answer)]
        high = [os.dup(fd) if fd < 5 else fd for fd in high]
        null = os.open(os.devnull, os.O_RDWR)
        for fd, to in ((null, 0), (high[0], 1), (high[0], 2), (high[1], 3), (high[2], 4)):
            os.dup2(fd, to)
        tell = 4
        descriptors.close_all_but(range(5))
        resource.setrlimit(resource.RLIMIT_NOFILE, _limits)
        for signum in (
            signal.SIGPIPE,
            signal.SIGXFSZ,
            signal.SIGALRM,
            signal.SIGHUP,
            signal.SIGINT,
            signal.SIGQUIT,
        ):
            signal.signal(signum, signal.SIG_DFL)
        os.chdir(cwd)
        os.execvpe(argv[0], argv, env)
    except BaseException as error:
        why = f"{argv[0]!r} could not be started in {cwd!r}: {error}"
        os.write(tell, json.dumps({"error": why}).encode("ascii"))
    finally:
        os._exit(126)
