"""Owner killed by SIGKILL → its child gone: ``lastly.Popen`` beside processkit, which has the kernel do that.

The child sleeps, and its own child too. processkit's ``kill_on_parent_death`` (prctl) reaches the child at once, and not
the grandchild, which is then left. The floor is a Python that waits on the owner's pidfd and kills one process.
"""

from __future__ import annotations

import importlib.util
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.bench_reaper import quit_reaper
from benchmarks.measure import Report, interleaved, median, percentile, private_home, ratios, run

from lastly._reaper import desk

KILLS = 15
TREE = ["sh", "-c", 'sleep 1000 & echo $! >"$0.new"; mv "$0.new" "$0"; wait']  # $0: a file for the pid
OURS = f"""
import lastly, sys
child = lastly.Popen([*{TREE!r}, sys.argv[1]], grace=0)
print(child.pid, flush=True)
sys.stdin.readline()
"""
PEER = f"""
import sys
from processkit import Command
child = Command({TREE[0]!r}).args([*{TREE[1:]!r}, sys.argv[1]]).kill_on_parent_death().start()
print(child.pid, flush=True)
sys.stdin.readline()
"""
FLOOR = f"""
import os, select, signal, subprocess, sys, time
child = subprocess.Popen([*{TREE!r}, sys.argv[1]])
while not os.path.exists(sys.argv[1]):
    time.sleep(0.001)
below = open(sys.argv[1]).read()
me = os.getpid()
if not os.fork():
    os.setsid()
    poll = select.poll()
    poll.register(os.pidfd_open(me), select.POLLIN)
    poll.poll()
    os.kill(child.pid, signal.SIGKILL)
    os.kill(int(below), signal.SIGKILL)
    os._exit(0)
print(child.pid, flush=True)
sys.stdin.readline()
"""
left: dict[str, int] = {}


def killed(code: str, name: str) -> float:
    """Seconds until the child of a killed owner is gone; counts grandchildren that are left."""
    with TemporaryDirectory(prefix="lb-") as folder:
        path = f"{folder}/pid"
        owner = subprocess.Popen(
            [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        while not os.path.exists(path):
            time.sleep(0.001)
        below = int(Path(path).read_text())
    fds = [os.pidfd_open(pid) for pid in (child, below)]
    time.sleep(0.3)  # the reaper has looked at the children by then
    while (desk.status() or {}).get("jobs"):  # and is done with the last owner: it makes sure that nobody is left
        time.sleep(0.02)
    start = time.perf_counter()
    owner.kill()
    gone(fds[0], 10.0)
    took = time.perf_counter() - start
    if not gone(fds[1], 1.0):
        left[name] = left.get(name, 0) + 1
        os.kill(below, 9)
    for fd in fds:
        os.close(fd)
    owner.communicate()
    return took


def gone(fd: int, seconds: float) -> bool:
    """Wait for the end of a process."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def main() -> None:
    """Print the table."""
    codes = {"lastly": OURS, "floor": FLOOR}
    if importlib.util.find_spec("processkit"):
        codes["processkit"] = PEER
    report = Report("owner killed → its child gone, grace=0")
    times: dict[str, list[float]] = {}
    with private_home():
        killed(OURS, "")
        left.clear()
        times = interleaved(
            {name: (lambda name=name, code=code: killed(code, name)) for name, code in codes.items()}, passes=KILLS
        )
        ours = median(times["lastly"])
        report.value("p50", ours, 4e-3, floor=median(times["floor"]))
        report.value("p99", percentile(times["lastly"], 99), floor=percentile(times["floor"], 99))
        if "processkit" in times:
            peer = times["processkit"]
            report.ratio("p50", ours, "processkit", median(peer), ratio=ratios(times["lastly"], peer))
        for name in codes:
            target = 0 if name == "lastly" else None
            report.number(f"grandchildren left by {name}, of {KILLS}", left.get(name, 0), "", target)
        costs = {}
        for count in (1, 30, 300):
            others = [subprocess.Popen(["sleep", "1000"]) for _ in range(count)]
            costs[count] = median([killed(OURS, "lastly") for _ in range(5)])
            for other in others:
                other.kill()
                other.wait()
        report.growth("beside so many other processes, each", costs)
        quit_reaper()
    report.print()


if __name__ == "__main__":
    run(main)
