"""What each command takes: the command line's grammar, its help, and what a shell may complete.

argparse does the parsing, but not the messages: an error is one line that names the nearest right word,
and the help of a command is written from the same table that the completion reads.
"""

import argparse
import re
import shutil
import signal
import sys
import textwrap
import time
from datetime import datetime

from lastly._words.nearest import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# What an argument is, for the completion: a cleanup or owner, or a file. Anything else is not completed.
ID, FILE = "ID", "FILE"


class UsageError(Exception):
    """The command line is not understood; the message is one line."""


class Argument:
    """One option or operand: what argparse is told, and what kind of word completes it."""

    def __init__(self, *flags: str, kind: str = "", **settings: "Any") -> None:
        self.flags, self.kind, self.settings = flags, kind, settings


class Command:
    """One command: its section and summary for the list, its text, arguments and example for its own help."""

    def __init__(
        self,
        name: str,
        run: "Callable[[argparse.Namespace], int]",
        text: str,
        *arguments: Argument,
        example: str,
        section: str,
    ) -> None:
        self.name, self.run, self.example, self.section = name, run, example, section
        self.summary, _, self.details = text.partition("\n")
        self.arguments = arguments

    def parser(self) -> "Parser":
        """Return what parses the words after the command."""
        width = max(_width(), 20)
        text = [textwrap.fill(line, width) for line in (self.summary, *self.details.splitlines())]
        parser = Parser(
            prog=f"lastly {self.name}",
            description="\n".join(text),
            epilog=f"example:\n  {self.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for argument in self.arguments:
            made = parser.add_argument(*argument.flags, **argument.settings)
            if made.nargs == argparse.REMAINDER:
                made.required = False  # argparse reports it as missing, together with what is
        return parser


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors are a `UsageError` of one line with the nearest right word."""

    words: "Sequence[str]" = ()

    def parse_words(self, words: "Sequence[str]") -> argparse.Namespace:
        """Read the words after the command."""
        self.words = words
        return self.parse_args(words)

    def print_help(self, file: "Any" = None) -> None:
        """Write the help; argparse's own says nothing when that fails."""
        (file or sys.stdout).write(self.format_help())

    def error(self, message: str) -> "NoReturn":
        """Raise `UsageError`."""
        unknown = re.fullmatch(r"unrecognized arguments: (.*)", message, re.DOTALL)
        known = [flag for action in self._actions for flag in action.option_strings]
        if unknown or message.startswith("the following arguments are required"):
            # What is missing argparse tells first, and perhaps it is missing because of a wrong option.
            wrong = [word for word in self.words if word[:1] == "-" and word.partition("=")[0] not in known]
            if wrong and wrong[0] != "-":
                message = f"no such option: {wrong[0]}{nearest(wrong[0].partition('=')[0], known)}"
            elif unknown:
                message = f"one argument too many: {unknown[1].partition(' ')[0]!r}"
        raise UsageError(f"{message.removeprefix('argument ')}; see `{self.prog} --help`")


# -- kinds of values: an argparse.ArgumentTypeError becomes "--grace: …"


def seconds(text: str) -> float:
    """Return a length of time of at least 0."""
    return _length(text, "seconds")


def days(text: str) -> float:
    """Return a length of time of at least 0, in days."""
    return _length(text, "days")


def _length(text: str, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:  # neither is nan
        raise argparse.ArgumentTypeError(f"must be a number of {unit}, not {text!r}")
    return value


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    value = int(text) if text.isascii() and text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return value


def number(text: str) -> int:
    """Return a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None


def moment(text: str) -> float:
    """Return 90m, 2h, 3d before now, or an ISO date, as unix time."""
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if ago:
        return time.time() - float(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"must be like 90m, 2h, 3d or 2026-05-01T12:00, not {text!r}"
        ) from None


def ending(text: str) -> str:
    """Return a way to end a program."""
    ways = ("exit", "raise", *(name.name.removeprefix("SIG") for name in signal.Signals))
    if text not in ways and text.upper().removeprefix("SIG") not in ways:
        what = f"must be the name of a signal, exit or raise, not {text!r}"
        raise argparse.ArgumentTypeError(f"{what}{nearest(text.upper(), ways)}")
    return text


# -- help


_HEAD = """\
usage: lastly COMMAND [OPTION]... [ARGUMENT]...

Cleanup that runs, however your Python program ends.
"""
_TAIL = (
    (
        "options:",
        ("-h, --help", "show this help"),
        ("-V, -v, --version", "show the version"),
    ),
    (
        "environment:",
        (
            "LASTLY_HOME",
            "where all is kept that is owed. Default: $XDG_STATE_HOME/lastly, that is ~/.local/state/lastly",
        ),
        (
            "LASTLY_REAPER",
            "0: no reaper is started, so what a killed program owed waits for `lastly reap`",
        ),
        ("NO_COLOR", "no colours"),
    ),
)
_LAST = (
    "`lastly COMMAND --help` shows the options of a command. Exit status: 0 done, 1 not done, "
    "2 wrong command line."
)
_WIDEST = 100  # columns


def overview(commands: "Sequence[Command]") -> str:
    """Return the text of `lastly --help`, as wide as the terminal."""
    width = _width()
    lines = [_HEAD]
    for section in dict.fromkeys(command.section for command in commands):
        lines.append(f"{section}:")
        for command in commands:
            if command.section == section:
                lines += _entry(command.name, command.summary, 13, width)
                lines.append(f"             $ {command.example}")
        lines.append("")
    for title, *entries in _TAIL:
        lines.append(title)
        for name, text in entries:
            lines += _entry(name, text, 23, width)
        lines.append("")
    return "\n".join([*lines, *textwrap.wrap(_LAST, max(width, 20))]) + "\n"


def _width() -> int:
    """Return how wide a help is written: as wide as the terminal."""
    return min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)


def _entry(name: str, text: str, indent: int, width: int) -> list[str]:
    """A name, and beside it what it means."""
    room = max(width - indent, 20)
    first, *more = textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False)
    return [f"  {name:<{indent - 2}}{first}", *(f"{'':{indent}}{line}" for line in more)]
