"""A durable ``defer`` and its ``detach``, against an insert and an update in one SQLite file shared by all.

The peer is what one would write by hand: one database in WAL mode with ``synchronous=NORMAL``, a connection per
process, a transaction per call. 1, 8 and 64 processes at once; every call is timed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from array import array

from benchmarks.measure import Report, percentile, private_home

CALLS = 400
WORKER = """
import os, sys, time
from array import array
kind, calls, home = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if kind == "lastly":
    import lastly
    from lastly import actions
    scope = lastly.Scope()
    def record(i): return scope.defer(actions.remove, f"/nowhere/{os.getpid()}/{i}")
    def settle(handle): handle.detach()
else:
    import sqlite3
    made = sqlite3.connect(home + "/peer.db", timeout=60, isolation_level=None)
    made.execute("pragma journal_mode=wal"); made.execute("pragma synchronous=normal")
    made.execute("create table if not exists owed (id integer primary key, pid, action, args, state)")
    def record(i):
        return made.execute("insert into owed (pid, action, args, state) values (?, ?, ?, 'planned')",
                            (os.getpid(), "remove", f"/nowhere/{os.getpid()}/{i}")).lastrowid
    def settle(row): made.execute("update owed set state = 'released' where id = ?", (row,))
settle(record(-1))
time.sleep(0.5)  # the reaper is there, or not: warm in both cases
print("ready", flush=True)
sys.stdin.readline()
times = array("d")
clock = time.perf_counter
for i in range(calls):
    a = clock(); handle = record(i); b = clock(); settle(handle); c = clock()
    times.append(b - a); times.append(c - b)
sys.stdout.flush()
os.write(1, times.tobytes())
sys.stdin.readline()
"""


def run(kind: str, processes: int, calls: int) -> tuple[list[float], list[float]]:
    """Seconds of every defer and of every detach, of all processes together."""
    with private_home() as home:
        env = {**os.environ, "LASTLY_HOME": home}
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, kind, str(calls), home],
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
        ours, ours_done = run("lastly", processes, calls)
        theirs, theirs_done = run("sqlite", processes, calls)
        who = f"{processes} process{'es' if processes > 1 else ''}"
        target = 50e-6 if processes == 1 else None
        report.value(f"defer p50, {who}", percentile(ours, 50), target=target)
        report.ratio(f"defer p50, {who}", percentile(ours, 50), "insert", percentile(theirs, 50))
        report.ratio(f"defer p99, {who}", percentile(ours, 99), "insert", percentile(theirs, 99))
        report.ratio(f"detach p50, {who}", percentile(ours_done, 50), "update", percentile(theirs_done, 50))
    report.print()


if __name__ == "__main__":
    main()
