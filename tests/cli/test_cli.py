"""The command line: what is owed, why, and how it is settled. The journals are those of programs that died."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from harness import PATIENCE, Programs, gone, reaper_of, wait_until

OFF = {"LASTLY_REAPER": "0"}  # so that what is owed waits for the commands


def lastly(programs: Programs, *words: str, **options: Any) -> Any:
    return programs.run_command(["lastly", *words], env={**OFF, **options.pop("env", {})}, **options)


def data(programs: Programs, *words: str) -> Any:
    got = lastly(programs, *words, "--json")
    assert got.err == ""
    found = json.loads(got.out)
    assert found["version"] == 1
    return found


def orphan(programs: Programs, code: str = "", *, find: bool = True) -> tuple[str, str]:
    """A program that owed a folder, and was killed: the reference of the cleanup, and the folder."""
    code = textwrap.dedent(code).strip() or 'defer(actions.remove, os.path.abspath("folder"))'
    program = programs.start(
        "import os, lastly\nfrom lastly import actions, defer\n"
        f"{code}\n"
        'os.makedirs("folder", exist_ok=True); print(os.path.abspath("folder"), flush=True)\n'
        "os.kill(os.getpid(), 9)\n",
        env=OFF,
    )
    folder = program.line("folder")
    program.wait()
    if not find:
        return "", folder
    owner = next(o for o in data(programs, "ls")["owners"] if o["pid"] == program.pid)
    return owner["cleanups"][0]["ref"], folder


def failing(programs: Programs) -> str:
    """A cleanup that fails whenever it is tried."""
    return orphan(programs, "defer(actions.run, ['sh', '-c', 'echo no; exit 3'])")[0]


def test_nothing(programs: Programs) -> None:
    """An unused home: every command says so, makes nothing, and ends with 0."""
    assert lastly(programs, "ls").out == "Nothing is owed.\n"
    assert lastly(programs, "reap").out == "Nothing to reap.\n"
    assert re.fullmatch(r"Nothing was reaped since \d\d-\d\d \d\d:\d\d\.\n", lastly(programs, "history").out)
    assert data(programs, "ls") == {"version": 1, "owners": [], "abandoned": []}
    assert os.listdir(programs.home) == []


def test_ls(programs: Programs) -> None:
    """Owners alive and dead, what they owe, since when."""
    alive = programs.start(
        """
        import lastly
        lastly.defer(lastly.actions.remove, "/tmp/lt-nothing").named("mine")
        print("ready", flush=True); input()
        """,
        env=OFF, stdin=subprocess.PIPE, script="server.py",
    )  # fmt: skip
    alive.line("ready")
    ref, folder = orphan(programs)
    found = data(programs, "ls")["owners"]
    assert [owner["alive"] for owner in found] == [True, False]
    assert found[1]["cleanups"][0]["args"] == [folder]
    got = lastly(programs, "ls")
    assert got.status == 0
    assert f"server.py (pid {alive.pid}, alive)" in got.out
    assert f"{ref}  remove {folder} (tree, 0 files)" in got.out


def test_ls_of_very_much(programs: Programs) -> None:
    """A screenful, and how many more there are; what was abandoned is not hidden behind what merely waits."""
    orphan(
        programs,
        """
        from lastly._durable import own
        for number in range(70):
            handle = defer(actions.remove, os.path.abspath(f"given-up-{number}"))
            own.get().abandon(handle.id, "no more", by="owner")
        """,
        find=False,
    )
    assert lastly(programs, "reap").status == 0
    orphan(programs, "for number in range(3000): defer(actions.remove, f'/nonexistent/{number}')", find=False)
    lines = lastly(programs, "ls").out.splitlines()
    assert [sum(word in line for line in lines) for word in ("planned", "abandoned: no more")] == [25, 25]
    assert lines[0].startswith("id ")
    assert lines[-1] == "and 3,020 more, 45 of them abandoned: lastly ls --all"
    assert len(lines) == 52
    everything = lastly(programs, "ls", "--all").out.splitlines()
    assert len(everything) == 3071
    found = data(programs, "ls")
    assert (len(found["owners"][0]["cleanups"]), len(found["abandoned"])) == (3000, 70)
    doctor = lastly(programs, "doctor").out
    assert "3,000 cleanups of dead owners" in doctor
    assert "70 cleanups given up" in doctor


def test_ls_of_a_few_is_whole(programs: Programs) -> None:
    """Fifty rows, of several owners, need no word about more."""
    for _ in range(2):
        orphan(programs, "for number in range(25): defer(actions.remove, f'/nonexistent/{number}')", find=False)
    assert len(lastly(programs, "ls").out.splitlines()) == 51
    orphan(programs, "defer(actions.remove, '/nonexistent/last')", find=False)
    assert lastly(programs, "ls").out.splitlines()[-1] == "and 1 more: lastly ls --all"


def test_hostile_names_are_harmless(programs: Programs) -> None:
    """Escape sequences, newlines, bytes that are no text: shown, not obeyed, and exact in JSON."""
    name = "a\x1b[31m\n\udcff[bold]\u202e"
    orphan(programs, f"defer(actions.remove, os.path.abspath({name!r}))")
    got = lastly(programs, "ls")
    assert r"a\x1b[31m\n\udcff[bold]\u202e" in got.out.replace("\\\\", "\\")
    assert "\x1b" not in got.out
    assert data(programs, "ls")["owners"][0]["cleanups"][0]["args"][0].endswith(name)


def test_reap(programs: Programs) -> None:
    ref, folder = orphan(programs)
    dry = lastly(programs, "reap", "--dry-run")
    assert "would be run" in dry.out
    assert not gone(folder)
    got = lastly(programs, "reap")
    assert (got.status, gone(folder)) == (0, True)
    assert ref in got.out
    assert lastly(programs, "ls").out == "Nothing is owed.\n"
    past = data(programs, "history")["cleanups"]
    assert [(item["ref"], item["state"]) for item in past] == [(ref, "done")]


def test_reap_one(programs: Programs) -> None:
    """By cleanup or by owner; the others wait."""
    (one, first), (two, second), (_, third) = (orphan(programs) for _ in range(3))
    assert lastly(programs, "reap", one).status == 0
    assert [gone(path) for path in (first, second, third)] == [True, False, False]
    assert lastly(programs, "reap", two.partition(".")[0]).status == 0
    assert [gone(path) for path in (first, second, third)] == [True, True, False]


def test_reap_one_of_an_owner(programs: Programs) -> None:
    """Its status is that of the cleanup that was asked for, whatever else the owner owes."""
    ref, folder = orphan(
        programs, "defer(actions.run, ['false']); defer(actions.remove, os.path.abspath('folder'))"
    )
    owner = ref.partition(".")[0]
    refs = [item["ref"] for item in data(programs, "ls")["owners"][0]["cleanups"]]
    assert lastly(programs, "reap", refs[1]).status == 0
    assert gone(folder)
    assert lastly(programs, "reap", refs[0]).status == 1
    for words in ([refs[1]], [""], [f"{owner}.99", "--dry-run"]):
        got = lastly(programs, "reap", *words)
        assert (got.status, got.out) == (1, "")
        assert f"no dead owner owes {words[0]!r}" in got.err


def test_reap_where_sigchld_is_ignored(programs: Programs) -> None:
    """By a service manager, say: what has been done is no failure."""
    orphan(programs, "defer(actions.run, ['true'])")
    ignore = {"popen": {"preexec_fn": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)}}
    got = lastly(programs, "reap", **ignore)
    assert (got.status, got.lines[1].split()[-1]) == (0, "done")


def test_reap_leaves_the_living_alone(programs: Programs) -> None:
    program = programs.start(
        """
        import lastly
        print(lastly.temp_dir(), flush=True); input()
        """,
        env=OFF, stdin=subprocess.PIPE,
    )  # fmt: skip
    folder = program.line()
    assert lastly(programs, "reap").out == "Nothing to reap.\n"
    assert not gone(folder)


def test_failed(programs: Programs) -> None:
    """What fails is said, ends with 1, can be asked about, retried, and forgotten."""
    ref = failing(programs)
    got = lastly(programs, "reap")
    assert got.status == 1
    assert "status 3" in got.out
    about = data(programs, "why", ref)["cleanup"]
    assert (about["state"], about["attempts"]) == ("failed", 1)
    assert [event["kind"] for event in about["events"]] == ["plan", "run", "fail"]
    why = lastly(programs, "why", ref)
    assert "blocked by" in why.out
    assert lastly(programs, "retry", ref).status == 1
    assert data(programs, "why", ref)["cleanup"]["attempts"] == 2
    assert lastly(programs, "forget", "--yes", ref).out == f"{ref}: forgotten\n"
    assert lastly(programs, "ls").out == "Nothing is owed.\n"
    assert data(programs, "why", ref)["cleanup"]["state"] == "released"


@pytest.mark.parametrize(("answer", "status", "left"), [("n\n", 1, 1), ("y\n", 0, 0), ("", 1, 1)])
@pytest.mark.slow(keep=2)
def test_forget_asks(programs: Programs, answer: str, status: int, left: int) -> None:
    ref = failing(programs)
    program = programs.start_command(["lastly", "forget", ref], env=OFF, stdin=subprocess.PIPE)
    program.write(answer)
    assert program.popen.stdin is not None
    program.popen.stdin.close()
    got = program.wait()
    assert got.status == status
    assert "is then never run. Forget" in got.err
    assert len(data(programs, "ls")["owners"]) == left


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["why", "abcdef12.3"], 1, "lastly: no cleanup is called 'abcdef12.3'"),
        (["why", "nonsense"], 1, "lastly: no cleanup is called 'nonsense': see `lastly ls`"),
        (["retry", "abcdef12.3"], 1, "lastly: no cleanup"),
        (["forget", "--yes", "abcdef12.3"], 1, "lastly: no cleanup"),
        (["reap", "abcdef12.3"], 1, "no dead owner owes 'abcdef12.3'"),
        (["forget", "--yes", "abcdef12." + 5000 * "1"], 1, "no cleanup is called"),
        (["history", "--since", "soon"], 2, "--since: must be like 90m, 2h, 3d"),
        (["doctor", "--grace", "nan"], 2, "--grace: must be a number of seconds, not 'nan'"),
        (["crash", "--how", "BOGUS", "x.py"], 2, "--how: must be the name of a signal, exit or raise, not 'BOGUS'"),
        (["crash", "--points", "line", "x.py"], 2, "'lines'"),
        (["crash", "--at-most", "0", "x.py"], 2, "--at-most: must be a whole number of at least 1"),
        (["crash", "nowhere.py"], 1, "lastly: nowhere.py: No such file or directory"),
        (["crash"], 2, "required: PROGRAM; see `lastly crash --help`"),
        (["completion"], 2, "required: SHELL; see `lastly completion --help`"),
        (["nonsense"], 2, "lastly: no such command: 'nonsense'; see `lastly --help`"),
        (["lss"], 2, "no such command: 'lss'; did you mean 'ls'?"),
        (["--verison"], 2, "no such option: '--verison'; did you mean '--version'?"),
        (["help", "nonsense"], 2, "lastly: no such command: 'nonsense'"),
        (["ls", "--jsno"], 2, "no such option: --jsno; did you mean '--json'?"),
        (["ls", "more"], 2, "one argument too many: 'more'"),
        (["why"], 2, "required: ID; see `lastly why --help`"),
    ],
)
@pytest.mark.slow(keep=4)
def test_bad_input(programs: Programs, words: list[str], status: int, text: str) -> None:
    got = lastly(programs, *words)
    assert (got.status, got.out, got.err.count("\n")) == (status, "", 1)
    assert text in got.err
    assert got.err.startswith("lastly: ")


def test_owner_lives(programs: Programs) -> None:
    program = programs.start(
        "import lastly\nlastly.defer(lastly.actions.remove, '/tmp/lt-nothing'); print('ready', flush=True); input()",
        env=OFF, stdin=subprocess.PIPE,
    )  # fmt: skip
    program.line("ready")
    ref = data(programs, "ls")["owners"][0]["cleanups"][0]["ref"]
    for words in (["retry", ref], ["forget", "--yes", ref]):
        got = lastly(programs, *words)
        assert (got.status, "its owner lives" in got.err) == (1, True)
    assert "its owner lives and will run it" in lastly(programs, "why", ref).out


def test_before_anything_was_ever_owed(programs: Programs, tmp_path: Path) -> None:
    """The first command that a newcomer types: there is no home yet, and none is made by looking."""
    env = {"LASTLY_HOME": str(tmp_path / "none" / "yet")}
    for words, says in (("ls",), "Nothing is owed."), (("history",), "Nothing"), (("reap",), "Nothing to reap."):
        got = lastly(programs, *words, env=env)
        assert (got.status, got.err) == (0, "")
        assert got.out.startswith(says)
    assert not (tmp_path / "none").exists()


def test_foreign_home(programs: Programs, tmp_path: Path) -> None:
    """A home that others may write to is refused in one line."""
    folder = tmp_path / "open"
    (folder / "owners").mkdir(parents=True)
    folder.chmod(0o777)
    got = lastly(programs, "reap", env={"LASTLY_HOME": str(folder)})
    assert (got.status, got.err.count("\n")) == (1, 1)
    assert "chmod 700" in got.err
    got = lastly(programs, "doctor", env={"LASTLY_HOME": str(folder)})
    assert got.status == 1
    assert "chmod 700" in got.out
    got = lastly(programs, "reap", env={"LASTLY_HOME": os.devnull})
    assert (got.status, got.out) == (1, "")
    assert "is not a directory" in got.err


def test_doctor_says_once_that_there_is_no_home(programs: Programs) -> None:
    got = lastly(programs, "doctor", "--json", env={"LASTLY_HOME": "relative"})
    wrong = [finding for finding in json.loads(got.out)["findings"] if finding["level"] == "wrong"]
    assert got.status == 1
    assert [(finding["name"], finding["fix"]) for finding in wrong] == [("home", "set it to an absolute one")]


def test_doctor(programs: Programs) -> None:
    got = lastly(programs, "doctor", env={"LASTLY_REAPER": ""})
    findings = json.loads(lastly(programs, "doctor", "--json", env={"LASTLY_REAPER": ""}).out)["findings"]
    assert got.status == 0, got.out
    assert {"home", "file_system", "socket", "reaper", "owed", "pidfd", "proc", "container", "cgroup"} <= {
        finding["name"] for finding in findings
    }
    assert not [finding for finding in findings if finding["level"] == "wrong"]
    off = json.loads(lastly(programs, "doctor", "--json").out)["findings"]
    assert next(f for f in off if f["name"] == "reaper")["level"] == "unprotected"


def test_doctor_names_what_waits(programs: Programs) -> None:
    orphan(programs)
    assert "1 cleanup of dead owners: not run yet" in lastly(programs, "doctor").out


def test_reaper_in_the_foreground(programs: Programs) -> None:
    """It serves like any reaper, a second one is refused, Ctrl-C ends it."""
    program = programs.start_command(["lastly", "reaper"])
    pid = wait_until(lambda: reaper_of(programs.home))
    assert pid == program.pid
    got = programs.run_command(["lastly", "reaper"])
    assert (got.status, f"a reaper runs already (pid {pid})" in got.err) == (1, True)
    program.send(signal.SIGINT)
    assert program.wait().status == 0
    wait_until(lambda: reaper_of(programs.home) is None)


def test_reaper_whose_log_nobody_reads(programs: Programs) -> None:
    """It goes on, and writes to its file alone."""
    reader, writer = os.pipe()
    program = programs.start_command(["python", "-c", READ_BY_NOBODY], popen={"pass_fds": [writer]}, env={"FD": str(writer)})
    os.close(writer)
    pid = wait_until(lambda: reaper_of(programs.home))
    os.close(reader)
    folder = programs.run("import lastly, os; print(lastly.temp_dir(), flush=True); os.kill(os.getpid(), 9)").lines[0]
    wait_until(lambda: gone(folder), what="reaped")
    assert reaper_of(programs.home) == pid == program.pid


READ_BY_NOBODY = """
import os, sys
os.dup2(int(os.environ["FD"]), 2)
os.execv(sys.executable, [sys.executable, "-m", "lastly", "reaper"])
"""


def test_doctor_and_a_home_with_a_long_name(programs: Programs, tmp_path: Path) -> None:
    """The reaper's socket is reached all the same."""
    home = tmp_path / ("long" * 30)
    got = lastly(programs, "doctor", "--json", env={"LASTLY_HOME": str(home)})
    [found] = [finding for finding in json.loads(got.out)["findings"] if finding["name"] == "socket"]
    assert (found["level"], found["what"]) == ("ok", f"the reaper's socket is {home}/reaper.sock")


# -- completion, by the shells themselves

BASH = """
eval "$(lastly completion bash)"
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
compopt() {{ echo ":$2"; }}
_lastly; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
ZSH = """
eval "$(lastly completion zsh | sed 's/compdef _lastly lastly/true/')"
_describe() {{ print -rl -- "${{found[@]%%:*}}"; }}
_files() {{ print :default; }}
words=({words}); CURRENT=${{#words}}
_lastly
"""
FISH = "lastly completion fish | source; complete -C '{line}' | string replace -r '\\t.*' ''"


def complete(programs: Programs, shell: str, *words: str, **options: Any) -> list[str]:
    """What the shell offers for the last of the words."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"no {shell} here")
    quoted = " ".join(shlex.quote(word) for word in words)
    code = {"bash": BASH, "zsh": ZSH, "fish": FISH}[shell].format(words=f"lastly {quoted}", line=" ".join(["lastly", *words]))
    env = {**OFF, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(programs.home)}
    got = programs.run_command([found, *(["-f"] if shell == "zsh" else []), "-c", code], env=env, **options)
    assert got.err == ""
    return sorted(filter(None, got.lines))


SHELLS = pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])


@SHELLS
def test_completes_commands_and_options(programs: Programs, shell: str) -> None:
    assert complete(programs, shell, "re") == ["reap", "reaper", "retry"]
    assert complete(programs, shell, "reap", "--d") == ["--dry-run"]
    assert complete(programs, shell, "crash", "--points", "e") == ["events"]
    assert complete(programs, shell, "completion", "") == ["bash", "fish", "zsh"]


@SHELLS
@pytest.mark.slow(keep=1)
def test_completes_ids(programs: Programs, shell: str) -> None:
    """Of what is owed, with what it is."""
    ref, folder = orphan(programs)
    for command in ("why", "retry", "forget", "reap"):
        assert complete(programs, shell, command, ref[:3]) == [ref]
    [line] = lastly(programs, "_complete", "why", "").lines
    assert line.partition("\t")[0] == ref
    assert folder in line


@SHELLS
@pytest.mark.slow(keep=1)
def test_completes_files(programs: Programs, shell: str, tmp_path: Path) -> None:
    """Where the shell alone would have done so: a program, a unit."""
    (tmp_path / "script.py").touch()
    offered = ["script.py"] if shell == "fish" else [":default"]
    for words in (["run", "--", "python", "scr"], ["doctor", "scr"], ["crash", "scr"], ["crash", "--inputs", "scr"]):
        assert complete(programs, shell, *words, cwd=tmp_path) == offered


# -- the base install


@pytest.fixture
def base(tmp_path: Path) -> dict[str, str]:
    """The environment of a base install: neither rich nor click nor yaml can be imported."""
    folder = tmp_path / "without"
    folder.mkdir()
    for name in ("click", "rich", "yaml"):
        (folder / f"{name}.py").write_text("raise ImportError('not installed')")
    return {"PYTHONPATH": str(folder)}


def test_every_command_works_in_the_base_install(programs: Programs, base: dict[str, str]) -> None:
    ref, folder = orphan(programs)
    for words, status, text in (
        (["ls"], 0, ref),
        (["ls", "--json"], 0, ref),
        (["why", ref], 0, folder),
        (["reap", "--dry-run"], 0, "would be run"),
        (["retry", ref], 0, f"{ref}: done"),
        (["history"], 0, ref),
        (["doctor"], 0, "the home is on"),
        (["completion", "bash"], 0, "complete -F"),
        (["--version"], 0, "lastly, version"),
        (["-V"], 0, "lastly, version"),
        (["-v"], 0, "lastly, version"),
        (["run", "-c", "print('ran')"], 0, "ran"),
    ):
        got = lastly(programs, *words, env=base)
        assert (words, got.status, got.err) == (words, status, "")
        assert text in got.out
    assert gone(folder)


def test_the_help_names_everything(programs: Programs, base: dict[str, str]) -> None:
    """Sections, whole summaries, an example of each command, and the home."""
    long, short = (lastly(programs, word, env=base) for word in ("--help", "-h"))
    assert (long.status, long.out) == (0, short.out)
    from lastly._cli.commands import COMMANDS

    words = " ".join(long.out.split())  # lines may be folded
    told_of = {}
    for command in COMMANDS:
        assert f"  {command.name} " in long.out
        assert command.summary in words
        assert command.example in long.out
        told = lastly(programs, command.name, "--help", env=base)
        assert (told.status, told.err) == (0, "")
        told_of[command.name] = told.out
        if command.name != "run":
            assert f"example:\n  {command.example}" in told.out
    for text in ("What is owed:", "LASTLY_HOME", "--version"):
        assert text in long.out
    assert lastly(programs, "help", "run", env=base).out == told_of["run"]


def test_without_a_command_the_help_is_shown(programs: Programs) -> None:
    got = lastly(programs)
    assert (got.status, got.out.partition(" ")[0]) == (2, "usage:")


def test_broken_pipe(programs: Programs) -> None:
    """`lastly ls | true` prints no traceback."""
    orphan(programs)
    read, write = os.pipe()
    os.close(read)
    program = subprocess.run(
        [sys.executable, "-m", "lastly", "ls"], stdout=write, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "LASTLY_HOME": str(programs.home)}, check=False,
    )  # fmt: skip
    os.close(write)
    assert "Traceback" not in program.stderr


@pytest.mark.parametrize(
    ("line", "status", "out"),
    [
        ("ls >&-", 0, ""),
        ("ls --json <&- >&- 2>&-", 0, ""),
        ("doctor <&-", 0, "the home is on"),
        ("doctor - <&-", 1, "no pod in it"),
        ("nonsense 2>&-", 2, ""),
    ],
)
@pytest.mark.slow(keep=3)
def test_closed_streams(programs: Programs, line: str, status: int, out: str) -> None:
    """No traceback, no message in another stream, the status as ever."""
    got = programs.run_command(["sh", "-c", f"{sys.executable} -m lastly {line}"], env={**OFF, "CI": None})
    assert (got.status, got.err) == (status, "")
    assert out in got.out
    assert bool(out) == bool(got.out)


def test_names_beyond_the_alphabet(programs: Programs) -> None:
    """An encoding that has no such letters shows them as escapes."""
    orphan(programs, "defer(actions.remove, os.path.abspath('é'))")
    got = lastly(programs, "ls", env={"PYTHONIOENCODING": "ascii"})
    assert (got.status, got.err) == (0, "")
    assert r"\xe9" in got.out


def test_long_names_are_one_line(programs: Programs) -> None:
    """On a pipe, for grep and awk, however long."""
    long = "/".join(["d" * 200] * 5)
    orphan(programs, f"defer(actions.remove, os.path.abspath({long!r}))")
    got = lastly(programs, "ls")
    assert len(got.lines) == 2
    assert long in got.out


@pytest.mark.parametrize("columns", ["60", "20"])
def test_on_a_terminal(programs: Programs, columns: str) -> None:
    """Colours only there, and no column left out, however narrow it is."""
    ref, _ = orphan(programs)
    pid, master = pty.fork()
    if pid == 0:
        env = {**os.environ, "LASTLY_HOME": str(programs.home), "TERM": "xterm", "COLUMNS": columns}
        os.execve(sys.executable, [sys.executable, "-m", "lastly", "ls"], env)
    out = b""
    while select.select([master], [], [], PATIENCE)[0]:
        try:
            part = os.read(master, 4096)
        except OSError:  # the other end has closed
            break
        out += part
    assert os.waitpid(pid, 0)[1] == 0
    os.close(master)
    assert b"\x1b[" in out
    assert ref.encode() in out
    assert b"remove " in out


def test_version(programs: Programs) -> None:
    assert lastly(programs, "--version").out == "lastly, version 0.1.0\n"


