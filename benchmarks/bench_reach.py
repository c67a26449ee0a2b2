"""A shared plan, the death of a host, and ten thousand orphans; beside psycopg in each program, on the same server.

The peer of a shared ``defer`` is what one would write by hand: a connection per process, a committed INSERT per plan.
The server is started here, with its data on this disk and fsync on.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

from benchmarks.measure import Report, percentile, private_home

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]

CALLS = 100
PROGRAM = """
import os, sys, time
from array import array
kind, calls, url = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if kind == "lastly":
    import lastly, cloud
    def record(i): lastly.defer(cloud.destroy, f"{os.getpid()}-{i}")
else:
    import psycopg
    made = psycopg.connect(url, autocommit=True)
    made.prepare_threshold = 1
    def record(i):
        made.execute("INSERT INTO peer (pid, action, args) VALUES (%s, %s, %s)", [os.getpid(), "cloud:destroy", f'["{os.getpid()}-{i}"]'])
record(-1)
print("ready", flush=True)
sys.stdin.readline()
times = array("d")
clock = time.perf_counter
began = clock()
for i in range(calls):
    a = clock(); record(i); times.append(clock() - a)
times.append(clock() - began)
os.write(1, times.tobytes())
sys.stdin.readline()
os._exit(0)
"""
RENT = """
import os, sys, lastly, cloud
for n in range(int(sys.argv[1])): lastly.defer(cloud.destroy, f"{sys.argv[2]}-{n}")
os.write(1, b"ready\\n")
sys.stdin.readline()
"""


def defers(shared, cloud, kind: str, processes: int) -> tuple[list[float], float]:
    """Seconds of every call, and calls a second of all processes together."""
    with private_home() as home:
        url = shared.url("web1", queue="shop", ttl=30, wait=60) if kind == "lastly" else shared.url("postgres")
        env = {**os.environ, **cloud.env, "LASTLY_HOME": home, "LASTLY_JOURNAL": url, "PYTHONWARNINGS": "ignore"}
        programs = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, kind, str(CALLS), url], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for _ in range(processes)
        ]
        for program in programs:
            assert program.stdout.readline() == b"ready\n"
        for program in programs:
            program.stdin.write(b"\n")
            program.stdin.flush()
        times, slowest = array("d"), 0.0
        for program in programs:
            got = array("d")
            got.frombytes(program.stdout.read((CALLS + 1) * 8))
            slowest = max(slowest, got.pop())
            times.extend(got)
        if kind == "lastly" and processes == 64:
            memory_of_relay(shared, home)
        for program in programs:
            program.communicate(b"\n")
        from lastly._reaper import client

        client.ask("quit")
        from harness import end_all_of

        end_all_of(home)
        return list(times), CALLS * processes / slowest


RELAY: dict[str, float] = {}


def memory_of_relay(shared, home: str) -> None:
    """Its memory, and how many connections all that has."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if Path(f"/proc/{pid}/comm").read_text() == "lastly-relay\n" and home in Path(f"/proc/{pid}/cmdline").read_text():
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                RELAY["rss"] = int(rollup.split("Rss:")[1].split()[0]) / 1024
        except OSError:
            continue
    RELAY["connections"] = shared.one("SELECT count(*) FROM pg_stat_activity WHERE usename = 'web1'")


QUIET = 45.0  # seconds of an idle host that are counted: nine beats at the default ttl


def idle(shared, cloud, folder: Path) -> float:
    """Transactions a second, of a host that has one thing and does nothing; as the server counts them."""
    import psycopg
    from harness import end_all_of

    home = folder / "home"
    home.mkdir(mode=0o700)
    env = {**os.environ, **cloud.env, "LASTLY_HOME": str(home), "LASTLY_JOURNAL": shared.url("web1", queue="shop", wait=60)}
    program = subprocess.Popen(
        [sys.executable, "-c", RENT, "1", "idle"], env={**env, "PYTHONWARNINGS": "ignore"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert program.stdout.readline() == b"ready\n"
    # From another database: in the one that is counted, each look would count too.
    with psycopg.connect(shared.server.url(), autocommit=True) as looking:

        def commits() -> int:
            return looking.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = %s", [shared.name]).fetchone()[0]

        time.sleep(11)  # within which the server takes over what its sessions have counted
        began, first = time.perf_counter(), commits()
        time.sleep(QUIET)
        found = (commits() - first) / (time.perf_counter() - began)
    program.communicate(b"\n")
    end_all_of(str(home))
    return found


def death(shared, cloud, folder: Path) -> float:
    """Seconds from the death of a host until 100 things of 10 programs are given back."""
    env = {**os.environ, **cloud.env, "LASTLY_ENV": "CLOUD", "PYTHONWARNINGS": "ignore"}
    url = {"queue": "shop", "ttl": 3, "wait": 60}
    worker = subprocess.Popen(
        [sys.executable, "-m", "lastly", "worker", "--actions", "cloud"],
        env={**env, "LASTLY_JOURNAL": shared.url("hand1", **url)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    worker.stderr.readline()
    (folder / "rent.py").write_text(RENT)
    home = folder / "home"
    home.mkdir(mode=0o700)
    (folder / "host.sh").write_text("exec 3<&0\n" + "".join(f"{sys.executable} {folder}/rent.py 10 h{n} <&3 &\n" for n in range(10)) + "wait\n")
    host = subprocess.Popen(
        ["unshare", "--pid", "--net", "--mount-proc", "--fork", "--kill-child", "sh", str(folder / "host.sh")],
        env={**env, "LASTLY_HOME": str(home), "LASTLY_JOURNAL": shared.url("web1", **url)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    for _ in range(10):
        assert host.stdout.readline() == b"ready\n"
    host.kill()
    began = time.perf_counter()
    while shared.one("SELECT count(*) FROM lastly.cleanups WHERE state = 'done'") < 100:
        time.sleep(0.02)
    took = time.perf_counter() - began
    host.wait()
    worker.send_signal(signal.SIGTERM)
    worker.communicate()
    return took


def orphans(shared, cloud, engine: str) -> tuple[float, int, int]:
    """Cleanups a second of 10,000 of 1,000 owners with two workers; how many ran, and how many different ones."""
    from sharing import flush, join, plan

    epoch = join(shared)
    for owner in range(0, 1000, 50):
        flush(shared, epoch, [
            plan(f"h-b/{n}.j", number, "cloud:destroy", args=[f"{n}-{number}"]) for n in range(owner, owner + 50) for number in range(1, 11)
        ])  # fmt: skip
    shared.do(f"SELECT lastly.judge_host({epoch})")
    env = {**os.environ, **cloud.env, "LASTLY_JOURNAL": shared.url("hand1", queue="shop")}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "lastly", "worker", "--actions", "cloud", "--engine", engine], env=env,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]  # fmt: skip
    done = "SELECT count(*) FROM lastly.cleanups WHERE state = 'done'"
    while not shared.one(done):
        time.sleep(0.01)
    began, first = time.perf_counter(), shared.one(done)
    while (last := shared.one(done)) < 10_000:
        time.sleep(0.05)
    took = time.perf_counter() - began
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
        worker.wait()
    return (last - first) / took, len(cloud.runs), len(set(cloud.runs))


def main() -> None:
    """Print the table."""
    from sharing import Cloud, new_database, new_server

    server, folder = new_server()
    places = [folder]
    try:
        report = Report("a shared plan, beside a committed INSERT of psycopg in each program")

        def fresh() -> tuple[object, Cloud, Path]:
            place = Path(tempfile.mkdtemp(prefix="lb-", dir="/tmp"))
            places.append(str(place))
            (place / "cloud").mkdir()
            return new_database(server), Cloud(place / "cloud"), place

        for processes in (1, 8, 64):
            shared, cloud, _ = fresh()
            shared.do("CREATE TABLE peer (id bigserial PRIMARY KEY, pid int, action text, args jsonb)")
            ours, rate = defers(shared, cloud, "lastly", processes)
            theirs, peer_rate = defers(shared, cloud, "psycopg", processes)
            who = f"{processes} process{'es' if processes > 1 else ''}"
            report.ratio(f"p50, {who}", percentile(ours, 50), "INSERT", percentile(theirs, 50), target=3 if processes == 1 else None)
            report.ratio(f"p99, {who}", percentile(ours, 99), "INSERT", percentile(theirs, 99), target=0.5 if processes == 64 else None)
            report.ratio(f"a plan of all, {who}", 1 / rate, "INSERT", 1 / peer_rate, target=0.5 if processes == 64 else None)
        report.print()
        print(f"relay with 64 programs: {RELAY['rss']:.0f} MB (target 45), {RELAY['connections']} connection (target 1)")
        shared, cloud, place = fresh()
        print(f"a host that does nothing: {idle(shared, cloud, place):.2f} transactions a second (target 0.2, a beat each sixth of the ttl of 30 s)")
        shared, cloud, place = fresh()
        print(f"100 things of 10 programs after the death of their host, ttl 3 s: {death(shared, cloud, place):.2f} s (target 4)")
        for engine in ("procrastinate", "sql"):
            shared, cloud, _ = fresh()
            rate, ran, distinct = orphans(shared, cloud, engine)
            print(f"10,000 orphans, two workers, {engine}: {rate:.0f} a second (target 1,500), {ran} run, {distinct} different")
    finally:
        server.stop()
        for place in places:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
