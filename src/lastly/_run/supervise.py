"""`lastly run --supervise`: stay as the parent of the program, and let nothing outlive it.

What exec cannot give: orphans come to us alone (subreaper; PID 1 has it from the kernel),
zombies are reaped, and the end of the program is seen whatever it is, so it works for programs that are not
Python.

The program gets a process group of its own and, where there is a terminal, its foreground: Ctrl-C, Ctrl-Z
and a resize reach it from the terminal exactly once, and not us. What is sent to *us* is passed on. When
it stops we stop, so the shell sees a stopped job; when the shell continues us, we continue it. When it has
crashed, the terminal gets back the modes that it had before: a program that sets it raw and is killed cannot
do that.

All signals are blocked from the first line on and taken one by one with sigtimedwait: no handler, no race
between the last look and the next wait.
"""

import os
import sys

from lastly._run import handover, program
from lastly._system import kill, libc, proc, wait
from lastly._system.cgroup import Group
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any, NoReturn

    from lastly._journal.file import Journal
    from lastly._run.options import Options
else:
    import _signal  # `signal` makes enums of all the numbers

# Faults are answered where they happen; KILL and STOP cannot be waited for.
_NEVER = {_signal.SIGSEGV, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL, _signal.SIGABRT, _signal.SIGTRAP,
          _signal.SIGSYS, _signal.SIGKILL, _signal.SIGSTOP}  # fmt: skip
_WANTS_TERMINAL = {_signal.SIGTTIN, _signal.SIGTTOU}
_STOPS = {_signal.SIGTSTP, _signal.SIGSTOP, *_WANTS_TERMINAL}
_TO_GROUP = {_signal.SIGTSTP, _signal.SIGCONT, _signal.SIGWINCH}
_IMPATIENT = {_signal.SIGTERM, _signal.SIGINT, _signal.SIGQUIT}
_RESCAN = 0.05
_RMDIR = "import os, sys; os.path.isdir(sys.argv[1]) and os.rmdir(sys.argv[1])"


def run(path: str, command: list[str], options: "Options") -> int:
    """Run the program to its end and end what it leaves. Returns its exit status, or dies of its signal."""
    supervisor = Supervisor(options)
    status = supervisor.run(path, command)
    if not os.WIFSIGNALED(status):
        return os.WEXITSTATUS(status)
    signum = os.WTERMSIG(status)
    if os.getpid() != 1:
        _die_of(signum)
    return 128 + signum  # the kernel keeps signals from PID 1


class Supervisor:
    """One program and everything below it."""

    def __init__(self, options: "Options") -> None:
        self.grace = options.grace
        self.options = options
        self.token = handover.new_token()
        self.parent = os.getppid()
        self.pgrp = os.getpgrp()
        self.child = 0
        self.status: int | None = None
        self.waited = set(_signal.valid_signals()) - _NEVER
        self.terminal: int | None = None
        self.modes: list[Any] | None = None  # of the terminal, before the program had it
        self.group = Group.make()
        self.journal: Journal | None = None
        self.impatient = False

    def run(self, path: str, command: list[str]) -> int:
        become_subreaper()
        self.mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, self.waited)
        # Ignored, it would take the program's status away before we have seen it.
        self.sigchld = _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        self._plan()
        self.terminal = controlling_terminal()
        if self._foreground() == self.pgrp:
            self._note_modes()
        self.child = self._start(path, command)
        os.chdir("/")  # ours alone: a supervisor must not keep a file system busy that the program has left
        self._give_terminal(self.child)
        while self.status is None:
            self._answer(_signal.sigwaitinfo(self.waited))
        self._end_the_rest()
        if os.getpid() != 1:
            self._take_terminal()
        if self.status:
            self._restore_modes()
        self.group.remove()
        self._forget_plan()
        return self.status

    def _plan(self) -> None:
        """If we are killed, the reaper ends the program. (PID 1 takes all with it, the reaper too.)"""
        if os.getpid() == 1:
            return
        try:
            from lastly._journal.file import Journal
            from lastly._reaper import client
            from lastly._words import built_in

            self.journal = Journal.create()
            tree = {"token": self.token, "grace": self.grace}
            self.journal.plan(built_in.KILL, [None], tree, run=True, what=built_in.CHILDREN)
            if self.group.path:
                # A group that has gone is what is wanted; `rmdir` alone would call it a failure.
                argv = [sys.executable, "-I", "-S", "-c", _RMDIR, self.group.path]
                self.journal.plan(built_in.RUN, [argv], {"cwd": "/"}, phase=1)
            client.ensure(self.journal.path)
            client.child_starts(self.journal.path)
        except Exception as error:
            program.say(f"if this supervisor is killed, its children live on: {error}")

    def _forget_plan(self) -> None:
        if self.journal is not None:
            try:
                self.journal.close(unlink=True)
            except OSError:  # the reaper will find none; the program's status is what counts
                pass

    def _start(self, path: str, command: list[str]) -> int:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._exec_program(path, command, write)
        os.close(write)
        with open(read, "rb") as pipe:
            failed = pipe.read()
        if failed:
            os.waitpid(pid, 0)
            self._take_terminal()
            self.group.remove()
            self._forget_plan()
            number = int(failed)
            raise OSError(number, os.strerror(number))
        return pid

    def _exec_program(self, path: str, command: list[str], write: int) -> "NoReturn":
        number = 1
        try:
            if os.getpgrp() != os.getpid():
                os.setpgid(0, 0)
            self._give_terminal(os.getpid())
            self.group.enter()
            env = program.environment(self.options, self.token)
            _signal.signal(_signal.SIGCHLD, self.sigchld)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)
            program.execute(path, command, env, self.parent)
        except OSError as error:
            number = error.errno or 1
        finally:
            os.write(write, str(number).encode())
            os._exit(127)

    def _note_modes(self) -> None:
        import termios

        if self.terminal is not None:
            try:
                self.modes = termios.tcgetattr(self.terminal)
            except termios.error:
                self.modes = None

    def _restore_modes(self) -> None:
        """Give the terminal the modes that it had, if it is ours: in the background it is a shell's.

        Only after a crash: `stty` has changed it on purpose. What a program has *written* to the terminal
        (another screen, a hidden cursor) cannot be asked for.
        """
        import termios

        if self.terminal is not None and self.modes is not None and self._foreground() == self.pgrp:
            try:
                termios.tcsetattr(self.terminal, termios.TCSANOW, self.modes)
            except termios.error:
                pass

    def _give_terminal(self, group: int) -> bool:
        """Make it the terminal's foreground if that is ours; SIGTTOU is blocked, or this would stop us.

        It is a shell's while we are in its background: who took it from there would end the shell.
        """
        given = self._foreground() == self.pgrp
        if given:
            self._set_foreground(group)
        return given

    def _take_terminal(self) -> None:
        """Take the foreground back from whatever below us has it, or had it when it died."""
        group = self._foreground()
        if group and group != self.pgrp and (_is_gone(group) or group in groups_below(os.getpid())):
            self._set_foreground(self.pgrp)

    def _foreground(self) -> int:
        try:
            return 0 if self.terminal is None else os.tcgetpgrp(self.terminal)
        except OSError:
            self.terminal = None  # it has hung up
            return 0

    def _set_foreground(self, group: int) -> None:
        if self.terminal is not None:
            try:
                os.tcsetpgrp(self.terminal, group)
            except OSError:
                self.terminal = None

    def _answer(self, info: "_signal.struct_siginfo | None") -> None:
        if info is None:
            return
        signum = info.si_signo
        if signum == _signal.SIGCHLD:
            self._reap()
        elif signum in _WANTS_TERMINAL or info.si_pid == os.getpid():
            pass  # the last: our own, of writing where nothing reads
        elif self.status is not None:
            self.impatient = self.impatient or signum in _IMPATIENT
        else:
            if signum == _signal.SIGCONT:
                if self._foreground() == self.pgrp:
                    self._note_modes()  # the shell's, again
                self._give_terminal(self.child)
            self._pass_on(signum)

    def _pass_on(self, signum: int) -> None:
        try:
            if signum in _TO_GROUP:
                os.killpg(self.child, signum)
            else:
                os.kill(self.child, signum)
        except (ProcessLookupError, PermissionError):
            pass

    def _reap(self) -> None:
        """Take every zombie; the program's own end is what we wait for, its stop is ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid != self.child:
                continue
            if os.WIFSTOPPED(status):
                self._stop(os.WSTOPSIG(status))
            else:
                self.status = status

    def _stop(self, signum: int) -> None:
        if signum in _WANTS_TERMINAL and self._give_terminal(self.child):
            self._pass_on(_signal.SIGCONT)  # `fg` of what was not stopped: that has no effect
        elif signum in _STOPS and os.getpid() != 1:
            self._take_terminal()
            os.kill(os.getpid(), _signal.SIGSTOP)

    # ---- after the program

    def _end_the_rest(self) -> None:
        """A moment, TERM, grace, KILL for whatever is still below us. A second TERM or Ctrl-C ends the grace.

        What has lost its parent has become our child. It gets a moment to end by itself, and ends its own
        children in its own way; after half of the grace all are told.
        """
        asked: set[tuple[int, int]] = set()
        orphaned: dict[tuple[int, int], float] = {}
        until = monotonic() + self.grace
        while left := proc.below(os.getpid()):
            now = monotonic()
            if now >= until or self.impatient:
                break
            for process in left:
                if process.ppid == os.getpid():
                    orphaned.setdefault(process.key, now)
                told_at = orphaned.get(process.key, until) + kill.moment(self.grace)
                if process.key not in asked and (now >= told_at or now >= until - self.grace / 2):
                    asked.add(process.key)
                    _send(process, _signal.SIGTERM)
                    _send(process, _signal.SIGCONT)
            self._answer(_signal.sigtimedwait(self.waited, min(_RESCAN, max(0.0, until - monotonic()))))
        self.group.kill()
        while left := proc.below(os.getpid()):
            for process in left:
                _send(process, _signal.SIGKILL)
            self._answer(_signal.sigtimedwait(self.waited, _RESCAN))
        self._reap()


def _send(process: proc.Process, signum: int) -> None:
    """Signal exactly this process, if it may be signalled."""
    try:
        wait.send(*process.key, signum)
    except OSError:
        pass


def groups_below(root: int) -> set[int]:
    """Return the process groups of everything below a process."""
    return {process.group for process in proc.below(root)}


def _is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def become_subreaper() -> None:
    """Have orphans below us come to us. PID 1 needs no asking."""
    if os.getpid() == 1:
        return
    if why := libc.adopt_orphans():
        program.say(f"cannot become the parent of orphans ({why}): children that fork twice may escape")


def controlling_terminal() -> int | None:
    """Return a descriptor of our controlling terminal, if there is one."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def _die_of(signum: int) -> "NoReturn":
    """End as the program did; its core has been written, ours would bury it."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (OSError, ValueError):
        pass
    sys.stdout.flush()
    if signum not in (_signal.SIGKILL, _signal.SIGSTOP):
        _signal.signal(signum, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {signum})
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)
