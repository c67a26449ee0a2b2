"""Who belongs to whom: seen while the parent lived, led by it, ended from the top down."""

import os
import signal
import subprocess
import sys

import pytest
from harness import wait_process_gone, wait_until

from lastly._system import kill, proc
from lastly._system.family import MOST, Family

# Starts a child without environment in a session of its own; ends when told to, or at once.
PARENT = """
import subprocess, sys
how = {"env": {}, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **eval(sys.argv[1])}
print(subprocess.Popen(["sleep", "600"], **how).pid, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def parent():
    started, children = [], []

    def start(how="{}", **options):
        made = subprocess.Popen(
            [sys.executable, "-c", PARENT, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
        )
        started.append(made)
        child = int(made.stdout.readline())
        children.append((child, proc.start_time(child)))
        return made, children[-1]

    yield start
    for made in started:
        made.kill()
        made.communicate()
    for pid, begun in children:
        if proc.lives(pid, begun):
            os.kill(pid, signal.SIGKILL)


def ended(made):
    made.communicate("\n")


def test_a_child_that_was_seen_is_found_without_its_parent(parent):
    made, child = parent("{'start_new_session': True}")
    family = Family(made.pid, proc.start_time(made.pid))
    family.look()
    root = kill.identity(made.pid)
    ended(made)
    assert family.below(family.key) == [child]
    assert kill.kill_tree(root, grace=0) == 0  # by descent alone it is lost
    told = Family.from_mapping(family.to_mapping())
    assert told.below(told.key) == [child]
    assert kill.kill_tree(root, grace=0, seen=told.below(told.key)) == 1
    assert not proc.lives(*child)


def test_whose_child_it_is(parent):
    """An owner's children are told apart by the one that they come from: others may have been given away."""
    family = Family(os.getpid(), proc.start_time(os.getpid()))
    (one, first), (other, second) = parent(), parent()
    family.look()
    assert first in family.below((one.pid, proc.start_time(one.pid)))
    assert second not in family.below((one.pid, proc.start_time(one.pid)))
    ended(other)
    family.look()
    assert second in family.below(family.key)  # still known, whoever its parent is now
    os.kill(second[0], signal.SIGKILL)
    wait_process_gone(second[0])
    family.look()
    assert second not in family.below(family.key)
    assert len(family.seen) < MOST


def test_another_process_of_that_number_is_no_family(parent):
    made, _ = parent()
    family = Family(made.pid, proc.start_time(made.pid) - 1)
    family.look()
    assert family.seen == {}


def told(process):
    return process and {name: getattr(process, name) for name in process.__slots__}


LEADS = """
import subprocess, sys
inner = "import subprocess; print(subprocess.Popen(['sleep', '600'], env={}, stdout=2).pid, flush=True)"
subprocess.run([sys.executable, "-c", inner])
sys.stdin.readline()
"""


@pytest.mark.parametrize("led", [{"start_new_session": True}, {"process_group": 0}, {}], ids=["session", "group", "none"])
def test_what_a_root_leads_is_its_own(led):
    """Its parent in between has ended, and it carries no token; a sibling in the group is none of it."""
    with subprocess.Popen(
        [sys.executable, "-c", LEADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **led
    ) as made:
        orphan = int(made.stdout.readline())
        begun = proc.start_time(orphan)
        sibling = subprocess.Popen(["sleep", "600"], process_group=made.pid if "process_group" in led else None)
        wait_until(lambda: proc.look(orphan).ppid not in proc.children(made.pid))
        killed, was = set(), proc.look(orphan)
        hit = kill.kill_tree(kill.identity(made.pid), grace=0, killed=killed)
        assert hit == 1 + bool(led), f"{killed} of {made.pid}, {begun=}; {told(was)}; now {told(proc.look(orphan))}; {os.getpid()=}"
        assert proc.lives(orphan, begun) is not bool(led)
        assert sibling.poll() is None
        for pid in (sibling.pid, *([] if led else [orphan])):
            os.kill(pid, signal.SIGKILL)
        sibling.wait()


LEADER = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import os, signal, sys, time
def told(*_): os.write(1, b"child told\\\\n"); os._exit(0)
signal.signal(signal.SIGTERM, told)
print("child up", flush=True)
sys.stdin.read()
print("child ends by itself", flush=True)
'''], stdin=subprocess.PIPE)
def told(*_): os.write(1, b"leader told\\n"); os._exit(0)
signal.signal(signal.SIGTERM, told)
print("leader up", flush=True)
while True: time.sleep(600)
"""


def test_the_leader_is_told_first_and_its_children_end_by_themselves():
    with subprocess.Popen([sys.executable, "-c", LEADER], stdout=subprocess.PIPE, text=True) as made:
        assert {made.stdout.readline(), made.stdout.readline()} == {"leader up\n", "child up\n"}
        assert kill.kill_tree(kill.identity(made.pid), grace=40) == 1
        assert made.stdout.read() == "leader told\nchild ends by itself\n"


def test_a_leader_that_is_deaf_keeps_its_children_from_nothing(tmp_path):
    """After half of the grace they are told, too."""
    code = LEADER.replace('def told(*_): os.write(1, b"leader told\\n"); os._exit(0)', "told = signal.SIG_IGN")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as made:
        assert {made.stdout.readline(), made.stdout.readline()} == {"leader up\n", "child up\n"}
        assert kill.kill_tree(kill.identity(made.pid), grace=1) == 2
        assert made.stdout.read() == "child told\n"
        assert made.wait() == -signal.SIGKILL


@pytest.mark.root
def test_what_may_not_be_signalled_is_named_and_the_others_are_ended(parent):
    """A child that became another user lives on: that is not done."""
    made, child = parent("{'user': 0}")
    code = f"""
import os, sys, zlib
from lastly._system import kill
own = os.fork()
if not own:
    os.setuid(65533); os.write(1, b"up\\n"); import time; time.sleep(600)
sys.stdin.readline()
root = kill.identity(os.getpid())
os.setuid(65533)
try:
    kill.kill_tree(root, grace=0, only_children=True, seen=[{child!r}])
except PermissionError as error:
    print(error)
print(os.waitpid(own, 0)[1])
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as killer:
        assert killer.stdout.readline() == "up\n"
        out, _ = killer.communicate("\n", timeout=60)
    assert out == f"process {child[0]} lives and belongs to another user: it cannot be ended\n9\n"
    assert proc.lives(*child)
    assert made.poll() is None
