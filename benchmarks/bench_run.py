"""What ``lastly run`` costs: to the start of a program, to an audit event, to a temporary file, and in steady state."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from benchmarks.measure import Report, interleaved, median, private_home, wall

STARTS = 25
EVENTS = """
import sys, time
def per_event(n=200_000):
    audit, best = sys.audit, 1e9
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(n): audit("some.event", 1, 2)
        best = min(best, time.perf_counter() - start)
    return best / n
bare = per_event()
"""
HOOKED = "from lastly._run import watch; sys.addaudithook(watch.hook)\nprint(per_event() - bare)"
TEMPS = """
import tempfile, time
tempfile.mkstemp()
def each(n=500):
    start = time.perf_counter()
    for _ in range(n):
        with tempfile.NamedTemporaryFile(): pass
    return (time.perf_counter() - start) / n
print(min(each() for _ in range(5)))
"""
WORK = "x = 0\nfor i in range(3_000_000): x += i"


def starts() -> dict[str, float]:
    """Seconds that each way to start adds to a bare interpreter: the median of interleaved starts."""
    script = shutil.which("lastly", path=os.path.dirname(sys.executable))
    ways = {
        "bare": [sys.executable, "-c", "pass"],
        "run": [*([script] if script else [sys.executable, "-m", "lastly"]), "run", "--", sys.executable, "-c", "pass"],
        "re": [sys.executable, "-c", "import re"],
    }
    for argv in ways.values():
        wall(argv)
    times = interleaved({name: (lambda argv=argv: wall(argv)) for name, argv in ways.items()}, passes=STARTS)
    return {name: median(a - b for a, b in zip(times[name], times["bare"], strict=True)) for name in ways}


def processor_time() -> float:
    """The same in seconds of processor time: what a busy machine changes least."""

    def used(argv: list[str]) -> float:
        pid = os.posix_spawn(argv[0], argv, os.environ)
        _, _, usage = os.wait4(pid, 0)
        return usage.ru_utime + usage.ru_stime

    bare = [sys.executable, "-c", "pass"]
    script = shutil.which("lastly", path=os.path.dirname(sys.executable))
    run = [*([script] if script else [sys.executable, "-m", "lastly"]), "run", "--", *bare]
    pairs = [(used(run), used(bare)) for _ in range(STARTS)]
    return median(ours - theirs for ours, theirs in pairs)


def told(code: str, *, run: bool = False) -> float:
    """The number that a program prints."""
    argv = [sys.executable, "-m", "lastly", "run", "--"] if run else []
    done = subprocess.run([*argv, sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def main() -> None:
    """Print the table."""
    report = Report("lastly run")
    with private_home():
        added = starts()
        # Less would take a launcher that is no Python, which a wheel cannot bring: it installs a script of Python's.
        report.value("lastly run -- python -c pass, over bare", added["run"], target=12e-3)
        report.value("  of processor time", processor_time(), target=12e-3)
        report.value("  (import re, which the console script of an old pip does, alone)", added["re"])
        report.value("audit hook, an event that is not ours", told(EVENTS + HOOKED), target=0.5e-6)
        report.ratio("NamedTemporaryFile, made and removed", told(TEMPS, run=True), "bare", told(TEMPS), 2.0)
        times = interleaved(
            {
                "bare": lambda: wall([sys.executable, "-c", WORK]),
                "run": lambda: wall([sys.executable, "-m", "lastly", "run", "-c", WORK]),
            },
            passes=5,
        )
        report.ratio("a loop of 3,000,000, start included", median(times["run"]), "bare", median(times["bare"]))
    report.print()


if __name__ == "__main__":
    main()
