"""Child programs for tests: started from code, waited for by line and by pidfd, ended by pid.

Nothing here sleeps for a guessed time. A test waits for a line that the child prints, for a death (pidfd), or for a
condition, each with a bound; when the bound passes, the error shows all that the child has printed.

The child gets an environment of its own: a private LASTLY_HOME, a private TMPDIR, a private working directory, none
of the PYTHON* or LASTLY_* variables of the test run. It writes block-buffered, as real programs do on a pipe: what a
test waits for must be printed with ``flush=True``.

LASTLY_TEST_PYTHONS names other interpreters (separated by ":"): tests with the fixture ``python`` run once for each.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
PATIENCE = 40.0  # seconds: far more than anything takes, so that a busy machine fails no test
first_tier = False  # whether this is `make test`: said by the conftest


def examples(number: int) -> int:
    """How many examples a property is tried with: so many, a fifth of them in the first tier."""
    return max(number // 5, 10) if first_tier else number


def pythons() -> list[str]:
    """The interpreters to test with: this one, then those in LASTLY_TEST_PYTHONS."""
    return [sys.executable, *filter(None, os.environ.get("LASTLY_TEST_PYTHONS", "").split(os.pathsep))]


def kept(table: list[dict[str, int]], keep: int) -> set[int]:
    """The places of so many rows in which every value of every column comes, as far as they reach.

    Of those that bring as many new values, rows that are spread over the table; the first one always.
    """
    spread = {number * len(table) // keep for number in range(keep)}
    left, seen = dict(enumerate(table)), set()
    while left and len(table) - len(left) < keep:
        place = max(left, key=lambda place: (len(left[place].items() - seen), place in spread, -place))
        seen |= left.pop(place).items()
    return set(range(len(table))) - left.keys()


def clean_environment(home: Path | str, **changes: str | None) -> dict[str, str]:
    """os.environ without what would change a child's behaviour; ``None`` as a value removes that variable."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LASTLY_", "COV_", "PYTEST_"))}
    env["LASTLY_HOME"] = str(home)
    for name, value in changes.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


@dataclass(frozen=True)
class Result:
    """How a program ended: ``status`` is the exit code, or minus the number of the signal it died of."""

    status: int
    out: str
    err: str
    pid: int

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Program:
    """A started child. ``line()`` waits for its output, ``wait()`` for its death."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        session: bool = False,
        popen: Mapping[str, Any] | None = None,
    ) -> None:
        self.argv = list(argv)
        self.cwd = cwd
        self.tmp = Path(env["TMPDIR"]) if "TMPDIR" in env else cwd
        self.popen = subprocess.Popen(
            self.argv, env=dict(env), cwd=cwd, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=session, **(popen or {}),
        )  # fmt: skip
        self.pid = self.popen.pid
        self.pidfd = os.pidfd_open(self.pid)
        self.died_at: float | None = None
        assert self.popen.stdout and self.popen.stderr
        self._open = {self.popen.stdout.fileno(): bytearray(), self.popen.stderr.fileno(): bytearray()}
        self._out, self._err = self._open.values()
        self._seen = 0  # how much of stdout line() has handed out
        for fd in self._open:
            os.set_blocking(fd, False)

    @property
    def out(self) -> str:
        return self._out.decode(errors="surrogateescape")

    @property
    def err(self) -> str:
        return self._err.decode(errors="surrogateescape")

    def line(self, text: str = "", *, within: float = PATIENCE) -> str:
        """Wait for the next line of stdout that contains ``text``; return it without its newline."""
        return self._await_line(lambda: self._next_line(text), f"line with {text!r}", within)

    def error_line(self, text: str, *, within: float = PATIENCE) -> str:
        """Wait until stderr has a line that contains ``text`` (from the beginning, each time)."""

        def find() -> str | None:
            lines = self._err.split(b"\n")[:-1]
            return next((s for s in (li.decode(errors="surrogateescape") for li in lines) if text in s), None)

        return self._await_line(find, f"line with {text!r} on stderr", within)

    def hear(self) -> None:
        """Read what it has said so far, so that it need not wait for somebody who does."""
        self._pump(lambda: False, 0.001)

    def send(self, signum: int, *, busy: bool = False) -> None:
        """Send a signal to this very process (by pidfd: never to a later one with its pid), once it sleeps.

        A line that says "ready" comes before the call that blocks, and a Python handler whose signal arrives
        just before such a call waits for its end. ``busy``: the program never sleeps, or any moment will do.
        """
        if not busy and signum not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT):
            wait_until(lambda: asleep(self.pid), what=f"program {self.pid} sleeps (else: busy=True)")
        signal.pidfd_send_signal(self.pidfd, signum)

    def write(self, text: str) -> None:
        """Write to its stdin; start it with ``stdin=subprocess.PIPE``."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(text.encode())
        self.popen.stdin.flush()

    def wait(self, *, within: float = PATIENCE, eof: bool = False) -> Result:
        """Wait for its death. ``eof``: also for the end of its output, so for all who inherited it."""
        if not self._pump(lambda: self.popen.returncode is not None, within):
            self._fail(f"still runs after {within} s")
        if eof and not self._pump(lambda: not self._open, within):
            self._fail(f"somebody holds its output open {within} s after its death")
        return Result(self.popen.returncode, self.out, self.err, self.pid)

    def end(self) -> None:
        """Kill it if it lives, and give everything back. Twice is fine."""
        if self.popen.returncode is None:
            self.popen.kill()  # safe: not waited for yet, so the pid is still its own
            self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream is not None:
                stream.close()
        self._open.clear()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def _next_line(self, text: str) -> str | None:
        while (end := self._out.find(b"\n", self._seen)) >= 0:
            found = self._out[self._seen : end].decode(errors="surrogateescape")
            self._seen = end + 1
            if text in found:
                return found
        return None

    def _await_line(self, find: Callable[[], str | None], what: str, within: float) -> str:
        found: list[str] = []

        def condition() -> bool:
            if (text := find()) is not None:
                found.append(text)
            return bool(found) or self.popen.returncode is not None

        self._pump(condition, within)
        if not found:
            self._fail(f"no {what} within {within} s")
        return found[0]

    def _pump(self, condition: Callable[[], bool], within: float) -> bool:
        """Read what comes and watch the pidfd until the condition holds; False when the bound passed."""
        deadline = time.monotonic() + within
        poll = select.poll()
        for fd in self._open:
            poll.register(fd, select.POLLIN)
        if self.popen.returncode is None:
            poll.register(self.pidfd, select.POLLIN)
        while True:
            if condition():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for fd, _event in poll.poll(left * 1000 + 1):
                if fd == self.pidfd:
                    poll.unregister(fd)
                    self.died_at = time.monotonic()
                    for pipe in list(self._open):
                        self._drain(pipe, poll)
                    self.popen.wait()
                else:
                    self._drain(fd, poll)

    def _drain(self, fd: int, poll: select.poll) -> None:
        while True:
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                return
            if not data:
                poll.unregister(fd)
                del self._open[fd]
                return
            self._open[fd] += data

    def _fail(self, what: str) -> None:
        status = "running" if self.popen.returncode is None else f"ended with {self.popen.returncode}"
        raise AssertionError(
            f"program {self.pid}: {what} ({status})\n  {self.argv}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"
        )


class Programs:
    """Starts programs under one LASTLY_HOME and ends them all: the fixture ``programs``."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home = home
        self.folder = folder
        self.started: list[Program] = []

    def start(
        self,
        code: str,
        *args: str,
        python: str | None = None,
        flags: Sequence[str] = (),
        script: str = "program.py",
        env: Mapping[str, str | None] | None = None,
        **options: Any,
    ) -> Program:
        """Start Python code (dedented, written to a script of its own) with ``args``; do not wait.

        ``flags`` go to the interpreter; options are those of :class:`Program`: stdin, session, cwd, popen.
        """
        folder = self._folder()
        (folder / script).write_text(textwrap.dedent(code), encoding="utf-8", errors="surrogateescape")
        python = python or sys.executable
        changes = dict(env or {})
        if python != sys.executable and "PYTHONPATH" not in changes:
            changes["PYTHONPATH"] = str(SRC)  # the other interpreters have nothing installed
        return self._start([python, *flags, str(folder / script), *args], folder, changes, options)

    def run(self, code: str, *args: str, within: float = PATIENCE, **options: Any) -> Result:
        """Start Python code and wait for its death."""
        return self.start(code, *args, **options).wait(within=within)

    def start_command(
        self, argv: Sequence[str], *, env: Mapping[str, str | None] | None = None, **options: Any
    ) -> Program:
        """Start any command; the first word "python" stands for this interpreter, "lastly" for its console script."""
        here = {"python": [sys.executable], "lastly": [sys.executable, "-m", "lastly"]}
        return self._start(
            [*here.get(argv[0], [argv[0]]), *argv[1:]], self._folder(), dict(env or {}), options
        )

    def run_command(self, argv: Sequence[str], *, within: float = PATIENCE, **options: Any) -> Result:
        return self.start_command(argv, **options).wait(within=within)

    def end(self) -> None:
        while self.started:
            self.started.pop().end()

    def _folder(self) -> Path:
        folder = self.folder / f"p{len(self.started)}"
        (folder / "tmp").mkdir(parents=True)
        return folder

    def _start(
        self, argv: list[str], folder: Path, changes: dict[str, str | None], options: dict[str, Any]
    ) -> Program:
        env = clean_environment(self.home, **{"TMPDIR": str(folder / "tmp"), **changes})
        program = Program(argv, env=env, cwd=options.pop("cwd", folder), **options)
        self.started.append(program)
        return program


def wait_until(condition: Callable[[], Any], *, within: float = PATIENCE, what: str = "") -> Any:
    """Ask until the condition is true; return what it returned. For things that no file descriptor tells."""
    deadline = time.monotonic() + within
    pause = 0.001
    while True:
        asked = time.monotonic()
        if value := condition():
            return value
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(
                f"{what or getattr(condition, '__name__', 'condition')}: not within {within} s"
            )
        # Most of the processor is for what is waited for: a question that takes long is asked seldom.
        select.select([], [], [], max(pause, min(3 * (now - asked), 0.25)))
        pause = min(pause * 1.5, 0.02)


def gone(path: str | bytes | os.PathLike[str]) -> bool:
    """Nothing is at this path, not even a dangling link."""
    return not os.path.lexists(path)


def start_time(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None when it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in b"ZX" else int(fields[19])


def asleep(pid: int) -> bool:
    """The main thread of the process is blocked, and still is a moment later; or the process has ended."""
    return _state(pid) not in "RD" and not select.select([], [], [], 0.001)[0] and _state(pid) not in "RD"


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/task/{pid}/stat", "rb") as file:
            return chr(file.read().rpartition(b")")[2].split()[0][0])
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def process_gone(pid: int, start: int | None = None) -> bool:
    """The process has ended (a zombie has), or its pid belongs to one that started at another time."""
    now = start_time(pid)
    return now is None or (start is not None and now != start)


def wait_process_gone(pid: int, *, within: float = PATIENCE) -> None:
    """Wait, by pidfd, for the end of any process."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([pidfd], [], [], within)[0]:
            raise AssertionError(f"process {pid} still runs after {within} s: {command_of(pid)}")
    finally:
        os.close(pidfd)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def reaper_of(home: Path | str) -> int | None:
    """Pid of the reaper that serves this home: who holds the flock on its ``reaper.run``."""
    try:
        inode = os.stat(f"{home}/reaper.run").st_ino
    except FileNotFoundError:
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
            pid = int(words[4])
            if _holds_file_under(pid, str(home)):
                return pid
    return None


def runs_under(pid: int, home: Path | str) -> bool:
    """The process has a file under this home open, has it as its LASTLY_HOME, or was started for it.

    A reaper that is just starting has no environment and no file open yet: only its arguments tell.
    """
    environ, argv = _told_by(pid)
    named = any(word == os.fsencode(str(home)) for word in argv)
    return named or b"LASTLY_HOME=" + os.fsencode(str(home)) in environ or _holds_file_under(pid, str(home))


def _told_by(pid: int) -> tuple[list[bytes], list[bytes]]:
    """Environment and arguments of a process; in the middle of exec it has neither, so that is waited for."""
    told: tuple[list[bytes], list[bytes]] = ([], [])

    def tells() -> bool:
        try:
            os.readlink(f"/proc/{pid}/exe")  # a thread of the kernel has none
            for words, name in zip(told, ("environ", "cmdline"), strict=True):
                words[:] = Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")
        except OSError:
            return True
        return any(told[0]) or any(told[1]) or start_time(pid) is None

    wait_until(tells, what=f"process {pid} is a program")
    return told


def now_in_ticks() -> int:
    """No process that is started from now on has an earlier start time."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")) - 1


def processes_of(home: Path | str, since: int = 0) -> list[int]:
    """Every living process, but us, that runs under this home.

    ``since``: when the home was made (:func:`now_in_ticks`). A process that is older is not looked into: on a machine
    with some hundred others the look costs more than most tests.
    """
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    young = (pid for pid in pids if pid != os.getpid() and (start_time(pid) or -1) >= since)
    return [pid for pid in young if runs_under(pid, home)]


def end_all_of(home: Path | str, since: int = 0) -> None:
    """Kill what still runs under this home, until nothing does."""
    clean = 0  # looks in a row: one forked during the first, by one that ended during it, is seen in the second
    for _ in range(40):
        found = processes_of(home, since)
        clean = 0 if found else clean + 1
        if clean == 2:
            return
        for pid in found:
            _kill_if_under(pid, home)
    raise AssertionError(f"under {home} there is always another process: {[command_of(p) for p in found]}")


def _kill_if_under(pid: int, home: Path | str) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Looked at again with the pidfd in hand: from here on the pid cannot come to mean another process.
        if runs_under(pid, home):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], 5.0)
    except ProcessLookupError:
        pass  # it ended by itself in between
    finally:
        os.close(pidfd)


def _holds_file_under(pid: int, home: str) -> bool:
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for fd in fds:
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(home + "/"):
                return True
        except OSError:
            continue
    return False
