"""What the tests of the reaper share: an owner with a temp dir, and ways to wait for the reaper."""

import os

from harness import PATIENCE, wait_until

from lastly._journal import home as homes
from lastly._journal.file import Journal
from lastly._reaper import desk
from lastly._system.identity import Identity

OWNER = """
import os, sys, time
import lastly
made = lastly.temp_dir()
for i in range(10):
    open(os.path.join(made, str(i)), "w").close()
print(made, flush=True)
time.sleep(1000)
"""


def owner(programs, code=OWNER, **options):
    """Start an owner; returns it and the folder it owes."""
    program = programs.start(code, **options)
    return program, program.line()


def ready(home):
    """Wait until a reaper serves this home; returns its pid."""
    return wait_until(lambda: (desk.status() or {}).get("pid"), what="a reaper")


def watched(home, number=1):
    """Wait until the reaper watches so many owners."""
    return wait_until(
        lambda: (status := desk.status()) and status["owners"].get("watched", 0) >= number and status,
        what="owners",
    )


def touch(path):
    with open(path, "w"):
        pass


def archived(home, within=PATIENCE):
    """Wait until no journal is left."""
    wait_until(lambda: not homes.journals(), within=within, what=f"all settled: {[desk.owners(), log(home)]}")


def log(home):
    try:
        return (home / "reaper.log").read_text()
    except FileNotFoundError:
        return ""


SLOW = """
import lastly
@lastly.action(backoff=0.01)
def slow(path):
    open(path + ".began", "w").close()
    while not os.path.exists(path + ".go"):
        time.sleep(0.005)
if __name__ == "__main__":
    real = lastly.temp_dir
    def temp_dir():
        path = real()
        lastly.defer(slow, os.fspath(path))
        return path
    lastly.temp_dir = temp_dir
"""


def proc(pid, name):
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read().decode(errors="replace")


def stale(count, *plans):
    """So many journals of a process that nobody ever saw, with these actions and arguments each."""
    pid = os.fork()
    if not pid:
        try:
            me = Identity.current()
            me.start = 1
            for number in range(count):
                journal = Journal.create(me)
                for action, args, kwargs in plans:
                    words = [word.format(number) if isinstance(word, str) else word for word in args]
                    journal.plan(action, words, kwargs)
                os.close(journal.fd)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
