"""Was an exception that has just died caught by a clause that names it?

``except KeyboardInterrupt:`` is how a program says that it deals with Ctrl-C itself: a prompt that starts
anew, a server that counts to three. ``except:`` and ``except BaseException:`` say nothing of the kind; there
a signal was swallowed. The interpreter tells neither apart, but the code does: the exception's traceback
leads to the frame that caught it, that frame's table of exceptions to the handler, and the handler loads the
classes that it compares with; by whatever name, ``STOP = (KeyboardInterrupt, EOFError)``.

Why code is read here, although each release of CPython may change it. Nothing else tells: the interpreter
compares classes without asking them, so no hook of a class is called; a trace function sees lines, and the
source may be newer than the program. Tried and measured without it (148 tests of signals): if every catch
counts as swallowed, 13 fail, among them every prompt, which the first Ctrl-C then ends. If every catch of a
Ctrl-C counts as an answer, as in plain Python, 10 fail: ``except:`` swallows it for good, what `__del__`
drops is lost, and ``except CaughtSignal`` for SIGTERM is not seen. Whether the exception is *lost* is decided
without this (swallowed.py).

An interpreter whose code reads differently is noticed: before the first answer counts, clauses whose answers
are known are read. If one of them is read wrongly, the rule of plain Python holds: catching a Ctrl-C answers
it; catching another signal does not.

Imported only when a signal's exception was caught by the program: `dis` costs 10 ms.
"""

import builtins
import dis
import sys

from lastly import errors
from lastly.errors import CaughtSignal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

_MEANT = (KeyboardInterrupt, CaughtSignal)
_STEPS = 5000

# What caught it: a clause that names what is meant; another; perhaps a context manager; nobody there.
NAMED, CAUGHT, MANAGER, NOBODY = "named", "caught", "manager", "nobody"


_readable: "bool | None" = None


def caught_by_name(error: BaseException) -> bool:
    """Whether the clause that caught it names a signal.

    For a Ctrl-C also whether a context manager caught it, as `contextlib.suppress` does; or a shell, which
    stops the statement with it. In doubt False: then the signal comes again.
    """
    pressed = isinstance(error, KeyboardInterrupt)
    if not readable():
        return pressed
    verdict = _verdict(error)
    return verdict == NAMED or (pressed and (verdict == MANAGER or (verdict == CAUGHT and _in_a_shell())))


def _in_a_shell() -> bool:
    return hasattr(sys, "ps1") or hasattr(builtins, "__IPYTHON__")


def readable() -> bool:
    """Whether the code of this interpreter reads as expected; tried once."""
    global _readable
    if _readable is None:
        read = {sample: _sample(sample) for sample in _SAMPLES}
        _readable = all(error and _verdict(error) == _SAMPLES[sample] for sample, error in read.items())
    return _readable


def _interrupt() -> None:
    raise KeyboardInterrupt


def _names_it() -> "BaseException | None":
    try:
        _interrupt()
    except ValueError:
        return None
    except (EOFError, errors.CaughtSignal, KeyboardInterrupt) as error:
        return error
    return None


def _names_another() -> "BaseException | None":
    try:
        _interrupt()
    except BaseException as error:
        return error
    return None


def _catches_all() -> "BaseException | None":
    try:
        _interrupt()
    except:  # noqa: E722  # that is the sample
        return sys.exc_info()[1]
    return None


def _lets_it_pass() -> None:
    try:
        _interrupt()
    finally:
        _interrupt.__name__  # noqa: B018  # something to do, as in any ``finally``


def _sample(function: "Callable[[], BaseException | None]") -> "BaseException | None":
    try:
        return function()
    except KeyboardInterrupt as error:
        trace = error.__traceback__
        return error.with_traceback(None if trace is None else trace.tb_next)  # as seen from the function


_SAMPLES = {_names_it: NAMED, _names_another: CAUGHT, _catches_all: CAUGHT, _lets_it_pass: NOBODY}


def in_flight(error: BaseException) -> bool:
    """Whether it was not caught yet when it was last seen: a ``finally`` or an ``__exit__`` was running.

    In doubt False: then it counts as dealt with.
    """
    return readable() and _verdict(error) in (NOBODY, MANAGER)


def _verdict(error: BaseException) -> str:
    trace = error.__traceback__
    if trace is None:
        return CAUGHT
    try:
        return _search(trace.tb_frame, trace.tb_lasti, error)
    except Exception:
        return CAUGHT


def _search(  # noqa: C901  # an interpreter of a few instructions: one branch for each
    frame: "FrameType", offset: int, error: BaseException
) -> str:
    code = dis.Bytecode(frame.f_code)
    table: Any = code.exception_entries  # type: ignore[attr-defined]  # typeshed does not know it
    steps = [step for step in code if step.opname != "CACHE"]
    index = {step.offset: place for place, step in enumerate(steps)}
    manager = False
    loaded: list[object] = []
    at = _handler(table, index, offset)
    fresh = True
    for _ in range(_STEPS):
        if at is None:
            return MANAGER if manager else NOBODY
        step = steps[at]
        following = at + 1
        if step.opname == "PUSH_EXC_INFO":
            loaded, fresh = [], True
            at = following
            continue
        if step.opname == "POP_TOP" and fresh:  # a bare except
            return CAUGHT
        if step.opname == "WITH_EXCEPT_START":
            manager = True
        elif step.opname == "LOAD_ATTR" and loaded:
            loaded.append(_attribute(loaded.pop(), step.argval))
        elif step.opname.startswith("LOAD_") and step.opname != "LOAD_CONST" and type(step.argval) is str:
            loaded.append(_value(frame, step.opname, step.argval))
        elif step.opname == "CHECK_EXC_MATCH":
            if (verdict := _compared(error, loaded)) is not None:
                return verdict
            loaded = []
        elif step.opname.startswith("POP_JUMP") and "IF_FALSE" in step.opname:
            following = index[step.argval]
        elif step.opname == "RERAISE":
            loaded = []
            at = _handler(table, index, step.offset)
            continue
        elif step.opname == "CHECK_EG_MATCH":
            return CAUGHT
        fresh = False
        at = following
    return CAUGHT


def _handler(table: "Any", index: "dict[int, int]", offset: int) -> "int | None":
    for entry in table:
        if entry.start <= offset < entry.end:
            return index.get(entry.target)
    return None


def _value(frame: "FrameType", operation: str, name: str) -> object:
    # Asked for the locals, a frame up to 3.12 keeps copies of them: only where they are needed.
    inner = () if operation == "LOAD_GLOBAL" else (frame.f_locals,)
    for names in (*inner, frame.f_globals, frame.f_builtins):
        if name in names:
            return names[name]
    return None


def _attribute(owner: object, name: str) -> object:
    """Look it up without running the program's code: in a module, a class, or the class of an object."""
    return getattr(owner if isinstance(owner, (type, type(sys))) else type(owner), name, None)


def _compared(error: BaseException, values: "list[object]") -> "str | None":
    """Whether a clause with these values catches it; None: it does not. What was not found might."""
    flat = [each for value in values for each in (value if isinstance(value, tuple) else (value,))]
    kinds = [kind for kind in flat if isinstance(kind, type)]
    catching = [kind for kind in kinds if isinstance(error, kind)]
    if any(issubclass(kind, _MEANT) for kind in catching):
        return NAMED
    return CAUGHT if catching or len(kinds) < len(flat) else None
