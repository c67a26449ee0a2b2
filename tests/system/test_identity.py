"""Who is alive: dead only on proof."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from lastly._system import proc, wait
from lastly._system.identity import Identity
from lastly._system.proc import start_time


def changed(identity, **fields):
    return Identity(**{**identity.to_mapping(), **fields})


@pytest.fixture
def child():
    made = subprocess.Popen(["sleep", "600"])
    yield made
    made.kill()
    made.wait()


def test_this_process():
    """Alive; the same every time; survives JSON."""
    me = Identity.current()
    assert me.alive() is True
    assert me == Identity.current()
    assert Identity.from_mapping(me.to_mapping()) == me
    assert hash(me) == hash(Identity.from_mapping(me.to_mapping()))


def test_a_dead_process(child):
    """Its pid is free."""
    identity = Identity.of(child.pid)
    assert identity.alive() is True
    child.kill()
    child.wait()
    assert identity.alive() is False
    assert wait.pidfd(identity.pid, identity.start) is None
    with pytest.raises(ProcessLookupError):
        Identity.of(child.pid)


def test_a_zombie_is_dead(child):
    """Not waited for yet; its start time can still be read."""
    identity = Identity.of(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert identity.alive() is False
    assert start_time(child.pid) == identity.start


def test_a_leader_that_left_its_threads(tmp_path):
    """The main thread has ended, another one works on: alive."""
    code = """
import ctypes, os, threading
ready = threading.Event()
def work():
    os.write(1, b"x")
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall(60, 0)  # exit of this thread alone
"""
    if os.uname().machine != "x86_64":
        pytest.skip("the number of the system call is x86_64's")
    made = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    made.stdout.read(1)
    for _ in range(1000):
        with open(f"/proc/{made.pid}/stat") as file:
            if file.read().rpartition(") ")[2][0] == "Z":
                break
        threading.Event().wait(0.005)
    identity = Identity.of(made.pid)
    assert identity.alive() is True
    made.communicate(b"x")
    assert identity.alive() is False


def test_a_reused_pid(child):
    """Another start time: the one we mean is dead."""
    identity = changed(Identity.of(child.pid), start=1)
    assert identity.alive() is False
    assert wait.pidfd(identity.pid, identity.start) is None


def test_after_a_boot():
    """The same machine, another boot: dead. Another machine: unknown."""
    me = Identity.current()
    assert changed(me, boot="0" * 32).alive() is False
    assert changed(me, boot="0" * 32).same_boot() is False
    assert changed(me, boot="0" * 32, host="elsewhere").alive() is None
    assert changed(me, boot="0" * 32, machine="ffffffff").alive() is None


def test_another_pid_namespace():
    """Its pids say nothing here."""
    assert changed(Identity.current(), pidns="1").alive() is None


def test_a_hidden_process(monkeypatch):
    """A /proc that shows nothing (hidepid): unknown while the kernel knows the pid."""
    me = Identity.current()
    monkeypatch.setattr(proc, "look", lambda pid, user=0: None)
    assert me.alive() is None
    with pytest.raises(PermissionError):
        wait.pidfd(me.pid, me.start)
    assert changed(me, pid=2**22 + 5).alive() is False


def test_pidfd(child):
    """Of exactly this process, not inherited, readable at its end."""
    import select

    fd = wait.pidfd(child.pid, start_time(child.pid))
    assert not os.get_inheritable(fd)
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(5000)
    os.close(fd)


def test_strange_names(tmp_path):
    """A program's name may hold parentheses and spaces."""
    script = tmp_path / ") R 1 (x"
    script.symlink_to("/bin/sleep")
    made = subprocess.Popen([str(script), "600"])
    try:
        assert Identity.of(made.pid).alive() is True
    finally:
        made.kill()
        made.wait()


@pytest.mark.parametrize("record", [{}, {"boot": 1}, {**Identity.current().to_mapping(), "pid": "7"}])
def test_what_names_nobody(record):
    """None, not an error."""
    assert Identity.from_mapping(record) is None


def test_exec_keeps_the_identity(tmp_path):
    """The program changes, the process does not."""
    code = "import os; os.write(1, b'1'); os.read(0, 1); os.execv('/bin/sh', ['sh', '-c', 'printf 2; read x'])"
    made = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    made.stdout.read(1)
    before = Identity.of(made.pid)
    made.stdin.write(b"\n")
    made.stdout.read(1)
    assert before.alive() is True
    made.communicate(b"\n")
