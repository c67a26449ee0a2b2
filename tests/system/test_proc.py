"""The reader of /proc: the living, the dead, and those that are hard to tell apart."""

import os
import signal
import subprocess
import sys

import pytest
from harness import SRC, wait_until

from lastly._system import proc, wait
from lastly._system.identity import Identity

# Its main thread ends (exit(2), of this thread alone), another one runs on.
HEADLESS = """
import ctypes, platform, subprocess, sys, threading, time
def work():
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.read()
    child.kill()
    import os; os._exit(0)
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


@pytest.fixture
def headless():
    with subprocess.Popen(
        [sys.executable, "-c", HEADLESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as made:
        child = int(made.stdout.readline())
        wait_until(lambda: state(made.pid) == "Z")
        yield made, child
        made.stdin.close()


def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_a_process_whose_main_thread_has_ended_lives(headless):
    """Its state is that of a zombie; taken for dead, it would lose what it uses."""
    made, child = headless
    start = proc.start_time(made.pid)
    assert proc.lives(made.pid, start)
    assert not proc.look(made.pid).dead
    assert Identity.of(made.pid).alive() is True
    assert proc.children(made.pid) == [child]
    assert [process.pid for process in proc.below(made.pid)] == [child]
    assert not wait.ends(made.pid, start, 0.0)
    made.stdin.close()
    assert wait.ends(made.pid, start, 20)
    assert not proc.lives(made.pid, start)


def test_a_zombie_is_dead():
    made = subprocess.Popen(["true"])
    start = proc.start_time(made.pid)
    assert wait.ends(made.pid, start, 20)
    assert proc.look(made.pid).dead
    assert not proc.lives(made.pid, start)
    assert proc.start_time(made.pid) == start
    made.wait()
    assert proc.look(made.pid) is None


def test_a_signal_reaches_exactly_one_process():
    with subprocess.Popen(["sleep", "1000"]) as made:
        start = proc.start_time(made.pid)
        assert not wait.send(made.pid, start - 1, signal.SIGKILL)
        assert made.poll() is None
        assert wait.send(made.pid, start, signal.SIGKILL)
        assert made.wait() == -signal.SIGKILL
        assert not wait.send(made.pid, start, signal.SIGKILL)


def test_waiting_for_several_has_a_bound():
    with subprocess.Popen(["sleep", "1000"]) as one, subprocess.Popen(["true"]) as other:
        both = [(made.pid, proc.start_time(made.pid)) for made in (one, other)]
        wait.all_end(both, 0.0)
        one.kill()
        wait.all_end(both, float("inf"))
        assert not any(proc.lives(*key) for key in both)


SPAWNER = """
import subprocess, sys, threading
made = []
def child():
    made.append(subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL))
for word in sys.stdin:
    if word == "child\\n":
        child()
    elif word == "thread\\n":  # whose child is in a list of its own
        started = threading.Event()
        threading.Thread(target=lambda: (child(), started.set(), threading.Event().wait())).start()
        started.wait()
    elif word == "end\\n":
        for one in made: one.kill(); one.wait()
        made.clear()
    print(*sorted(one.pid for one in made), flush=True)
import os; os._exit(0)
"""


def test_a_brood_is_what_children_returns_whatever_threads_there_are():
    with subprocess.Popen([sys.executable, "-c", SPAWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as made:
        brood = proc.Brood(made.pid)
        counts = []
        for word in ("nothing", "child", "child", "end", "thread", "child", "end"):
            made.stdin.write(f"{word}\n")
            made.stdin.flush()
            expected = [int(pid) for pid in made.stdout.readline().split()]
            assert sorted(brood.now()) == expected == sorted(proc.children(made.pid)), word
            counts.append(len(expected))
        assert counts == [0, 1, 2, 0, 1, 2, 0]
        made.stdin.close()
    assert brood.now() == []
    brood.close()
    brood.close()


def test_the_kernel_has_lists_of_children_or_all_are_read(monkeypatch):
    with subprocess.Popen(["sleep", "1000"]) as made:
        assert made.pid in proc.living_children()
        listed = sorted(proc.children(os.getpid()))
        real = open

        def without(path, *args, **kwargs):
            if str(path).endswith("/children"):
                raise FileNotFoundError(path)
            return real(path, *args, **kwargs)

        monkeypatch.setattr("builtins.open", without)
        assert sorted(proc.children(os.getpid())) == listed
        made.kill()


@pytest.mark.root
def test_a_program_that_hides_its_memory_is_still_its_user_s():
    """/proc shows the files of ssh-agent and gpg-agent as root's: an ordinary user may end them all the same."""
    code = """
import ctypes, os, subprocess, sys, time, zlib
sys.path.insert(0, sys.argv[1])
from lastly._system import kill, proc
libc = ctypes.CDLL(None)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
hidden = os.fork()
if not hidden:
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    print("hidden", flush=True)
    time.sleep(60)
sys.stdin.readline()
found = proc.processes()
print(os.stat(f"/proc/{hidden}/stat").st_uid, hidden in found, child.pid in found, 1 in found, flush=True)
print(kill.kill_tree(kill.identity(os.getpid()), grace=0, only_children=True), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(SRC)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as made:
        assert made.stdout.readline() == "hidden\n"
        out, _ = made.communicate("\n", timeout=60)
    assert out.split() == ["0", "True", "True", "False", "2"]


def test_without_a_child_nothing_is_read(programs):
    """pytest's plugin asks twice for each test; and the status of a child stays for whoever waits for it."""
    got = programs.run(
        """
        import subprocess
        from lastly._system import proc
        read, proc.children = proc.children, None
        print(proc.living_children())
        proc.children = read
        child = subprocess.Popen(["sh", "-c", "read -r line; exit 7"], stdin=subprocess.PIPE)
        print(proc.living_children() == [child.pid])
        child.stdin.close()
        while proc.living_children():
            pass
        print(child.wait())
        """
    )
    assert (got.status, got.out, got.err) == (0, "[]\nTrue\n7\n", "")
