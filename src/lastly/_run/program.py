"""The program that is run: found, given its environment and its signals, and become.

What a Python launcher would leave behind in the program is undone here: SIGPIPE and SIGXFSZ ignored, and a
coerced LC_CTYPE.
"""

import os

from lastly._run import handover
from lastly._system import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn

    from lastly._run.options import Options
else:
    import _signal  # `signal` makes enums of all the numbers

SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "site")
# Ignored for reasons of their own: by nohup, a shell's `&`, whoever wants no zombies, job control, Python.
_USUAL = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGCHLD, _signal.SIGTSTP, _signal.SIGTTIN,
          _signal.SIGTTOU, _signal.SIGPIPE, _signal.SIGXFSZ)  # fmt: skip
_COERCED = (b"C.UTF-8", b"C.utf8", b"UTF-8")  # what PEP 538 sets LC_CTYPE to


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


def environment(options: "Options", token: str) -> dict[bytes, bytes]:
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
        given = proc.environment(os.getpid())
        if given and not any(item.startswith(b"LC_CTYPE=") for item in given):
            del env[b"LC_CTYPE"]


def restore_signals(parent: int) -> None:
    """Give SIGPIPE and SIGXFSZ back, which every starting Python ignores.

    Python has overwritten what they were, and no kernel tells. They were ignored on purpose if our parent
    ignores them and is not itself a Python (systemd does so for services; subprocess restores them), or if
    a wrapper that has become this process ignored others: `trap "" USR1 PIPE; exec lastly run ...`.
    """
    kept = 0
    theirs = proc.ignored(parent)
    if theirs is not None:
        if not (proc.program(parent) or proc.name(parent)).startswith("python"):
            kept = theirs
        if (proc.ignored(os.getpid()) or 0) & ~theirs & ~sum(1 << (signum - 1) for signum in _USUAL):
            kept = -1
    for signum in (_signal.SIGPIPE, _signal.SIGXFSZ):
        if not kept >> (signum - 1) & 1:
            _signal.signal(signum, _signal.SIG_DFL)


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
