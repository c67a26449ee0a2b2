"""Notice that a `CaughtSignal` was swallowed, and send the signal once more.

An exception is an object; while it unwinds the program something holds it, and when it has been swallowed
nothing does. So a weak reference to it tells us, at once and in the very frame that let it go.

The trick is what that reference calls. A callback in Python cannot trip the signal: the interpreter would
run the handler inside the callback, whose exceptions go nowhere. So the callback is the C function
`_thread.interrupt_main` itself, which only marks the signal for the next bytecode of the program. It wants
the number as its argument and gets the dead reference; so the reference is an integer, and its
``__index__`` is where we decide.

CPython blames an exception that comes up at a backward jump on the instruction before the jump's target,
and 3.12 lays out ``except`` blocks with such a jump back into the ``try`` (the same block catches again,
for ever). Hence only the first attempt comes at the next bytecode; later ones a moment later, from a
thread; and after some twenty nobody is trying to end this program any more: the exit functions run where we
are.
"""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum
import _thread
import sys
from _weakref import ref
from time import sleep

from lastly._exit import stack
from lastly.errors import CaughtSignal, _CaughtInterrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

# For `interrupt_main`: a signal that never has a Python handler, so nothing happens.
_NOTHING = int(_signal.SIGKILL)
TRIES = 20

watched: "Watch | None" = None

# Raised as a KeyboardInterrupt. A framework that ends in order for nothing else adds to them: pytest.
interrupts = {int(_signal.SIGINT)}

# Whether the program's own clause says that it means to deal with the signal itself.
_named = False


class _Term(CaughtSignal):
    """What is raised: looks back, when it dies, at who caught it; the weak reference could not any more."""

    def __del__(self) -> None:
        judge(self)

    def __reduce__(self) -> "tuple[object, ...]":
        return CaughtSignal, (self.signum,)


class _Interrupt(_CaughtInterrupt):
    """The same for SIGINT, and for the others in `interrupts`."""

    def __del__(self) -> None:
        judge(self)

    def __reduce__(self) -> "tuple[object, ...]":
        return _CaughtInterrupt, (self.signum,)


for _kind, _public in ((_Term, CaughtSignal), (_Interrupt, _CaughtInterrupt)):
    _kind.__name__ = _kind.__qualname__ = _public.__name__
    _kind.__module__ = _public.__module__


def make(signum: int, frame: "FrameType | None") -> CaughtSignal:
    """Return the exception for a signal."""
    return (_Interrupt if signum in interrupts else _Term)(signum, frame)


def judge(caught: CaughtSignal) -> None:
    """Note whether the program caught the signal by its name; called when its exception dies."""
    global _named
    _named = False
    if watched is None or watched() is not caught:
        return
    try:
        sys._getframe(2)  # noqa: SLF001  # none: it has left the program
    except ValueError:
        if caught.__context__ is not None:
            _report(caught.__context__)
        return
    from lastly import _byname

    _named = _byname.caught_by_name(caught)


def _report(error: BaseException) -> None:
    """Print the program's own error, which a signal overtook in a ``finally``: SystemExit would hide it."""
    from lastly import _byname

    if isinstance(error, Exception) and _byname.in_flight(error):
        sys.excepthook(type(error), error, error.__traceback__)


class Watch(ref):  # type: ignore[type-arg]  # ref is generic for mypy alone
    """A weak reference to the exception on its way; an integer when it has died."""

    __slots__ = ()

    def __index__(self) -> int:
        return died(self)


def watch(caught: CaughtSignal) -> CaughtSignal:
    """Return the exception to be raised, under watch."""
    global watched
    watched = Watch(caught, _thread.interrupt_main)  # type: ignore[arg-type]  # the watch is an integer to it
    return caught


def unwinding() -> bool:
    """Whether the interrupted code handles the signal: a ``finally``, an ``__exit__``, an ``except``."""
    caught = watched() if watched is not None else None
    error = sys.exc_info()[1]
    seen = 0
    while error is not None and seen < 100:
        if error is caught or isinstance(error, CaughtSignal):
            return True
        error, seen = error.__context__, seen + 1
    return False


def died(watch: Watch) -> int:
    """Return the signal to send again, or `_NOTHING`."""
    from lastly import _signals

    state = _signals.state
    if watch is not watched or not state.signum or state.driving or state.ending:
        return _NOTHING
    try:
        frame: FrameType | None = sys._getframe(2)  # noqa: SLF001  # the frame that let it go
    except ValueError:  # no Python code is running: it has left the program, as it should
        return _NOTHING
    if _thread.get_ident() != _signals._main_ident:  # noqa: SLF001  # one module in two files
        state.again = 1
        send_again(state.signum, 0.0)
        return _NOTHING
    if _signals._where(frame) == stack.EXIT:  # noqa: SLF001  # as above
        return _NOTHING
    if _named or not state.previous:
        _signals.answered()
        return _NOTHING
    state.tries += 1
    state.again = state.tries
    # The next bytecode may be a call that sleeps, and what was marked wakes nobody: a real signal follows.
    send_again(state.signum, 0.001 * state.tries)
    return state.signum if state.tries == 1 else _NOTHING


def alive() -> bool:
    """Whether the last exception raised is still on its way."""
    return watched is not None and watched() is not None


def send_again(signum: int, seconds: float) -> None:
    """Send the signal for real, a moment later, until the handler has seen it.

    Once is not enough: what arrives in the instant before the main thread begins to wait does not wake it.
    """
    from lastly import _signals

    state = _signals.state

    def send() -> None:
        pause = seconds
        while True:
            sleep(pause)
            if not state.again or state.driving or state.ending:
                return
            _signal.pthread_kill(_signals._main_ident, signum)  # noqa: SLF001  # as above
            pause = min(2 * pause + 0.01, 1.0)

    _thread.start_new_thread(send, ())
