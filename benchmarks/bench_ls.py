"""``lastly ls`` of very much: one owner with so many cleanups, and so many owners with one each.

The floor is a Python that reads the same bytes and prints fifty lines of them.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measure import Report, interleaved, median, private_home, run, wall

CLEANUPS = {1: None, 10: None, 100: None, 1_000: None, 20_000: 1.0, 200_000: 3.0}
OWNERS = {1: None, 10: None, 100: None, 1_000: None, 20_000: None}
PASSES = 3

MAKE = """
import os, sys
from lastly._system.identity import Identity
from lastly._journal.file import Journal
owners, each = int(sys.argv[1]), int(sys.argv[2])
me = Identity.current()
me.start = 1
for owner in range(owners):
    journal = Journal.create(me)
    for number in range(each):
        journal.plan("lastly.actions:remove", [f"/nonexistent/{owner}/{number}"], {"expect": {}})
    os.close(journal.fd)
os._exit(0)
"""
FLOOR = """
import os, sys
shown = 0
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            for line in file.read().splitlines():
                if shown < 50:
                    print(line)
                    shown += 1
"""


def looked(owners: int, each: int) -> tuple[float, float]:
    """Seconds of `lastly ls`, and of the floor."""
    with private_home() as home:
        subprocess.run([sys.executable, "-c", MAKE, str(owners), str(each)], check=True)
        times = interleaved(
            {
                "ours": lambda: wall([sys.executable, "-m", "lastly", "ls"]),
                "floor": lambda: wall([sys.executable, "-c", FLOOR, f"{home}/owners"]),
            },
            passes=PASSES,
        )
    return median(times["ours"]), median(times["floor"])


def main() -> None:
    """Print the table."""
    report = Report("lastly ls")
    costs = {}
    for count, target in CLEANUPS.items():
        costs[count], floor = looked(1, count)
        report.value(f"{count:,} cleanups of one owner", costs[count], target, floor=floor)
    report.growth("cleanups", costs)
    costs = {}
    for count, target in OWNERS.items():
        costs[count], floor = looked(count, 1)
        report.value(f"{count:,} owners", costs[count], target, floor=floor)
    report.growth("owners", costs)
    report.print()


if __name__ == "__main__":
    run(main)
