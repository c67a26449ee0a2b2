"""The parent of the programs that are crashed: starts one, sees it die, looks what is left.

It is a subreaper: whatever the program started and left comes to it, however it hides, so it is found, and
ended. It does one order at a time: a line of JSON on its standard input, one as the answer; the end of its
input is the end of all that it has started. It lives only as long as the process that started it.

    python -I -S worker.py FOLDER-OF-THE-PACKAGE
"""

import json
import os
import select
import shutil
import subprocess
import sys
import time

sys.path.insert(0, sys.argv[1])

from lastly._reaper import desk
from lastly._settle.sweep import sweep
from lastly._system import kill, libc, proc, wait  # found by the line above
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Order = dict[str, Any]

_TAIL = 4000  # bytes of the program's output that are kept
_ROUNDS = 12  # sweeps: more than an action has attempts
_TOLD = 20  # of what is still owed: a pipe must hold it, 500 characters each, in any alphabet


class Abandoned(Exception):  # noqa: N818  # nothing waits for the answer any more
    """The process that gave the order has gone."""


def main() -> None:
    """Take orders until there are no more."""
    libc.adopt_orphans()
    try:
        while order := sys.stdin.buffer.readline():
            answer = obey(json.loads(order))
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    except (Abandoned, BrokenPipeError):
        pass
    finally:
        end_all()


def obey(order: "Order") -> "dict[str, Any]":
    """Do one run. What it leaves stays until the next, to be looked at."""
    end_all()
    folder = order["folder"]
    if order["before"]:
        shutil.rmtree(order["before"], ignore_errors=True)
    for name in ("tmp", "home"):
        os.makedirs(os.path.join(folder, name), 0o700)
    work = os.path.join(folder, "work")
    if order["inputs"]:
        shutil.copytree(order["inputs"], work, symlinks=True)
    else:
        os.mkdir(work)
    watched = [os.path.abspath(os.path.join(work, path)) for path in order["watch"]]
    roots = {"": work, "$TMPDIR": os.path.join(folder, "tmp"), **{path: path for path in watched}}
    ours = os.path.dirname(folder)  # may lie in a watched folder
    before = {name: paths(root, ours) for name, root in roots.items()}
    ended = run(order, work)
    owed = reap_all(order, os.path.join(folder, "home"))
    left = {name: sorted(paths(root, ours) - before[name]) for name, root in roots.items()}
    return {**ended, "files": left, "processes": described(below()), "owed": owed}


def run(order: "Order", work: str) -> "dict[str, Any]":
    """Start the program, and wait for its death, or cause it when its time is over."""
    began = monotonic()
    output = os.path.join(order["folder"], "output")
    env = {**order["env"], "LASTLY_TOKEN": os.environ.get("LASTLY_TOKEN", "")}
    env["LASTLY_CRASH"] = f"{os.getpid()}\n{order['told']}"
    if not env["LASTLY_TOKEN"]:
        del env["LASTLY_TOKEN"]
    with open(output, "wb") as out:
        program = subprocess.Popen(
            order["argv"],
            cwd=work,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    hung = not ends(program.pid, order["timeout"])
    if hung:
        program.kill()  # not waited for yet: the pid is its own
    status = program.wait()
    with open(output, "rb") as out:
        out.seek(max(0, os.path.getsize(output) - _TAIL))
        tail = out.read().decode("utf-8", "backslashreplace")
    return {"status": status, "hung": hung, "output": tail, "seconds": round(monotonic() - began, 4)}


def ends(pid: int, within: float) -> bool:
    """Wait for the end of a child that was not waited for; False when it takes longer."""
    until = monotonic() + within
    watch = wait.Watch(pid, proc.start_time(pid) or 0)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    if watch.fd is not None:
        poll.register(watch.fd, select.POLLIN)
    try:
        while not watch.ended():
            if (rest := until - monotonic()) <= 0:
                return False
            if any(fd == 0 for fd, _ in poll.poll(watch.limit(rest))):
                raise Abandoned  # no second order comes before the first is answered: it is the end
    finally:
        watch.close()
    return True


def reap_all(order: "Order", home: str) -> list[str]:
    """Run what is owed to its end, and wait for those that end by themselves. Returns what is still owed."""
    owed = swept(home, order["timeout"])
    until = monotonic() + order["wait"]
    pause, seen = 0.002, False
    while below() and monotonic() < until:
        seen = True
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return swept(home, order["timeout"]) if seen else owed


def swept(home: str, within: float) -> list[str]:
    """Sweep in a child, whose LASTLY_HOME is the program's, until nothing changes any more."""
    if not os.listdir(home):
        return []
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.environ["LASTLY_HOME"] = home
            os.write(write, json.dumps(reap()[:_TOLD]).encode())
        except BaseException as error:
            os.write(write, json.dumps([f"the sweep failed: {type(error).__name__}: {error}"]).encode())
        finally:
            os._exit(0)
    os.close(write)
    in_time = ends(pid, within + 60.0)
    if not in_time:
        kill.kill_tree(kill.identity(pid), grace=0)
    with open(read, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return list(json.loads(said)) if in_time else ["the sweep did not end"]


def reap() -> list[str]:
    """Be the reaper, to the end; returns what dead owners still owe, and what was given up."""
    for _ in range(_ROUNDS):
        if not any(outcome.state in ("wait", "busy") for outcome in sweep(force=True, by="lastly crash")):
            break
        time.sleep(0.01)
    left = [item for owner in desk.owners() if owner["alive"] is False for item in owner["cleanups"]]
    return [owed_line(item) for item in (*left, *desk.abandoned())]


def owed_line(item: "dict[str, Any]") -> str:
    why = item.get("reason") or item.get("error") or ""
    return f"{item['what']}, {item['state']}{f': {why}' if why else ''}"[:500]


# ---- what is there


def paths(root: str, but: str) -> set[str]:
    """Everything below a folder except one, by its path; folders end with a slash. A file is itself."""
    if not os.path.isdir(root) or os.path.islink(root):
        return {""} if os.path.lexists(root) else set()
    found: set[str] = set()
    for top, folders, files in os.walk(root):
        start = os.path.relpath(top, root)
        folders[:] = [name for name in folders if os.path.join(top, name) != but]
        for name in folders + files:
            path = os.path.normpath(os.path.join(start, name))
            real = name in folders and not os.path.islink(os.path.join(root, path))
            found.add(path + "/" if real else path)
    return found


def below() -> list[proc.Process]:
    """Our living descendants, except reapers: they serve the home, and end with it."""
    # The usual case: a process that lost its parent came to us, so without children none is below.
    return proc.below(os.getpid()) if collect() else []


def collect() -> bool:
    """Wait for all zombies that have come to us; returns whether there are children that live."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def described(found: list[proc.Process]) -> list[str]:
    said = (b" ".join(proc.command(process.pid)).decode("utf-8", "replace") for process in found)
    return sorted(text or "(a process that has no command line)" for text in said)


def end_all() -> None:
    """Kill whatever is below us."""
    while collect():
        kill.kill_tree(kill.identity(os.getpid()), only_children=True, grace=0)
        time.sleep(0.002)  # some end by themselves, as resource trackers do


if __name__ == "__main__":
    main()
