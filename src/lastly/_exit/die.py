"""How the process ends: with the truth for its parent, and with nothing left in a buffer.

A program that was told to stop by a signal should, after all its cleanups, *die of that signal*: a shell
loop goes on after ``exit(130)`` and stops after a death by SIGINT. The plain way to get there is expensive
or lossy. Killing oneself inside an atexit function loses every open file's buffer and the functions that
were to run after it. Letting the interpreter finalize first costs six times as much as the rest of the exit
and repeats what has been done.

So the last cleanup is a driver (see ending.py) that runs what is left of atexit, and then `die_of`: write
out every buffer that finalization would have written out, restore the default action, and raise the signal.
What finalization does beyond that, and we do not: ``__del__`` of what the program still holds. For what
ends a file properly only when closed (gzip, bz2, lzma, zipfile, shelve), we close it.

Where the status must be forced but nothing be skipped, see last.py.
"""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum
import gc
import sys
from _io import _IOBase  # the C class: isinstance costs no ABC look-up

from lastly._exit.state import end
from lastly._words import pythons
from lastly._words.pythons import getpid, leave

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, NoReturn, TypeAlias

    Status: TypeAlias = Literal["signal", "code"]

# Seconds that writing out buffers may take where another thread might hold a buffer's lock for ever.
_FLUSH_LIMIT = 5.0


def die_of(signum: int, limit: float = 0.0, *, files: bool = True) -> "NoReturn":
    """Write out all buffers, then end this process by the signal's default action.

    PID 1 has no default actions, and a program may ask for codes: both exit with 128 + number. A signal whose
    default action does not end a process ends in that code as well. A second call cannot happen.

    Args:
        signum: the signal's number.
        limit: seconds for the buffers; 0: as long as it takes, if no other thread can be in the way.
        files: False: only the standard streams. Other buffers of a forked worker may hold its parent's text.
    """
    if limit or _thread_count():
        _end_in(limit or _FLUSH_LIMIT, signum)
    if files:
        flush_all()
    else:
        flush_standard()
    if end.status == "signal" and getpid() != 1 and not pythons.WINDOWS:
        _default(signum)
        _signal.raise_signal(signum)
    leave(pythons.code_of(signum) if end.status == "signal" else 128 + signum)


def _end_in(seconds: float, signum: int) -> None:
    """End after so many seconds, whatever the buffers do.

    A thread that was stopped inside write() keeps that buffer's lock, and no Python handler runs while we
    wait for it. The kernel's clock does not need the interpreter.
    """
    if pythons.has_timer():
        _default(_signal.SIGALRM)
        _signal.setitimer(_signal.ITIMER_REAL, seconds)
    else:
        pythons.after(seconds, lambda: leave(pythons.code_of(signum)))


def _thread_count() -> int:
    import _thread

    count: int = _thread._count()  # what threading itself counts by
    return count - end.looking  # they hold no buffer's lock


def _default(signum: int) -> None:
    """Give the signal its default action, in whichever thread we are."""
    try:
        _signal.signal(signum, _signal.SIG_DFL)
        pythons.blocked(pythons.SIG_UNBLOCK, (signum,))
    except ValueError:  # not the main thread
        pythons.c_call("signal", signum, 0)


def flush_all() -> None:
    """Write out every buffer of this process, as the end of the interpreter would; nothing is raised.

    Text before the bytes below it; then what must be closed to be whole; then bytes; then C's stdio.
    """
    try:
        texts, layered, buffers = _open_files()
    except MemoryError:
        texts = layered = buffers = []
    for steps in ((texts, "flush"), (layered, "close"), (buffers, "flush")):
        for file in steps[0]:
            try:
                getattr(file, steps[1])()
            except BaseException:  # noqa: S110  # a closed file, a broken pipe: nothing is left to tell
                pass
    flush_standard()
    try:
        pythons.c_call("fflush", None)
    except MemoryError:
        pass


def flush_standard() -> None:
    """Write out what was printed; nothing is raised."""
    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except BaseException:  # noqa: S110  # as above; also None, under a window manager
            pass


def _open_files() -> "tuple[list[Any], list[Any], list[Any]]":
    """Find all file objects: (text, to be closed, bytes); the collector knows them all."""
    import _io

    closable: tuple[type, ...] = ()
    for module, name in (("zipfile", "ZipFile"), ("shelve", "Shelf")):
        if module in sys.modules:
            closable += (getattr(sys.modules[module], name),)
    kinds = (_IOBase, *closable)
    raw = (_io.FileIO, _io.BytesIO, _io.StringIO, _io.BufferedReader)
    text, buffered = _io.TextIOWrapper, (_io.BufferedWriter, _io.BufferedRandom, _io.BufferedRWPair)
    texts, layered, buffers = [], [], []
    for thing in gc.get_objects():
        # type() first: a proxy's isinstance would run its program's code.
        if not issubclass(type(thing), kinds) or issubclass(type(thing), raw):
            continue
        if issubclass(type(thing), text):
            texts.append(thing)
        elif issubclass(type(thing), buffered):
            buffers.append(thing)
        elif _own_del(type(thing)):
            layered.append(thing)
    # A member that is being written before its archive, whichever the collector names first.
    layered.sort(key=lambda thing: not type(thing).__name__.startswith("_"))
    return texts, layered, buffers


def _own_del(kind: type) -> bool:
    """Whether the class is written in Python: closing writes the rest of a compressed file or an archive."""
    if kind.__name__ == "_WriteBufferStream":  # gzip's own, below the file: closed with it
        return False
    return kind.__module__ in ("gzip", "bz2", "lzma", "zipfile", "shelve", "zstd", "compression.zstd")
