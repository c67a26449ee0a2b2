"""Was an exception that has just died caught by somebody who named it?

``except KeyboardInterrupt:`` is how a program says that it deals with Ctrl-C itself: a prompt that starts
anew, a server that counts to three. ``except:`` and ``except BaseException:`` say nothing of the kind;
there a signal was swallowed. The interpreter tells neither apart, but the code does: the exception's
traceback leads to the frame that caught it, that frame's table of exceptions to the handler, and the
handler loads the names that it compares with.

Imported only when a signal's exception has died in the program's own code: `dis` costs 10 ms.
"""

import dis

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FAST", "LOAD_DEREF", "LOAD_ATTR", "LOAD_CLASSDEREF")
_STEPS = 5000

# Who caught it: a clause with one of the names; another clause; perhaps a context manager; nobody there.
NAMED, CAUGHT, MANAGER, NOBODY = "named", "caught", "manager", "nobody"


def caught_by_name(error: BaseException, names: "tuple[str, ...]") -> bool:
    """Whether the clause that caught it names one of `names`, or, for a Ctrl-C, a context manager did.

    In doubt False: then the signal comes again.
    """
    verdict = _verdict(error, names)
    return verdict == NAMED or (verdict == MANAGER and isinstance(error, KeyboardInterrupt))


def in_flight(error: BaseException) -> bool:
    """Whether nobody had caught it when it was last seen: a ``finally`` or an ``__exit__`` was running.

    In doubt False: then it counts as dealt with.
    """
    return _verdict(error, ()) in (NOBODY, MANAGER)


def _verdict(error: BaseException, names: "tuple[str, ...]") -> str:
    trace = error.__traceback__
    if trace is None:
        return CAUGHT
    try:
        return _search(trace.tb_frame, trace.tb_lasti, error, names)
    except Exception:
        return CAUGHT


def _search(  # noqa: C901  # an interpreter of a few instructions: one branch for each
    frame: "FrameType", offset: int, error: BaseException, names: "tuple[str, ...]"
) -> str:
    code = dis.Bytecode(frame.f_code)
    table: Any = code.exception_entries  # type: ignore[attr-defined]  # typeshed does not know it
    steps = [step for step in code if step.opname != "CACHE"]
    index = {step.offset: place for place, step in enumerate(steps)}
    manager = False
    loaded: list[str] = []
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
        elif step.opname in _LOADS:
            loaded.append(str(step.argval))
        elif step.opname == "CHECK_EXC_MATCH":
            if any(name in names for name in loaded):
                return NAMED
            if _matches(frame, loaded, error):
                return CAUGHT
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


def _matches(frame: "FrameType", loaded: "list[str]", error: BaseException) -> bool:
    """Whether a clause with these names catches it; a name that is not found might."""
    for name in loaded:
        value = frame.f_globals.get(name, frame.f_builtins.get(name))
        if isinstance(value, (type, tuple)):
            if isinstance(error, value):
                return True
        elif value is None:
            return True
    return False
