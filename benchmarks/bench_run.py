"""What ``lastly run`` costs: to the start of a program, to an audit event, to a temporary file, and in steady state."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from benchmarks.measure import Report, busy, interleaved, median, private_home, wall

STARTS = 25
EVENTS = """
import sys, time
def per_event(n=200_000):
    audit, best = sys.audit, 1e9
    for _ in range(5):
        start = time.thread_time()
        for _ in range(n): audit("some.event", 1, 2)
        best = min(best, time.thread_time() - start)
    return best / n
bare = per_event()
"""
HOOKED = "from lastly._run import watch; sys.addaudithook(watch.hook)\nprint(per_event() - bare)"
TEMPS = """
import tempfile, time
tempfile.mkstemp()
def each(n=500):
    start = time.thread_time()
    for _ in range(n):
        with tempfile.NamedTemporaryFile(): pass
    return (time.thread_time() - start) / n
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


def processor_time() -> tuple[float, float, float]:
    """Seconds of processor time, which a busy machine changes least: bare; what `lastly run` adds, and its launcher."""
    bare = [sys.executable, "-c", "pass"]
    script = shutil.which("lastly", path=os.path.dirname(sys.executable))
    run = [*([script] if script else [sys.executable, "-m", "lastly"]), "run", "--"]
    passes = [(busy(bare), busy([*run, *bare]), busy([*run, "true"]), busy(["true"])) for _ in range(STARTS)]
    return (
        median(alone for alone, _, _, _ in passes),
        median(ours - alone for alone, ours, _, _ in passes),
        median(launched - nothing for _, _, launched, nothing in passes),
    )


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
        bare, cost, launcher = processor_time()
        # The floor is a bare interpreter: the launcher is one, because installers write the console script, and its
        # `#!` line, from an entry point. A script of sh in the wheel would have to find its Python without that line:
        # beside it (not with pipx, uv tool, --user, or a system's own Python), and not on Windows.
        report.value("lastly run -- python -c pass, over bare", added["run"], target=12e-3)
        report.value("  of processor time", cost, target=12e-3, floor=bare)
        report.value("  the launcher", launcher, floor=bare)
        # 46 of our files are read, at 0.15 ms each: what a signal needs must not be imported when it comes.
        report.value("  inside the program", cost - launcher, target=6e-3)
        report.value("  (import re, which the console script of an old pip does, alone)", added["re"])
        report.value("audit hook, an event that is not ours", told(EVENTS + HOOKED), target=0.5e-6)
        # Two records, written before it is made and after it is gone, at 10 µs each; looking for the reaper; two looks
        # whether the path is there.
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
