"""Test suites of their own, run by pytest in a child process."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path

from harness import Program, Programs, Result

# Without what these suites do not use, and what takes half of the time until their first test.
NO_MORE = ("-p", "no:hypothesispytest")


class Suite:
    """A project with tests, in a folder of its own."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self.programs = programs
        self.folder = folder
        self.waiting = {"WAIT": f"{folder}/waits"}
        folder.mkdir()
        self.write("pytest.ini", "[pytest]")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(textwrap.dedent(text))

    def start(self, *args: str, **options: object) -> Program:
        argv = ["python", "-m", "pytest", *NO_MORE, "-p", "no:timeout", "-s", *args]
        return self.programs.start_command(argv, cwd=self.folder, **options)

    def run(self, *args: str, **options: object) -> Result:
        return self.start(*args, **options).wait(within=60)

    def started(self, *args: str) -> tuple[Program, int, list[str]]:
        """A run that waits in its first test; with the process that runs it, and the folders it has made."""
        run = self.start("-q", *args, env=self.waiting)
        words = run.error_line("ready", within=60).split()
        return run, int(words[1]), words[2:]


def events(result: Result) -> list[str]:
    return [line for line in result.err.splitlines() if line.startswith("closed")]


def kill(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def told(result: Result) -> list[str]:
    return [line for line in result.lines if line.startswith("lastly:")]
