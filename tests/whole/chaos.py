"""Random kills of programs, of the reaper, of its workers and of the children that run users' actions.

Several owners live at once and make things in every way. In rounds of some hundred kills, whatever runs is killed
with SIGKILL at random moments, alone or together. At the end of each round all that is left is killed, then there is
*one* sweep, and then:

* nothing is left: no thing, no process, no journal;
* nothing foreign is touched: files and folders among the planned ones, what links lead to, what was detached,
  processes that look like the planned ones;
* what living owners owe was run by nobody;
* every cleanup is in a final state, and none is abandoned.

Which kind of process is killed and after how long is decided by the seed; what it is doing then is not.

    python tests/whole/chaos.py [KILLS [SEED]]        make chaos N=1000 SEED=…        make soak
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.abspath(f"{__file__}/../../support"))

import chaos_program
from harness import command_of, end_all_of, processes_of, reaper_of, start_time

from lastly._journal import home as homes
from lastly._reaper import desk
from lastly._settle.sweep import Outcome, sweep

ROUND = 125  # kills between two looks
CROWD = 5  # owners at once
STEADY = 2  # those that live on until the round's end
UNMODIFIED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "chaos_unmodified.py")
WHAT = {"owner": 55, "reaper": 10, "worker": 14, "action": 14, "all": 7}


class Wrong(Exception):
    """A promise was not kept."""


def kill(pid: int) -> bool:
    """SIGKILL, and wait for the end; False when it had gone. The caller knows whose it is."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return bool(select.select([pidfd], [], [], 10.0)[0])
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)


def children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


class Decoys:
    """What must be there in the end as it was in the beginning."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        precious = folder / "precious"
        (precious / "deep" / "er").mkdir(parents=True)
        (precious / "deep" / "er" / "file").write_text("precious")
        (precious / "linked").write_text("two names")
        things = folder / "things"
        for name in ("lastly-decoy", "owed-1-1", "keep-0-0", "machine-1-1.old", "-rf", "a\nb"):
            (things / name).mkdir()
            (things / name / "file").write_text(name)
        (things / "owed-1-2").symlink_to(precious)
        self.foreign = {path.name for path in things.iterdir()}
        self.before = self.state()
        env = {"PATH": os.environ["PATH"], "LASTLY_TOKEN": "0" * 24, "LASTLY_HOME": "/nonexistent"}
        self.processes = [
            subprocess.Popen(["sleep", "1001"], env=env, start_new_session=bool(number % 2)) for number in range(4)
        ]
        self.started = [start_time(process.pid) for process in self.processes]

    def state(self) -> dict[str, str]:
        found = {}
        for top in [self.folder / "precious", *(self.folder / "things" / name for name in self.foreign)]:
            for path in [top, *sorted(top.rglob("*"))]:
                found[str(path)] = path.read_text() if path.is_file() else str(path.is_symlink())
        return found

    def check(self) -> None:
        if (now := self.state()) != self.before:
            raise Wrong(f"something foreign was touched: {dict(now.items() ^ self.before.items())}")
        alive = [start_time(process.pid) for process in self.processes]
        if alive != self.started:
            raise Wrong(f"a foreign process was killed: {self.started} {alive}")

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


class Chaos:
    """One folder, one home, one seed."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.folder = Path(tempfile.mkdtemp(prefix="lt-chaos-", dir="/tmp"))
        self.home = self.folder / "home"
        for name in ("things", "kept", "steady"):
            (self.folder / name).mkdir()
        self.home.mkdir(mode=0o700)
        os.environ["LASTLY_HOME"] = str(self.home)
        self.decoys = Decoys(self.folder)
        self.owners: dict[int, subprocess.Popen[bytes] | None] = {}
        self.steady: list[int] = []
        self.killed: Counter[str] = Counter()
        self.made = 0

    # ---- owners

    def start_owner(self) -> None:
        """Half a dozen forked ones for each that is a program of its own, which costs ten times as much."""
        self.made += 1
        seed, how_many = f"{self.seed}.{self.made}", self.random.randrange(1, 12)
        if self.random.random() < 0.15:
            how_many *= self.random.choice([1, -1])
            argv = [sys.executable, chaos_program.__file__]
            if self.random.random() < 0.4:
                argv = [sys.executable, "-m", "lastly", "run", "--", UNMODIFIED]
            argv += [str(self.folder), seed, str(how_many)]
            program = subprocess.Popen(argv)
            self.owners[program.pid] = program
        else:
            owner = chaos_program.Owner(self.folder, seed)
            self.owners[self.fork(lambda: owner.run(how_many))] = None

    def start_steady(self) -> None:
        owner = chaos_program.Owner(self.folder, f"{self.seed}.steady")
        pid = self.fork(owner.steady)
        self.steady.append(pid)
        until = time.monotonic() + 20
        while not (file := self.folder / "steady" / str(pid)).exists() or not file.read_text():
            if time.monotonic() > until:
                raise Wrong("a steady owner did not come to rest")
            time.sleep(0.002)

    def fork(self, work: object) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            work()  # type: ignore[operator]  # a callable; Callable would be imported for this line only
            chaos_program.wait_for_ever()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def end_owner(self, pid: int) -> bool:
        program = self.owners.pop(pid, None)
        ended = os.waitpid(pid, os.WNOHANG)[0] if program is None else program.poll() is not None
        if ended:
            if program is None or program.returncode:
                raise Wrong("an owner ended by itself; see above")
            return False
        os.kill(pid, signal.SIGKILL)  # not waited for yet: the pid is its own
        if program is None:
            os.waitpid(pid, 0)
        else:
            program.wait()
        return True

    # ---- kills

    def kill_owner(self) -> int:
        return int(self.end_owner(self.random.choice(sorted(self.owners))))

    def kill_reaper(self) -> int:
        reaper = reaper_of(self.home)
        return int(reaper is not None and kill(reaper))

    def kill_worker(self) -> int:
        """One that is working, if there is one."""
        reaper = reaper_of(self.home)
        workers = children(reaper) if reaper else []
        busy = [pid for pid in workers if children(pid)]
        return int(bool(workers) and kill(self.random.choice(busy or workers)))

    def kill_action(self) -> int:
        """A child of a worker: there is one soon, or another time."""
        until = time.monotonic() + 0.03
        while time.monotonic() < until:
            reaper = reaper_of(self.home)
            found = [pid for worker in children(reaper or 0) for pid in children(worker)]
            if found:
                return int(kill(self.random.choice(found)))
            time.sleep(0.002)
        return 0

    def kill_all(self) -> int:
        """Reaper, workers, their children and an owner, as fast as can be, in any order."""
        reaper = reaper_of(self.home)
        found = [reaper] if reaper else []
        for _ in range(2):
            found += [pid for parent in found for pid in children(parent)]
        pids = list(dict.fromkeys(found))
        self.random.shuffle(pids)
        return sum(map(kill, pids)) + self.kill_owner()

    def kill_something(self) -> None:
        while len(self.owners) < CROWD:
            self.start_owner()
        kind = self.random.choices([*WHAT], [*WHAT.values()])[0]
        time.sleep(self.random.uniform(0.0, 0.02))
        self.killed[kind] += getattr(self, f"kill_{kind}")()

    # ---- rounds

    def round(self, number: int, kills: int) -> None:
        self.random = random.Random(f"{self.seed}/{number}")
        for _ in range(STEADY):
            self.start_steady()
        until = self.killed.total() + kills
        while self.killed.total() < until:
            self.kill_something()
        self.check_steady()
        self.silence()
        outcomes = sweep()
        self.check(outcomes)

    def silence(self) -> None:
        """Kill all owners, then the reaper with all that is its own, until nothing of it appears any more."""
        for pid in [*self.owners]:
            self.killed["owner"] += self.end_owner(pid)
        for pid in self.steady:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.steady.clear()
        quiet = 0
        while quiet < 2:
            found = self.reaping()
            quiet = 0 if found else quiet + 1
            for pid in found:
                kill(pid)

    def reaping(self) -> list[int]:
        """The reaper, one that is about to be it, workers, children: but not what owners have started."""
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        late = [pid for pid in pids if pid != os.getpid() and f" {self.home} " in f"{command_of(pid)} "]
        return [pid for pid in {*late, *processes_of(self.home)} if not is_sleep(pid)]

    # ---- what must be true

    def check_steady(self) -> None:
        for pid in self.steady:
            child, *paths = (self.folder / "steady" / str(pid)).read_text().splitlines()
            missing = [path for path in paths if not os.path.lexists(path)]
            if missing or start_time(int(child)) is None:
                raise Wrong(f"the cleanups of a living owner were run: {missing} {child}")

    def check(self, outcomes: list[Outcome]) -> None:
        self.decoys.check()
        things = {path.name for path in (self.folder / "things").iterdir()}
        kept = {path.name for path in (self.folder / "kept").iterdir()}
        if lost := kept - things:
            raise Wrong(f"detached, and removed all the same: {lost}")
        maybe = {name for name in things if name.startswith("keep-")}  # killed while it detached: either is right
        if left := things - self.decoys.foreign - maybe:
            self.show(outcomes)
            raise Wrong(f"left: {sorted(left)}")
        if left_processes := processes_of(self.home):
            raise Wrong(f"still running: {[describe(pid) for pid in left_processes]}")
        if journals := homes.journals():
            self.show(outcomes)
            raise Wrong(f"journals left: {journals}")
        states = Counter(row["state"] for row in desk.past(limit=10**6))
        if other := set(states) - {"done", "released", "void"}:
            raise Wrong(f"not settled: {other}: {[row for row in desk.past(limit=10**6) if row['state'] in other]}")

    def show(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            print(outcome.to_mapping(), file=sys.stderr)

    def end(self) -> None:
        self.decoys.end()
        for pid in [*self.owners]:
            with suppress(Wrong):
                self.end_owner(pid)
        for pid in self.steady:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        end_all_of(self.home)
        shutil.rmtree(self.folder, ignore_errors=True)


def describe(pid: int) -> str:
    try:
        status = Path(f"/proc/{pid}/status").read_text().split("\n")
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return f"{pid} (gone)"
    return f"{pid} {command_of(pid)} {status[2]} {status[6]} {[v for v in environ if v.startswith(b'LASTLY')]}"


def is_sleep(pid: int) -> bool:
    """What an owner has started: to be ended by the sweep, not by us."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"sleep" in file.read()
    except OSError:
        return True


def main(kills: int = 1000, seed: str = "") -> int:
    seed = seed or str(random.SystemRandom().randrange(10**6))
    print(f"chaos: {kills} kills, seed {seed}", flush=True)
    began = time.monotonic()
    chaos = Chaos(seed)
    number = 0
    try:
        while (left := kills - chaos.killed.total()) > 0:
            number += 1
            chaos.round(number, min(ROUND, left))
    except Wrong as wrong:
        print(f"WRONG in round {number}, again with SEED={seed}: {wrong}", flush=True)
        print((chaos.home / "reaper.log").read_text()[-4000:], file=sys.stderr)
        return 1
    finally:
        chaos.end()
    killed = ", ".join(f"{kind} {count}" for kind, count in chaos.killed.most_common())
    took = time.monotonic() - began
    print(f"{chaos.killed.total()} kills ({killed}) of {chaos.made} owners in {number} rounds, {took:.1f} s: nothing left,")
    print("nothing foreign touched, every cleanup in a final state")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, sys.argv[2] if len(sys.argv) > 2 else ""))
