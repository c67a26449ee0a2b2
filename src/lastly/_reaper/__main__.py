"""The reaper's process: ``python -I -S`` with an empty environment, started by the first owner.

Everything is imported before the first owner is met: what is on the disk may change under a process that
lives for weeks. Nothing of its starter's is kept: no terminal, no working directory, no open file, no process
group.
"""

import gc
import os
import resource
import sys

from lastly import __version__
from lastly._reaper import election, protocol
from lastly._reaper.log import Log
from lastly._reaper.loop import Reaper
from lastly._system import descriptors, libc, remove

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums of `signal`, in which every answer is wrapped


def main(argv: list[str]) -> None:
    """Run the reaper for a state and a runtime directory, or exit at once when there is one.

    Args:
        argv: state directory, runtime directory, seconds after which an idle reaper exits; the descriptor of
            the starter's connection, if it has one.
    """
    state, runtime, idle, *rest = argv
    line = int(rest[0]) if rest else None
    _detach(line)
    libc.name_process("lastly-reaper")
    try:
        serve(state, runtime, float(idle), line=line)
    except Exception as error:
        # Standard error leads nowhere. Nothing is lost: the next owner starts another.
        Log(state)("error", why=f"{type(error).__name__}: {error}", fatal=True)
        raise


def serve(
    state: str, runtime: str, idle: float, *, foreground: bool = False, line: int | None = None
) -> bool:
    """Become the reaper; returns False when there is one already, of this version or a later one.

    Args:
        state: the state directory.
        runtime: the runtime directory.
        idle: seconds without an owner after which it exits; infinity: never.
        foreground: for ``lastly reaper``: also write the log to standard error, and end on Ctrl-C.
        line: a connected socket, of the process that started this one.
    """
    os.environ["LASTLY_HOME"] = state
    lock = election.lock(runtime)
    if lock is None:
        return False
    remove.keep(state)
    elected = election.elect(runtime)
    if elected is None and protocol.is_outdated(runtime):
        elected = election.succeed(runtime)
    if elected is None:
        if line is not None:
            election.pass_on(runtime, line)
        os.close(lock)
        return False
    election.note_version(elected)
    _no_limits()
    remove.identity(state)  # what is looked up when first needed is looked up now, while nothing waits for it
    remove.check_allowed(os.path.join(state, "x"))
    for signum in () if foreground else (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_IGN)
    log = Log(state, echo=foreground)
    reaper = Reaper(runtime, idle, log, elected)
    reaper.peers.listen(runtime)
    if line is not None:
        reaper.peers.welcome(line)
    os.close(lock)
    gc.collect()
    gc.freeze()  # the workers share these pages until they are written to
    libc.give_back_memory()
    log("start", version=__version__, idle=None if idle == float("inf") else idle)
    if foreground and (url := os.environ.get("LASTLY_JOURNAL")):
        try:
            reaper.relays.serve(url, sys.executable)
        except ValueError as error:
            log("error", why=f"LASTLY_JOURNAL: {error}")
    try:
        reaper.run()
    except KeyboardInterrupt:
        log("exit", idle=False)
    return True


def _detach(line: int | None) -> None:
    """Give up everything that came from the starter."""
    try:
        os.setsid()
    except PermissionError:  # the shell was given a session of its own already, and we lead it or are in it
        pass
    os.chdir("/")
    os.umask(0o077)
    os.environ.clear()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    if line is not None:
        os.set_inheritable(line, False)
    descriptors.close_all_but([0, 1, 2] if line is None else [0, 1, 2, line])
    # Of the starter's sys.path only this package was wanted, and it is imported.
    sys.path[:] = [entry for entry in sys.path if entry != _ROOT]


def _no_limits() -> None:
    """Lift the limits of its starter: the reaper serves all other owners, too. It needs two descriptors per
    owner, and a file size or processor time that is enough for a script is not enough for weeks.
    """
    for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_AS):
        _, hard = resource.getrlimit(which)
        try:
            resource.setrlimit(which, (hard, hard))
        except (ValueError, OSError):
            pass


_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

if __name__ == "__main__":
    main(sys.argv[1:])
