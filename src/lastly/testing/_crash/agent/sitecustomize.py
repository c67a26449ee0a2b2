"""Inside the program that is to crash: count its points, and die at the one that was asked for.

`site` imports this before the program's first line, so the program itself is started as ever: same argv,
sys.path and `__main__`. It takes itself out of the way like the door of `lastly run`, behind which it may
stand, and lets the environment's own sitecustomize run.

A *point* is the k-th line, event or boundary that the program comes to, in whichever thread. The first run
writes them all down, into a file that is mapped: what stands there stands there whatever ends the process.
The place where the program then really died is written down as well, for it may not be the same.

Only the process that was started counts: not those it forks or starts.
"""
# ruff: noqa: INP001
#   (no package: a folder that stands on PYTHONPATH)

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    Hit = Callable[[str], None]

READ_ONLY = frozenset({
    "os.add_dll_directory", "os.chdir", "os.fwalk", "os.getxattr", "os.listdir", "os.listxattr", "os.putenv",
    "os.scandir", "os.unsetenv", "os.walk", "signal.pthread_kill",
})  # fmt: skip
OUTWARD = (
    "os.", "shutil.", "tempfile.", "subprocess.", "socket.bind", "socket.connect", "socket.__new__",
    "sqlite3.connect", "fcntl.", "pty.", "signal.", "ftplib.", "smtplib.", "urllib.", "http.client.",
)  # fmt: skip
MONITORS = (4, 3)  # the ids of sys.monitoring that no kind of tool has for its own
EXIT = 70


class Crashed(RuntimeError):  # noqa: N818  # the name says what happened
    """What ``how="raise"`` raises."""


class Points:
    """Counts, and ends the process at one of them."""

    def __init__(self, at: int, how: str, record: str) -> None:
        import itertools

        self.at = at
        self.how = how
        self.record = record
        self.next = itertools.count(1).__next__  # one step: threads do not get the same number
        self.places: dict[str, int] = {}
        self.pid = os.getpid()
        self.awake = True
        if not at:
            self._map()
        os.register_at_fork(after_in_child=self.sleep)

    def sleep(self) -> None:
        """Count no more."""
        self.awake = False

    def _map(self) -> None:
        import mmap

        fd = os.open(self.record, os.O_RDWR | os.O_CLOEXEC)
        self.points = memoryview(mmap.mmap(fd, 0)).cast("I")
        os.close(fd)

    def hit(self, place: str) -> None:
        """Count one; the process may not come back from here."""
        if not self.awake:
            return
        number = self.next()
        if self.at:
            if number == self.at:
                self.awake = False
                self.die(place)
            return
        known = self.places.get(place)
        if known is None:
            known = self.places[place] = len(self.places)
        self.points[0] = number
        if number < len(self.points):
            self.points[number] = known

    def die(self, place: str) -> None:
        """Write down where, and go the way that was asked for."""
        fd = os.open(self.record + ".died", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(fd, place.encode("utf-8", "backslashreplace"))
        os.close(fd)
        if self.how == "exit":
            os._exit(EXIT)
        if self.how == "raise":
            raise Crashed(f"crashed on purpose, {place}")
        os.kill(self.pid, int(self.how))


class Files:
    """Which files' lines count."""

    def __init__(self, include: list[str]) -> None:
        package = os.path.dirname(
            os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        )
        self.include = tuple(path if path.endswith(".py") else path + os.sep for path in include)
        self.exclude = (os.path.dirname(os.__file__) + os.sep, package + os.sep)
        self.known: dict[str, str] = {}

    def name(self, file: str) -> str:
        """The absolute name of a file that counts; empty for one that does not."""
        found = self.known.get(file)
        if found is None:
            found = self.known[file] = self._judge(file)
        return found

    def _judge(self, file: str) -> str:
        if file.startswith("<") or file == __file__:
            return ""
        path = os.path.abspath(file)
        if self.include:
            return path if path.startswith(self.include) else ""
        foreign = "/site-packages/" in path or "/dist-packages/" in path or path.startswith(self.exclude)
        return "" if foreign else path


def lines(points: Points, files: Files) -> None:
    """Each line of the program's own files, just before it runs."""
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is not None:
        tool = next(number for number in MONITORS if monitoring.get_tool(number) is None)
        monitoring.use_tool_id(tool, "lastly crash")

        def line(code: "CodeType", number: int) -> "Any":
            file = files.name(code.co_filename)
            if not file:
                return monitoring.DISABLE
            points.hit(f"{file}:{number}")
            return None

        monitoring.register_callback(tool, monitoring.events.LINE, line)
        monitoring.set_events(tool, monitoring.events.LINE)
        return

    def local(frame: "FrameType", event: str, _arg: object) -> "Any":
        if event == "line":
            points.hit(f"{files.name(frame.f_code.co_filename)}:{frame.f_lineno}")
        return local

    def trace(frame: "FrameType", _event: str, _arg: object) -> "Any":
        return local if files.name(frame.f_code.co_filename) else None

    import threading

    threading.settrace(trace)
    sys.settrace(trace)


def events(points: Points, files: Files) -> None:
    """Each audit event of something that leaves the process, just before it is done."""
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def hook(event: str, args: "tuple[Any, ...]") -> None:
        if not points.awake:
            return
        if event == "open":
            if not (isinstance(args[2], int) and args[2] & writing):
                return
        elif not event.startswith(OUTWARD) or event in READ_ONLY:
            return
        points.hit(f"{where(files)} {event}")

    sys.addaudithook(hook)


def where(files: Files) -> str:
    """The innermost line of the program's own files that is running."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001  # inspect would have to be imported
    while frame is not None:
        if file := files.name(frame.f_code.co_filename):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "-:0"


def cleanups(points: Points, _files: Files) -> None:
    """Before and after each cleanup of a scope."""
    # A cleanup without a limit runs in the loop itself. With UNLIMITED it runs the same way, by
    # `step`.
    from lastly._scope import aio
    from lastly._scope import closing as _closing
    from lastly._scope.handle import UNLIMITED

    drain, step = _closing.drain, _closing.step
    adrain, astep = aio.AsyncScope._drain_async, aio.AsyncScope._astep  # noqa: SLF001  # what we are about

    def by_steps(scope: "Any", budget: "Any") -> None:
        if budget is None:
            for cleanup, limit in list(scope._stack.items()):  # noqa: SLF001  # as above
                if limit is None:
                    scope._stack[cleanup] = UNLIMITED  # noqa: SLF001  # as above

    def drain_by_steps(scope: "Any", budget: "Any", failures: "Any") -> None:
        by_steps(scope, budget)
        drain(scope, budget, failures)

    async def adrain_by_steps(scope: "Any", waiting: "Any", budget: "Any", failures: "Any") -> None:
        by_steps(scope, budget)
        await adrain(scope, waiting, budget, failures)

    def marked(scope: "Any", cleanup: "Any", *rest: "Any") -> None:
        points.hit(f"-:0 before cleanup {name(cleanup)}")
        step(scope, cleanup, *rest)
        points.hit(f"-:0 after cleanup {name(cleanup)}")

    async def amarked(scope: "Any", waiting: "Any", cleanup: "Any", *rest: "Any") -> None:
        points.hit(f"-:0 before cleanup {name(cleanup)}")
        await astep(scope, waiting, cleanup, *rest)
        points.hit(f"-:0 after cleanup {name(cleanup)}")

    setattr(_closing, "drain", drain_by_steps)  # noqa: B010  # it is no mistake
    setattr(_closing, "step", marked)  # noqa: B010  # nor is this
    setattr(aio.AsyncScope, "_drain_async", adrain_by_steps)  # noqa: B010  # nor this
    setattr(aio.AsyncScope, "_astep", amarked)  # noqa: B010  # nor this


def name(cleanup: "Any") -> str:
    """The function, which is the same in every run; the cleanup's own name may hold a random path."""
    return str(getattr(cleanup.func, "__qualname__", cleanup.func.__class__.__qualname__))


def start() -> None:
    """Begin to count, if this is the process that was started for it."""
    here = os.path.dirname(os.path.abspath(__file__))
    while here in sys.path:
        sys.path.remove(here)
    sys.path_importer_cache.pop(here, None)
    rest = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry not in ("", here)]
    os.environ.pop("PYTHONPATH", None)
    if rest:
        os.environ["PYTHONPATH"] = os.pathsep.join(rest)
    told = os.environ.pop("LASTLY_CRASH", "").split("\n")
    if told[0] != str(os.getppid()):
        return
    _, kind, how, at, record, begin, *include = told
    points, files = Points(int(at), how, record), Files(include)
    if begin:
        wait_for(begin, points)
    {"lines": lines, "events": events, "cleanups": cleanups}[kind](points, files)


def wait_for(begin: str, points: Points) -> None:
    """Count from this audit event on: a function's points, and not those of the module that holds it."""
    points.awake = False

    def hook(event: str, _args: object) -> None:
        if event == begin:
            points.awake = os.getpid() == points.pid

    sys.addaudithook(hook)


start()
# Not found: site swallows exactly this ImportError. Found: it gets the real one, out of sys.modules.
del sys.modules["sitecustomize"]
import sitecustomize  # type: ignore[import-not-found]  # noqa: E402, F401  # the environment's own
