"""`lastly run` and tempfile: planned before it exists; kept or removed by how the program ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from harness import Programs, gone, process_gone, wait_until

RUN = ["lastly", "run"]
# One of each: kept on purpose (two ways), and two that go by themselves when the program ends in order.
MAKE = """
import tempfile, os, sys, signal, threading, ctypes, json
folder = tempfile.mkdtemp(); open(folder + "/f", "w").close()
kept = tempfile.NamedTemporaryFile(delete=False)
goes = tempfile.NamedTemporaryFile()
tree = tempfile.TemporaryDirectory(); os.makedirs(tree.name + "/a/b")
fd, file = tempfile.mkstemp()
print(json.dumps([folder, kept.name, file]), flush=True)
print(json.dumps([goes.name, tree.name]), flush=True)
"""

NORMAL = ["pass", "sys.exit(3)", "raise SystemExit", "os._exit(0)", "threading.Thread(target=lambda: 1/0).start()",
          "try: 1/0\nexcept ZeroDivisionError: sys.exit(1)"]  # fmt: skip
CRASH = {
    "1/0": 1,
    "raise KeyboardInterrupt": -2,
    "os._exit(4)": 4,
    "os.kill(os.getpid(), 9)": -9,
    "os.kill(os.getpid(), 15)": -15,
    "os.kill(os.getpid(), 1)": -1,
    "os.kill(os.getpid(), 3)": -3,
    "os.kill(os.getpid(), 2)": -2,
    "os.kill(os.getpid(), signal.SIGUSR1)": -10,
    "os.abort()": -6,
    "ctypes.string_at(0)": -11,
    "os.execvp('sh', ['sh', '-c', 'exit 7'])": 7,
}


def made(program: object) -> tuple[list[str], list[str]]:
    return json.loads(program.line("[")), json.loads(program.line("["))


def owed(home: Path) -> list[Path]:
    return sorted(home.glob("owners/*/*.j"))


def run(programs: Programs, end: str, *flags: str, **options: object) -> tuple[list[str], list[str], int]:
    program = programs.start_command([*RUN, *flags, "-c", MAKE + end], **options)
    kept, own = made(program)
    return kept, own, program.wait().status


@pytest.mark.parametrize("end", NORMAL)
@pytest.mark.slow(keep=3)
def test_normal_end_keeps_what_the_program_keeps(programs: Programs, end: str) -> None:
    """What mkdtemp, mkstemp and delete=False have made outlives an end of the program's own choice."""
    kept, own, _ = run(programs, end)
    assert [gone(path) for path in kept] == [False] * 3
    if "_exit" not in end:  # that leaves these, too; without lastly it does as well
        assert [gone(path) for path in own] == [True] * 2
    wait_until(lambda: owed(programs.home) == [])


@pytest.mark.parametrize(("end", "status"), CRASH.items())
@pytest.mark.slow(keep=2)
def test_crash_removes_all(programs: Programs, end: str, status: int) -> None:
    """After a death by signal or exception nothing of it is left, with the status as ever."""
    kept, own, got = run(programs, end)
    assert got == status
    wait_until(lambda: all(map(gone, kept + own)), what="all gone")
    wait_until(lambda: owed(programs.home) == [], what="nothing owed")


def test_sigkill(programs: Programs, python: str) -> None:
    """On every interpreter: killed from outside, all gone."""
    program = programs.start_command([*RUN, "--", python, "-c", MAKE + "signal.pause()"])
    kept, own = made(program)
    program.send(signal.SIGKILL)
    assert program.wait().status == -9
    wait_until(lambda: all(map(gone, kept + own)))


def test_keep(programs: Programs) -> None:
    kept, own, _ = run(programs, "os.kill(os.getpid(), 9)", "--keep")
    assert [gone(path) for path in kept + own] == [False] * 5


def test_remove_always(programs: Programs) -> None:
    kept, own, status = run(programs, "", "--remove-always")
    assert status == 0
    wait_until(lambda: all(map(gone, kept + own)))


def test_without_a_reaper(programs: Programs) -> None:
    """LASTLY_REAPER=0: a crash that reaches the exit functions still removes; SIGKILL waits for the next `reap`."""
    kept, own, _ = run(programs, "1/0", env={"LASTLY_REAPER": "0"})
    assert all(map(gone, kept + own))
    kept, own, _ = run(programs, "os.kill(os.getpid(), 9)", env={"LASTLY_REAPER": "0"})
    assert not any(map(gone, kept))
    assert programs.run_command(["lastly", "reap"]).status == 0
    assert all(map(gone, kept + own))


def test_planned_before_it_exists(programs: Programs) -> None:
    """At the moment tempfile makes the thing, its path is in the journal."""
    code = """
import sys, os, glob, tempfile
def look(event, args):
    if event in ("open", "os.mkdir") and len(os.path.basename(os.fsdecode(args[0])).partition("tmp")[2]) == 8:
        text = "".join(open(j).read() for j in glob.glob(os.environ["LASTLY_HOME"] + "/owners/*/*.j"))
        print(event, os.fsdecode(args[0]) in text, os.path.exists(args[0]))
tempfile.gettempdir()
sys.addaudithook(look)
tempfile.mkdtemp()
tempfile.mkstemp()
tempfile.mkstemp(dir=b".")
"""
    got = programs.run_command([*RUN, "-c", code])
    assert got.lines == ["os.mkdir True False", "open True False", "open True False"], got.err


def test_somebody_elses_file_is_not_planned(programs: Programs, tmp_path: Path) -> None:
    """tempfile meets an existing name and takes another one: the existing one is not ours."""
    code = """
import tempfile, os
tempfile._name_sequence = iter(["theirs", "mine"])
print(tempfile.mkdtemp(prefix="", dir="."), flush=True)
os.kill(os.getpid(), 9)
"""
    (tmp_path / "theirs").mkdir()
    programs.run_command([*RUN, "-c", code], cwd=tmp_path)
    wait_until(lambda: gone(tmp_path / "mine"))
    assert (tmp_path / "theirs").is_dir()


def test_renamed_into_place(programs: Programs, tmp_path: Path) -> None:
    """The usual atomic write: the temp file becomes the result, and the result stays after any end."""
    code = """
import tempfile, os
f = tempfile.NamedTemporaryFile("w", dir=".", delete=False); f.write("x"); f.close()
os.replace(f.name, "result"); print("done", flush=True)
os.kill(os.getpid(), 9)
"""
    programs.run_command([*RUN, "-c", code], cwd=tmp_path)
    wait_until(lambda: owed(programs.home) == [])
    assert os.listdir(tmp_path) == ["p0", "result"] or (tmp_path / "result").read_text() == "x"


def test_hostile_names(programs: Programs, tmp_path: Path) -> None:
    """Newlines, bytes that are no UTF-8, names of 255 bytes, relative folders, links on the way."""
    code = r"""
import tempfile, os, json
os.mkdir("real"); os.symlink("real", "link")
paths = [tempfile.mkdtemp(prefix="a\nb"), tempfile.mkdtemp(prefix=b"\xff\xfe"), tempfile.mkdtemp(prefix="x" * 240),
         tempfile.mkdtemp(dir="."), tempfile.mkstemp(dir="link")[1], tempfile.mkstemp(prefix='"{}\\')[1]]
print(json.dumps([os.fsdecode(os.path.abspath(p)) for p in paths]), flush=True)
os.kill(os.getpid(), 9)
"""
    program = programs.start_command([*RUN, "-c", code], cwd=tmp_path)
    paths = json.loads(program.line("["))
    assert len(paths) == 6
    wait_until(lambda: all(gone(path) for path in paths))
    assert (tmp_path / "real").is_dir()


def test_many_do_not_grow_the_journal(programs: Programs) -> None:
    """A program that makes and removes temp files for ever keeps its journal small, and forgets them."""
    code = """
import tempfile, os, glob
for _ in range(3000):
    with tempfile.NamedTemporaryFile(): pass
from lastly._run import watch
print(max(os.path.getsize(j) for j in glob.glob(os.environ["LASTLY_HOME"] + "/owners/*/*.j")), len(watch.temps))
"""
    size, entries = map(int, programs.run_command([*RUN, "-c", code]).out.split())
    assert size < 200_000
    assert entries <= 1


def test_a_workers_folder_belongs_to_the_program(programs: Programs) -> None:
    """A pool worker hands a folder to its parent and is terminated: the folder is there as long as the parent."""
    code = """
import multiprocessing as mp, tempfile, os, sys, json
def make(_): return tempfile.mkdtemp()
if __name__ == "__main__":
    mp.set_start_method(sys.argv[1])
    with mp.Pool(2) as pool:
        paths = pool.map(make, range(4))
    print(json.dumps([[p, os.path.isdir(p)] for p in paths]), flush=True)
    sys.stdin.readline()
    if sys.argv[2] == "crash": os.kill(os.getpid(), 9)
"""
    for method in ("fork", "spawn", "forkserver"):
        for end in ("crash", "end"):
            folder = programs.folder / f"{method}-{end}"
            folder.mkdir()
            (folder / "prog.py").write_text(code)
            program = programs.start_command([*RUN, "prog.py", method, end], cwd=folder, stdin=-1)
            paths = json.loads(program.line("["))
            assert [there for _, there in paths] == [True] * 4, (method, end)
            program.write("\n")
            program.wait()
            if end == "crash":
                wait_until(lambda: all(gone(path) for path, _ in paths), what=f"{method}: gone")  # noqa: B023
            else:
                assert not any(gone(path) for path, _ in paths)
            wait_until(lambda: owed(programs.home) == [], what=f"{method} {end}: nothing owed")


def test_a_childs_file_belongs_to_the_program(programs: Programs) -> None:
    """The same for a Python started by subprocess, which ended long ago."""
    code = """
import subprocess, sys, os
path = subprocess.run([sys.executable, "-c", "import tempfile; print(tempfile.mkdtemp())"],
                      capture_output=True, text=True).stdout.strip()
print(path, os.path.isdir(path), flush=True)
if sys.argv[1] == "crash": os.kill(os.getpid(), 9)
"""
    for end in ("crash", "end"):
        program = programs.start_command([*RUN, "-c", code, end])
        path, there = program.line("tmp").split()
        program.wait()
        assert there == "True"
        if end == "crash":
            wait_until(lambda: gone(path))  # noqa: B023
        else:
            assert not gone(path)
            wait_until(lambda: owed(programs.home) == [])


def test_restarted_by_exec(programs: Programs) -> None:
    """A program that replaces itself goes on owing; its own normal end releases what it made before, too."""
    code = """
import os, sys, tempfile
if len(sys.argv) < 3:
    os.execv(sys.executable, [sys.executable, "-c", sys.orig_argv[2], sys.argv[1], tempfile.mkdtemp()])
print(sys.argv[2], tempfile.mkdtemp(), flush=True)
if sys.argv[1] == "crash": os.kill(os.getpid(), 9)
"""
    for end in ("crash", "end"):
        program = programs.start_command([*RUN, "-c", code, end])
        paths = program.line("tmp").split()
        program.wait()
        if end == "crash":
            wait_until(lambda: all(map(gone, paths)))  # noqa: B023
        else:
            assert not any(map(gone, paths))
            wait_until(lambda: owed(programs.home) == [])


def test_below_a_shell(programs: Programs) -> None:
    """The program is a shell: each Python below it owns what it makes, and ends for itself."""
    crash = "import tempfile, os; print(tempfile.mkdtemp(), flush=True); os.kill(os.getpid(), 9)"
    end = "import tempfile; print(tempfile.mkdtemp())"
    program = programs.start_command(
        [*RUN, "sh", "-c", '"$0" -c "$1"; "$0" -c "$2"; echo last; read x', sys.executable, crash, end],
        stdin=-1,
    )
    lost, kept = program.line("tmp"), program.line("tmp")
    program.line("last")
    wait_until(lambda: gone(lost))
    assert not gone(kept)
    program.write("\n")
    assert program.wait().status == 0
    assert not gone(kept)
    wait_until(lambda: owed(programs.home) == [])


def test_descriptors_closed_behind_our_back(programs: Programs, tmp_path: Path) -> None:
    """A program closes every descriptor and opens files that get our numbers: nothing of ours lands in them."""
    code = """
import tempfile, os, json
paths = [tempfile.mkdtemp()]
os.closerange(3, 4096)
files = [open(f"user{i}", "w+b") for i in range(12)]
paths += [tempfile.mkdtemp(), tempfile.mkdtemp()]
print(json.dumps([paths, [os.fstat(f.fileno()).st_size for f in files]]), flush=True)
os.kill(os.getpid(), 9)
"""
    program = programs.start_command([*RUN, "-c", code], cwd=tmp_path)
    paths, sizes = json.loads(program.line("["))
    assert sizes == [0] * 12
    program.wait()
    wait_until(lambda: all(map(gone, paths)))
    assert [(tmp_path / f"user{i}").stat().st_size for i in range(12)] == [0] * 12


@pytest.mark.parametrize("end", ["sys.exit()", "os.kill(os.getpid(), 9)"])
def test_a_daemon_owns_what_it_makes(programs: Programs, tmp_path: Path, end: str) -> None:
    """Forked twice, its parents ended by os._exit(0), all descriptors closed: the daemon is the program."""
    code = f"""
import os, sys, tempfile
before = tempfile.mkdtemp()
if os.fork(): os._exit(0)
os.setsid()
parent = os.getpid()
if os.fork(): os._exit(0)
while os.getppid() == parent: os.sched_yield()
os.closerange(3, 4096)
os.read(0, 1)
made = tempfile.mkdtemp()
with open("says", "w") as file: file.write(f"{{os.getpid()}} {{before}} {{made}} .")
os.read(0, 1)
{end}
"""
    program = programs.start_command([*RUN, "-c", code], stdin=-1, cwd=tmp_path)
    assert program.wait().status == 0
    program.write("x")
    says = tmp_path / "says"
    wait_until(lambda: says.exists() and says.read_text().endswith("."))
    pid, before, made, _ = says.read_text().split()
    assert not gone(made)
    program.write("x")
    wait_until(lambda: process_gone(int(pid)))
    if "kill" in end:
        wait_until(lambda: gone(made))
    wait_until(lambda: owed(programs.home) == [])
    assert gone(made) == gone(before) == ("kill" in end)


def test_a_daemon_that_ends_before_its_parent_does_inherits_nothing(programs: Programs, tmp_path: Path) -> None:
    """It has ended well, and what it could not see was not there for it to release."""
    code = """
import os, sys, tempfile
from lastly._journal.file import Journal
before = tempfile.mkdtemp()
print(before, flush=True)
first = os.getpid()
if os.fork(): os._exit(0)
while os.getppid() == first: os.sched_yield()
os.setsid()
real = Journal.create
ours, its = os.pipe()
def late(*, identity):
    if identity.pid != os.getpid():
        os.write(its, b"x")
        os.waitid(os.P_PID, identity.pid, os.WEXITED | os.WNOWAIT)
        made = real(identity=identity)
        open("late", "w").close()
        return made
    return real(identity=identity)
Journal.create = late
if os.fork(): os._exit(0)
os.read(ours, 1)
sys.exit()
"""
    program = programs.start_command([*RUN, "-c", code], cwd=tmp_path)
    before = program.line()
    assert program.wait().status == 0
    wait_until((tmp_path / "late").exists)
    wait_until(lambda: owed(programs.home) == [])
    assert not gone(before)


def test_a_program_whose_main_thread_has_ended_lives(programs: Programs, tmp_path: Path) -> None:
    """It is a zombie in /proc while another thread runs on: what its worker made for it is not removed."""
    (tmp_path / "worker.py").write_text(
        "import os, tempfile\nprint('folder', tempfile.mkdtemp(), flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    (tmp_path / "program.py").write_text("""
import ctypes, os, platform, subprocess, sys, threading
def work():
    while open("/proc/self/stat").read().rpartition(")")[2].split()[0] != "Z": pass
    subprocess.run([sys.executable, "worker.py"])
    sys.stdin.readline()
    os._exit(0)
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)  # exit(2): of this thread alone
""")
    program = programs.start_command([*RUN, "program.py"], cwd=tmp_path, stdin=-1)
    folder = program.line("folder").split()[1]
    owners = {json.loads(path.read_bytes().split(b"\n")[0][9:])["pid"] for path in owed(programs.home)}
    assert owners == {program.pid}
    assert os.path.isdir(folder)
    program.write("\n")
    program.wait()
    wait_until(lambda: gone(folder) or not owed(programs.home))
