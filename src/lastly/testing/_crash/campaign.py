"""All runs of one program: which points, how many at once, how long."""

import fnmatch
import json
import os
import random
import select
import subprocess
import sys
from array import array

from lastly._words.clock import monotonic
from lastly.errors import LastlyError
from lastly.resources import Popen, temp_dir
from lastly.testing._crash.report import COMPLETE, Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Self

    from lastly import Scope
    from lastly.testing._crash.report import Report

    Check = Callable[[Run], object]

_HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(_HERE)))  # where lastly is imported from
_PATIENCE = 10.0  # seconds for a worker to end what it has started
_MOST = 1 << 20  # points that are written down; those after them are only counted


class CannotCrash(LastlyError):  # noqa: N818  # as in errors.py: the name says what happened
    """The program does not end by itself, or has no points: there is nothing to find out.

    .. versionadded:: 0.1
    """


class Campaign:
    """Runs a program until its points, or the time, are used up."""

    def __init__(
        self, scope: "Scope", order: "dict[str, Any]", told: list[str], report: "Report", way: str
    ) -> None:
        self.scope = scope
        self.folder = str(temp_dir(prefix="lastly-crash-", scope=scope))
        self.order = order
        self.told = told
        self.report = report
        self.way = way
        self.allow: list[str] = []
        self.check: Check | None = None
        self.results: set[str] = set()
        self.made = 0

    def go(self, jobs: int, at_most: int, seconds: float, only: list[int]) -> "Report":
        """Count the points, then try them."""
        began = monotonic()
        report = self.report
        workers = [Worker(self.scope)]
        sequence = self._record(workers[0])
        chosen = only or choose(sequence, report.found, at_most, report.seed)
        workers += [Worker(self.scope) for _ in range(min(jobs, len(chosen)) - 1)]
        with Progress(report, len(chosen)) as progress:
            for done in self._all(workers, iter(chosen), began + seconds):
                report.runs.append(done)
                progress.show()
        if len(report.runs) - 1 < len(chosen):
            report.untried = "the time was over"
        elif len(chosen) < report.found:
            report.untried = "only some were asked for" if only else f"chosen by seed {report.seed}"
        report.seconds = round(monotonic() - began, 3)
        return report

    def _record(self, worker: "Worker") -> "array[int]":
        """Run it without killing it; returns the place of each of its points, as a number."""
        self._send(worker, 0)
        done = self._finished(worker)
        self.report.runs.append(done)
        if done.hung:
            limit = self.order["timeout"]
            raise CannotCrash(f"it does not end by itself within {limit:g} s: give it work that has an end")
        sequence = array("I")
        with open(os.path.join(done.folder, "points"), "rb") as file:
            sequence.frombytes(file.read(4))
            found = self.report.found = sequence.pop()
            sequence.frombytes(file.read(4 * min(found, _MOST)))
        if not found:
            said = f": {done.output[-500:].strip()}" if done.output.strip() else ""
            kind = self.report.points
            raise CannotCrash(f"it has no {kind} to be ended at; its status is {done.status}{said}")
        return sequence

    def _all(self, workers: "list[Worker]", numbers: "Iterator[int]", until: float) -> "Iterator[Run]":
        """Keep all workers busy, until there are no more points or no more time."""
        poll = select.poll()
        busy: dict[int, Worker] = {}
        idle = list(workers)
        while True:
            while idle and monotonic() < until and (number := next(numbers, None)) is not None:
                worker = idle.pop()
                self._send(worker, number)
                busy[worker.fd] = worker
                poll.register(worker.fd, select.POLLIN)
            if not busy:
                return
            for fd, _ in poll.poll():
                poll.unregister(fd)
                worker = busy.pop(fd)
                idle.append(worker)
                yield self._finished(worker)

    def _send(self, worker: "Worker", number: int) -> None:
        self.made += 1
        folder = os.path.join(self.folder, str(self.made))
        os.mkdir(folder, 0o700)
        record = os.path.join(folder, "points")
        if not number:
            with open(record, "wb") as file:
                file.truncate(4 * (_MOST + 1))
        own = {"LASTLY_HOME": os.path.join(folder, "home"), "TMPDIR": os.path.join(folder, "tmp")}
        told = [self.report.points, self.way, str(number), record, *self.told]
        order = {**self.order, "folder": folder, "before": worker.folder, "told": "\n".join(told)}
        order["env"] = {**self.order["env"], **own}
        worker.number, worker.folder = number, folder
        worker.give(order)

    def _finished(self, worker: "Worker") -> Run:
        answer = worker.answer()
        try:
            with open(os.path.join(worker.folder, "points.died"), encoding="utf-8") as file:
                place = file.read()
            for name, shown in (("tmp", "$TMPDIR"), ("work", ".")):  # the same place in every run
                place = place.replace(os.path.join(worker.folder, name), shown)
        except FileNotFoundError:
            place = ""
        if not worker.number:
            self.results = set(answer["files"][""])
            place = COMPLETE
        done = Run(worker.number, place, worker.folder, answer, self._leaks(answer["files"]))
        if self.check is not None:
            done.wrong = ask(self.check, done)
        return done

    def _leaks(self, files: "dict[str, list[str]]") -> list[str]:
        """What is left and is not a result; of a folder that is left whole, only its name."""
        found: list[str] = []
        for root, names in files.items():
            top = ""
            for name in names:
                if (not root and name in self.results) or (top and name.startswith(top)):
                    continue
                top = name if name.endswith("/") else ""
                shown = os.path.join(root, name) if name and root else name or root
                if not any(fnmatch.fnmatch(shown.rstrip("/"), pattern) for pattern in self.allow):
                    found.append(shown)
        return found


class Worker:
    """A process that does one run at a time."""

    def __init__(self, scope: "Scope") -> None:
        argv = [sys.executable, "-I", "-S", os.path.join(_HERE, "worker.py"), PACKAGES]
        # In a session of its own: a Ctrl-C is ours, and we end it.
        process = Popen(
            argv, scope=scope, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.orders, self.answers = process, process.stdin, process.stdout
        self.fd = self.answers.fileno()
        scope.defer(self.end)
        self.folder = ""
        self.number = 0

    def give(self, order: "dict[str, Any]") -> None:
        """Have it run the program once; do not wait."""
        self.orders.write(json.dumps(order).encode() + b"\n")
        self.orders.flush()

    def answer(self) -> "dict[str, Any]":
        """Wait for what came of it."""
        line = self.answers.readline()
        if not line:
            raise CannotCrash(f"the program's parent has died, with status {self.process.wait()}")
        return dict(json.loads(line))

    def end(self) -> None:
        """Have it end all that is left, and itself; should it not, its own cleanup comes next."""
        try:
            self.orders.close()
            self.process.wait(_PATIENCE)
        except (OSError, subprocess.TimeoutExpired):
            pass
        self.answers.close()


def choose(sequence: "array[int]", found: int, at_most: int, seed: int) -> list[int]:
    """Return the numbers of the points to try.

    All, if that is not too many. Otherwise each place the first time, then others by chance: a loop of a
    thousand turns has a thousand points, but not a thousand ways to fail.
    """
    if found <= at_most:
        return list(range(1, found + 1))
    dice = random.Random(seed)  # noqa: S311  # no secret
    first: dict[int, int] = {}
    for number, place in enumerate(sequence, 1):
        first.setdefault(place, number)
    chosen = list(first.values())
    if len(chosen) > at_most:
        return sorted(dice.sample(chosen, at_most))
    others = dice.sample(range(1, found + 1), at_most)
    return list(dict.fromkeys([*chosen, *others]))[:at_most]


def ask(check: "Check", run: Run) -> str:
    """Have the user's function look at a run; returns what is wrong."""
    try:
        said = check(run)
    except AssertionError as error:
        return str(error) or "the assertion failed"
    return "it returned False" if said is False else "" if said in (None, True) else str(said)


class Progress:
    """One line on standard error that says how far it is, when that is a terminal; else nothing."""

    def __init__(self, report: "Report", total: int) -> None:
        self.report = report
        self.total = total
        self.terminal = os.isatty(2)

    def __enter__(self) -> "Self":
        return self

    def show(self) -> None:
        """Draw it again."""
        if self.terminal:
            done, leaks = len(self.report.runs) - 1, len(self.report.leaks)
            os.write(2, f"\r\x1b[Kcrashing: {done} of {self.total}, {leaks} left something".encode())

    def __exit__(self, *_exc: object) -> None:
        if self.terminal:
            os.write(2, b"\r\x1b[K")
