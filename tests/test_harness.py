"""The test harness itself: a harness that waits wrongly makes every other test worthless."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness import (
    Programs,
    end_all_of,
    gone,
    kept,
    now_in_ticks,
    process_gone,
    processes_of,
    reaper_of,
    wait_process_gone,
    wait_until,
)


def test_status_output_and_arguments_come_back(programs: Programs) -> None:
    result = programs.run("import sys; print(sys.argv[1:]); print('e', file=sys.stderr); sys.exit(3)", "a b")
    assert (result.status, result.out, result.err) == (3, "['a b']\n", "e\n")


def test_a_death_by_signal_is_negative(programs: Programs) -> None:
    program = programs.start("print('ready', flush=True); input()", stdin=-1)
    program.line("ready")
    program.send(signal.SIGKILL)
    assert program.wait().status == -signal.SIGKILL


def test_waiting_for_a_line_of_a_dead_program_tells_what_it_printed(programs: Programs) -> None:
    program = programs.start("print('hello'); raise SystemExit('broken')")
    with pytest.raises(AssertionError, match=r"(?s)no line with 'ready'.*ended with 1.*hello.*broken"):
        program.line("ready")


def test_lines_are_handed_out_once_and_in_order(programs: Programs) -> None:
    program = programs.start("print('a 1\\nb\\na 2')")
    assert [program.line("a"), program.line("a")] == ["a 1", "a 2"]


def test_each_program_has_its_home_and_a_temp_dir(programs: Programs, home: Path) -> None:
    program = programs.start(
        "import os, tempfile; print(os.environ['LASTLY_HOME']); print(tempfile.mkdtemp())"
    )
    out = program.wait().lines
    assert out[0] == str(home)
    assert Path(out[1]).parent == program.tmp


def test_what_runs_under_a_home_is_found_and_ended(programs: Programs, home: Path) -> None:
    born = now_in_ticks()
    # A stand-in for the reaper: no environment, own session, the flock on reaper.run.
    code = """
        import os, sys, fcntl
        home = os.environ["LASTLY_HOME"]
        read, write = os.pipe()
        if os.fork() == 0:
            os.setsid()
            hold = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); time.sleep(99)"
            os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", hold, home + "/reaper.run"], {})
    """
    program = programs.start(code)
    program.wait()
    program._pump(lambda: b"held" in program._out, 10)
    pid = reaper_of(home)
    assert pid is not None
    assert processes_of(home) == [pid]
    end_all_of(home, now_in_ticks() + 1000)
    assert not process_gone(pid)  # older than the home is said to be
    assert processes_of(home, born) == [pid]
    end_all_of(home, born)
    assert process_gone(pid)
    assert reaper_of(home) is None


def test_waiting_for_a_condition_has_a_bound() -> None:
    with pytest.raises(AssertionError, match="the thing: not within"):
        wait_until(lambda: False, within=0.01, what="the thing")


def test_a_missing_path_and_a_finished_process_are_gone(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert not gone(tmp_path / "link")
    assert gone(tmp_path / "other")
    result = programs.run("")
    wait_process_gone(result.pid)
    assert process_gone(result.pid)
    assert not process_gone(os.getpid())
    assert process_gone(os.getpid(), start=1)


def test_a_reaper_that_has_just_been_started_is_ended_too(programs: Programs, home: Path) -> None:
    """Before it opens its first file, only its arguments tell whose it is."""
    program = programs.start_command(
        ["env", "-i", "/bin/sh", "-c", "echo ready; read line", "lastly", str(home)], stdin=-1
    )
    program.line("ready")
    assert processes_of(home) == [program.pid]
    end_all_of(home)
    assert program.wait().status == -signal.SIGKILL


@pytest.mark.parametrize("_", range(5))
def test_nothing_comes_to_a_home_whose_processes_were_ended(programs: Programs, home: Path, _: int) -> None:
    result = programs.run("import lastly, os; lastly.temp_dir(); os._exit(0)")
    end_all_of(home)
    before = sorted(home.rglob("*"))
    assert result.status == 0
    assert (reaper_of(home), processes_of(home), sorted(home.rglob("*"))) == (None, [], before)


def test_of_a_table_rows_are_kept_in_which_every_value_comes() -> None:
    square = [{"a": a, "b": b} for a in range(3) for b in range(3)]
    for keep in (3, 4, 5):
        rows = [square[place] for place in kept(square, keep)]
        assert (len(rows), {row["a"] for row in rows}, {row["b"] for row in rows}) == (keep, {0, 1, 2}, {0, 1, 2})
    assert kept([{"a": a} for a in range(10)], 3) == {0, 3, 6}
    assert kept(square, 1) == {0}
    assert kept(square, 20) == set(range(9))
