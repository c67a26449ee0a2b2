"""Crash everywhere: the leaks that are planted are found, where they were made, and no others.

The programs are small files with one mistake each. Every run of them is a real process that really dies.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest
from crash_examples import FIT
from harness import ROOT, SRC, Programs, clean_environment, wait_until

from lastly.testing import CannotCrash, Report, crash_everywhere

TEMPORARY = """
    import os
    import tempfile

    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "file")
    open(path, "w").close()
    os.remove(path)
    os.rmdir(folder)
"""

CHILD = """
    import subprocess

    # It hides: no parent, a session of its own, nothing in its environment.
    child = subprocess.Popen(["sh", "-c", "sleep 300.%d & read line"], start_new_session=True, env={}, stdin=-1)
    child.stdin.close()
    child.wait()
"""

SOUND = """
    import lastly

    folder = lastly.temp_dir()
    child = lastly.Popen(["sleep", "300"], grace=0)
    with open(folder / "file", "w") as file:
        file.write("half")
    with lastly.Scope() as scope:
        scope.defer(print, "an inner cleanup")
    print("the result", file=open("result", "w"))
"""

LATE = """
    import os
    import lastly

    def remove_then_make():
        os.rmdir("one")
        os.mkdir("two")

    def both():
        os.rmdir("two")

    lastly.install()
    lastly.defer(both)
    lastly.defer(remove_then_make)
    os.mkdir("one")
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(code: str, name: str = "program.py") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(code).lstrip())
        return path

    return write


pytestmark = pytest.mark.usefixtures("home")


def leaking_lines(report: Report) -> list[int]:
    """The numbers of the lines before which a death leaks."""
    return sorted({int(run.place.split()[0].rpartition(":")[2]) for run in report.leaks if run.point})


def test_a_folder_that_a_crash_leaves_is_found_where_it_is_left(write: Any) -> None:
    report = crash_everywhere(write(TEMPORARY))
    assert not report
    assert (report.found, report.tried, leaking_lines(report)) == (7, 7, [5, 6, 7, 8])
    by_point = {run.point: run.leaks for run in report.runs}
    assert by_point[0] == by_point[3] == []
    [leak] = by_point[5]
    assert leak.startswith("left folder $TMPDIR/tmp")
    assert [run.status for run in report.runs] == [0, *[-signal.SIGKILL] * 7]


def test_a_child_that_hides_is_found_and_ended(write: Any) -> None:
    report = crash_everywhere(write(CHILD % os.getpid()), wait=0.2)
    sleep = f"sleep 300.{os.getpid()}"
    [whole] = [run for run in report.runs if run.point == 0]
    assert len(whole.processes) == 1  # it is left even by the run that was not killed
    assert sleep in whole.processes[0]
    assert leaking_lines(report) == [5, 6]
    assert not [pid for pid in os.listdir("/proc") if runs(pid, sleep.partition(" ")[2])]


@pytest.mark.parametrize("points", ["lines", "events", "cleanups"])
@pytest.mark.slow(keep=2)
def test_a_program_that_owes_before_it_makes_leaks_nowhere(write: Any, points: str) -> None:
    report = crash_everywhere(write(SOUND), points=points, at_most=10)
    assert report, str(report)
    assert report.tried == min(report.found, 10) >= 6
    assert report.missed == []


@pytest.mark.parametrize(
    ("how", "status", "leaking"),
    [
        ("KILL", -signal.SIGKILL, [5, 9]),
        ("exit", 70, [5, 9]),
        ("raise", 1, [5, 9]),
        ("SIGTERM", -signal.SIGTERM, []),  # comes while cleanups run, which it does not cut short
        ("INT", -signal.SIGINT, []),
    ],
)
@pytest.mark.slow(keep=3)
def test_every_way_to_die(write: Any, how: str, status: int, leaking: list[int]) -> None:
    """...in a cleanup, before its first step, between its two, and after them."""
    report = crash_everywhere(write(LATE), how=how, only=[9, 10, 11])
    assert [run.status for run in report.runs] == [0, status, status, status]
    assert leaking_lines(report) == leaking


def test_the_boundaries_of_cleanups(write: Any) -> None:
    report = crash_everywhere(write(LATE), points="cleanups")
    assert [run.place.partition(" ")[2] for run in sorted(report.runs[1:], key=lambda run: run.point)] == [
        "before cleanup remove_then_make", "after cleanup remove_then_make", "before cleanup both", "after cleanup both",
    ]  # fmt: skip
    assert [run.point for run in report.leaks] == [1, 2, 3]


def test_the_boundaries_of_async_cleanups(write: Any) -> None:
    report = crash_everywhere(
        write("""
            import asyncio
            import os
            import lastly

            async def undo():
                os.rmdir("made")

            async def main():
                async with lastly.AsyncScope() as scope:
                    scope.defer(undo)
                    scope.defer(print, "plain")
                    os.mkdir("made")

            asyncio.run(main())
        """),
        points="cleanups",
    )
    assert [run.point for run in report.leaks] == [1, 2, 3]
    assert report.found == 4


def test_threads_count_too(write: Any) -> None:
    report = crash_everywhere(
        write("""
            import os
            import threading

            def work():
                os.mkdir("made")
                os.rmdir("made")

            thread = threading.Thread(target=work)
            thread.start(); thread.join()
        """)
    )
    assert leaking_lines(report) == [6]


def test_a_function_from_its_first_line_on(write: Any) -> None:
    path = write("""
        import os
        loaded = "when the module is loaded: no point of the function"

        def work(name, times):
            for _ in range(times):
                os.mkdir(name)
                os.rmdir(name)
    """)
    sys.path.insert(0, str(path.parent))
    try:
        import program
    finally:
        sys.path.remove(str(path.parent))
        sys.modules.pop("program", None)
    sys.modules["program"] = program
    try:
        report = crash_everywhere(program.work, "made", 2)
    finally:
        del sys.modules["program"]
    assert leaking_lines(report) == [7]
    assert report.found == 7
    assert "program.work()" in str(report)


@pytest.mark.parametrize("bad", [lambda: None, print])
def test_a_function_that_no_other_process_can_import(bad: Any) -> None:
    with pytest.raises(TypeError, match="cannot be run by another process"):
        crash_everywhere(bad)


def test_a_module(write: Any, tmp_path: Path) -> None:
    write(TEMPORARY, "thing.py")
    report = crash_everywhere(["-m", "thing"], env={"PYTHONPATH": str(tmp_path)})
    assert leaking_lines(report) == [5, 6, 7, 8]


def test_an_unmodified_program_under_lastly_run(write: Any) -> None:
    report = crash_everywhere(write(TEMPORARY), run=True)
    assert (bool(report), report.tried) == (True, 7), str(report)


def test_results_and_what_is_allowed_are_no_leaks(write: Any, tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "given").write_text("input")
    program = write("""
        import os
        print(open("given").read(), file=open("result", "w"))
        os.mkdir("work-1")
        open("work-1/half", "w").close()
        os.remove("work-1/half")
        os.rmdir("work-1")
    """)
    report = crash_everywhere(program, inputs=tmp_path / "inputs")
    assert [run.files for run in report.leaks] == [["work-1/"]] * 3
    assert crash_everywhere(program, inputs=tmp_path / "inputs", allow=["work-*"])


def test_a_program_that_takes_warnings_for_errors(write: Any) -> None:
    """...is not told that it has no reaper: it has one afterwards."""
    code = "import warnings\nwarnings.simplefilter('error')\nimport lastly\nlastly.temp_dir()\n"
    report = crash_everywhere(write(code))
    assert report, str(report)
    assert report.runs[0].status == 0


def test_its_own_folder_may_lie_in_a_watched_one(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert crash_everywhere(write("pass"), watch=[tmp_path])
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


def test_watched_paths_and_a_check_of_ones_own(write: Any, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    program = write(f"""
        import os
        file = open({str(shared)!r}, "w")
        file.write("x" * 10)
        file.close()
        os.remove({str(shared)!r})
    """)
    seen: list[str] = []

    def check(run: Any) -> object:
        seen.append(run.folder)
        assert Path(run.folder, "work").is_dir()
        if shared.exists():
            size = shared.stat().st_size
            shared.unlink()
            return f"{size} bytes of it" if size else None
        return None

    report = crash_everywhere(program, watch=[shared], check=check)
    assert [run.files for run in report.leaks] == [[str(shared)]] * 3
    assert [run.wrong for run in report.leaks] == ["", "", "10 bytes of it"]
    assert len(set(seen)) == len(report.runs) == 6
    assert not any(map(os.path.exists, seen))


def test_too_many_points_are_chosen_by_the_seed(write: Any) -> None:
    """...each line once, before any line is tried twice."""
    program = write("""
        total = 0
        for number in range(1000):
            total += number
        print(total)
    """)
    first = crash_everywhere(program, at_most=6, seed=7)
    again = crash_everywhere(program, at_most=6, seed=7)
    assert 2000 < first.found < 2010
    assert [run.point for run in sorted(first.runs, key=lambda r: r.point)] == [
        run.point for run in sorted(again.runs, key=lambda r: r.point)
    ]
    lines = {run.place.rpartition(":")[2] for run in first.runs if run.point}
    assert lines == {"1", "2", "3", "4"}
    assert first.tried == 6
    assert "chosen by seed 7" in str(first)
    only = crash_everywhere(program, only=[2, 1000])
    assert [run.point for run in only.runs] in ([0, 2, 1000], [0, 1000, 2])


def test_a_run_that_hangs_is_a_leak(write: Any) -> None:
    program = write("""
        import time
        try:
            made = 1
        except RuntimeError:
            time.sleep(600)
    """)
    report = crash_everywhere(program, how="raise", timeout=6.0, only=[3])
    [run] = report.leaks
    assert (run.hung, run.status) == (True, -signal.SIGKILL)


def test_no_time_left_is_said(write: Any) -> None:
    report = crash_everywhere(write(TEMPORARY), seconds=0.0)
    assert (report.tried, report.untried) == (0, "the time was over")
    assert not report, "a test that means nothing must not pass"


@pytest.mark.parametrize(
    ("code", "options", "message"),
    [
        ("import time\ntime.sleep(600)", {"timeout": 2.0}, "does not end by itself within 2 s"),
        ("pass", {"points": "events"}, "no events"),
        ("pass", {"points": "cleanups"}, "no cleanups"),
    ],
)
def test_nothing_to_find_out(write: Any, code: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CannotCrash, match=message):
        crash_everywhere(write(code), **options)


def test_what_is_not_understood(write: Any) -> None:
    program = write("pass")
    with pytest.raises(ValueError, match="points must be"):
        crash_everywhere(program, points="words")
    with pytest.raises(ValueError, match="how must be"):
        crash_everywhere(program, how="BOREDOM")
    with pytest.raises(FileNotFoundError):
        crash_everywhere(program.parent / "nowhere.py")
    with pytest.raises(FileNotFoundError, match=r"nowhere"):
        crash_everywhere(program, inputs=program.parent / "nowhere")


@pytest.mark.parametrize("name", ["include", "watch", "allow"])
def test_a_text_where_several_are_wanted(write: Any, name: str) -> None:
    """Of the letters of "*.log" the first one would allow everything."""
    with pytest.raises(TypeError, match=f"{name} must be a list"):
        crash_everywhere(write(TEMPORARY), **{name: "*.log"})


@pytest.mark.parametrize("name", ["at_most", "timeout", "jobs"])
def test_limits_that_try_nothing(write: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be more than 0"):
        crash_everywhere(write(TEMPORARY), **{name: 0})


def test_points_that_there_are_not(write: Any) -> None:
    report = crash_everywhere(write("pass"), only=[999])
    assert not report
    assert "nothing was found out" in str(report)


def test_what_cannot_be_cleaned_up_is_still_owed(write: Any) -> None:
    report = crash_everywhere(
        write("""
            import lastly

            lastly.defer(lastly.actions.run, ["false"])
            print("owed")
        """),
        only=[3],
    )
    [run] = [run for run in report.leaks if run.point]
    assert run.owed[0].startswith("run false, abandoned: gave up after attempt")


def test_json_says_it_all(write: Any) -> None:
    report = crash_everywhere(write(TEMPORARY), only=[5])
    told = json.loads(report.json())
    assert (told["version"], told["ok"], told["found"], told["tried"]) == (1, False, 7, 1)
    [run] = [run for run in told["runs"] if run["leaks"]]
    assert (run["point"], run["status"]) == (5, -9)


def test_the_command_line(programs: Programs, write: Any) -> None:
    path = str(write(TEMPORARY))
    told = programs.run_command(["lastly", "crash", path])
    assert "(again: --only " in told.out
    assert "only=[" not in told.out
    assert told.status == 1
    assert f"{path}: ended by KILL at 7 of 7 lines: 4 runs left something" in told.out
    assert f'before {path}:6    open(path, "w").close()' in told.lines
    assert told.err == ""  # a pipe: no progress
    told = programs.run_command(["lastly", "crash", "--run", "--json", "--points", "lines", path, "word"])
    assert (told.status, json.loads(told.out)["ok"]) == (0, True)


def test_a_line_of_progress_on_a_terminal(write: Any, home: Path) -> None:
    terminal, stderr = pty.openpty()
    try:
        argv = [sys.executable, "-m", "lastly", "crash", "--only", "5", str(write(TEMPORARY))]
        done = subprocess.run(argv, env=clean_environment(home), stdout=subprocess.PIPE, stderr=stderr, timeout=100)
        shown = os.read(terminal, 4096)
    finally:
        os.close(terminal)
        os.close(stderr)
    assert done.returncode == 1
    assert b"crashing: 1 of 1, 1 left something" in shown
    assert shown.endswith(b"\r\x1b[K")
    assert b"\x1b" not in done.stdout


def test_a_program_that_fails_by_itself_is_named(write: Any) -> None:
    """...so that a wrong argument is not taken for a program without leaks."""
    report = crash_everywhere(write("import sys\nsys.exit(sys.argv[1])\n"), "no such page")
    assert report
    assert "not killed, it ends with status 1: no such page" in str(report)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.slow(keep=1)
def test_ended_itself_it_leaves_nothing(programs: Programs, write: Any, signum: signal.Signals) -> None:
    """Neither the program, nor its parents, nor their folder."""
    path = write("""
        import os, time
        open(os.environ["STARTED"], "a").close()
        time.sleep(600)
    """)
    started = path.parent / "started"
    tester = programs.start(
        f"""
        import lastly.testing
        lastly.testing.crash_everywhere({str(path)!r}, env={{"STARTED": {str(started)!r}}}, timeout=600)
        """
    )
    wait_until(started.exists, what="the program runs")
    tester.send(signum)
    assert tester.wait().status == -signum
    temporary = programs.folder / "p0" / "tmp"

    def nothing() -> bool:
        return not any(temporary.iterdir()) and not [p for p in os.listdir("/proc") if runs(p, str(path))]

    wait_until(nothing, what="all is gone")


def runs(pid: str, word: str) -> bool:
    try:
        return pid.isdigit() and word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_temp_dir_makes_nothing_but_its_folder(write: Any) -> None:
    """The standard library tries the folder for temporary files by a file that nobody owes."""
    assert crash_everywhere(write("import lastly\nlastly.temp_dir()\n"), points="events")


@pytest.mark.parametrize("name", FIT)
@pytest.mark.slow(keep=1)
def test_no_leak_in_the_examples(name: str) -> None:
    """A sample; `make crash` tries every point in every way."""
    report = crash_everywhere(ROOT / "examples" / name, *FIT[name], at_most=6, seed=len(name))
    assert report, str(report)


@pytest.mark.parametrize("points", ["lines", "cleanups"])
@pytest.mark.slow(keep=1)
def test_other_interpreters(programs: Programs, write: Any, python: str, points: str) -> None:
    """From 3.12 on lines are told by sys.monitoring."""
    path = write(LATE)
    told = programs.run(
        f"""
        from lastly.testing import crash_everywhere
        report = crash_everywhere({str(path)!r}, points={points!r})
        print(report.found, report.tried, [run.point for run in report.leaks])
        """,
        python=python,
        env={"PYTHONPATH": str(SRC)},
    )
    expected = {"lines": "11 11 [9, 11]\n", "cleanups": "4 4 [1, 2, 3]\n"}[points]
    assert (told.out, told.status) == (expected, 0)


def test_much_that_is_owed_in_another_alphabet(programs: Programs) -> None:
    """A pipe holds what is told of it, which nobody reads before all is told."""
    code = f"""
    import os, sys
    sys.argv[1:] = [{str(SRC)!r}]
    from lastly.testing._crash import worker
    worker.reap = lambda: ["\\N{{SNOWMAN}}" * 500] * 100
    os.mkdir("home")
    open("home/journal", "w").close()
    print(len(worker.swept("home", 1.0)))
    """
    assert programs.start(code, stdin=subprocess.PIPE).wait().out == "20\n"
