"""`lastly run`: the launcher. What is started, how, and with which status."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Programs

RUN = ["lastly", "run"]


def script(folder: Path, name: str, text: str, *, mode: int = 0o644) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    return path


def test_script_by_name(programs: Programs, tmp_path: Path) -> None:
    """`lastly run script.py args` runs it with this interpreter, executable or not."""
    script(tmp_path, "hello.py", "import sys; print(sys.executable, sys.argv)")
    got = programs.run_command([*RUN, "hello.py", "-x", "--grace", "b"], cwd=tmp_path)
    assert got.out == f"{sys.executable} ['hello.py', '-x', '--grace', 'b']\n"
    assert (got.status, got.err) == (0, "")


@pytest.mark.parametrize("words", [["-c", "print(7 * 6)"], ["--", "python3", "-c", "print(7 * 6)"], ["echo", "42"]])
def test_forms(programs: Programs, words: list[str]) -> None:
    """-c for this interpreter, any program by name, with and without `--`."""
    got = programs.run_command([*RUN, *words])
    assert (got.status, got.out, got.err) == (0, "42\n", "")


def test_module(programs: Programs, tmp_path: Path) -> None:
    """-m sees the working directory first on sys.path, as python -m does."""
    script(tmp_path, "thing.py", "import sys; print(__name__, sys.argv[1:], sys.path[0])")
    got = programs.run_command([*RUN, "-m", "thing", "a"], cwd=tmp_path)
    assert got.out == f"__main__ ['a'] {tmp_path}\n"


def test_executable_by_its_shebang(programs: Programs, tmp_path: Path) -> None:
    """A console script is run as the kernel runs it, and watched as any Python."""
    path = script(tmp_path, "tool", f"#!{sys.executable}\nimport sys\nprint(sys.argv)\n", mode=0o755)
    assert programs.run_command([*RUN, str(path), "1"]).out == f"['{path}', '1']\n"


def test_script_without_shebang_goes_to_sh(programs: Programs, tmp_path: Path) -> None:
    path = script(tmp_path, "plain", 'echo "$1" $0\n', mode=0o755)
    assert programs.run_command([*RUN, str(path), "a b"]).out == f"a b {path}\n"


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["no-such-program-here"], 127, "cannot run 'no-such-program-here': No such file or directory"),
        (["/etc/passwd"], 126, "cannot run '/etc/passwd': Permission denied"),
        ([], 2, "no program given"),
        (["--nonsense", "true"], 2, "no such option: --nonsense"),
        (["--gracs=5", "true"], 2, "no such option: --gracs=5; did you mean '--grace'?"),
        (["--keep", "--remove-always", "true"], 2, "--keep and --remove-always exclude each other"),
        (["--grace", "soon", "true"], 2, "--grace needs a number of seconds, not 'soon'"),
        (["--grace=-1", "true"], 2, "--grace needs"),
        (["-c"], 2, "-c needs an argument"),
    ],
)
def test_cannot_start(programs: Programs, words: list[str], status: int, text: str) -> None:
    """A line that says what is wrong, and the statuses that env and nohup use."""
    if os.geteuid() == 0 and status == 126:
        words = ["/tmp"]
    got = programs.run_command([*RUN, *words])
    assert got.status == status
    assert text.replace("/etc/passwd", words[0] if words else "") in got.err
    assert (got.out, got.err.count("\n")) == ("", 1)
    assert status != 2 or got.err.endswith("; see `lastly run --help`\n")


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_status(programs: Programs, code: int) -> None:
    assert programs.run_command([*RUN, "sh", "-c", f"exit {code}"]).status == code
    assert programs.run_command([*RUN, "-c", f"raise SystemExit({code})"]).status == code


def test_same_process(programs: Programs) -> None:
    """The launcher becomes the program: one pid, one parent, the same process group."""
    program = programs.start_command([*RUN, "-c", "import os; print(os.getpid(), os.getppid(), os.getpgrp())"])
    got = program.wait()
    assert got.out.split() == [str(program.pid), str(os.getpid()), str(os.getpgrp())]


@pytest.mark.parametrize("signum", [signal.SIGPIPE, signal.SIGXFSZ])
def test_signals_given_back(programs: Programs, signum: int) -> None:
    """What Python ignores for itself is not ignored in a program that is no Python."""
    code = f"import subprocess, sys; sys.exit(subprocess.call([*sys.argv[1:], 'sh', '-c', 'kill -{signum} $$; exit 5']))"
    got = programs.run(code, sys.executable, "-m", "lastly", "run")
    assert got.status == 256 - signum


@pytest.mark.parametrize("options", [[], ["--supervise"]])
@pytest.mark.parametrize("signum", [signal.SIGPIPE, signal.SIGXFSZ])
def test_signals_given_back_by_a_script(programs: Programs, tmp_path: Path, signum: int, options: list[str]) -> None:
    """Neither by a Python whose process has the name of its script: `lastly` itself, or who starts it."""
    for name, line in {
        "lastly": "from lastly.__main__ import main; sys.exit(main())",
        "runner": "import subprocess; sys.exit(subprocess.call(sys.argv[1:]))",
    }.items():
        script = tmp_path / name
        script.write_text(f"#!{sys.executable}\nimport sys\n{line}\n")
        script.chmod(0o755)
    run = [str(tmp_path / "runner"), str(tmp_path / "lastly"), "run", *options]
    got = programs.run_command([*run, "sh", "-c", f"kill -{signum} $$; exit 5"])
    assert got.status == 256 - signum


@pytest.mark.parametrize("options", [[], ["--supervise"]])
@pytest.mark.parametrize(
    ("ignored", "start"),
    [
        ([signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGXFSZ], "trap '' HUP USR1 PIPE XFSZ; exec \"$@\""),
        ([signal.SIGPIPE, signal.SIGXFSZ], "trap '' PIPE XFSZ; \"$@\"; exit $?"),
        ([], '"$@"; exit $?'),
        ([signal.SIGHUP], 'exec nohup "$@"'),
    ],
    ids=["a wrapper's trap", "the parent's", "nothing", "nohup"],
)
@pytest.mark.slow(keep=3)
def test_what_was_ignored_on_purpose_stays_ignored(
    programs: Programs, options: list[str], ignored: list[int], start: str
) -> None:
    """By a wrapper that becomes `lastly run`, or by its parent; nohup and a plain start ignore no SIGPIPE."""
    run = [sys.executable, "-m", "lastly", "run", *options, "sh", "-c", "grep SigIgn /proc/self/status"]
    got = programs.run_command(["sh", "-c", start, "sh", *run])
    mask = int(got.out.partition("SigIgn:")[2].split()[0], 16)
    ours = (signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGXFSZ)
    assert [signum for signum in ours if mask >> (signum - 1) & 1] == ignored


def test_coerced_locale_is_taken_back(programs: Programs) -> None:
    """LC_CTYPE=C.UTF-8, which Python sets for itself under LANG=C, does not leak into the program."""
    env = {"LC_ALL": None, "LC_CTYPE": None, "LANG": "C"}
    assert "LC_CTYPE" not in programs.run_command([*RUN, "env"], env=env).out
    assert "LC_CTYPE=C.UTF-8" in programs.run_command([*RUN, "env"], env={**env, "LC_CTYPE": "C.UTF-8"}).out


def test_stdin(programs: Programs) -> None:
    program = programs.start_command([*RUN, "-c", "print(input()[::-1])"], stdin=subprocess.PIPE)
    program.write("stressed\n")
    assert program.wait().out == "desserts\n"


def test_program_from_stdin(programs: Programs) -> None:
    program = programs.start_command([*RUN, "python3", "-"], stdin=subprocess.PIPE)
    program.write("print(__name__, __import__('sys').argv)\n")
    assert program.popen.stdin is not None
    program.popen.stdin.close()
    assert program.wait().out == "__main__ ['-']\n"


@pytest.mark.parametrize("flags", [["-I"], ["-E"], ["-S"], ["-Bs", "-I"], ["-X", "dev", "-IB"]])
def test_blind_python_is_named(programs: Programs, flags: list[str]) -> None:
    """Python that ignores PYTHONPATH or site is run, and one line says what it does not get."""
    got = programs.run_command([*RUN, sys.executable, *flags, "-c", "print(1)"])
    assert (got.status, got.out) == (0, "1\n")
    assert got.err.count("\n") == 1
    assert "does not see `lastly run`" in got.err


def test_blind_shebang_is_named(programs: Programs, tmp_path: Path) -> None:
    path = script(tmp_path, "tool", f"#!{sys.executable} -I\nprint(1)\n", mode=0o755)
    got = programs.run_command([*RUN, str(path)])
    assert (got.status, got.out) == (0, "1\n")
    assert "python -I does not see" in got.err


def test_flags_of_the_program_are_not_the_interpreters(programs: Programs) -> None:
    got = programs.run_command([*RUN, sys.executable, "-c", "import sys; print(sys.argv)", "-I", "-E"])
    assert (got.out, got.err) == ("['-c', '-I', '-E']\n", "")


def test_unusable_home(programs: Programs, tmp_path: Path) -> None:
    """The program runs on; one line says what is lost, however much it makes."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    got = programs.run_command(
        [*RUN, "-c", "import tempfile\nfor _ in range(3):\n with tempfile.TemporaryDirectory(): print('ok')"],
        env={"LASTLY_HOME": str(folder)},
    )
    assert (got.status, got.out) == (0, "ok\n" * 3)
    assert got.err.count("\n") == 1
    assert got.err.startswith("lastly run: temp files and children of this program are not cleaned up")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777


def test_home_on_a_file(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    got = programs.run_command([*RUN, "-c", "import tempfile; tempfile.mkdtemp(); print('ok')"],
                               env={"LASTLY_HOME": str(tmp_path / "file" / "home")})  # fmt: skip
    assert (got.status, got.out, got.err.count("\n")) == (0, "ok\n", 1)


def test_nothing_written_when_nothing_is_made(programs: Programs) -> None:
    """A program without temp files and children leaves no journal, and starts no reaper."""
    assert programs.run_command([*RUN, "-c", "pass"]).status == 0
    assert os.listdir(programs.home) == []


def test_help(programs: Programs) -> None:
    got = programs.run_command([*RUN, "--help"])
    assert got.status == 0
    assert got.out.startswith("usage: lastly run")
