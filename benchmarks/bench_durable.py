"""A durable ``defer`` and its ``detach``, against an insert and an update in one SQLite file shared by all.

The peer is what one would write by hand: one database in WAL mode with ``synchronous=NORMAL``, a connection per
process, a transaction per call. The floor resolves the path, encodes a record and appends it to a file. 1, 8 and 64
processes at once; every call is timed. Then what a whole program pays for its first one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from functools import partial

from benchmarks.bench_reaper import quit_reaper
from benchmarks.measure import Report, busy, interleaved, median, percentile, private_home, ratios, run, wall

CALLS = 400
STARTS = 25
WORKER = """
import os, sys, time
from array import array
kind, calls, home, pause = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
if kind == "lastly":
    import lastly
    from lastly import actions
    scope = lastly.Scope()
    def record(i): return scope.defer(actions.remove, f"{home}/things-{i}")
    def settle(handle): handle.detach()
elif kind == "floor":
    import json, zlib
    fd = os.open(f"{home}/{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def record(i):
        folder, name = os.path.split(f"{home}/things-{i}")
        text = json.dumps({"kind": "plan", "n": i, "action": "remove", "args": [os.path.realpath(folder) + "/" + name]})
        line = text.encode()
        os.write(fd, b"%08x %b\\n" % (zlib.crc32(line), line))
    def settle(_): os.write(fd, b'{"kind": "release"}')
else:
    import sqlite3
    made = sqlite3.connect(home + "/peer.db", timeout=60, isolation_level=None)
    made.execute("pragma journal_mode=wal"); made.execute("pragma synchronous=normal")
    made.execute("create table if not exists owed (id integer primary key, pid, action, args, state)")
    def record(i):
        return made.execute("insert into owed (pid, action, args, state) values (?, ?, ?, 'planned')",
                            (os.getpid(), "remove", f"{home}/things-{i}")).lastrowid
    def settle(row): made.execute("update owed set state = 'released' where id = ?", (row,))
settle(record(-1))
time.sleep(0.5)  # the reaper is there, or not: warm in both cases
print("ready", flush=True)
sys.stdin.readline()
times = array("d")
clock = time.perf_counter
for i in range(calls):
    if pause: time.sleep(pause)
    a = clock(); handle = record(i); b = clock(); settle(handle); c = clock()
    times.append(b - a); times.append(c - b)
sys.stdout.flush()
os.write(1, times.tobytes())
sys.stdin.readline()
"""


def called(kind: str, processes: int, calls: int, *, pause: float = 0.0) -> tuple[list[float], list[float]]:
    """Seconds of every defer and of every detach, of all processes together."""
    with private_home() as home:
        env = {**os.environ, "LASTLY_HOME": home}
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, kind, str(calls), home, str(pause)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env,
            )
            for _ in range(processes)
        ]  # fmt: skip
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"\n")
            worker.stdin.flush()
        times = array("d")
        for worker in workers:
            assert worker.stdout is not None
            times.frombytes(worker.stdout.read(calls * 16))
        for worker in workers:
            worker.communicate(b"\n")
        return list(times[0::2]), list(times[1::2])


def main() -> None:
    """Print the table."""
    report = Report("durable defer and detach, beside one SQLite file (WAL, NORMAL)")
    for processes in (1, 8, 64):
        calls = CALLS if processes > 1 else 5 * CALLS
        ours, ours_done = called("lastly", processes, calls)
        theirs, theirs_done = called("sqlite", processes, calls)
        who = f"{processes} process{'es' if processes > 1 else ''}"
        if processes == 1:
            least = percentile(called("floor", processes, calls)[0], 50)
            report.value(f"defer p50, {who}", percentile(ours, 50), 40e-6, floor=least)
        report.ratio(f"defer p50, {who}", percentile(ours, 50), "insert", percentile(theirs, 50))
        report.ratio(f"defer p99, {who}", percentile(ours, 99), "insert", percentile(theirs, 99))
        report.ratio(f"detach p50, {who}", percentile(ours_done, 50), "update", percentile(theirs_done, 50))
    # With a pause between two calls: without, it is the processors that 64 processes wait for, whatever they do.
    alone, many = (percentile(called("lastly", number, 200, pause=0.02)[0], 99) for number in (1, 64))
    report.ratio("defer p99, 64 processes, one each 20 ms", many, "one process", alone, target=3)
    report.print()
    firsts()


PROGRAMS = {
    "bare": "pass",
    "TemporaryDirectory": "import tempfile; made = tempfile.TemporaryDirectory()",
    "temp_dir": "import lastly; made = lastly.temp_dir()",
    "defer": "import lastly; lastly.defer(lastly.actions.remove, '/nonexistent/x')",
}


def firsts() -> None:
    """What a program pays that owes one thing, over a bare one; a reaper is there."""
    report = Report("a whole program, over a bare one")
    with private_home(), subprocess.Popen(
        [sys.executable, "-c", f"{PROGRAMS['temp_dir']}; print('ready', flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as owner:  # fmt: skip
        assert owner.stdout is not None
        owner.stdout.readline()
        for title, cost in (("", wall), (", processor time", busy)):
            times = interleaved(
                {name: partial(cost, [sys.executable, "-c", code]) for name, code in PROGRAMS.items()},
                passes=STARTS,
            )
            over = {name: [a - b for a, b in zip(times[name], times["bare"], strict=True)] for name in times}
            ours, theirs = over["temp_dir"], over["TemporaryDirectory"]
            # Reading 53 of our files, at 0.15 ms each, is most of both: TemporaryDirectory reads 37 of Python's.
            report.ratio(
                f"one temp_dir(){title}", median(ours), "TemporaryDirectory", median(theirs), 1.0,
                ratio=ratios(ours, theirs),
            )  # fmt: skip
            report.value(f"one durable defer{title}", median(over["defer"]), 15e-3)
        owner.communicate(b"\n")
        quit_reaper()
    report.print()


if __name__ == "__main__":
    run(main)
