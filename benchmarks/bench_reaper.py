"""From SIGKILL to clean: a temp folder with ten files, beside multiprocessing's and loky's resource trackers.

Peers: one shared memory segment of ``multiprocessing`` (whose tracker is a process of each program's own), one folder
with ten files of ``loky``'s tracker. All are warm: the helper process is up when its program is killed. Then many owners
killed at once; then what the reaper itself costs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial

from benchmarks.measure import Report, interleaved, median, percentile, private_home, ratios, run

KILLS = 40
FIRSTS = 15
TEN_FILES = "\nfor i in range(10): open(os.path.join(made, str(i)), 'w').close()\n"
WAIT = "\nprint(made, flush=True)\nsys.stdin.readline()\nprint('warm', flush=True)\ntime.sleep(1000)\n"
LASTLY = "import lastly, os, sys, time\nmade = os.fspath(lastly.temp_dir())" + TEN_FILES + WAIT
TRACKER = (
    "import sys, time\nfrom multiprocessing import shared_memory\n"
    "memory = shared_memory.SharedMemory(create=True, size=4096)\nmade = '/dev/shm/' + memory.name.lstrip('/')"
    + WAIT
)
LOKY = (
    "import os, sys, tempfile, time\nfrom loky.backend import resource_tracker\n"
    "made, probe = tempfile.mkdtemp(), tempfile.mkdtemp()\n"
    "for folder in (made, probe): resource_tracker.register(folder, 'folder')\n"
    "resource_tracker.maybe_unlink(probe, 'folder')\n"
    "while os.path.exists(probe): time.sleep(0.001)\n"  # by then its tracker is up
    + TEN_FILES + WAIT
)
# What nobody can do without: a process that waits on the pidfd and removes.
FLOOR = """
import os, select, shutil, sys, tempfile, time
made = tempfile.mkdtemp()
me, (reading, writing) = os.getpid(), os.pipe()
if not os.fork():
    os.setsid()
    poll = select.poll()
    poll.register(os.pidfd_open(me), select.POLLIN)
    os.write(writing, b"x")
    poll.poll()
    shutil.rmtree(made)
    os._exit(0)
os.read(reading, 1)
""" + TEN_FILES + WAIT
MANY = """
import os, signal, sys
import lastly, lastly._system.remove, lastly._reaper.client, lastly.resources._temporary, lastly._durable.own, tempfile
pids = []
for _ in range(int(sys.argv[1])):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        made = lastly.temp_dir()
        os.write(writing, b"x")
        signal.pause()
    os.close(writing); os.read(reading, 1); os.close(reading)
    pids.append(child)
print("ready", flush=True)
sys.stdin.readline()
for pid in pids: os.kill(pid, 9)
for pid in pids: os.waitpid(pid, 0)
print("dead", flush=True)
sys.stdin.readline()
"""

FLOOD = """
import os, socket, sys
while True:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        sock.connect(sys.argv[1])
        for _ in range(50):
            sock.send(os.urandom(200))
    except OSError:
        pass
    sock.close()
"""


def kill_to_clean(code: str, owners: int = 1) -> float:
    """Seconds from SIGKILL until the paths that so many programs printed are gone."""
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(owners)
    ]
    paths = [line(program).strip() for program in programs]
    time.sleep(0.15)  # every helper process is up by now
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("\n")
        program.stdin.flush()
        line(program)
    time.sleep(0.01)
    start = time.perf_counter()
    for program in programs:
        program.send_signal(signal.SIGKILL)
    until = start + 5 * owners
    while paths:
        if not os.path.lexists(paths[-1]):
            paths.pop()
        elif time.perf_counter() > until:
            raise RuntimeError(f"{paths} are left")
        else:
            time.sleep(0.00005)
    took = time.perf_counter() - start
    for program in programs:
        program.communicate()
    return took


def first_death() -> float:
    """The same for the first death that a reaper sees."""
    with private_home():
        try:
            return kill_to_clean(LASTLY)
        finally:
            quit_reaper()


def line(program: subprocess.Popen[str]) -> str:
    """Return the next line that it prints."""
    assert program.stdout is not None
    return program.stdout.readline()


def many(owners: int) -> tuple[float, float, float]:
    """Kill so many owners at once: seconds from the first kill until all is clean, and the reaper's MB before and after."""
    from lastly._reaper import desk

    with private_home() as home:
        folder = os.path.join(home, "tmp")
        os.mkdir(folder)
        program = subprocess.Popen(
            [sys.executable, "-c", MANY, str(owners)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": folder},
        )  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdout.readline()
        while (status := desk.status()) is None or status["owners"].get("watched", 0) < owners:
            time.sleep(0.01)
        before = resident(status["pid"])
        start = time.perf_counter()
        program.stdin.write("\n")
        program.stdin.flush()
        while os.listdir(folder) and time.perf_counter() - start < 60:
            time.sleep(0.002)
        took = time.perf_counter() - start
        after = resident(status["pid"])
        program.communicate("\n")
        quit_reaper()
    return took, before, after


def kills(owners: int) -> float:
    """Seconds to kill so many processes that owe nothing, and to wait for them."""
    code = MANY.replace("made = lastly.temp_dir()", "pass")
    with private_home():
        program = subprocess.Popen(
            [sys.executable, "-c", code, str(owners)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert program.stdin is not None
        line(program)
        start = time.perf_counter()
        program.stdin.write("\n")
        program.stdin.flush()
        line(program)
        took = time.perf_counter() - start
        program.communicate("\n")
    return took


def resident(pid: int) -> float:
    """Megabytes."""
    with open(f"/proc/{pid}/status") as file:
        return int(file.read().split("VmRSS:")[1].split()[0]) / 1024


def quit_reaper() -> None:
    """End the reaper of the private home."""
    from lastly._reaper import client

    client.ask("quit")
    while client.ask("status") is not None:
        time.sleep(0.01)


def start_up() -> float:
    """Seconds from the start call until the reaper answers."""
    from lastly._reaper import desk, spawn

    with private_home():
        start = time.perf_counter()
        spawn.start()
        while desk.status() is None:
            time.sleep(0.0002)
        took = time.perf_counter() - start
        quit_reaper()
    return took


def under_fire(passes: int) -> float:
    """The median second from SIGKILL to clean, while 1,000 connections are open and garbage is sent without end."""
    from lastly._reaper import desk, spawn

    with private_home() as home:
        spawn.start()
        while desk.status() is None:
            time.sleep(0.001)
        address = os.path.join(home, "reaper.sock")
        silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(1000)]
        for one in silent:
            one.connect(address)
        flood = subprocess.Popen([sys.executable, "-c", FLOOD, address])
        try:
            return median([kill_to_clean(LASTLY) for _ in range(passes)])
        finally:
            flood.kill()
            flood.wait()
            for one in silent:
                one.close()
            quit_reaper()


def main() -> None:
    """Print the tables."""
    codes = {"lastly": LASTLY, "floor": FLOOR, "multiprocessing": TRACKER}
    try:
        import loky  # noqa: F401

        codes["loky"] = LOKY
    except ImportError:
        pass
    with private_home():
        kill_to_clean(LASTLY)  # the shared reaper is up from here on
        results = interleaved(
            {name: partial(kill_to_clean, code) for name, code in codes.items()}, passes=KILLS
        )
        ten = interleaved({name: partial(kill_to_clean, code, 10) for name, code in codes.items()}, passes=5)
        quit_reaper()
    pairs = [(first_death(), kill_to_clean(codes.get("loky", TRACKER))) for _ in range(FIRSTS)]
    firsts, peers = ([pair[side] for pair in pairs] for side in (0, 1))
    report = Report("SIGKILL → a folder with 10 files is gone")
    ours, least = results.pop("lastly"), median(results["floor"])
    for peer, theirs in results.items():
        # 1.6 to 1.9 times the floor: a worker is another process, 0.2 ms until it runs, so that what blocks never stops
        # the reaper; and 0.4 ms are taking the lease, proving the death and writing down that it is begun.
        target = {"multiprocessing": 0.5, "loky": 1.0, "floor": 1.7}[peer]
        report.ratio("p50", median(ours), peer, median(theirs), target, floor=least, ratio=ratios(ours, theirs))
        report.ratio("p99", percentile(ours, 99), peer, percentile(theirs, 99))
    peer, target = ("loky", 1.1) if "loky" in codes else ("multiprocessing", None)
    report.ratio(
        "the first that a reaper sees, p50", median(firsts), peer, median(peers), target, floor=least,
        ratio=ratios(firsts, peers),
    )  # fmt: skip
    # A tracker is a process of its own for each program: with 1,000 owners there would be 1,000 of them.
    ours_of_ten = median(ten.pop("lastly"))
    for peer, theirs in ten.items():
        report.ratio("10 at once, all clean", ours_of_ten, peer, median(theirs))
    report.value("p99", percentile(ours, 99), target=15e-3, floor=percentile(results["floor"], 99))
    delay = under_fire(20) - median(ours)
    report.value("later under garbage and 1,000 connections", max(delay, 0.0), target=0.1)
    report.print()
    report = Report("many owners killed at once")
    costs = {}
    for owners in (1, 10, 100, 1000):
        took, before, after = many(owners)
        costs[owners] = took
        report.value(f"{owners:,} owners, all clean", took, 0.65 if owners == 1000 else None, floor=kills(owners))
        report.number(f"reaper with {owners:,} owners", before, "MB", target=16)
        report.number("and afterwards", after, "MB")
    report.growth("owners", costs)
    report.value("reaper, from start to answer", median([start_up() for _ in range(7)]))
    report.print()


if __name__ == "__main__":
    run(main)
