"""What became of a signal's exception: under way, answered, or swallowed. This is the whole rule.

A signal ends a program as an exception, and a program can lose an exception: in ``except:``, in ``__del__``,
in a framework that logs every error, in ``errors.append(error)``. A program that loses it ignores SIGTERM. So
we look what became of the exception: at once when it dies, and otherwise a moment later and again and again,
from a thread, until the program ends. We look at facts that the interpreter knows:

1. **Under way.** Some thread handles the exception (``finally``, ``with``, ``except``), or handles an
   exception that came out of it. A suspended coroutine, generator or greenlet that handles it counts as well.
   We wait, however long that takes: these are the program's cleanups.
2. **Left.** The exception is dead, and no Python code let it go: it has left the main module. All is well.
3. **Answered.** The clause that caught it names it: ``except KeyboardInterrupt``, ``except CaughtSignal``
   (clauses.py). The program deals with this signal itself and goes on; the next one is a first one again.
4. **Swallowed.** The exception is dead, and Python code let it go. Or it is alive, no thread handles it, and
   something keeps it: a list, a future, a log record, a local variable. We raise the signal again.
5. **In between.** It is alive, no thread handles it and nothing keeps it: the interpreter has it in hand
   while it leaves one function for the next, and runs a ``__del__``. We wait.

A signal that was swallowed `TRIES` times ends the program where it stands: the exit functions run, and stderr
names the place that swallowed it. A second signal from outside does not wait for the thread: it is raised at
once, unless the first one is under way. In an event loop nothing is raised, for the main task is cancelled;
event_loops.py tells by the same kind of facts whether the task swallowed that.

Two details. When the exception dies, we want to raise it in the very frame that let it go: there it is
outside the ``try`` that swallowed it, and unwinds what is around. A callback in Python cannot do that,
because its exceptions go nowhere. So the weak reference calls the C function `_thread.interrupt_main`, which
marks a signal for the program's next bytecode. It wants the number as its argument and gets the dead
reference; so the reference is an integer, and its ``__index__`` decides. CPython blames an exception that
comes up at a backward jump on the instruction before the jump's target, and 3.12 lays out ``except`` blocks
with such a jump back into the ``try``: the same block would catch it for ever. Hence only the first attempt
is made at once; the thread makes the others.
"""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum
import _thread
import sys
from _weakref import ref

from lastly._exit import stack, state, uncaught
from lastly._exit.state import LOOK, end
from lastly._words import pythons
from lastly.errors import CaughtInterrupt, CaughtSignal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType
    from typing import Any

# For `interrupt_main`: a signal that never has a Python handler, so nothing happens.
_NOTHING = pythons.number("SIGKILL" if hasattr(_signal, "SIGKILL") else "SIGILL")
TRIES = 20

watched: "Watch | None" = None

# Raised as a KeyboardInterrupt.
_interrupts = {int(_signal.SIGINT)}

UNDER_WAY, LEFT, ANSWERED, SWALLOWED = "under way", "left", "answered", "swallowed"
_fate = UNDER_WAY  # of the last exception, once it is dead
_place = ""  # where the last one was caught


class _Term(CaughtSignal):
    """What is raised: looks back, when it dies, at what caught it; the weak reference no longer could."""

    def __del__(self) -> None:
        _died(self)

    def __reduce__(self) -> "tuple[object, ...]":
        return CaughtSignal, (self.signum,)


class _Interrupt(CaughtInterrupt):
    """The same for SIGINT, and for the others in `_interrupts`."""

    def __del__(self) -> None:
        _died(self)

    def __reduce__(self) -> "tuple[object, ...]":
        return CaughtInterrupt, (self.signum,)


for _kind, _public in ((_Term, CaughtSignal), (_Interrupt, CaughtInterrupt)):
    _kind.__name__ = _kind.__qualname__ = _public.__name__
    _kind.__module__ = _public.__module__


class Watch(ref):  # type: ignore[type-arg]  # ref is generic for mypy alone
    """A weak reference to the exception; when it has died, the number of the signal to be marked."""

    __slots__ = ()

    def __index__(self) -> int:
        if self is not watched or _fate != SWALLOWED or end.tries or not stack.in_main_thread():
            return _NOTHING
        end.again = LOOK
        return end.signum


def interrupt_by(signals: "set[int]") -> "set[int]":
    """Raise these signals as a KeyboardInterrupt: pytest knows nothing else. Return the new ones."""
    added = signals - _interrupts
    _interrupts.update(added)
    return added


def interrupt_no_more(signals: "set[int]") -> None:
    """Take `interrupt_by` back."""
    _interrupts.difference_update(signals)


def begin() -> None:
    """Know of no exception: a first signal has come, and nothing was raised for it yet."""
    global watched, _fate
    watched, _fate = None, UNDER_WAY


def make(signum: int, frame: "FrameType | None") -> CaughtSignal:
    """Return the exception to be raised for a signal, under watch."""
    global watched, _fate
    pressed = signum in _interrupts
    if pressed:
        uncaught.expect(left)
    caught = (_Interrupt if pressed else _Term)(signum, frame)
    for call in state.heard_by("raising"):
        call(caught)
    watched, _fate = Watch(caught, _thread.interrupt_main), UNDER_WAY  # type: ignore[arg-type]  # an integer to it
    return caught


def trust() -> None:
    """Stop watching the last exception: the program keeps it on purpose, and ends in order."""
    global watched, _fate
    watched, _fate = None, LEFT


def _died(caught: CaughtSignal) -> None:
    """Note how the exception ended; called by its own ``__del__``."""
    global _fate
    if watched is None or watched() is not caught or not end.signum or end.driving or end.exiting:
        return
    try:
        frame = sys._getframe(2)  # what let it go
    except ValueError:
        left(caught)
        return
    ours = stack.in_main_thread()
    if ours and stack.where(frame) == stack.EXIT:  # let go in an exit function: the main module is over
        _fate = LEFT
        return
    _fate = _judge(caught)
    if ours and _fate == ANSWERED:
        state.answered()


def left(caught: CaughtSignal) -> None:
    """Note that it was not caught; print an error of the program that a signal overtook in a ``finally``.

    SystemExit would hide that.
    """
    global _fate
    _fate = LEFT
    if caught.__context__ is not None:
        _report(caught.__context__)


def _report(error: BaseException) -> None:
    from lastly._exit import clauses

    if isinstance(error, Exception) and clauses.in_flight(error):
        sys.excepthook(type(error), error, error.__traceback__)


def where() -> str:
    """Return where the signal was swallowed last, for a message; nothing if that is not known."""
    caught = watched() if watched is not None else None
    return _place if caught is None else _caught_at(caught)


def _caught_at(caught: CaughtSignal) -> str:
    if (trace := caught.__traceback__) is None:
        return ""
    code = trace.tb_frame.f_code
    return f"{code.co_filename}:{trace.tb_lineno}, in {code.co_name}"


def _judge(caught: CaughtSignal) -> str:
    """Whether a clause that caught it answered or swallowed it."""
    global _place
    from lastly._exit import clauses

    if not end.previous or clauses.caught_by_name(caught):
        return ANSWERED
    _place = _caught_at(caught)
    return SWALLOWED


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────


def fate() -> str:
    """Return what has become of the last exception: UNDER_WAY, LEFT, ANSWERED or SWALLOWED.

    Where none was raised, as in an event loop that ended with an error of its own, that one counts instead.
    """
    if watched is None:
        return UNDER_WAY if _fate == LEFT or _handled(stack.main_ident) else SWALLOWED
    caught = watched()
    if caught is None:
        return _fate
    if _leads(_handled(), caught):
        return UNDER_WAY
    suspended, kept = _holders(caught)
    return _judge(caught) if kept and not suspended else UNDER_WAY


def unwinding() -> bool:
    """Whether the main thread is dealing with the exception: what a second signal must not cut short."""
    handled = _handled(stack.main_ident)
    caught = watched() if watched is not None else None
    if any(isinstance(error, CaughtSignal) for error in chain(handled)):
        return True
    return caught is not None and _holders(caught)[0]


def _handled(thread: "int | None" = None) -> "list[BaseException]":
    """Return the exceptions that threads handle, the innermost of each; of one thread, or of all."""
    every: dict[int, Any] = sys._current_exceptions()  # documented, in spite of its name
    some = every.values() if thread is None else [every.get(thread)]
    errors = [found[1] if type(found) is tuple else found for found in some]  # a tuple in 3.11
    return [error for error in errors if error is not None]


def chain(errors: "list[BaseException]") -> "Iterable[BaseException]":
    """Yield these errors, those that they came out of, and the members of groups."""
    seen = set()
    todo: list[BaseException | None] = list(errors)
    while todo:
        error = todo.pop()
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            yield error
            todo += (error.__context__, error.__cause__)
            if isinstance(error, BaseExceptionGroup):
                todo += error.exceptions


def _leads(errors: "list[BaseException]", caught: CaughtSignal) -> bool:
    return any(error is caught for error in chain(errors))


def _holders(caught: CaughtSignal) -> "tuple[bool, bool]":
    """Whether a suspended coroutine, generator or greenlet handles it, and whether anything else keeps it.

    What runs at this moment is not among the referrers: neither the frames nor their variables. So the
    variables are looked at; up to 3.12 that leaves copies of them in the frame until it ends.
    """
    import gc
    from types import AsyncGeneratorType, CoroutineType, GeneratorType

    flows: list[Any] = [AsyncGeneratorType, CoroutineType, GeneratorType]
    if (greenlet := sys.modules.get("greenlet")) is not None:
        flows.append(greenlet.greenlet)
    suspended = kept = False
    found: list[object] = [caught]
    known = {id(caught)}
    for thing in found:  # grows: what came out of it, groups and their tuples, (type, value, traceback)
        for holder in gc.get_referrers(thing):
            kind = type(holder)  # a proxy's isinstance would run the program's code
            if holder is found or id(holder) in known:
                continue
            if issubclass(kind, (BaseException, tuple)):
                known.add(id(holder))
                found.append(holder)
            elif issubclass(kind, tuple(flows)):
                suspended = True
            else:
                kept = True
    return suspended, kept or suspended or _in_a_variable(known)


def _in_a_variable(known: "set[int]") -> bool:
    frame = sys._current_frames().get(stack.main_ident)  # documented
    while frame is not None:
        ours = frame.f_globals.get("__name__", "").startswith("lastly.")
        if not ours and any(id(value) in known for value in frame.f_locals.values()):
            return True
        frame = frame.f_back
    return False
