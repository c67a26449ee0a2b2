"""The end of a program under `lastly run`: what is kept, what is removed, what the reaper gets.

A *normal* end is one the program chose: its last line, sys.exit with any status, os._exit(0). Then what it
left it meant to leave. A crash is everything else: an uncaught exception, a signal, abort, os._exit with
another status; then the plans stand. An end that never gets here is a crash as well, and the reaper's.
"""

import os
import posix
import sys

from lastly._exit import state
from lastly._run import journal as ledger
from lastly._run import watch
from lastly._words import fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_hard_exit = os._exit
_settled_by = 0


def at_exit() -> None:
    """The last of the exit functions."""
    _look()
    _end_once(crashed=crashed())


def _look() -> None:
    """Note whether this process is the program. Never raises."""
    try:
        watch.look()
    except Exception as error:
        ledger.complain(error)


def crashed() -> bool:
    """Whether this exit is not the program's own choice."""
    root = sys.modules.get("lastly._exit.root")
    reason = root.exit_reason() if root is not None else None
    if reason is not None and reason.signal:
        return True
    error = state.ended_by()
    return error is not None and not isinstance(error, SystemExit)


def _end_once(*, crashed: bool) -> None:
    """Once per process: strike out, release, remove. Never raises."""
    global _settled_by
    fork.look()
    program = ledger.program
    if _settled_by == os.getpid() or (ledger.opened is None and not (program.again and program.is_me())):
        return
    _settled_by = os.getpid()
    try:
        watch.look_at_doubts()
        if program.is_over():
            watch.stop_watching()
        elif program.is_me():
            _main_ends(crashed=crashed)
        elif not program.main_alive() and not crashed:
            _release_own()
        if ledger.opened is not None:
            ledger.opened.close(unlink=not ledger.opened.live)
    except Exception as error:
        ledger.complain(error)


def _main_ends(*, crashed: bool) -> None:
    """What is to be removed is left to the reaper, which comes after the program's last `__del__`.

    Removed from here, an open NamedTemporaryFile would print that its file is missing. Without a reaper that
    is the smaller evil.
    """
    always = ledger.program.mode == "always"
    if (crashed or always) and os.environ.get("LASTLY_REAPER") == "0":
        _remove_own()
    if not crashed:
        if ledger.program.session != ledger.program.origin:
            from lastly._run import daemon

            daemon.leave_a_will()
        _release_own(temps=not always)
        _release_others()


def _remove_own() -> None:
    """Remove here and now what this process made."""
    remove = ledger.removal()
    for path, number in watch.take_temps().items():
        try:
            remove(path)
        except Exception as error:
            ledger.fail(number, f"{type(error).__name__}: {error}")
        else:
            ledger.done(number)


def _release_own(*, temps: bool = True) -> None:
    journal = ledger.opened
    if journal is None:
        return
    if ledger.children_id is not None:
        journal.release(ledger.children_id, reason="normal end")
    if temps:
        for number in watch.take_temps().values():
            journal.release(number, reason="normal end")


def _release_others() -> None:
    """Release what workers, and this process before an exec, had planned in our name.

    A worker that lives on was left alone on purpose: it is a plain program from here on.
    """
    program = ledger.program
    if not program.again and ledger.children_id is None:
        return
    for journal in ledger.left_behind(program.pid, program.start):
        for number, action in journal.owed():
            if program.mode != "always" or action != ledger.REMOVE:
                journal.release(number)
        journal.close()


def note_hard_exits() -> None:
    """Notice os._exit(0) of the main program: the parent of a program that daemonizes ends with it.

    There is no audit event for it, and from outside it looks like any death without exit functions.
    """

    def _exit(status: int) -> "NoReturn":
        """Exit to the system with specified status, without normal exit processing."""
        if status == 0 and ledger.program.main:
            _look()
            if ledger.program.is_me():
                _end_once(crashed=False)
        _hard_exit(status)

    _exit.__module__, _exit.__qualname__ = "posix", "_exit"
    os._exit = posix._exit = _exit  # noqa: SLF001  # public in all but its name
