"""Invariants that no other test holds alone; docs/explanation/invariants.md says which test holds which."""

from __future__ import annotations

import re
import signal
import textwrap
from pathlib import Path

from harness import ROOT, Programs, wait_until

from lastly._settle.sweep import sweep

# Every path below TMPDIR that comes to be must be in the journal, as a file, at that moment; and every child's token.
WATCH = """
import os, subprocess, sys, tempfile
import lastly, lastly.resources._lock_file, lastly.resources._socket, lastly.resources._temporary, lastly.resources._child
from lastly._durable import own

below = os.environ["TMPDIR"] + "/"
tempfile.gettempdir()  # Python tries it out once
seen, naked = [], []

def journal():
    path = own.peek()
    return open(path.path, "rb").read().decode() if path else ""

def hook(event, args):
    if looking:
        return
    path = None
    if event == "open" and isinstance(args[0], str) and isinstance(args[2], int) and args[2] & os.O_CREAT:
        path = args[0]
    elif event in ("os.mkdir", "os.symlink", "os.mkfifo"):
        path = args[-2 if event == "os.symlink" else 0]
    elif event in ("os.rename", "os.link"):
        path = args[1]
    elif event == "socket.bind" and isinstance(args[1], (str, bytes)):
        path = os.path.realpath(os.fsdecode(args[1]))
    elif event == "subprocess.Popen":
        path = (args[3] or os.environ).get("LASTLY_TOKEN", "no token").split(":")[-1]
    if path is None or (event != "subprocess.Popen" and not os.path.abspath(path).startswith(below)):
        return
    looking.append(1)
    seen.append(event)
    if path not in journal():
        naked.append((event, path))
    looking.clear()

looking = []
sys.addaudithook(hook)
"""


def test_the_page_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "explanation" / "invariants.md").read_text()
    rows = [line for line in page.splitlines() if re.match(r"\| I\d+ ", line)]
    assert len(rows) == 19
    for row in rows:
        file = ""
        named = re.findall(r"`((?!test_)[a-z]+/\w+\.py)?(?:::(test_\w+))?`", row)
        assert any(name for name, _ in named), row
        for name, test in named:
            file = name or file
            text = (ROOT / "tests" / file).read_text()
            assert f"def {test}" in text, (file, test)


def test_nothing_exists_before_its_plan(programs: Programs) -> None:
    """I1: whatever lastly makes is in the journal when the system is asked to make it."""
    code = """
    with lastly.Scope() as scope:
        lastly.temp_dir(scope=scope)
        lastly.temp_file(scope=scope)
        lastly.lock_file(below + "a.lock", scope=scope)
        lastly.pid_file(below + "a.pid", scope=scope)
        lastly.unix_socket(below + "a.sock", scope=scope)
        with lastly.atomic_write(below + "replaced") as file:
            file.write("x")
        lastly.Popen(["sleep", "1001"], scope=scope)
        path = below + "planned"
        scope.defer(lastly.actions.remove, path)
        os.mkdir(path)
    print(len(seen), sorted(set(seen)))
    naked = [(event, path) for event, path in naked if path != below + "replaced"]  # that one is to stay
    print(naked)
    """
    result = programs.run(WATCH + textwrap.dedent(code))
    assert result.status == 0, result.err
    count, naked = result.lines
    assert int(count.split()[0]) >= 8, count
    assert "os.mkdir" in count
    assert "subprocess.Popen" in count
    assert naked == "[]"


def test_the_living_are_left_alone(programs: Programs, home: Path) -> None:
    """I4: stopped, without a reaper, and in a child that has forked: nobody else runs what a living owner owes."""
    program = programs.start(
        """
        import lastly, os, signal
        print(lastly.temp_dir(), flush=True)
        signal.pause()
        """,
        env={"LASTLY_REAPER": "0"},
    )
    made = Path(program.line())
    program.send(signal.SIGSTOP)
    for _ in range(3):
        assert sweep(force=True) == []
        assert made.is_dir()
    assert programs.run_command(["lastly", "reap"]).status == 0
    assert made.is_dir()
    program.send(signal.SIGKILL)
    program.wait()
    assert [outcome.state for outcome in sweep()] == ["final"]
    assert not made.exists()


def test_many_sweeps_at_once_run_each_cleanup_once(programs: Programs, home: Path, tmp_path: Path) -> None:
    """I9: the lease is one, and what is done stays done."""
    program = programs.start(
        """
        import lastly, os, sys
        @lastly.action
        def note(path, number):
            with open(path, "a") as file:
                file.write(f"{number}\\n")
        if __name__ == "__main__":
            for number in range(5):
                lastly.defer(note, sys.argv[1], number)
            os.kill(os.getpid(), 9)
        """,
        str(tmp_path / "notes"),
        env={"LASTLY_REAPER": "0"},
    )
    program.wait()
    sweeps = [programs.start_command(["lastly", "reap"], env={"LASTLY_REAPER": "0"}) for _ in range(4)]
    for one in sweeps:
        one.wait()
    wait_until(lambda: sweep() == [], what="all is settled")
    assert (tmp_path / "notes").read_text().split() == ["4", "3", "2", "1", "0"]
