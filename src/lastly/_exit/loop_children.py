"""Children that an event loop has started: ended with it, when a signal ends the program.

``asyncio.create_subprocess_exec`` and ``trio.lowlevel.open_process`` leave a child running when the task that
waited for it is cancelled. asyncio kills it when its transport is destroyed, at the latest while the
interpreter is finalized: which a death by a signal skips. So they are told to end here, before the cleanups:
a folder that is about to be removed may be theirs.

Only after a signal: at a normal end the program may want to leave them. Never a child of plain `subprocess`,
which outlives its parent by design; `lastly.Popen` ends with its program, however that ends.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen
    from typing import Any

PATIENCE = 5.0  # seconds from TERM to KILL; with a grace no more than half of what is left of it
_LOOK = 0.01  # seconds between two looks

_OWNERS = (("asyncio.base_subprocess", "BaseSubprocessTransport"), ("trio._subprocess", "Process"))


def end(left: "float | None") -> list[str]:
    """Tell them to end, wait, and kill those that do not; return what was killed. A second call finds none.

    Args:
        left: seconds of the grace that are left; None: no limit.
    """
    running = _running()
    if not running:
        return []
    from time import sleep

    from lastly._words.clock import monotonic

    for child in running:
        child.terminate()  # not waited for: the number is its own
    until = monotonic() + (PATIENCE if left is None else max(0.0, min(PATIENCE, left / 2)))
    while (running := [child for child in running if child.poll() is None]) and monotonic() < until:
        sleep(_LOOK)
    for child in running:
        child.kill()
        child.wait()
    return [f"process {child.pid} ({_name(child)})" for child in running]


def _running() -> "list[Popen[bytes]]":
    kinds = tuple(
        kind for module, name in _OWNERS if (kind := getattr(sys.modules.get(module), name, None)) is not None
    )
    if not kinds:
        return []
    import gc

    # Neither of the two keeps a list, and both keep their Popen under this name.
    found: list[Any] = [getattr(one, "_proc", None) for one in gc.get_objects() if isinstance(one, kinds)]
    return [child for child in found if child is not None and child.poll() is None]


def _name(child: "Popen[bytes]") -> str:
    words: Any = child.args
    return str(words if isinstance(words, str | bytes) or not words else words[0])
