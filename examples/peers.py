"""What is left of a program's file and child when it dies, under lastly and under its peers: ``python examples/peers.py``.

Each row is a small program that makes a file and starts a child, and owes both the way that this peer is used. The
program gets SIGTERM, and in another run SIGKILL. The row of a peer that is not installed says so. The children read
from a pipe of this program: when this ends, so do they.
"""

import contextlib
import importlib.util
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

PATIENCE = 20.0  # seconds for what must go
SETTLE = 3.0  # seconds after which what is left counts as left, where nobody promises that it goes

MAKE = """
import os, subprocess, sys, time
def make_file(): open("file", "w").close()
def make_child(start=subprocess.Popen):
    return start(["cat"], stdin=int(os.environ["STDIN"]), stdout=int(os.environ["ALIVE"]))
def remove_file(): os.path.exists("file") and os.remove("file")
def work():
    os.close(int(os.environ["ALIVE"]))
    print("ready", os.getpid(), flush=True)
    time.sleep(60)
"""
PLAIN = """
make_file(); make_child(); work()
"""
EXIT_STACK = """
import contextlib
with contextlib.ExitStack() as stack:
    make_file(); stack.callback(remove_file)
    stack.callback(make_child().kill)
    work()
"""
ATEXIT = """
import atexit
make_file(); atexit.register(remove_file)
atexit.register(make_child().kill)
work()
"""
ATEXIT_HANDLER = """
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
""" + ATEXIT
TRACKER = """
from multiprocessing import shared_memory
block = shared_memory.SharedMemory(create=True, size=1)
open("shared", "w").write(block._name)
make_file(); make_child(); work()
"""
SAFE_EXIT = """
import safe_exit
safe_exit.register(remove_file); make_file()
safe_exit.register(make_child().kill)
work()
"""
PYTERMINATE = """
import pyterminate
pyterminate.register(remove_file, signals=(15,)); make_file()
pyterminate.register(make_child().kill, signals=(15,))
work()
"""
PROCESSKIT = """
import processkit
make_file()
with processkit.ProcessGroup() as group:
    child = group.start(processkit.Command("sh", ["-c", "exec cat </dev/fd/$STDIN >/dev/fd/$ALIVE"]))
    work()
"""
LASTLY = """
import lastly
lastly.install()
lastly.defer(lastly.actions.remove, "file"); make_file()
make_child(lastly.Popen); work()
"""
NAMESPACE = ["unshare", "-Urpf", "--kill-child"]


class Peer(NamedTuple):
    """A way to owe: the program, what it is started by, and what must be there for that."""

    code: str
    before: tuple[str, ...] = ()
    module: str = ""

    def is_here(self) -> bool:
        """Whether it can be measured on this machine."""
        if self.module and importlib.util.find_spec(self.module) is None:
            return False
        if not all(map(shutil.which, [word for word in self.before if word in ("tini", "dumb-init", "unshare")])):
            return False
        return "unshare" not in self.before or _can_run([*NAMESPACE, "true"])


PEERS = {
    "nothing": Peer(PLAIN),
    "`contextlib.ExitStack`": Peer(EXIT_STACK),
    "`atexit`": Peer(ATEXIT),
    "`atexit` and a handler for SIGTERM": Peer(ATEXIT_HANDLER),
    "multiprocessing's `resource_tracker`": Peer(TRACKER),
    "safe-exit": Peer(SAFE_EXIT, module="safe_exit"),
    "pyterminate": Peer(PYTERMINATE, module="pyterminate"),
    "processkit": Peer(PROCESSKIT, module="processkit"),
    "processkit, with `kill_on_parent_death()`": Peer(
        PROCESSKIT.replace("]))", "]).kill_on_parent_death())"), module="processkit"
    ),
    "tini": Peer(PLAIN, ("tini", "-s", "--")),
    "tini as PID 1": Peer(PLAIN, (*NAMESPACE, "tini", "--")),
    "dumb-init": Peer(PLAIN, ("dumb-init", "--")),
    "dumb-init as PID 1": Peer(PLAIN, (*NAMESPACE, "dumb-init", "--")),
    "`lastly run --supervise`": Peer(PLAIN, (sys.executable, "-m", "lastly", "run", "--supervise", "--")),
    "lastly": Peer(LASTLY),
}


def _can_run(argv: list[str]) -> bool:
    return subprocess.run(argv, check=False, capture_output=True).returncode == 0


def measure(peer: Peer, signum: int) -> str:
    """Run the peer's program, end it, and say in words what is left."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        alive, write = os.pipe()
        stdin, hold = os.pipe()
        for fd in (alive, hold):
            stack.callback(os.close, fd)
        (folder / "program.py").write_text(MAKE + peer.code)
        program = subprocess.Popen(
            [*peer.before, sys.executable, "program.py"], cwd=folder, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "STDIN": str(stdin), "ALIVE": str(write), "LASTLY_HOME": str(folder / "home")},
            pass_fds=(stdin, write),
        )  # fmt: skip
        os.close(write)
        os.close(stdin)
        assert program.stdout is not None
        inside = int(program.stdout.readline().split()[1])
        os.kill(_outside(program.pid, inside), signum)
        program.wait()
        program.stdout.close()
        return _left(folder, alive, PATIENCE if "lastly" in peer.code else SETTLE)


def _outside(started: int, inside: int) -> int:
    """The pid out here of the program that calls itself *inside*, in a pid namespace perhaps of its own."""
    found = [started]
    for pid in found:
        status = Path(f"/proc/{pid}/status").read_text()
        if int(re.findall(r"^NSpid:.*\b(\d+)$", status, re.MULTILINE)[0]) == inside:
            return pid
        found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    raise LookupError(f"no process {inside} below {started}")


def _left(folder: Path, alive: int, patience: float) -> str:
    """What is left when all has gone, or when there was time enough for it to go."""
    name = folder / "shared"
    shared = Path("/dev/shm") / name.read_text().lstrip("/") if name.exists() else None
    deadline = time.monotonic() + patience
    while True:
        gone = bool(select.select([alive], [], [], 0)[0])
        left = [
            *(["its file"] if (folder / "file").exists() else []),
            *([] if gone else ["its child"]),
            *(["its shared memory"] if shared is not None and shared.exists() else []),
        ]
        if not left or time.monotonic() > deadline:
            return ", ".join(left) or "nothing"
        time.sleep(0.02)


def main() -> None:
    """Print the table, row by row."""
    print("| the program is under | left by SIGTERM | left by SIGKILL |\n|---|---|---|")
    for name, peer in PEERS.items():
        print(row(name) if peer.is_here() else f"| {name} | not run here | not run here |", flush=True)


def row(name: str) -> str:
    """One line of the table."""
    return f"| {name} | {measure(PEERS[name], signal.SIGTERM)} | {measure(PEERS[name], signal.SIGKILL)} |"


if __name__ == "__main__":
    main()
