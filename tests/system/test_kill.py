"""Safe killing: the whole tree goes, found by descent and by token, and nobody else."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from harness import SRC, process_gone, start_time, wait_process_gone, wait_until

from lastly import actions
from lastly._system import kill, proc, wait
from lastly._system.kill import identity, kill_tree
from lastly.errors import NotOurs

TREE = """
import os, signal, subprocess, sys, time
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
depth = int(sys.argv[1])
if depth:
    subprocess.Popen([sys.executable, __file__, str(depth - 1), *sys.argv[2:]], start_new_session="session" in sys.argv)
print(os.getpid(), flush=True)
time.sleep(1000)
"""


@pytest.fixture
def plant(tmp_path):
    """Start a chain of processes; returns their pids, the top first."""
    script = tmp_path / "tree.py"
    script.write_text(TREE)
    started = []

    def start(depth, *flags, env=None):
        top = subprocess.Popen(
            [sys.executable, str(script), str(depth), *flags], stdout=subprocess.PIPE, text=True, env=env
        )
        pids = sorted(
            (int(top.stdout.readline()) for _ in range(depth + 1)),
            key=lambda p: (p != top.pid, start_time(p)),
        )
        started.append((top, [identity(pid) for pid in pids]))
        return top, pids

    yield start
    for top, processes in started:
        for process in processes:
            kill_tree(process, grace=0)
        top.wait()
        top.stdout.close()


def test_a_grace_of_months(plant):
    """poll() takes no more than 24 days."""
    top, _ = plant(0)
    assert kill_tree(identity(top.pid), grace=1e7) == 1
    assert top.wait() == -signal.SIGTERM


def test_a_tree_goes_and_twice_is_fine(plant):
    top, pids = plant(3)
    root = identity(top.pid)
    assert kill_tree(root, grace=5) == 4
    assert top.wait() == -signal.SIGTERM
    assert all(map(process_gone, pids))
    assert kill_tree(root) == 0


def test_who_ignores_sigterm_is_killed_after_the_grace(plant):
    top, pids = plant(1, "deaf")
    began = time.monotonic()
    kill_tree(identity(top.pid), grace=0.3)
    assert time.monotonic() - began >= 0.3
    assert top.wait() == -signal.SIGKILL
    assert all(map(process_gone, pids))


def test_without_a_grace_nobody_waits_for_a_scan(plant, monkeypatch):
    """Reading all of /proc takes the longer the more processes there are: the tree is killed before."""
    top, pids = plant(3, "session")
    scan = proc.processes

    def scan_late():
        for pid in pids:
            wait_process_gone(pid)
        return scan()

    monkeypatch.setattr(proc, "processes", scan_late)
    assert kill_tree(identity(top.pid), grace=0) == 4
    assert top.wait() == -signal.SIGKILL


def test_grandchildren_in_sessions_of_their_own(plant):
    top, pids = plant(2, "session")
    kill_tree(identity(top.pid), grace=1)
    top.wait()
    assert all(map(process_gone, pids))


def test_a_stopped_process_is_woken_to_end(plant):
    top, _ = plant(0)
    top.send_signal(signal.SIGSTOP)
    kill_tree(identity(top.pid), grace=5)
    assert top.wait() == -signal.SIGTERM


def test_orphans_are_found_by_their_token(plant):
    """The parent has ended: nobody knows any more whose child it was."""
    env = {**os.environ, "LASTLY_TOKEN": "aaaaaaaaaaaa:cafecafecafe:bbbbbbbbbbbb"}
    top, pids = plant(2, "session", env=env)
    os.kill(pids[0], signal.SIGKILL)
    os.kill(pids[1], signal.SIGKILL)
    top.wait()
    wait_process_gone(pids[1])
    assert not process_gone(pids[2])
    assert kill_tree(None, token="cafecafe", grace=1) == 0  # a part of a token is not a token
    assert kill_tree(None, token="cafecafecafe", grace=1) == 1
    assert process_gone(pids[2])


def test_a_child_on_its_way_to_its_program_is_waited_for():
    """Its owner was killed between fork and exec: only from there on it has the token in its environment."""
    token = os.urandom(12).hex()
    child = subprocess.Popen(
        ["sh", "-c", f"read -r line; exec env LASTLY_TOKEN={token} sleep 1001"], stdin=subprocess.PIPE
    )
    assert child.stdin is not None
    try:
        assert kill_tree(None, token=token, grace=0) == 0
        threading.Timer(0.05, child.stdin.close).start()
        assert kill_tree(None, token=token, grace=0, newborn=3.0) == 1
        assert child.wait(10) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()


def test_a_later_process_with_the_same_pid_is_left_alone(plant):
    top, _ = plant(0)
    other = {**identity(top.pid), "start": identity(top.pid)["start"] - 1}
    assert kill_tree(other, grace=0) == 0
    assert top.poll() is None


def test_a_process_of_another_boot_is_left_alone(plant):
    top, _ = plant(0)
    assert kill_tree({**identity(top.pid), "boot": "0" * 32}, grace=0) == 0
    assert top.poll() is None


def test_a_process_of_another_pid_namespace_is_refused(plant):
    top, _ = plant(0)
    with pytest.raises(NotOurs, match="namespace"):
        kill_tree({**identity(top.pid), "pidns": "1"}, grace=0)
    assert top.poll() is None


def test_the_pid_changes_hands_between_scan_and_signal(plant, monkeypatch):
    """The start time is read again with the pidfd in hand."""
    top, _ = plant(0)
    hunt = kill.TreeKiller(None)
    hunt.members = {top.pid: identity(top.pid)["start"]}
    monkeypatch.setattr(proc, "start_time", lambda pid: 1)
    hunt.kill()
    monkeypatch.undo()
    assert hunt.hit == set()
    assert top.poll() is None


@pytest.mark.slow
def test_a_fork_bomb_that_ignores_sigterm(tmp_path):
    """Children are born faster than a snapshot is taken; at most 60 live at a time."""
    script = tmp_path / "bomb.py"
    script.write_text(
        """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
top = os.getpid()
end = time.monotonic() + 20
print("ready", flush=True)
generation = 0
while time.monotonic() < end:
    if generation > 25:
        time.sleep(0.05)
    if os.fork() == 0:
        generation += 1
        time.sleep(0.005)
        continue
    if generation:
        os._exit(0)
    time.sleep(0.02)
"""
    )
    token = os.urandom(8).hex()
    top = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env={**os.environ, "LASTLY_TOKEN": token}
    )
    top.stdout.readline()
    kill_tree(identity(top.pid), token=token, grace=0.05)
    top.wait()
    top.stdout.close()
    left = [
        pid for pid in proc.processes() if proc.has_token(pid, token.encode()) and not process_gone(pid)
    ]
    assert left == []


def test_the_resource_tracker_is_spared(tmp_path):
    """multiprocessing's tracker ends by itself, after it has removed what it tracks."""
    script = tmp_path / "mp.py"
    script.write_text(
        """
import os, time
from multiprocessing import resource_tracker, shared_memory
memory = shared_memory.SharedMemory(create=True, size=10)
print(resource_tracker._resource_tracker._pid, memory.name, flush=True)
time.sleep(1000)
"""
    )
    top = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    tracker, name = top.stdout.readline().split()
    top.stdout.close()
    kill_tree(identity(top.pid), grace=0)
    assert top.wait() == -signal.SIGKILL
    wait_process_gone(int(tracker))
    assert not os.path.exists(f"/dev/shm/{name.strip('/')}")


def test_a_tracker_in_the_middle_of_its_exec_is_waited_for(plant, monkeypatch):
    """It has no arguments for a moment; taken for a child, it would be stopped for ever."""
    top, _ = plant(0)
    said = []
    monkeypatch.setattr(proc, "_read", lambda pid, name: said.pop(0))
    said[:] = [b"", b"", b"", b"python -c from multiprocessing.resource_tracker import main;main(5)"]
    assert proc.is_tracker(top.pid)
    said[:] = [b"", b"python\0", b"", b"", b"", b"python\0program.py\0", b"LASTLY_TOKEN=a:b\0"]
    assert proc.has_token(top.pid, b"a")
    said[:] = [b"", b"env\0-i\0", b"", b"env\0-i\0"]
    assert proc.has_token(top.pid, b"a") is False
    monkeypatch.setattr(proc, "_read", lambda pid, name: b"")
    assert not proc.is_tracker(top.pid)  # one that has cleared them


def test_who_was_stopped_before_it_was_known_as_a_tracker_goes_on(plant, monkeypatch):
    """Between fork and exec it looks like its parent: stopped there, it becomes a tracker and then stops."""
    top, pids = plant(1)
    trackers = []
    monkeypatch.setattr(proc, "is_tracker", lambda pid: pid in trackers)
    signalled = wait.send

    def becomes_a_tracker(pid, start, signum):
        trackers[:] = [pids[1]] if signum == signal.SIGSTOP else trackers
        return signalled(pid, start, signum)

    monkeypatch.setattr(wait, "send", becomes_a_tracker)
    assert kill_tree(identity(top.pid), grace=0) == 2
    assert top.wait() == -signal.SIGKILL
    wait_until(lambda: state(pids[1]) == "S")


def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_never_ourselves_nor_our_ancestors():
    program = f"""
import os, sys
sys.path.insert(0, {str(SRC)!r})
from lastly import actions
from lastly._system import kill
print(kill.kill_tree(kill.identity(os.getpid()), grace=0))
print(kill.kill_tree(kill.identity(os.getppid()), grace=0))
print(kill.kill_tree(None, token="feedfeedfeed", grace=0))
for pid in (os.getpid(), os.getppid()):
    try:
        actions.kill.prepare((pid,), {{}})
    except ValueError:
        print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "LASTLY_TOKEN": "feedfeedfeed"},
    )  # fmt: skip
    assert done.stdout.split() == ["0", "0", "0", "refused", "refused"]


def test_only_the_children(tmp_path):
    program = f"""
import os, subprocess, sys
sys.path.insert(0, {str(SRC)!r})
from lastly._system import kill
child = subprocess.Popen(["sleep", "1000"])
print(kill.kill_tree(kill.identity(os.getpid()), grace=0, only_children=True), child.wait())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["1", "-9"]


@pytest.mark.root
def test_another_user_s_processes_are_not_seen(plant):
    """An ordinary user ends only its own, and is told that what it meant lives on."""
    top, _ = plant(0)
    program = f"""
import os, sys
sys.path.insert(0, {str(SRC)!r})
from lastly._system import kill, proc
import select, signal
proc.processes()
root = kill.identity({top.pid})
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    kill.kill_tree(root, grace=0)
except PermissionError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"process {top.pid} lives and belongs to another user: it cannot be ended\n"
    assert top.poll() is None


# ---- the action


def test_deferring_records_who_it_is(plant):
    top, _ = plant(0)
    for target in (top, top.pid):
        args, kwargs = actions.kill.prepare((target,), {"grace": 1})
        assert args == [identity(top.pid)]
        assert kwargs == {"token": None, "grace": 1.0}


def test_what_had_gone_when_deferred_is_nobody(plant):
    top, _ = plant(0)
    top.kill()
    top.wait()
    args, kwargs = actions.kill.prepare((top,), {})
    actions.kill(*args, **kwargs)


@pytest.mark.parametrize("target", ["123", None, 1.5, True])
def test_not_a_pid(target):
    if target is None:
        actions.kill(None)  # by token alone
        return
    with pytest.raises(TypeError, match="takes a pid"):
        actions.kill.prepare((target,), {})


@pytest.mark.parametrize("target", [0, 1, -5])
def test_pids_that_mean_more_than_one_process(target):
    with pytest.raises(ValueError, match="not a process"):
        actions.kill.prepare((target,), {})
