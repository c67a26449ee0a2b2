"""Homes that cannot be used, full disks, damaged journals, hostile names: a clear error before the resource exists,
never a traceback of ours in an unmodified program, never a leaked or wrongly removed file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from harness import Programs, Result, gone, process_gone, wait_until

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts, other users")

# Makes a temporary directory in its TMPDIR, or says why not.
MAKES = """
import os, sys, lastly
from lastly.errors import NotRecorded
try:
    path = os.fspath(lastly.temp_dir())
    print("made", os.path.basename(path), flush=True)
except NotRecorded as error:
    print("refused:", error, flush=True)
print(os.listdir(os.environ["TMPDIR"]))
"""
# The same as somebody who knows nothing of lastly would write it, with a status of its own.
UNMODIFIED = """
import os, sys, tempfile
print("made", os.path.isdir(tempfile.mkdtemp()), flush=True)
sys.exit(7)
"""


@pytest.fixture
def place():
    """A folder that every user may enter; in it a TMPDIR that every user may write to."""
    folder = Path(tempfile.mkdtemp(prefix="lt-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def refused(result: Result, *words: str) -> None:
    """It said in one line why, and nothing was made."""
    assert result.status == 0, result.err
    assert result.err == ""
    line, listing = result.lines
    assert line.startswith("refused: "), line
    assert "cannot use the home" in line or "cannot record a cleanup" in line
    assert not [word for word in words if word not in line], line
    assert listing == "[]"


def ran_as_ever(result: Result) -> None:
    """An unmodified program ran to its own end; what is said is one line, and no traceback."""
    assert result.status == 7, result.err
    assert result.lines == ["made True"]
    assert "Traceback" not in result.err
    assert len(result.err.splitlines()) <= 1, result.err


class Home:
    """A way in which a home cannot be used: makes it so, and says what the error must say."""

    def __init__(self, name: str, words: tuple[str, ...], shell: str = "", root: bool = False) -> None:
        self.name, self.words, self.shell = name, words, shell
        self.marks = (pytest.mark.root, as_root) if root else ()

    def prepare(self, place: Path) -> Path:
        path = place / "home"
        if self.name == "a file":
            path.write_text("")
        elif self.name == "a file above it":
            path.write_text("")
            return path / "below"
        elif self.name == "relative":
            return Path("home")
        else:
            path.mkdir(mode=0o700)
        if self.name == "writable for others":
            path.chmod(0o777)
        elif self.name == "of somebody else":
            os.chown(path, NOBODY, NOBODY)
        return path

    def command(self, home: Path, code: str, *before: str) -> list[str]:
        names = {"python": [sys.executable], "lastly": [sys.executable, "-m", "lastly"]}
        argv = [part for word in (*before, "python") for part in names.get(word, [word])] + ["-c", code]
        if not self.shell:
            return argv
        # A mount in a namespace of its own is gone when the last process in it is.
        return [
            "unshare",
            "--mount",
            "sh",
            "-c",
            self.shell.replace("HOME", str(home)) + ' && exec "$@"',
            "sh",
            *argv,
        ]


HOMES = [
    Home("a file", ("home", "LASTLY_HOME")),
    Home("a file above it", ("below", "LASTLY_HOME")),
    Home("relative", ("'home'", "absolute", "LASTLY_HOME")),
    Home("writable for others", ("home", "0777", "chmod 700")),
    Home("without /proc", ("/proc is not mounted", "LASTLY_DURABLE=require"), "mount -t tmpfs none /proc", root=True),
    Home("of somebody else", ("home", f"user {NOBODY}", "LASTLY_HOME"), root=True),
    Home(
        "read-only", ("home", "ead-only", "LASTLY_HOME"), "mount -t tmpfs -o ro,mode=700 none HOME", root=True
    ),
    Home(
        "full",
        ("home", "space"),
        "mount -t tmpfs -o size=64k,mode=700 none HOME && (cat /dev/zero > HOME/fill 2>/dev/null || true)",
        root=True,
    ),
]
each_home = pytest.mark.parametrize(
    "bad", [pytest.param(home, id=home.name, marks=home.marks) for home in HOMES]
)


@each_home
@pytest.mark.slow(keep=3)
def test_a_home_that_cannot_be_used_is_an_error_before_anything_is_made(
    bad: Home, place: Path, programs: Programs
) -> None:
    home = bad.prepare(place)
    # Without /proc no journal is possible, which is a warning and no error unless the program asks for it.
    env = {"LASTLY_HOME": str(home), "TMPDIR": str(place / "tmp"), "LASTLY_DURABLE": "require"}
    refused(programs.run_command(bad.command(home, MAKES), env=env), *bad.words)


def test_who_does_not_catch_the_refusal_sees_one_traceback(place: Path, programs: Programs) -> None:
    """Of the line that deferred, and not of how the home was looked at."""
    home = HOMES[1].prepare(place)
    result = programs.run("import lastly; lastly.temp_dir()", env={"LASTLY_HOME": str(home)})
    assert result.status == 1
    assert result.err.count("Traceback") == 1
    assert result.err.splitlines()[-1].startswith("lastly.errors.NotRecorded: cannot use the home")


@each_home
@pytest.mark.slow(keep=3)
def test_an_unmodified_program_runs_as_ever_when_the_home_cannot_be_used(
    bad: Home, place: Path, programs: Programs
) -> None:
    home = bad.prepare(place)
    env = {"LASTLY_HOME": str(home), "TMPDIR": str(place / "tmp")}
    ran_as_ever(programs.run_command(bad.command(home, UNMODIFIED, "lastly", "run", "--"), env=env))


AS_NOBODY = f"""
import os
# The files of the standard library, and of the package, may be out of this user's reach afterwards.
import encodings.ascii, tempfile
import lastly, lastly.actions, lastly.resources._temporary, lastly._durable.seam, lastly._journal.file, lastly._system.remove
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
"""


@pytest.mark.root
@as_root
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777])
def test_two_users_cannot_share_a_home(mode: int, place: Path, programs: Programs) -> None:
    """What stands in a journal is executed: nobody gets another user's, whatever the modes say."""
    home = place / "home"
    home.mkdir()
    home.chmod(0o700)
    env = {"LASTLY_HOME": str(home), "TMPDIR": str(place / "tmp")}
    first = programs.run(MAKES, env=env)
    assert first.lines[0].startswith("made")
    wait_until(lambda: not os.listdir(place / "tmp"), what="the first user's directory is gone")
    home.chmod(mode)
    refused(programs.run(AS_NOBODY + MAKES, env=env), "home")


# A daemon that is started as root makes its things, and gives root's rights up.
GIVES_UP = """
import subprocess, sys, lastly
made = lastly.temp_dir()
child = lastly.Popen(["sleep", "1000"])
print(child.pid, flush=True)
"""


@pytest.mark.root
@as_root
def test_rights_given_up(place: Path, programs: Programs) -> None:
    """What the first user owes is left to that user's reaper; nothing more is owed in that user's name."""
    later = MAKES.replace("print(os.listdir", "#")
    program = programs.start(GIVES_UP + AS_NOBODY + later, env={"TMPDIR": str(place / "tmp")})
    child = int(program.line())
    result = program.wait()
    assert (result.status, result.err) == (0, "")
    assert result.lines[1].startswith("refused: cannot use the home")
    assert "LASTLY_HOME" in result.lines[1]
    wait_until(lambda: not os.listdir(place / "tmp"), what="the directory is gone")
    wait_until(lambda: process_gone(child), what="the child is gone")


@pytest.mark.root
@as_root
def test_what_another_user_put_at_a_planned_path_stays(place: Path, programs: Programs) -> None:
    planned = place / "tmp" / "planned"
    program = programs.start(
        """
        import sys, signal
        from lastly import actions, defer
        defer(actions.remove, sys.argv[1])
        print("owed", flush=True)
        signal.pause()
        """,
        str(planned),
    )
    program.line("owed")
    planned.mkdir()
    (planned / "file").write_text("theirs")
    os.chown(planned, NOBODY, NOBODY)
    program.send(signal.SIGKILL)
    program.wait()
    listed = programs.run_command(["lastly", "reap"])
    assert "Traceback" not in listed.err
    assert (planned / "file").read_text() == "theirs"


# Owes the removal of each directory it is told of, by name in JSON, makes it, and waits to be killed.
OWES = """
import json, os, signal, sys
from lastly import actions, defer
for name in json.loads(sys.argv[1]):
    path = os.fsencode(name) if len(sys.argv) > 2 else name
    defer(actions.remove, path)
    os.mkdir(path)
    with open(os.path.join(path, b"in" if isinstance(path, bytes) else "in"), "w") as file:
        file.write("x")
print("owed", flush=True)
signal.pause()
"""
HOSTILE = [
    "new\nline",
    "\n",
    "tab\t",
    "quote\"'\\",
    "-rf",
    "$(id)",
    "\udcff\udcfe",
    "é\u2028",
    " ",
    "*",
    "\x1b[31m",
    "n" * 255,
]


@pytest.mark.parametrize("form", ["text", "bytes"])
def test_hostile_names_are_removed_and_nothing_else(form: str, place: Path, programs: Programs) -> None:
    bystanders = ["new", "line", "rf", "n", "quote"]
    for name in bystanders:
        (place / "tmp" / name).write_text("not theirs")
    paths = [os.path.join(place, "tmp", name) for name in HOSTILE]
    program = programs.start(OWES, json.dumps(paths), *["bytes"] * (form == "bytes"))
    program.line("owed")
    assert len(os.listdir(place / "tmp")) == len(bystanders) + len(HOSTILE)
    program.send(signal.SIGKILL)
    program.wait()
    wait_until(
        lambda: sorted(os.listdir(place / "tmp")) == sorted(bystanders), what="only the bystanders are left"
    )


def dead_owner(programs: Programs, place: Path, count: int = 3) -> tuple[Path, list[Path]]:
    """The journal of a program that was killed, with no reaper about; and what it owes, oldest first."""
    paths = [place / "tmp" / f"owed-{number}" for number in range(count)]
    program = programs.start(OWES, json.dumps(list(map(str, paths))), env={"LASTLY_REAPER": "0"})
    program.line("owed")
    program.send(signal.SIGKILL)
    program.wait()
    (journal,) = programs.home.glob("owners/*/*.j")
    return journal, paths


def reap(programs: Programs) -> Result:
    result = programs.run_command(["lastly", "reap"], env={"LASTLY_REAPER": "0"})
    assert "Traceback" not in result.err, result.err
    assert result.status in {0, 1}, result.err
    return result


def test_a_journal_cut_short_still_owes_what_stands_in_it(place: Path, programs: Programs) -> None:
    journal, (first, second, third) = dead_owner(programs, place)
    lines = journal.read_bytes().splitlines(keepends=True)
    cut = b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2]
    journal.write_bytes(cut)
    reap(programs)
    assert gone(first)
    assert gone(second)
    assert third.is_dir()  # its plan is what was cut: nobody knows of it


def test_a_flipped_bit_costs_one_record_only(place: Path, programs: Programs) -> None:
    """...and where it might have said that something is to be kept, it is kept."""
    journal, paths = dead_owner(programs, place)
    (place / "tmp" / "bystander").write_text("not theirs")
    lines = journal.read_bytes().splitlines(keepends=True)
    middle = next(number for number, line in enumerate(lines) if str(paths[1]).encode() in line)
    lines[middle] = lines[middle].replace(b"owed-1", b"owed-2")
    journal.write_bytes(b"".join(lines))
    reap(programs)
    assert paths[1].is_dir()
    assert gone(paths[2])
    assert (place / "tmp" / "bystander").exists()


@pytest.mark.parametrize("what", ["empty", "noise", "link", "fifo", "folder", "of others"])
@pytest.mark.slow(keep=3)
def test_what_is_no_journal_is_left_alone(what: str, place: Path, programs: Programs) -> None:
    """...and keeps nobody from cleaning up after the one beside it."""
    journal, paths = dead_owner(programs, place)
    strange = journal.with_name("1.1.0123456789abcdef.j")
    victim = place / "victim"
    victim.write_text("precious")
    if what == "empty":
        strange.write_bytes(b"")
    elif what == "noise":
        strange.write_bytes(os.urandom(5000))
    elif what == "link":
        strange.symlink_to(victim)
    elif what == "fifo":
        os.mkfifo(strange)
    elif what == "folder":
        strange.mkdir()
    else:
        strange.write_bytes(journal.read_bytes())
        strange.chmod(0o666)
    reap(programs)
    assert all(map(gone, paths))
    assert victim.read_text() == "precious"


@pytest.mark.root
@as_root
def test_a_disk_that_fills_up_later_loses_nothing_that_was_promised(place: Path, programs: Programs) -> None:
    """The next cleanup is refused; once there is room it is not; all that was promised is kept."""
    code = """
        import os, signal, sys, lastly
        from lastly.errors import NotRecorded
        home, tmp = os.environ["LASTLY_HOME"], os.environ["TMPDIR"]
        lastly.temp_dir()
        with open(home + "/fill", "wb", buffering=0) as file:
            try:
                while file.write(bytes(1000)):
                    pass
            except OSError:
                pass
        made = 1
        try:
            while made < 10_000:
                lastly.temp_dir()
                made += 1
        except NotRecorded as error:
            assert "space" in str(error), error
        assert len(os.listdir(tmp)) == made, (made, os.listdir(tmp))
        os.unlink(home + "/fill")
        lastly.temp_dir()
        assert len(os.listdir(tmp)) == made + 1
        print("made", made, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    script = place / "program.py"
    script.write_text(textwrap.dedent(code))
    mount = (
        'mount -t tmpfs -o size=64k,mode=700 none "$LASTLY_HOME" && "$@"; "$0" -m lastly reap; ls "$TMPDIR"'
    )
    result = programs.run_command(
        ["unshare", "--mount", "sh", "-c", mount, sys.executable, sys.executable, str(script)],
        env={"TMPDIR": str(place / "tmp"), "LASTLY_REAPER": "0"},
    )
    assert result.lines[0].startswith("made"), result.err
    assert os.listdir(place / "tmp") == []
