"""Killing a program at every boundary to the system, and settling what it owed: the oracle of these tests."""

from lastly._journal import home as journal_home
from lastly._journal import locks
from lastly._journal.file import Journal
from lastly._journal.replay import read

# Counts the calls of everything that changes something outside the process, and dies before or after the Nth.
CRASHING = """
import os, signal, sys
sys.dont_write_bytecode = True
import _posixsubprocess, subprocess, tempfile
import lastly, lastly.resources._temporary
from lastly._durable import seam
from lastly import actions
from lastly._system import remove, kill, file
seam._ensure = lambda path: None
from lastly.resources._child import Popen
count = 0
def wrap(module, name):
    real = getattr(module, name)
    def wrapped(*args, **kwargs):
        global count
        count += 1
        if count == at and not after:
            os.kill(os.getpid(), 9)
        this = count
        try:
            return real(*args, **kwargs)
        finally:
            if this == at and after:
                os.kill(os.getpid(), 9)
    setattr(module, name, wrapped)
def begin():
    for name in {names}:
        wrap(os, name)
    wrap(subprocess, "_fork_exec") if hasattr(subprocess, "_fork_exec") else wrap(_posixsubprocess, "fork_exec")
def program():
{body}
for at in range(1, {limit}):
    for after in (False, True):
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            begin()
            program()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, -9), status
    if status == 0:
        print("died at", at - 1, "boundaries", flush=True)
        sys.exit(0)
sys.exit("never came to its end")
"""


def sweep():
    """What the reaper does, in its simplest form: the oracle of these tests."""
    from lastly import actions

    for path in journal_home.journals():
        found = read(path)
        if locks.is_locked(path) or found.identity.alive() is not False:
            continue
        journal = Journal.take(path)
        for item in found.pending():
            assert not item.doubt
            fn = {"lastly.actions:remove": actions.remove, "lastly.actions:kill": actions.kill}[item.action]
            fn.call(item.args, item.kwargs, attempt=1, token=item.token, confirmed=item.known)
            journal.done(item.id)
        assert not journal.read().pending()
        journal.close(unlink=True)


NAMES = ("open", "write", "rename", "mkdir", "unlink", "rmdir", "close", "fdatasync", "fsync")


def crash(programs, body, *, limit=200, names=NAMES):
    text = "".join(f"    {line}\n" for line in body.splitlines())
    code = CRASHING.replace("{body}", text).replace("{limit}", str(limit)).replace("{names}", repr(names))
    done = programs.run(code, within=100)
    assert done.status == 0, done.err
    return int(done.out.split()[2])
