"""Ends kill_matrix_program.py in every way, under each system, and counts what is left: `make matrix`.

python tests/whole/kill_matrix.py [FILE]     prints the table; puts it into the Markdown file, too
"""

from __future__ import annotations

import os
import platform
import resource
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.abspath(f"{__file__}/../../support"))
from harness import PATIENCE, Program, Programs, end_all_of, reaper_of, wait_process_gone, wait_until
from kill_matrix_program import WAYS, Way

SYSTEMS = ("atexit", "ExitStack", "handlers", "lastly")
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kill_matrix_program.py")
QUIET = 1.0  # seconds without a change: nobody is cleaning up any more
AT_MOST = 10.0
ALIVE = 8.0  # seconds after which a program counts as one that does not end


class Outcome(NamedTuple):
    left: int
    status: int | None  # None: it had to be killed in the end
    lost: bool  # something went that was still in use
    error: str

    def __str__(self) -> str:
        words = f"{self.left}:{'alive' if self.status is None else self.status}"
        words += " lost" * self.lost
        return words


class Run:
    """One program, its folder, and what belongs to it."""

    def __init__(self, programs: Programs, system: str, way: Way, folder: Path) -> None:
        self.programs, self.system, self.way, self.folder = programs, system, way, folder
        self.ours = system == "lastly"  # of which something is expected: nothing is concluded from a slow machine
        self.mark = f"KILL_MATRIX={folder.parent.name}-{folder.name}"
        folder.mkdir()

    def left(self) -> int:
        """Directory, pid file, machine: each counts one; child and grandchild one each."""
        return len(os.listdir(self.folder)) + len(self.processes())

    def processes(self) -> list[int]:
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and self.marked(name)]

    def marked(self, pid: str) -> bool:
        try:
            return self.mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False

    def start(self) -> Program:
        name, _, value = self.mark.partition("=")
        argv = ["python", PROGRAM, self.system, self.way.name, str(self.folder)]
        if "nohup" in self.way.name:
            argv = ["sh", "-c", 'trap "" HUP; exec "$0" "$@"', sys.executable, *argv[1:]]
        return self.programs.start_command(argv, env={name: value}, stdin=-1, session=True)

    def send(self, program: Program) -> None:
        """Do to the program what its way says, once it is ready."""
        if not self.way.send:
            return
        program.line("ready")
        for what in self.way.send:
            if what == "closing":
                try:
                    program.line("closing")
                except AssertionError:  # it ended without any cleanup: that is what will be shown
                    return
            elif what == "line":
                if self.ours:
                    # (a process that is just being replaced has no environment for a moment)
                    wait_until(lambda: self.left() == 6, what="it lives on as another program, and all it made")
                program.write("\n")
            elif what == "group":
                os.killpg(program.pid, signal.SIGKILL)
            elif what == "session":
                self.kill_session(program.pid)
            elif what in {"reaper", "both"}:
                self.kill_reaper(program if what == "both" else None)
            else:
                program.send(getattr(signal, f"SIG{what}"))

    def kill_session(self, session: int) -> None:
        for pid in self.processes():
            try:
                if os.getsid(pid) == session:
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def kill_reaper(self, program: Program | None) -> None:
        if self.ours:
            reaper = wait_until(lambda: reaper_of(self.programs.home), what="a reaper is there")
            os.kill(reaper, signal.SIGKILL)  # it serves this run's home only
            if program is None:
                wait_process_gone(reaper)
        if program is not None:
            program.send(signal.SIGKILL)

    def outcome(self) -> Outcome:
        program = self.start()
        self.send(program)
        try:
            status: int | None = program.wait(within=PATIENCE if self.ours else ALIVE).status
        except AssertionError:  # alive: with some systems that is what is to be shown
            status = None
            program.end()
        if {"reaper", "both"} & set(self.way.send) and self.ours:
            # Nobody is there any more. Whoever comes next, anyhow, settles what the journal owes.
            swept = self.programs.run_command(
                ["python", "-c", "from lastly._settle.sweep import sweep; sweep()"]
            )
            assert swept.status == 0, swept.err
        left = self.settled()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        return Outcome(left, status, "LOST" in program.out, program.err)

    def settled(self) -> int:
        begin = changed = time.monotonic()
        left = self.left()
        quiet, at_most = (PATIENCE, PATIENCE) if self.ours else (QUIET, AT_MOST)
        while left and time.monotonic() < min(changed + quiet, begin + at_most):
            time.sleep(0.02)
            now = self.left()
            if now != left:
                left, changed = now, time.monotonic()
        return left


def measure(system: str, way: Way) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp") as name:
        home, folder = Path(name) / "h", Path(name) / "programs"
        home.mkdir(mode=0o700)
        folder.mkdir()
        programs = Programs(home, folder)
        try:
            return Run(programs, system, way, Path(name) / "things").outcome()
        finally:
            programs.end()
            end_all_of(home)


def table(outcomes: dict[tuple[str, str], Outcome]) -> str:
    head = "| way to end | " + " | ".join(SYSTEMS) + " |\n|---|" + "---|" * len(SYSTEMS)
    lines = [head]
    for way in WAYS.values():
        cells = []
        for system in SYSTEMS:
            outcome = outcomes[system, way.name]
            right = outcome[:3] == (0, way.status, False)
            cells.append(str(outcome) if right else f"**{outcome}**")
        lines.append(f"| {way.name} | " + " | ".join(cells) + " |")
    right = [
        sum(outcomes[system, way.name][:3] == (0, way.status, False) for way in WAYS.values())
        for system in SYSTEMS
    ]
    lines.append("| **right** | " + " | ".join(f"{count} of {len(WAYS)}" for count in right) + " |")
    return "\n".join(lines)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    runs = [(system, way) for way in WAYS.values() for system in SYSTEMS]
    outcomes: dict[tuple[str, str], Outcome] = {}
    with ThreadPoolExecutor(3) as pool:
        for (system, way), outcome in zip(runs, pool.map(lambda run: measure(*run), runs), strict=True):
            outcomes[system, way.name] = outcome
            print(f"[{len(outcomes):>3}/{len(runs)}] {way.name:<45} {system:<10} {outcome}", file=sys.stderr)
    made = (
        f"Measured on {time.strftime('%Y-%m-%d')} with CPython {platform.python_version()}, "
        f"Linux {platform.release().partition('-')[0]}.\n\n{table(outcomes)}"
    )
    print(made)
    if sys.argv[1:]:
        path = Path(sys.argv[1])
        head, begin, rest = path.read_text().partition("<!-- kill-matrix -->\n")
        tail = rest.partition("<!-- /kill-matrix -->")[2]
        path.write_text(f"{head}{begin}{made}\n<!-- /kill-matrix -->{tail}")
    sys.exit(any(outcomes["lastly", way.name][:3] != (0, way.status, False) for way in WAYS.values()))


if __name__ == "__main__":
    main()
