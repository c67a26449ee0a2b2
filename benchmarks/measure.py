"""Tools for benchmarks: interleaved passes, medians, and a table of ratios.

A number of nanoseconds says something about the machine; a ratio against a peer measured in the same minute says
something about the library. So each case is measured in turns with its peer (A B A B …, never A A B B: machines
change their speed while one looks), and what counts is the median of the passes.
"""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from shutil import rmtree
from statistics import median

__all__ = [
    "Report",
    "busy",
    "child_seconds",
    "exponent",
    "interleaved",
    "median",
    "percentile",
    "private_home",
    "ratios",
    "run",
    "seconds",
    "wall",
]


def interleaved(cases: Mapping[str, Callable[[], float]], *, passes: int = 7) -> dict[str, list[float]]:
    """Run every case once per pass, in turns; a case returns what it measured, in seconds."""
    results: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(passes):
        for name, case in cases.items():
            gc.collect()
            results[name].append(case())
    return results


def seconds(work: Callable[[], object], *, number: int = 1) -> float:
    """Seconds that ``work`` takes; divided by ``number``, the operations it does."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / number


def wall(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> float:
    """Seconds from starting a command to its end. A command that fails is an error, not a fast one."""
    start = time.perf_counter()
    subprocess.run(argv, env=env, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def busy(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> float:
    """Seconds of processor time of a command and what it waits for: what a busy machine changes least."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
        pid = os.posix_spawnp(argv[0], argv, os.environ if env is None else env, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
    finally:
        os.close(null)
    if status:
        raise RuntimeError(f"{argv} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of pairs that were measured one after the other: a slow second counts on both sides."""
    return median([one / other for one, other in zip(ours, theirs, strict=True)])


def child_seconds(code: str, *args: str, env: Mapping[str, str] | None = None) -> float:
    """The number that a fresh interpreter prints when it runs this code: for what can be measured once per process."""
    out = subprocess.run(
        [sys.executable, "-c", code, *args], env=env, check=True, capture_output=True, text=True
    )
    return float(out.stdout.split()[-1])


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which this percentage of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@contextmanager
def private_home() -> Iterator[str]:
    """A LASTLY_HOME for the time of a benchmark, also in this process's environment."""
    before = os.environ.get("LASTLY_HOME")
    home = os.environ["LASTLY_HOME"] = tempfile.mkdtemp(prefix="lb-", dir="/tmp")
    try:
        yield home
    finally:
        if before is None:
            del os.environ["LASTLY_HOME"]
        else:
            os.environ["LASTLY_HOME"] = before
        rmtree(home, ignore_errors=True)


def duration(value: float) -> str:
    """1.2e-7 → "120 ns"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.0f} ns"


def exponent(costs: Mapping[int, float]) -> float:
    """How the cost of all grows with the number: 1 is linear, 2 is quadratic.

    Between the two largest numbers, without what the smallest one costs: that is paid once. So is the step where things
    do not fit into the processor's caches any more, seven times as much each for us and for our peers: it comes earlier.
    """
    once = costs[min(costs)]
    (few, little), (many, much) = sorted(costs.items())[-2:]
    return math.log((much - once) / max(little - once, little / 10)) / math.log(many / few)


LINEAR = 1.25  # what a busy machine makes of linear work: 1.8 times as much each for ten times as many
_failed: list[str] = []


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; 1 when something grew worse than linear."""
    main()
    for what in _failed:
        print(f"worse than linear: {what}", file=sys.stderr)
    sys.exit(bool(_failed))


def _floor(floor: float | None) -> str:
    return "" if floor is None else duration(floor)


class Report:
    """A table, one line per measurement: what, ours, the floor, the peer's, the ratio, the target.

    The floor is what the kernel or a bare Python takes for what has to be done in any case.

    >>> report = Report("defer")
    >>> report.ratio("1,000 cleanups", 250e-9, "atexit", 120e-9, target=3)
    >>> report.value("warm, p50", 31e-6, target=50e-6, floor=10e-6)
    >>> report.growth("close", {1: 1e-6, 10: 9e-6, 100: 90e-6})
    >>> report.print()
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: list[tuple[str, ...]] = []

    def ratio(
        self, what: str, ours: float, peer: str, theirs: float, target: float | None = None, *,
        floor: float | None = None, ratio: float | None = None,
    ) -> None:  # fmt: skip
        """Ours against a peer's, both in seconds; the target is the largest good ratio.

        Args:
            what: names the row.
            ours: seconds.
            peer: its name.
            theirs: its seconds.
            target: the largest good ratio.
            floor: what nobody can do without, in seconds.
            ratio: of the two, when it was found pair by pair.
        """
        if ratio is None:
            ratio = ours / theirs if theirs > 0 else float("inf")
        self.rows.append(
            (
                what,
                duration(ours),
                _floor(floor),
                f"{duration(theirs)} {peer}",
                f"{ratio:.2f}×",
                *self._verdict(ratio, target, "×"),
            )
        )

    def value(
        self, what: str, ours: float, target: float | None = None, *, floor: float | None = None
    ) -> None:
        """Seconds for which there is no peer."""
        goal = "" if target is None else f"≤ {duration(target)}"
        self.rows.append(
            (what, duration(ours), _floor(floor), "", "", goal, *self._verdict(ours, target, "")[1:])
        )

    def number(self, what: str, ours: float, unit: str, target: float | None = None) -> None:
        """Something that is not a time: megabytes, a count."""
        self.rows.append((what, f"{ours:.3g} {unit}", "", "", "", *self._verdict(ours, target, f" {unit}")))

    def growth(self, what: str, costs: Mapping[int, float]) -> None:
        """How the seconds of all grow with their number; worse than linear fails the benchmark."""
        grows = exponent(costs)
        verdict = "ok" if grows <= LINEAR else "FAILED"
        if grows > LINEAR:
            _failed.append(f"{self.title}: {what}")
        told = ", ".join(duration(cost) for _, cost in sorted(costs.items()))
        what = f"{what}: growth of {min(costs):,} … {max(costs):,}"
        self.rows.append((what, f"n^{grows:.2f}", "", told, "", f"≤ n^{LINEAR:g}", verdict))

    def print(self) -> None:
        """Print the table; columns as wide as needed."""
        head = (self.title, "lastly", "floor", "peer", "ratio", "target", "")
        lines = [head, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        print()
        for number, line in enumerate(lines):
            cells = [
                cell.ljust(width) if i in (0, 3) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            print("  ".join(cells).rstrip())
            if number == 0:
                print("-" * (sum(widths) + 2 * len(widths) - 2))

    @staticmethod
    def _verdict(value: float, target: float | None, unit: str) -> tuple[str, str]:
        if target is None:
            return "", ""
        return f"≤ {target:g}{unit}", "ok" if value <= target else "MISSED"
