"""Crash a program everywhere: end it at each of its points, and see what each death leaves behind.

People test databases so: cut the power after every write, look whether it recovers. Here the writes are
lines, events or cleanups of a program, and recovering is what its cleanup and the reaper do.

The first run is not killed: it counts the points. Each further run is a process of its own with a working
directory, a TMPDIR and a LASTLY_HOME of its own, and is ended at one of them. Then the reaper's work is done
to its end, and what is there now that was not there before is a leak; so is a process, wherever it hides.

    everywhere.py           what to run, and with what around it
    campaign.py             which points, several at once, in how much time
    worker.py               around the program: starts it, finds what is left
    agent/sitecustomize.py  in the program: counts, and dies
    report.py               what came of it
"""

import errno
import json
import os
import sys

from lastly import Scope
from lastly._words.clock import seconds as _seconds
from lastly.testing._crash.campaign import PACKAGES, Campaign, CannotCrash
from lastly.testing._crash.report import Report, Run, signal_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import FunctionType
    from typing import Any

__all__ = ["CannotCrash", "Report", "Run", "crash_everywhere"]

KINDS = ("lines", "events", "cleanups")
_HERE = os.path.dirname(os.path.abspath(__file__))
_BEGIN = "lastly.crash.begin"  # the audit event of call.py
_LAUNCH = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from lastly._run.launch import main; sys.exit(main(sys.argv[1:]))"
)


def crash_everywhere(
    program: "str | os.PathLike[str] | Sequence[str] | FunctionType",
    *args: "Any",
    points: str = "lines",
    how: str = "KILL",
    at_most: int = 200,
    seconds: float = 120.0,
    timeout: float = 30.0,
    wait: float = 2.0,
    seed: int = 0,
    jobs: int | None = None,
    only: "Iterable[int]" = (),
    include: "Iterable[str | os.PathLike[str]]" = (),
    inputs: "str | os.PathLike[str] | None" = None,
    watch: "Iterable[str | os.PathLike[str]]" = (),
    allow: "Iterable[str]" = (),
    check: "Callable[[Run], object] | None" = None,
    env: "Mapping[str, str] | None" = None,
    run: bool = False,
) -> Report:
    """Run a program again and again, end it at each of its points, and return which point leaks what.

    A leak is what is there when the program is dead and the reaper has done its work, and was not there
    before: files and folders in its working directory, its TMPDIR and the watched paths, processes, cleanups
    still owed. What a run that is not killed leaves in its *working directory* is its result, and no leak.

    Args:
        program: a script; or the words after ``python``: ``["-m", "package", …]``; or a function at the top
            of a module, whose points are counted from its first line on.
        args: given to the program: text for a script, JSON for a function.
        points: ``"lines"``: before each line of the program's own files; ``"events"``: before each audit
            event of something that leaves the process (opening to write, creating, removing, starting,
            connecting, signalling); ``"cleanups"``: before and after each cleanup of a scope.
        how: ``"KILL"``; any other signal by its name; ``"exit"``: `os._exit`; ``"raise"``: an exception.
        at_most: how many points to try. If there are more: each place once, then others by chance.
            Default 200.
        seconds: for everything; what does not fit is not tried, and the report says so. Default 120.
        timeout: seconds for one run. Longer is a leak of its own: it hung. Default 30.
        wait: seconds that processes have to end by themselves, after the program and the reaper. Default 2.
        seed: chooses the points, and is the program's PYTHONHASHSEED.
        jobs: runs at once. Default: one per processor; one in all when absolute paths are watched.
        only: the numbers of the points to try, as a report names them.
        include: folders and files whose lines count. Default: all but the standard library, installed
            packages and lastly itself.
        inputs: a folder that is copied to be the working directory. Default: an empty one.
        watch: further paths; relative ones from the working directory.
        allow: patterns (as `fnmatch`) of file names that may be left.
        check: called after each run with its `Run`, one at a time; what it returns, or raises as
            AssertionError, is a leak; None, True and empty text are none.
        env: environment variables of the program, besides the ones of this process.
        run: start it by ``lastly run``.

    Raises:
        CannotCrash: the program does not end by itself, or has no such points.
        FileNotFoundError: the script or the folder of inputs does not exist.
        TypeError: the function cannot be imported by another process; or a text where several are wanted,
            or a number of seconds.
        ValueError: there are no such points, or is no such way to die; or a limit that tries nothing.

    .. versionadded:: 0.1
    """
    if points not in KINDS:
        raise ValueError(f"points must be one of {', '.join(KINDS)}, not {points!r}")
    number = signal_number(how)
    if number is None and how not in ("exit", "raise"):
        raise ValueError(f"how must be the name of a signal, exit or raise, not {how!r}")
    timeout, wait = _seconds(timeout, "timeout"), _seconds(wait, "wait")
    in_all = _seconds(seconds, "seconds")
    _check_limits(at_most=at_most, timeout=timeout, jobs=1 if jobs is None else jobs)
    _check_several(include=include, watch=watch, allow=allow)
    if inputs and not os.path.isdir(inputs):
        raise FileNotFoundError(errno.ENOENT, "no such folder of inputs", os.fspath(inputs))
    words, begin = _words(program, args)
    watched = [os.fspath(path) for path in watch]
    if jobs is None:
        jobs = 1 if any(map(os.path.isabs, watched)) else len(os.sched_getaffinity(0))
    order = {
        "argv": [*_launcher(run), sys.executable, *words],
        "env": _environment(words, {"PYTHONHASHSEED": str(seed % 2**32), **(env or {})}),
        "timeout": timeout, "wait": wait, "inputs": os.path.abspath(inputs) if inputs else "",
        "watch": watched,
    }  # fmt: skip
    name = f"{words[3]}.{words[4]}()" if begin else " ".join(words)
    report = Report(name, points, how, seed)
    told = [begin, *(os.path.abspath(path) for path in include)]
    with Scope("crash everywhere") as scope:
        campaign = Campaign(scope, order, told, report, how if number is None else str(number))
        campaign.allow, campaign.check = list(allow), check
        return campaign.go(jobs, at_most, in_all, list(only))


def _check_limits(**given: float) -> None:
    """Refuse what would try nothing."""
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"{name} must be more than 0, not {value!r}")


def _check_several(**given: object) -> None:
    """Refuse a text, whose letters would be taken for several: of ``"*.log"`` the first allows everything."""
    for name, value in given.items():
        if isinstance(value, (str, os.PathLike)):
            raise TypeError(f"{name} must be a list, not {value!r}")


def _words(program: "Any", args: "tuple[Any, ...]") -> tuple[list[str], str]:
    """Return the words after ``python``, and the event at which counting begins, if not at the start."""
    if callable(program):
        return _call(program, args), _BEGIN
    given = [program] if isinstance(program, (str, os.PathLike)) else list(program)
    words = [os.fspath(word) for word in (*given, *args)]
    if not words:
        raise ValueError("no program was given")
    if not words[0].startswith("-"):
        if not os.path.exists(words[0]):
            raise FileNotFoundError(2, os.strerror(2), words[0])
        words[0] = os.path.abspath(words[0])
    return words, ""


def _call(function: "Any", args: "tuple[Any, ...]") -> list[str]:
    module = sys.modules.get(getattr(function, "__module__", ""))
    file = getattr(module, "__file__", None)
    qualname = getattr(function, "__qualname__", "")
    if not file or not qualname or "<" in qualname:
        raise TypeError(
            f"{function!r} cannot be run by another process: it must stand at the top of a module"
        )
    name = "__mp_main__" if function.__module__ == "__main__" else function.__module__
    path = [entry or os.getcwd() for entry in sys.path]
    call = os.path.join(_HERE, "call.py")
    return ["-P", call, os.path.abspath(file), name, qualname, json.dumps(args), json.dumps(path)]


def _launcher(run: bool) -> list[str]:
    """Return what makes a command line one of `lastly run`; isolated, so that we do not count in there."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCH, PACKAGES, "--"] if run else []


def _environment(words: list[str], changes: "Mapping[str, str]") -> dict[str, str]:
    """Return the program's environment: ours without our own journal, and the agent on its path."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LASTLY_")}
    # Bytecode that one run writes and the next one finds would make them differ.
    env |= {"PYTHONDONTWRITEBYTECODE": "1", "LASTLY_REAPER": "later", **changes}
    path = [os.path.abspath(entry) for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if words[0] == "-m":
        path.insert(0, os.getcwd())  # where python would look, were it not started elsewhere
    env["PYTHONPATH"] = os.pathsep.join([os.path.join(_HERE, "agent"), *path])
    return env
