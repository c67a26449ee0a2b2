"""Journals of many dead owners wait, some of them for ever: a new death does not wait for them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Programs, wait_until
from reaping import archived, log, owner, ready, stale

from lastly._journal import home as homes
from lastly._reaper import client, desk, pool


class Gate:
    """What stale cleanups wait for: each takes one line out of a pipe."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path, self.fd = path, os.open(path, os.O_RDWR)

    def cleanup(self) -> Any:
        return ("lastly.actions:run", [["sh", "-c", f"read line <{self.path}"]], {"cwd": "/", "timeout": 1000.0})

    def open(self) -> None:
        os.write(self.fd, b"\n" * 1000)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "gate")
    yield made
    os.close(made.fd)


def test_a_new_death_waits_for_no_stale_journal(programs: Programs, home: Path, gate: Gate) -> None:
    """Not even where all workers hang in those, and more of them wait."""
    program, path = owner(programs)
    ready(home)
    stale(pool.MOST + 30, gate.cleanup())
    assert client.ask("sweep")
    wait_until(lambda: (desk.status() or {}).get("workers", 0) >= pool.MOST, within=60, what="all workers hang")
    program.send(signal.SIGKILL)
    wait_until(lambda: not os.path.lexists(path), what="the folder is gone")
    assert len(homes.journals()) >= pool.MOST + 30
    gate.open()
    archived(home, within=60)


def test_many_stale_journals_are_settled_and_filed(programs: Programs, home: Path, tmp_path: Path) -> None:
    """Each once, with a line in the log; those that fail are tried again."""
    program, _ = owner(programs)
    ready(home)
    made = tmp_path / "made"
    made.mkdir()
    for number in range(300):
        (made / str(number)).mkdir()
    stale(300, ("lastly.actions:remove", [f"{made}/{{}}"], {"expect": {}}))
    stale(3, ("lastly.actions:run", [["sh", "-c", "exit 3"]], {"cwd": "/", "timeout": 5.0}))
    assert client.ask("sweep")
    wait_until(lambda: not os.listdir(made), what="all is removed")
    wait_until(lambda: len(homes.journals()) == 4, what="filed")  # the living owner's, and those that fail
    assert len(desk.past(limit=1000)) >= 300
    wait_until(lambda: log(home).count(" done ") == 300, what="a line for each")
    owed = [item["ref"] for found in desk.owners() if not found["alive"] for item in found["cleanups"]]
    assert len(owed) == 3
    wait_until(lambda: all(desk.why(ref)["attempts"] > 1 for ref in owed), what="those that fail are tried again")
    program.send(signal.SIGKILL)


def test_behind_one_that_hangs_the_rest_of_a_message_is_done(programs: Programs, home: Path, gate: Gate, tmp_path: Path) -> None:
    """A mixture: some of the stale ones hang, all others are settled meanwhile."""
    _, _ = owner(programs)
    ready(home)
    made = tmp_path / "made"
    made.mkdir()
    for number in range(200):
        (made / str(number)).touch()
    removal = ("lastly.actions:remove", [f"{made}/{{}}"], {"expect": {}})
    stale(100, removal)
    stale(5, gate.cleanup())
    for number in range(100):
        (made / str(number)).touch()
    stale(200, removal)
    assert client.ask("sweep")
    wait_until(lambda: not os.listdir(made), what="all is removed")
    wait_until(lambda: len(homes.journals()) == 6, what="all others are filed")
    gate.open()
    wait_until(lambda: len(homes.journals()) == 1, what="filed")


@pytest.mark.slow
def test_many_owners_that_die_at_once(programs: Programs, home: Path) -> None:
    """Each is cleaned, with how it died in the history."""
    code = """
    import os, signal, sys, lastly, tempfile
    pids = []
    for _ in range(150):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            made = lastly.temp_dir()
            os.write(writing, os.fspath(made).encode() + bytes(1))
            signal.pause()
        os.close(writing); print(os.read(reading, 4096)[:-1].decode(), flush=True); os.close(reading)
        pids.append(pid)
    print("ready", flush=True)
    sys.stdin.readline()
    for pid in pids: os.kill(pid, 9)
    for pid in pids: os.waitpid(pid, 0)
    print("dead", flush=True)
    """
    program = programs.start(code, stdin=subprocess.PIPE)
    paths = [program.line("/") for _ in range(150)]
    program.line("ready")
    wait_until(lambda: (desk.status() or {}).get("owners", {}).get("watched", 0) >= 150, what="watched")
    program.write("\n")
    program.line("dead")
    wait_until(lambda: not any(map(os.path.lexists, paths)), what="all is removed")
    archived(home)
    assert len(desk.past(limit=1000)) == 150
