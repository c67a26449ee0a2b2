"""The command line of `lastly run`."""

import os
import sys

from lastly._words.nearest import nearest

_OPTIONS = ("--grace", "--keep", "--remove-always", "--supervise", "--help")
USAGE = """\
usage: lastly run [OPTION]... [--] COMMAND [ARG]...
       lastly run [OPTION]... SCRIPT.py [ARG]...
       lastly run [OPTION]... -c CODE | -m MODULE [ARG]...

Run a program, unchanged; what it leaves behind is cleaned up, however it ends.
Of a program that is no Python (a shell, make) only the Python programs below it
are guarded, and with --supervise all its children.

options:
  -h, --help       show this help
  --grace S        seconds between SIGTERM and SIGKILL for children that a crash
                   has left (default: 10)
  --keep           leave temporary files and folders alone, also after a crash
  --remove-always  remove what tempfile made after a normal end, too: also of
                   mkdtemp() and delete=False
  --supervise      stay as the parent: reap zombies, forward signals, end every
                   child with the program, give the terminal back as it was
                   after a crash (by itself when this is PID 1)

example:
  lastly run --supervise -- make all
"""


class Options:
    """The command line of `lastly run`."""

    __slots__ = ("command", "grace", "mode", "supervise")

    def __init__(self) -> None:
        self.grace = 10.0
        self.mode = "auto"  # with temporary files; or keep, or always
        self.supervise = os.getpid() == 1
        self.command: list[str] = []


class UsageError(Exception):
    """The command line cannot be understood; its text says why."""


def parse(argv: list[str]) -> Options:
    """Read the options up to the program; everything from there on belongs to the program."""
    options, rest = Options(), list(argv)
    while rest and rest[0].startswith("-"):
        word = rest[0]
        if word in ("-c", "-m"):
            if len(rest) < 2:
                raise UsageError(f"{word} needs an argument")
            options.command = [sys.executable, *rest]
            return options
        del rest[0]
        if word == "--":
            break
        _option(options, word, rest)
    if not rest:
        raise UsageError("no program given")
    options.command = rest if not _is_script(rest[0]) else [sys.executable, *rest]
    return options


def _option(options: Options, word: str, rest: list[str]) -> None:
    if word in ("--keep", "--remove-always"):
        mode = word.removeprefix("--").removeprefix("remove-")
        if options.mode not in ("auto", mode):
            raise UsageError("--keep and --remove-always exclude each other")
        options.mode = mode
    elif word == "--supervise":
        options.supervise = True
    elif word == "--grace" or word.startswith("--grace="):
        options.grace = _seconds(word, rest)
    else:
        near = nearest(word.partition("=")[0], _OPTIONS)
        raise UsageError(f"no such option: {word}{near} (options of the program go after it; `--` ends ours)")


def _seconds(word: str, rest: list[str]) -> float:
    value = word.partition("=")[2] if "=" in word else rest.pop(0) if rest else ""
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"--grace needs a number of seconds, not {value!r}")
    return seconds


def _is_script(word: str) -> bool:
    """Tell whether the word is a Python file to be run by this interpreter rather than a program."""
    if not word.endswith((".py", ".pyz", ".pyw")) or not os.path.isfile(word):
        return False
    return "/" not in word or not os.access(word, os.X_OK)
