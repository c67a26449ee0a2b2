"""Every command with everything that can be wrong around it: one clear line, the right status, nothing else.

The commands come from the table that the command line itself has: a new one stands in these tests, or they fail.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from harness import PATIENCE, Programs, Result

from lastly._cli.commands import COMMANDS

# How each is called when nothing is wrong; REF is an abandoned cleanup of a dead owner.
RIGHT = {
    "run": ["-c", "print('ran')"],
    "crash": ["--at-most", "1", "program.py"],
    "ls": [],
    "why": ["REF"],
    "history": ["--since", "1d"],
    "reap": ["--dry-run"],
    "retry": ["REF"],
    "forget": ["--yes", "REF"],
    "doctor": [],
    "reaper": ["--idle", "0"],
    "completion": ["bash"],
}
# These need a shared journal, which is a database.
SHARED = {"journal": ["migrate"], "worker": ["--once"], "hosts": []}
TAKE_AN_ID = ["why", "reap", "retry", "forget"]
COLOUR = re.compile(r"\x1b\[[\d;]*m")
every = pytest.mark.parametrize("name", [*RIGHT, *SHARED])
local = pytest.mark.parametrize("name", RIGHT)
OFF = {"LASTLY_REAPER": "0"}  # so that what is owed waits for the commands


def here(programs: Programs) -> Path:
    """Where the commands are called."""
    folder = programs.home.parent / "here"
    folder.mkdir(exist_ok=True)
    return folder


def call(programs: Programs, *words: str, **env: str | None) -> Result:
    return programs.run_command(["lastly", *words], cwd=here(programs), env={**OFF, **env})


def one_line(got: Result, status: int, *texts: str) -> None:
    """It said in one line of standard error what is wrong, and nothing else anywhere."""
    assert (got.status, got.out) == (status, ""), got.err
    assert re.fullmatch(r"lastly( run)?: [^\n]+\n", got.err)
    assert got.err[:-1].isprintable()
    assert [text for text in texts if text not in got.err] == [], got.err


@pytest.fixture
def owed(programs: Programs) -> str:
    """A cleanup that a killed program owed and that fails whenever it is tried: its reference."""
    (here(programs) / "program.py").write_text("import tempfile\nwith tempfile.TemporaryFile():\n    pass\n")
    program = programs.start(
        """
        import lastly, os
        lastly.defer(lastly.actions.run, ["sh", "-c", "echo no; exit 3"]); os.kill(os.getpid(), 9)
        """,
        env=OFF,
    )
    program.wait()
    found = re.findall(r"^[0-9a-f]{8}\.\d+", call(programs, "ls").out, re.MULTILINE)
    assert len(found) == 1
    return found[0]


def right(name: str, ref: str) -> list[str]:
    return [name, *(ref if word == "REF" else word for word in RIGHT[name])]


def ready(programs: Programs, ref: str, name: str) -> dict[str, str]:
    """Its environment, when it is to do its work and end: a reaper stays as long as something is owed."""
    if name == "reaper":
        call(programs, "forget", "--yes", ref)
    return {} if name == "crash" else OFF  # the program of `crash` is guarded by a reaper


def complaints(name: str, err: str) -> str:
    """What it has written to standard error, without what belongs there: the log of a reaper."""
    return re.sub(r"^[\dT:.-]+Z \d+ (start|exit) .*\n", "", err, flags=re.MULTILINE) if name == "reaper" else err


def status(name: str) -> int:
    """With which each ends when nothing is wrong: the cleanup fails again, and nothing else does."""
    return int(name == "retry")


def test_every_command_stands_in_these_tests() -> None:
    assert {*RIGHT, *SHARED} == {command.name for command in COMMANDS}


@every
@pytest.mark.slow(keep=3)
def test_a_wrong_option(programs: Programs, name: str) -> None:
    one_line(call(programs, name, "--nonsense"), 2, "no such option: --nonsense", f"see `lastly {name} --help`")


LENGTHS = {
    f"{command.name} {argument.flags[0]}": argument.settings
    for command in COMMANDS
    for argument in command.arguments
    if argument.settings.get("metavar") in ("SECONDS", "DAYS")
}


@pytest.mark.parametrize("option", LENGTHS)
def test_a_wrong_length_is_refused_in_its_unit(option: str) -> None:
    kind, unit = LENGTHS[option]["type"], LENGTHS[option]["metavar"].lower()
    assert kind("1.5") == 1.5
    for wrong in ("x", "-1", "nan", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=f"^must be a number of {unit}, not {wrong!r}$"):
            kind(wrong)


@pytest.mark.parametrize("name", [name for name in (*RIGHT, *SHARED) if name not in ("run", "crash", "doctor", "journal")])
@pytest.mark.slow(keep=2)
def test_an_argument_too_many(programs: Programs, name: str) -> None:
    """`run` and `crash` give what follows to the program, `doctor` takes any number of files."""
    operand = {"completion": "bash"}.get(name, "deadbeef.1" if name in TAKE_AN_ID else "")
    one_line(call(programs, name, *filter(None, [operand]), "more"), 2, "one argument too many: 'more'", f"`lastly {name} --help`")


@pytest.mark.parametrize("name", ["run", "crash", "why", "retry", "forget", "completion", "journal"])
@pytest.mark.slow(keep=2)
def test_an_argument_too_few(programs: Programs, name: str) -> None:
    one_line(call(programs, name), 2, f"see `lastly {name} --help`")


@pytest.mark.parametrize("name", TAKE_AN_ID)
@pytest.mark.parametrize(
    "ref", ["deadbeef.1", "nonsense", "", "deadbeef.", ".1", "12", "-", "../../etc", "\x1b[31mred", "a\nb", "%.%", "x" * 3000]
)
@pytest.mark.slow(keep=3)
def test_a_wrong_id(programs: Programs, owed: str, name: str, ref: str) -> None:
    one_line(call(programs, name, *["--yes"][: name == "forget"], ref), 1, "see `lastly ls`")
    assert owed in call(programs, "ls").out


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize(
    ("url", "says"),
    [(None, "set LASTLY_JOURNAL=postgresql://"), ("nonsense", "must begin with postgresql://"), ("postgresql://127.0.0.1:1/x", "")],  # refused; or `worker` has no actions
)
@pytest.mark.slow(keep=2)
def test_a_shared_journal_that_is_not_there(programs: Programs, name: str, url: str | None, says: str) -> None:
    one_line(call(programs, name, *SHARED[name], LASTLY_JOURNAL=url), 1, says)


def broken_home(kind: str, folder: Path) -> str:
    home = folder / "home"
    if kind == "relative":
        return "home"
    if kind == "writable for others":
        home.mkdir()
        home.chmod(0o777)
    else:
        home.write_text("")
    return str(home / "below") if kind == "below a file" else str(home)


@pytest.mark.parametrize("kind", ["a file", "below a file", "relative", "writable for others"])
@local
@pytest.mark.slow(keep=4)
def test_a_broken_home(programs: Programs, tmp_path: Path, kind: str, name: str) -> None:
    (here(programs) / "program.py").write_text("pass\n")
    home = broken_home(kind, tmp_path)
    got = call(programs, *right(name, "deadbeef.1"), LASTLY_HOME=home, LASTLY_REAPER=None)
    if name in ("run", "completion"):  # nothing that they do needs a home
        assert (got.status, got.err) == (0, "")
    elif name == "doctor":
        assert (got.status, got.err) == (1, "")
        assert re.search(r"^wrong +cannot use the home", got.out, re.MULTILINE)
    else:
        one_line(got, 1, "lastly: cannot use the home", "LASTLY_HOME" if kind != "writable for others" else "chmod 700")


@local
@pytest.mark.slow(keep=3)
def test_without_a_terminal_and_without_standard_input(programs: Programs, owed: str, name: str) -> None:
    """As a cron job or a service calls it."""
    env = {**ready(programs, owed, name), "TERM": None}
    command = [sys.executable, "-m", "lastly", *right(name, owed)]
    got = programs.run_command(["sh", "-c", 'exec "$@" <&-', "sh", *command], cwd=here(programs), env=env)
    assert (got.status, complaints(name, got.err)) == (status(name), ""), got.out
    assert "\x1b" not in got.out


def test_who_cannot_be_asked_has_not_agreed(programs: Programs, owed: str) -> None:
    got = programs.run_command(["sh", "-c", f"exec {sys.executable} -m lastly forget {owed} </dev/null"], env=OFF)
    assert (got.status, got.out) == (1, "")
    assert got.err.endswith("lastly: nothing was changed\n")
    assert owed in call(programs, "ls").out


@local
@pytest.mark.slow(keep=3)
def test_a_pipe_that_nobody_reads(programs: Programs, owed: str, name: str) -> None:
    """`lastly … | true`: no word of it, whatever is written, the help too."""
    env = ready(programs, owed, name)
    for words in (right(name, owed) if name != "run" else ["run", "--help"], [name, "--help"]):
        read, write = os.pipe()
        os.close(read)
        got = written_to(write, programs, words, env)
        assert (got.returncode in (0, 1), complaints(name, got.stderr)) == (True, ""), words


@every
@pytest.mark.slow(keep=3)
def test_a_full_disk_behind_the_output(programs: Programs, name: str) -> None:
    got = written_to(os.open("/dev/full", os.O_WRONLY), programs, [name, "--help"], OFF)
    assert (got.returncode, got.stderr) == (1, "lastly: No space left on device\n")


def written_to(fd: int, programs: Programs, words: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [sys.executable, "-m", "lastly", *words], stdin=subprocess.DEVNULL, stdout=fd, stderr=subprocess.PIPE,
            cwd=here(programs), env={**os.environ, **env, "LASTLY_HOME": str(programs.home)}, text=True, check=False,
            timeout=PATIENCE,
        )  # fmt: skip
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", ["ls", "why", "history", "reap", "doctor"])
@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.slow(keep=3)
def test_on_a_narrow_terminal(programs: Programs, owed: str, name: str, columns: int) -> None:
    """No line is longer than the terminal is wide, and an ID can be copied."""
    long = "/".join(["directory-with-a-long-name"] * 4)
    programs.run(f"import lastly, os; lastly.defer(lastly.actions.remove, {long!r}); os.kill(os.getpid(), 9)", env=OFF)
    shown = COLOUR.sub("", on_terminal(programs, columns, right(name, owed), OFF))
    assert [line for line in shown.splitlines() if len(line.rstrip()) > columns] == []
    assert name not in ("ls", "reap") or owed in shown


@pytest.mark.parametrize("name", ["", "run", "why", *sorted({*RIGHT, *SHARED} - {"run", "why"})])
@pytest.mark.slow(keep=4)
def test_the_help_on_a_terminal_of_80_columns(programs: Programs, name: str) -> None:
    shown = COLOUR.sub("", on_terminal(programs, 80, [*filter(None, [name]), "--help"], OFF))  # argparse has colours since 3.14
    assert f"lastly {name or 'run'}" in shown.partition("\nexample")[2 if name else 0]
    assert [line for line in shown.splitlines() if len(line) > 80] == []


@local
@pytest.mark.slow(keep=2)
def test_no_color(programs: Programs, owed: str, name: str) -> None:
    """Bold is no colour; a program that is run decides for itself."""
    out = on_terminal(programs, 100, right(name, owed), {**ready(programs, owed, name), "NO_COLOR": "1"})
    assert set(COLOUR.findall(out)) <= {"\x1b[0m", "\x1b[1m"}
    assert name != "ls" or COLOUR.findall(on_terminal(programs, 100, ["ls"], OFF)) != []


def on_terminal(programs: Programs, columns: int, words: list[str], more: dict[str, str]) -> str:
    """What it writes to a terminal so wide."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {**os.environ, "LASTLY_HOME": str(programs.home), "TERM": "xterm-256color", **more}
    for name in ("COLUMNS", "LINES", *(() if "NO_COLOR" in more else ("NO_COLOR",))):
        env.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "lastly", *words], stdin=slave, stdout=slave, stderr=slave, cwd=here(programs), env=env
    )
    os.close(slave)
    out = b""
    try:
        while select.select([master], [], [], PATIENCE)[0]:
            try:
                part = os.read(master, 4096)
            except OSError:  # the other end has closed
                break
            out += part
    finally:
        process.kill()
        process.wait()
        os.close(master)
    return out.decode()
