"""Much at once: journals of many dead owners, and one owner that owed very much.

Floors, measured in the same run: a loop that only does to the files what has to be done in the end (read the journal,
remove the thing, remove the journal), and one that only removes the things. How cost grows is part of it: ten times as
much must not cost more each.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from benchmarks.bench_reaper import quit_reaper
from benchmarks.measure import Report, median, private_home, run

STALE = (1, 10, 100, 1_000, 10_000)
MANY = (1, 10, 100, 1_000, 10_000, 100_000)
SHOWN = 1_000  # below that it is the start of a worker, and the moment until the history is written, that is measured

# Journals of a process that nobody ever saw, each with one file to remove.
MAKE = """
import os, sys
from lastly._system.identity import Identity
from lastly._journal.file import Journal
me = Identity.current()
me.start = 1
for number in range(int(sys.argv[2])):
    path = os.path.join(sys.argv[1], str(number))
    journal = Journal.create(me)
    journal.plan("lastly.actions:remove", [path], {"expect": {}})
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    os.close(journal.fd)
os._exit(0)
"""
ONE = """
import os, signal, sys, lastly
made = os.fspath(lastly.temp_dir())
print(made, flush=True)
signal.pause()
"""
OWES = """
import os, signal, sys, lastly
from lastly import actions
def resident(): return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) * 1024
lastly.defer(actions.remove, "/nonexistent/first").detach()
before = resident()
for number in range(int(sys.argv[2])):
    path = os.path.join(sys.argv[1], str(number))
    lastly.defer(actions.remove, path)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
print((resident() - before) / int(sys.argv[2]), flush=True)
signal.pause()
"""


def until(true: Callable[[], object], *, pause: float = 0.001, seconds: float = 600.0) -> None:
    """Wait until it is true. To look must not take from the machine what is measured."""
    end = time.perf_counter() + seconds
    while not true():
        if time.perf_counter() > end:
            raise RuntimeError(f"not within {seconds} s")
        time.sleep(pause)


def journals(home: str) -> int:
    """How many there are."""
    owners = os.path.join(home, "owners")
    return sum(name.endswith(".j") for folder in os.listdir(owners) for name in os.listdir(f"{owners}/{folder}"))


@contextmanager
def owner(code: str, *args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A program, and what it says; it is killed in the end."""
    program = subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    try:
        yield program, program.stdout.readline().strip()
    finally:
        program.kill()
        program.communicate()


def floor(folder: str, count: int) -> float:
    """Seconds for each: read a file like a journal, remove the thing, remove the file."""
    for number in range(count):
        for name in (f"{number}", f"{number}.j"):
            with open(os.path.join(folder, name), "wb") as file:
                file.write(b"x" * 600)
    start = time.perf_counter()
    for number in range(count):
        with open(os.path.join(folder, f"{number}.j"), "rb") as file:
            file.read()
        os.unlink(os.path.join(folder, str(number)))
        os.unlink(os.path.join(folder, f"{number}.j"))
    return (time.perf_counter() - start) / count


def stale(count: int, *, deaths: int = 0) -> tuple[float, list[float]]:
    """Settle so many stale journals.

    Returns:
        seconds for each, until it is in the history; and from the kill of so many other programs meanwhile until
        each was clean. The start of these programs takes time from the settling, so no row shows both.
    """
    from lastly._reaper import desk

    took: list[float] = []
    with private_home() as home, TemporaryDirectory(prefix="lb-") as folder:
        subprocess.run([sys.executable, "-c", MAKE, folder, str(count)], check=True)
        with owner(ONE) as (first, path):
            start = time.perf_counter()
            while journals(home) > max(count // 10, 20) and len(took) < deaths:
                with owner(ONE) as (program, its):
                    until(lambda: (desk.status() or {}).get("owners", {}).get("watched", 0) >= 2)
                    killed = time.perf_counter()
                    program.kill()
                    until(lambda its=its: not os.path.lexists(its), pause=0.0001)  # type: ignore[misc]
                    took.append(time.perf_counter() - killed)
            until(lambda: journals(home) <= 1, pause=min(0.1, 0.01 + count / 100_000))
            each = (time.perf_counter() - start) / count
            first.kill()
            until(lambda: not os.path.lexists(path))
        quit_reaper()
    return each, took


def one_death() -> float:
    """Seconds until the folder of a killed program is gone, with nothing else to do."""
    from lastly._reaper import desk

    took = []
    with private_home():
        for _ in range(12):
            with owner(ONE) as (program, path):
                until(lambda: (desk.status() or {}).get("owners", {}).get("watched", 0) >= 1)
                start = time.perf_counter()
                program.kill()
                until(lambda path=path: not os.path.lexists(path), pause=0.0001)  # type: ignore[misc]
                took.append(time.perf_counter() - start)
        quit_reaper()
    return median(took)


def memory(pid: int) -> float:
    """Megabytes of a process and those below it: pages that they share after a fork count once, as does their code."""
    anonymous, code = 0, 0
    pids = [pid]
    while pids:
        one = pids.pop()
        try:
            with open(f"/proc/{one}/smaps_rollup") as file:
                told = dict(line.split()[:2] for line in file if line.startswith(("Rss:", "Pss_Anon:", "Anonymous:")))
            with open(f"/proc/{one}/task/{one}/children") as file:
                pids += [int(child) for child in file.read().split()]
        except (OSError, ValueError):  # it has ended
            continue
        anonymous += int(told["Pss_Anon:"])
        code = max(code, int(told["Rss:"]) - int(told["Anonymous:"]))
    return (anonymous + code) / 1024


def unlinks(folder: str, count: int) -> float:
    """Seconds for each: remove a file."""
    for number in range(count):
        os.close(os.open(os.path.join(folder, str(number)), os.O_CREAT | os.O_WRONLY, 0o600))
    start = time.perf_counter()
    for number in range(count):
        os.unlink(os.path.join(folder, str(number)))
    return (time.perf_counter() - start) / count


def many(count: int) -> tuple[float, float, float, float]:
    """One owner with so many removals: seconds for each, megabytes of the reaper and its workers, bytes of the owner and
    of the history for each."""
    from lastly._reaper import desk

    with private_home() as home, TemporaryDirectory(prefix="lb-") as folder:
        with owner(OWES, folder, str(count)) as (program, own):
            until(lambda: (desk.status() or {}).get("owners", {}).get("watched", 0) >= 1)
            pid = (desk.status() or {})["pid"]
            start = time.perf_counter()
            program.kill()
            most = 0.0

            def gone() -> bool:
                nonlocal most
                most = max(most, memory(pid))
                return not os.path.lexists(os.path.join(folder, "0"))

            until(gone, pause=0.02)
            took = (time.perf_counter() - start) / count

            def filed() -> bool:
                nonlocal most
                most = max(most, memory(pid))
                return not journals(home)

            until(filed, pause=0.02)
        quit_reaper()
        size = sum(os.path.getsize(os.path.join(home, name)) for name in os.listdir(home) if "history.db" in name)
    return took, most, float(own), size / count


def removals(sizes: Sequence[int], *, shown: int) -> None:
    """Print the table of one owner with so many removals."""
    report = Report("one owner with many removals")
    with TemporaryDirectory(prefix="lb-") as folder:
        least = median([unlinks(folder, 10_000) for _ in range(3)])
    costs = {}
    for count in sizes:
        took, megabytes, own, entry = many(count)
        costs[count] = count * took
        if count < shown:
            continue
        report.value(f"{count:,}: each", took, target=1 / 15_000, floor=least)
        report.number(f"{count:,}: reaper and workers, at most", megabytes, "MB", target=60)
        report.number(f"{count:,}: the owner, each", own, "B", target=400)
        report.number(f"{count:,}: the history, each", entry, "B", target=100)
    report.growth("removals", costs)
    report.print()


def main() -> None:
    """Print the tables."""
    report = Report("journals of dead owners, found at the start")
    with TemporaryDirectory(prefix="lb-") as folder:
        least = median([floor(folder, 2000) for _ in range(3)])
    alone = one_death()
    costs = {}
    for count in STALE:
        each, _ = stale(count)
        costs[count] = count * each
        if count >= SHOWN:
            report.value(f"{count:,}: each, with its history", each, target=1 / 3000, floor=least)
    _, deaths = stale(STALE[-1], deaths=10)
    report.value(f"{STALE[-1]:,}: a new death meanwhile, p50", median(deaths), target=10e-3, floor=alone)
    report.growth("journals", costs)
    report.print()
    removals(MANY, shown=10 * SHOWN)


if __name__ == "__main__":
    run(main)
