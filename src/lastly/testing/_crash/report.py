"""What came of crashing a program everywhere: for people as text, for programs as JSON."""

import json
import linecache
import os
import signal

from lastly._words.counts import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

COMPLETE = "the end of a run that was not killed"
_SHOWN = 12  # leaks of one place, and names of one leak


class Run:
    """One run of the program, and what it left behind.

    Attributes:
        point: its number; 0 is the run that was not killed.
        place: where it died: ``/path/deploy.py:17``, with the event or the cleanup after it. Empty when it
            ended before it came to its point.
        status: as `subprocess.Popen.returncode`: minus the number of the signal that it died of.
        hung: it did not end within its time, and was killed.
        files: what is left on the disk; `$TMPDIR/…` or a path below its working directory, or a watched path.
        processes: the command lines of what still ran.
        owed: cleanups that the reaper could not do.
        wrong: what `check` said.
        output: the end of what it printed.
        folder: the run's folder, with its working directory ``work``, its ``tmp`` and its LASTLY_HOME
            ``home``; there only while `check` looks at it.
        seconds: how long it ran.

    .. versionadded:: 0.1
    """

    __slots__ = (
        "files", "folder", "hung", "output", "owed", "place", "point", "processes", "seconds", "status",
        "wrong",
    )  # fmt: skip

    def __init__(
        self, point: int, place: str, folder: str, answer: "dict[str, Any]", files: list[str]
    ) -> None:
        self.point = point
        self.place = place
        self.folder = folder
        self.files = files
        self.status: int = answer["status"]
        self.hung: bool = answer["hung"]
        self.processes: list[str] = answer["processes"]
        self.owed: list[str] = answer["owed"]
        self.output: str = answer["output"]
        self.seconds: float = answer["seconds"]
        self.wrong = ""

    @property
    def leaks(self) -> list[str]:
        """All that is wrong after this run, one line each; empty: nothing is."""
        return [*self._leaks()]

    def _leaks(self) -> "Iterator[str]":
        for name in self.files:
            yield f"left {'folder' if name.endswith('/') else 'file'} {name}"
        for name in self.processes:
            yield f"still runs: {name}"
        for name in self.owed:
            yield f"still owed: {name}"
        if self.hung:
            yield f"did not end within its time, and was killed after {self.seconds:.0f} s"
        if self.wrong:
            yield f"check: {self.wrong}"

    def as_dict(self) -> "dict[str, Any]":
        """The same as JSON has it; output only of a run with leaks."""
        found = {name: getattr(self, name) for name in self.__slots__ if name != "folder"}
        found["leaks"] = self.leaks
        if not self.leaks:
            del found["output"]
        return found

    def __repr__(self) -> str:
        return f"<Run {self.point} at {self.place or 'no place'}: {len(self.leaks)} leaks>"


class Report:
    """What came of `crash_everywhere`. As text: what leaked, and where.

    True in a condition when the program was ended somewhere, and nothing leaked.

    Attributes:
        program: its command line.
        points: the kind of them: lines, events or cleanups.
        how: the way to die.
        seed: what the points were chosen by, when there were too many.
        found: how many points the program has.
        runs: one `Run` for each point that was tried, and first that of the run that was not killed.
        seconds: how long all took.
        untried: why not all of them were tried; empty: they were.

    .. versionadded:: 0.1
    """

    def __init__(self, program: str, points: str, how: str, seed: int) -> None:
        self.program = program
        self.points = points
        self.how = how
        self.seed = seed
        self.found = 0
        self.runs: list[Run] = []
        self.seconds = 0.0
        self.untried = ""

    @property
    def leaks(self) -> list[Run]:
        """The runs that left something, in the order of their points."""
        return sorted((run for run in self.runs if run.leaks), key=lambda run: run.point)

    @property
    def missed(self) -> list[Run]:
        """The runs that ended before they came to their point: the program is not the same every time."""
        return [run for run in self.runs if not run.place]

    def __bool__(self) -> bool:
        return self.tried > 0 and not self.leaks

    def json(self) -> str:
        """Return one JSON object with ``"version": 1``; keys are only ever added."""
        names = ("program", "points", "how", "seed", "found", "seconds", "untried")
        found = {
            **{name: getattr(self, name) for name in names},
            "tried": self.tried,
            "missed": len(self.missed),
            "ok": bool(self),
            "runs": [run.as_dict() for run in sorted(self.runs, key=lambda run: run.point)],
        }
        return json.dumps({"version": 1, **found}, indent=2)

    @property
    def tried(self) -> int:
        """How many points the program was ended at."""
        return sum(1 for run in self.runs if run.point and run.place)

    def __str__(self) -> str:
        return self.text()

    def text(self, *, command: bool = False) -> str:
        """Return the report for people; ``str(report)`` is the same.

        Args:
            command: name the points to try again as options of ``lastly crash``, not as an argument.
        """
        return "\n".join(self._lines(command))

    def _lines(self, command: bool) -> "Iterator[str]":
        leaks = self.leaks
        result = "nothing is left" if self.tried else "nothing was found out"
        if leaks:
            result = f"{counted(len(leaks), 'run')} left something"
        tried = f"{self.tried:,} of {counted(self.found, self.points[:-1])}"
        yield f"{near(self.program)}: ended by {self.how} at {tried}: {result} ({self.seconds:.1f} s)"
        whole = next((run for run in self.runs if not run.point), None)
        if whole is not None and whole.status:
            said = plain(whole.output.strip().rpartition("\n")[2][-200:])
            yield f"  not killed, it ends with status {whole.status}{said and f': {said}'}"
        if self.untried:
            yield f"  not all points were tried: {self.untried}"
        if self.missed:
            missed = counted(len(self.missed), "run")
            yield f"  {missed} ended before coming to the point: the program is not the same every time"
        groups: dict[str, list[Run]] = {}
        for run in leaks:
            groups.setdefault(run.place or "a run that ended before its point", []).append(run)
        for place, runs in groups.items():
            yield from _place_text(place, runs, command)

    def __repr__(self) -> str:
        return (
            f"<Report of {self.program}: {self.tried} of {self.found} {self.points}, {len(self.leaks)} leaks>"
        )


def _place_text(place: str, runs: "Sequence[Run]", command: bool) -> "Iterator[str]":
    yield f"{shown(place)}"
    leaks = runs[0].leaks
    for leak in leaks[:_SHOWN]:
        yield f"    {plain(leak)}"
    if len(leaks) > _SHOWN:
        yield f"    and {len(leaks) - _SHOWN} more"
    numbers = [run.point for run in runs]
    if numbers != [0]:
        some = numbers[:_SHOWN]
        again = " ".join(f"--only {number}" for number in some) if command else f"only={some}"
        yield f"    (again: {again}{' and more' if len(numbers) > _SHOWN else ''})"


def shown(place: str) -> str:
    """The place with the text of its line."""
    where, _, more = place.partition(" ")
    file, _, number = where.rpartition(":")
    if file == "-":
        return plain(more)
    text = linecache.getline(file, int(number)).strip() if number.isdecimal() else ""
    head = f"{near(file)}:{number}{f' {more}' if more else ''}" if number.isdecimal() else place
    return plain(f"before {head}    {text}" if text else head)


def near(path: str) -> str:
    """The path from here, if it is below here."""
    return path.removeprefix(os.getcwd() + os.sep)


def plain(text: str) -> str:
    """Return text in which control characters are visible, and harmless."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def signal_number(how: str) -> int | None:
    """The number of a signal named with or without SIG; None when it is none."""
    name = how.upper().removeprefix("SIG")
    found = getattr(signal, f"SIG{name}", None)
    return int(found) if isinstance(found, signal.Signals) else None
