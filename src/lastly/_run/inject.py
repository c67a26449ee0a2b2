"""In the program, before its first line: what this process is in the run, and what is to be watched.

The *main* program of a run is the process that `lastly run` became, or, where that is not Python (a shell,
make), each topmost Python below it. It gets its exit functions on TERM, HUP and QUIT, and is the owner of
all temp files and children. A Python below it is watched for temp files only: handlers for signals in
workers have hung multiprocessing pools of others.

A run lasts as long as the process that it became. Whatever is left when that has ended well was left on
purpose, and is a plain program, with all that it starts. A program that makes itself a daemon goes on: the
daemon is the program (see daemon).
"""

import atexit
import os

from lastly._run import handover, journal, watch
from lastly._system import proc
from lastly._words import fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lastly._run.handover import Handover
    from lastly._system.identity import Identity
    from lastly._words.signal_names import SignalName

# INT has Python's own handler already, and asyncio looks for exactly that.
SIGNALS: "tuple[SignalName, ...]" = ("TERM", "HUP", "QUIT")


class Program:
    """The place of this process in the run."""

    __slots__ = (
        "again", "grace", "label", "main", "mode", "origin", "over",
        "pid", "pidns", "run", "session", "start", "token",
    )  # fmt: skip

    def __init__(self, settings: "Handover", main: str | None) -> None:
        self.grace = settings.grace
        self.mode = settings.mode
        self.token = settings.token
        self.label: tuple[str, str] | None = None  # LASTLY_TOKEN as the kernel shows it, and as it should be
        self.pidns = handover.pid_namespace()
        self.run = (settings.pid, settings.start, settings.pidns)
        me = (os.getpid(), proc.start_time(os.getpid()) or 0, self.pidns)
        told = tuple(map(int, main.split("."))) if main else ()
        self.again = told == me  # the main program has replaced itself by exec
        self.main = self.again or not told or not self._lives(told)
        self.pid, self.start = me[:2] if self.main else told[:2]
        self.over: bool | None = False if self.run == me else None  # None: not known to be
        self.session = self.origin = os.getsid(0)  # the program's, and that of the first one in this process
        if self.main and not self.is_over():
            if self.run != me:
                self._take_a_token()
            handover.tell_children(handover.MAIN, ".".join(map(str, me)))

    def _lives(self, told: tuple[int, ...]) -> bool:
        return told[2] == self.pidns and proc.lives(told[0], told[1])

    def is_over(self) -> bool:
        """Whether the run's program has ended, and well: what it has left alone is not owed.

        In doubt it has not: seen from another pid namespace, or while what a crash has left is being ended.
        """
        if self.over is None and self.run[2] == self.pidns and not self._lives(self.run):
            self.over = journal.ended_well(*self.run[:2])
        return bool(self.over)

    def _take_a_token(self) -> None:
        """Below a shell or make: their other children carry the run's token, so it is not ours to kill by."""
        chain = os.environ.get(handover.TOKEN, "")
        if self.again and not chain.endswith(handover.ROOM):
            self.token = chain.rpartition(":")[2]
            return
        self.token = handover.new_token()
        if chain.endswith(handover.ROOM):
            longer = chain.removesuffix(handover.ROOM) + self.token
            self.label = (chain, longer)
        else:
            longer = f"{chain}:{self.token}" if chain else self.token
        os.environ[handover.TOKEN] = longer

    def become(self) -> None:
        """Make this forked child, a daemon, the program."""
        session = os.getsid(0)
        self.pid = os.getpid()
        self.start = proc.start_time(self.pid) or 0
        self.again = session == self.session  # a will may lie there for it
        if session != self.session:  # else it goes on with the token of the one that has just ended
            self.session = session
            self._take_a_token()
        me = self.run = (self.pid, self.start, self.pidns)
        self.over = False
        settings = handover.Handover(*me[:2], self.token, grace=self.grace, mode=self.mode, pidns=self.pidns)
        handover.tell_children(handover.RUN, settings.encode())
        handover.tell_children(handover.MAIN, ".".join(map(str, me)))

    def is_me(self) -> bool:
        """Whether this process is the main one (a forked child of it is not)."""
        return self.main and self.pid == os.getpid()

    def main_alive(self) -> bool:
        """Whether the main program, be it this process or not, still runs."""
        return self.is_me() or proc.lives(self.pid, self.start)

    def owner_identity(self, kind: "type[Identity]") -> "Identity":
        """The owner of what this process makes: the main program, or itself when that has ended."""
        if not self.main_alive():
            self.main, self.pid = True, os.getpid()
            self.start = proc.start_time(self.pid) or 0
        return kind.of(self.pid)

    def mark_forks(self) -> None:
        """Let children that are forked and never exec'ed carry the token of a main program that got it late.

        They are found by /proc/PID/environ, which shows the block of memory the process started with.
        """
        label, self.label = self.label, None
        if label:
            from lastly._run import relabel

            relabel.overwrite(handover.TOKEN, *label)


def start(site_dir: str) -> None:
    """Hide ourselves from the program, and watch it. Called once, by the injected sitecustomize."""
    settings, main = handover.take(site_dir)
    if settings is None:
        return
    journal.remember_path()
    program = Program(settings, main)
    journal.keep_for(program)
    if program.is_over():
        handover.forget()
        return
    from lastly._run import end

    atexit.register(end.at_exit)  # the first to register is the last to run
    fork.in_child(_forked)
    if program.main:
        end.note_hard_exits()
        take_signals(SIGNALS)
    watch.start(temp=program.mode != "keep", children=program.main, in_new_session=_daemon)


def take_signals(names: "Iterable[SignalName]") -> None:
    """Exit functions on these signals. Raises RuntimeError in another thread than the main one."""
    from lastly._exit import signals, state
    from lastly._words import signal_names

    # Not install(): an unmodified program has nothing to load `threading` for.
    signals.install_bare(signal_names.numbers(names))
    state.unobserve_exit("signals")  # sys.exit stays the program's; what it is given is not needed here


def _forked() -> None:
    watch.forked()
    journal.forked()
    journal.program.over = None


def _daemon() -> None:
    from lastly._run import daemon

    daemon.look(take_signals, SIGNALS)
