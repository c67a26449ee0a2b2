"""A program that makes itself a daemon goes on in a forked child: the daemon is the program.

It has a session of its own, or is in one that its parent has just made and left (the second fork). From the
first thing on that it does there, it has its exit functions on TERM, HUP and QUIT, children of its own, and
the temp files of the program that it was. No function is replaced for it: a forked child looks whether it has
become a daemon when it opens a file, sleeps, starts something (see watch). The parent of the second fork,
which knows that it ends, leaves it a journal in its name.

A forked child in the session that the run began in is a worker, and left alone when the program ends well.
"""

import os

from lastly._run import journal, watch
from lastly._system import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable

    from lastly._words.signal_names import SignalName
else:
    import _signal


def look(take_signals: "Callable[[Iterable[SignalName]], None]", names: "Iterable[SignalName]") -> None:
    """Notice that this forked child, in another session than the run's, is the program now.

    A second call hands over what the first could not yet: temp files of a parent that was still there.
    """
    program = journal.program
    if not program.is_me():
        # In the session of a daemon that lives, or has crashed, it is one of its workers.
        if os.getsid(0) == program.session and (
            program.main_alive() or not journal.ended_well(program.pid, program.start)
        ):
            return
        program.become()
        watch.watch_children()
        _take(take_signals, names)
    if not watch.inherited or _adopt():
        watch.look_no_more()


def _take(take_signals: "Callable[[Iterable[SignalName]], None]", names: "Iterable[SignalName]") -> None:
    """Have exit functions on those of the signals that the program has not taken itself meanwhile."""
    free = [name for name in names if _signal.getsignal(getattr(_signal, f"SIG{name}")) == _signal.SIG_DFL]
    try:
        take_signals(free)
    except RuntimeError:  # in another thread than the main one: the default actions stay
        pass


def _adopt() -> bool:
    """Plan what the program had made before it became this daemon; False as long as it is still there."""
    before = watch.inherited_from
    if proc.lives(*before):
        return False
    if journal.ended_well(*before):
        for path in watch.inherited:
            watch.plan(path)
    watch.forget_inherited()
    return True


def leave_a_will() -> None:
    """At the normal end of a program: plan what a forked daemon owes, in case it does nothing more itself.

    Several such children are workers that were left alone on purpose.
    """
    program = journal.program
    # An exec would have laid out its memory anew.
    me = proc.layout(os.getpid())
    heirs = [pid for pid in proc.living_children() if proc.layout(pid) == me and b"0" not in me]
    if len(heirs) == 1 and os.getsid(heirs[0]) == program.session:
        journal.bequeath(heirs[0], [*watch.temps, *_inherited()])


def _inherited() -> list[str]:
    before = watch.inherited_from
    ours = watch.inherited and not proc.lives(*before) and journal.ended_well(*before)
    return list(watch.inherited) if ours else []
