"""Become the program: read the options, set the environment, exec.

A launcher that stays is a second process with its own signals, its own exit status and its own place in
the process group; one that execs leaves nothing to get wrong. What a Python launcher would leave behind
in the program all the same is undone here: SIGPIPE and SIGXFSZ ignored, and a coerced LC_CTYPE.
"""

import os
import sys

from lastly._run import handover
from lastly._system import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn
else:
    import _signal  # `signal` makes enums of all the numbers

USAGE = """\
usage: lastly run [--grace S] [--keep | --remove-always] [--supervise] [--] CMD [ARG...]
       lastly run [options] script.py [ARG...]
       lastly run [options] -c CODE | -m MODULE [ARG...]

Run any program, unchanged; what it leaves behind is cleaned up, however it ends.

  --grace S        seconds between TERM and KILL for children left by a crash (default 10)
  --keep           leave temp files and folders alone, also after a crash
  --remove-always  remove what tempfile made on a normal exit too, also delete=False and mkdtemp()
  --supervise      stay as the parent: reap zombies, forward signals, end every child with the program,
                   give the terminal back as it was after a crash (of itself when this is PID 1)
"""

SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "site")
# Ignored for reasons of their own: by nohup, a shell's `&`, whoever wants no zombies, job control, Python.
_USUAL = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGCHLD, _signal.SIGTSTP, _signal.SIGTTIN,
          _signal.SIGTTOU, _signal.SIGPIPE, _signal.SIGXFSZ)  # fmt: skip
_COERCED = (b"C.UTF-8", b"C.utf8", b"UTF-8")  # what PEP 538 sets LC_CTYPE to


class Options:
    """The command line of `lastly run`."""

    __slots__ = ("command", "grace", "mode", "supervise")

    def __init__(self) -> None:
        self.grace = 10.0
        self.mode = "auto"
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
    if word == "--keep":
        options.mode = "keep"
    elif word == "--remove-always":
        options.mode = "always"
    elif word == "--supervise":
        options.supervise = True
    elif word == "--grace" or word.startswith("--grace="):
        options.grace = _seconds(word, rest)
    else:
        raise UsageError(f"unknown option {word} (options of the program go after it; `--` ends ours)")


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


def find(program: str) -> str:
    """Return the file that execvp would run. Raises OSError as it would."""
    if "/" in program:
        return program
    denied: str | None = None
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, program)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            denied = path
    if denied:
        raise PermissionError(13, os.strerror(13), denied)
    raise FileNotFoundError(2, os.strerror(2), program)


def environment(options: Options, token: str) -> dict[bytes, bytes]:
    """Return the environment of the program: this one's, our folder on PYTHONPATH, a token of its own."""
    env = dict(os.environb)
    _uncoerce(env)
    path = env.get(b"PYTHONPATH")
    pid = os.getpid()
    told = handover.Handover(
        pid, proc.start_time(pid) or 0, token,
        grace=options.grace, mode=options.mode, empty_path=path == b"",
    )  # fmt: skip
    site = os.fsencode(SITE)
    rest = [entry for entry in path.split(b":") if entry != site] if path else []
    env[b"PYTHONPATH"] = b":".join([site, *rest])
    env[handover.RUN.encode()] = told.encode().encode()
    env.pop(handover.MAIN.encode(), None)
    words = env.get(handover.TOKEN.encode(), b"").decode("ascii", "replace").split(":")
    chain = [word for word in words if word and word != handover.ROOM]
    env[handover.TOKEN.encode()] = ":".join([*chain, token, handover.ROOM]).encode()
    return env


def _uncoerce(env: dict[bytes, bytes]) -> None:
    """Take out the LC_CTYPE that a Python started under LANG=C has put into its own environment."""
    if env.get(b"LC_CTYPE") in _COERCED:
        with open("/proc/self/environ", "rb") as file:
            if not any(item.startswith(b"LC_CTYPE=") for item in file.read().split(b"\0")):
                del env[b"LC_CTYPE"]


def restore_signals(parent: int) -> None:
    """Give SIGPIPE and SIGXFSZ back, which every starting Python ignores.

    Python has overwritten what they were, and no kernel tells. They were ignored on purpose if our parent
    ignores them and is not itself a Python (systemd does so for services; subprocess restores them), or if
    a wrapper that has become this process ignored others: `trap "" USR1 PIPE; exec lastly run ...`.
    """
    kept = 0
    try:
        theirs, name = _ignored_by(parent)
        if not _program_of(parent, name).startswith("python"):
            kept = theirs
        if _ignored_by(os.getpid())[0] & ~theirs & ~sum(1 << (signum - 1) for signum in _USUAL):
            kept = -1
    except (OSError, KeyError, ValueError):
        pass
    for signum in (_signal.SIGPIPE, _signal.SIGXFSZ):
        if not kept >> (signum - 1) & 1:
            _signal.signal(signum, _signal.SIG_DFL)


def _ignored_by(pid: int) -> tuple[int, str]:
    """Return the mask of the signals that a process ignores, and its name."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return int(lines["SigIgn"], 16), lines["Name"]


def _program_of(pid: int, name: str) -> str:
    """Return the name of a process's program: the interpreter's, where `name` is that of a script."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return name


def blind_flags(command: list[str], path: str) -> str:
    """Return the flags (of I, E, S) that keep a Python program from seeing us, from argv or its `#!` line."""
    name = os.path.basename(command[0])
    if name.startswith(("python", "pypy")):
        return _flags(command[1:])
    try:
        with open(path, "rb") as file:
            line = file.read(256).partition(b"\n")[0]
    except OSError:
        return ""
    words = os.fsdecode(line[2:]).split() if line.startswith(b"#!") else []
    for place, word in enumerate(words):
        if os.path.basename(word).startswith(("python", "pypy")):
            return _flags(words[place + 1 :])
    return ""


def _flags(words: list[str]) -> str:
    found, skip = "", False
    for word in words:
        if skip:
            skip = False
        elif not word.startswith("-") or word in ("-", "--"):
            break
        elif word.startswith("--"):
            skip = word == "--check-hash-based-pycs"
        else:
            for place, letter in enumerate(word[1:], 2):
                if letter in "IES":
                    found += letter
                if letter in "cmWX":  # takes the rest of the word, or the next one
                    if letter in "cm":
                        return found
                    skip = place == len(word)
                    break
    return found


def say(text: str) -> None:
    """One line on stderr; nothing when it is closed."""
    try:
        os.write(2, f"lastly run: {text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def execute(path: str, command: list[str], env: dict[bytes, bytes], parent: int) -> "NoReturn":
    """Become the program that `parent` has asked for. Raises OSError when it cannot be."""
    restore_signals(parent)
    try:
        os.execve(path, command, env)
    except OSError as error:
        if error.errno != 8:  # ENOEXEC: a script without a `#!` line belongs to sh, as execvp has it
            raise
        os.execve("/bin/sh", ["/bin/sh", path, *command[1:]], env)


def main(argv: list[str]) -> int:
    """Run the program. Returns only if it cannot be started: 2 usage, 126 not executable, 127 not found."""
    if argv[:1] in (["--help"], ["-h"]):
        sys.stdout.write(USAGE)
        return 0
    try:
        options = parse(argv)
    except UsageError as error:
        sys.stderr.write(f"lastly run: {error}\n{USAGE.partition(chr(10) * 2)[0]}\n")
        return 2
    command = options.command
    try:
        path = find(command[0])
        flags = blind_flags(command, path)
        if flags and not options.supervise:
            say(
                f"python -{flags[0]} does not see `lastly run`: temp files and children are not guarded, "
                f"exit functions do not run on SIGTERM; leave -{flags[0]} out (--supervise ends its children)"
            )
        if options.supervise:
            from lastly._run import supervise

            return supervise.run(path, command, options)
        execute(path, command, environment(options, handover.new_token()), os.getppid())
    except OSError as error:
        say(f"cannot run {command[0]!r}: {error.strerror}")
        return 127 if error.errno in (2, 20) else 126
