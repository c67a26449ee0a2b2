"""install(): what it takes, what it gives back, how the program unwinds, and what a second signal does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PATIENCE, Programs, wait_until

TERM, INT, QUIT = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT

START = """
import atexit, os, signal, sys, time
import lastly
def hit(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
"""


def test_with_block_gives_everything_back(programs: Programs) -> None:
    """Leaving the block restores each handler, sys.exit and atexit."""
    result = programs.run(
        START
        + """
def mine(*_): pass
signal.signal(signal.SIGHUP, mine)
plain, count = sys.exit, atexit._ncallbacks()
numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
before = [signal.getsignal(n) for n in numbers]
with lastly.install():
    assert all(signal.getsignal(n) not in before for n in numbers)
    lastly.install("TERM", grace=3)
    assert signal.getsignal(signal.SIGHUP) is mine
assert [signal.getsignal(n) for n in numbers] == before
assert sys.exit is plain
lastly.uninstall()
print("same")
"""
    )
    assert (result.status, result.out) == (0, "same\n"), result.err


def test_a_handler_set_meanwhile_stays_and_is_told_of(programs: Programs) -> None:
    """uninstall() leaves a handler alone that is not its own, and warns."""
    result = programs.run(
        START
        + """
import warnings
lastly.install()
def theirs(*_): print("theirs")
signal.signal(signal.SIGTERM, theirs)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    lastly.uninstall()
assert "SIGTERM" in str(caught[0].message), caught
hit()
"""
    )
    assert (result.status, result.out) == (0, "theirs\n"), result.err


def test_ignored_and_foreign_handlers_are_left_alone(programs: Programs) -> None:
    """nohup's SIGHUP stays ignored, a C handler stays, SIGPIPE stays unless it is named."""
    code = """
import faulthandler
faulthandler.register(signal.SIGQUIT, file=open("trace", "w"))
lastly.install()
assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
hit(signal.SIGHUP)
hit(signal.SIGQUIT)
assert "hit" in open("trace").read()
lastly.install(signals=["PIPE"])
hit(signal.SIGPIPE)
time.sleep(60)
"""
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    assert programs.run(START + code, popen={"preexec_fn": ignore}).status == -signal.SIGPIPE


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("lastly.install(signals=['NOPE'])", "ValueError"),
        ("lastly.install(signals=['TERM', 'KILL'])", "ValueError"),
        ("lastly.install(signals=['TERM', 999])", "ValueError"),
        ("lastly.install(status='other')", "ValueError"),
        ("lastly.install(grace=-1)", "ValueError"),
        ("t = threading.Thread(target=call, args=(lastly.install,)); t.start(); t.join()", "RuntimeError"),
    ],
)
@pytest.mark.slow(keep=3)
def test_wrong_use_is_refused(programs: Programs, call: str, error: str) -> None:
    """A clear error, and nothing taken."""
    code = f"""
import threading
def call(fn):
    try: fn()
    except Exception as e: print(type(e).__name__)
def use():
    {call}
call(use)
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""
    assert programs.run(START + code).lines == [error, "True"]


def test_given_back_by_the_main_thread_alone(programs: Programs) -> None:
    """Another one is refused, and nothing is lost by it."""
    code = START + """
import threading
def use():
    try: lastly.uninstall()
    except RuntimeError as error: print(error)
lastly.install()
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
lastly.uninstall()
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    refused, *given_back = programs.run(code).lines
    assert "main thread only" in refused
    assert given_back == ["False", "True"]


def test_status_code(programs: Programs) -> None:
    """status="code": the process exits with 128 + number."""
    assert programs.run(START + "lastly.install(status='code'); hit(); time.sleep(60)").status == 143


def test_exit_functions_run_once_in_order_whenever_registered(programs: Programs) -> None:
    """Before install(), after it, and while the program unwinds: each once, newest first."""
    result = programs.run(
        START
        + """
for i in (1, 2): atexit.register(print, i)
lastly.install()
lastly.defer(print, 3)
atexit.register(print, 4)
try:
    hit(); time.sleep(60)
finally:
    atexit.register(print, 5)
"""
    )
    assert (result.status, result.lines) == (-TERM, ["5", "4", "3", "2", "1"]), result.err


CATCHES = [
    ("except KeyboardInterrupt: print('named')", INT, 3, 3),
    ("except KeyboardInterrupt: print('named')", INT, 0, -INT),
    ("except (EOFError, KeyboardInterrupt): print('named')", INT, 3, 3),
    ("except lastly.CaughtSignal: print('named')", TERM, 3, 3),
    ("except STOP: print('named')", INT, 3, 3),
    ("except Own.stop: print('named')", TERM, 3, 3),
    ("except Own().stop: print('named')", TERM, 3, 3),
    ("except KeyboardInterrupt: pass\nexcept BaseException: print('named')", TERM, 3, -TERM),
    ("except ValueError: pass\nexcept BaseException: print('named')", INT, 3, -INT),
    ("except SystemExit: print('named')", TERM, 3, -TERM),
    ("except: print('named')", TERM, 0, -TERM),
]


@pytest.mark.parametrize(("clause", "number", "code", "status"), CATCHES)
@pytest.mark.slow(keep=4)
def test_who_names_the_signal_goes_on(
    programs: Programs, python: str, clause: str, number: int, code: int, status: int
) -> None:
    """A clause that names it has dealt with it; any other has swallowed it. Never status 0."""
    result = programs.run(
        START
        + "STOP = (EOFError, KeyboardInterrupt)\nclass Own: stop = lastly.CaughtSignal\n"
        + f"lastly.install()\ntry:\n    hit({int(number)}); time.sleep(60)\n{clause}\nsys.exit({code})",
        python=python,
    )
    assert (result.status, set(result.lines)) == (status, {"named"}), result.err


def test_a_prompt_takes_any_number_of_interrupts(programs: Programs) -> None:
    """Each Ctrl-C that is caught by name is a first one again."""
    result = programs.run(
        START
        + """
lastly.install()
for i in range(5):
    try:
        hit(signal.SIGINT); time.sleep(60)
    except KeyboardInterrupt:
        print(i)
sys.exit(4)
"""
    )
    assert (result.status, result.lines) == (4, list("01234")), result.err


CLEANUP = """
lastly.install()
def cleanup():
    print("cleaning", flush=True)
    input()
    print("cleaned", flush=True)
lastly.defer(print, "older")
lastly.defer(cleanup)
print("ready", flush=True)
time.sleep(60)
"""


def test_second_signal_joins_and_explains(programs: Programs) -> None:
    """It says what is running, what is left and how to force; the cleanup goes on to its end."""
    program = programs.start(START + CLEANUP, stdin=subprocess.PIPE)
    program.line("ready")
    program.send(INT)
    program.line("cleaning")
    program.send(INT)
    assert "cleanup" in program.error_line("SIGINT again")
    for _ in range(5):
        program.send(TERM)
        program.error_line("SIGTERM again")
    program.write("\n")
    result = program.wait()
    assert (result.status, result.lines[-2:]) == (-INT, ["cleaned", "older"]), result.err


STEPS = """
import io
from lastly import CaughtSignal, CleanupFailed
package = os.path.dirname(lastly.__file__)
def run(step):
    seen, ran = 0, []
    def look(frame, event, arg):  # not on returning: what is raised there replaces the exception on its way
        nonlocal seen
        if frame.f_code.co_filename.startswith(package) and event in ("call", "line"):
            seen += 1
            if seen == step:
                sys.settrace(None)
                signal.raise_signal(signal.SIGTERM)
        return look
    def fail():
        ran.append(1)
        raise ValueError("lost?")
    sys.stderr = io.StringIO()
    lastly.install()
    try:
        with lastly.Scope("s") as scope:
            scope.defer(ran.append, 1)
            MORE
            sys.settrace(look)
        sys.settrace(None)
    except CaughtSignal as error:
        told = sys.stderr.getvalue() + repr(error.__context__)
        return 3 if not ran else 4 if "lost?" not in told and FAILS else 0
    except CleanupFailed:
        sys.settrace(None)
    return 1 if seen >= step else 2
with lastly.Scope("warm") as scope:
    scope.defer(int)
wrong, status = {}, 0
for step in range(1, 2000):
    if not (pid := os.fork()):
        os._exit(run(step))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 2:
        break
    if status:
        wrong[step] = status
print(status, step > 50, wrong)
"""


@pytest.mark.parametrize("kind", ["plain", "nested", "parallel", "failing"])
@pytest.mark.slow(keep=1)
def test_a_signal_at_any_step_of_a_closing_scope(programs: Programs, kind: str, python: str) -> None:
    """At each line of the library in turn, a fork for each: the cleanups run, the program does not go on behind
    the block, and what failed is told.
    """
    more = {
        "plain": "",
        "nested": "scope.enter(lastly.Scope('inner')).defer(int)",
        "parallel": "scope.parallel().defer(int)",
        "failing": "scope.defer(fail)",
    }[kind]
    code = STEPS.replace("MORE", more).replace("FAILS", str(kind == "failing"))
    result = programs.run(START + code, python=python, within=6 * PATIENCE)
    assert result.out == "2 True {}\n", result.err


def test_third_interrupt_forces(programs: Programs) -> None:
    """Out at once, by the first signal."""
    program = programs.start(START + CLEANUP, stdin=subprocess.PIPE)
    program.line("ready")
    program.send(TERM)
    program.line("cleaning")
    program.send(INT)
    program.error_line("SIGINT again")
    program.send(INT)
    result = program.wait()
    assert (result.status, "cleaned" in result.lines) == (-TERM, False)
    assert "leaving at once" in result.err


def test_second_interrupt_after_two_seconds_forces(programs: Programs) -> None:
    """The clock is set forward inside the program, so that nobody waits."""
    code = START + "from lastly._exit.state import end\n" + CLEANUP
    code = code.replace('print("cleaning"', 'end.first_press -= 2.5; print("cleaning"')
    program = programs.start(code, stdin=subprocess.PIPE)
    program.line("ready")
    program.send(INT)
    program.line("cleaning")
    program.send(INT)
    assert program.wait().status == -INT


@pytest.mark.parametrize("how", ["body", "cleanup"])
def test_grace_ends_the_process(programs: Programs, how: str) -> None:
    """After the grace the process is gone, whatever hangs."""
    hang = "try:\n    hit(); time.sleep(60)\nfinally:\n    time.sleep(60)"
    if how == "cleanup":
        hang = "atexit.register(time.sleep, 60)\nhit()\ntime.sleep(60)"
    result = programs.run(START + f"lastly.install(grace=0.3)\nopen('f','w').write('x')\n{hang}")
    assert result.status == -TERM
    assert "0.3 s are over" in result.err


def test_threads_that_do_not_end_are_not_waited_for_without_end(programs: Programs) -> None:
    """Plain Python would die at once; the wait for threads is bounded after a signal."""
    result = programs.run(
        START
        + """
import threading
from lastly._exit import ending
ending._JOIN_LIMIT = 0.2
lastly.install()
atexit.register(print, "exit function")
threading.Thread(target=time.sleep, args=(60,)).start()
hit(); time.sleep(60)
""",
    )
    assert (result.status, result.lines) == (-TERM, ["exit function"]), result.err


FORKS = {
    "fork": "pid = os.fork()\nif not pid:\n    hit(); time.sleep(60); os._exit(0)\n"
    "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
    "worker": "import multiprocessing\nc = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))\n"
    "c.start(); c.terminate(); c.join(); print(c.exitcode)",
}


@pytest.mark.parametrize("how", FORKS)
def test_a_forked_child_is_as_without_lastly(programs: Programs, how: str) -> None:
    """It dies of SIGTERM at once, and runs nothing of its parent's."""
    result = programs.run(
        START + f"lastly.install()\nlastly.defer(print, 'parent')\natexit.register(print, 'exit')\n{FORKS[how]}"
    )
    assert (result.status, result.lines) == (0, ["-15", "exit", "parent"]), result.err


def test_the_programs_own_error_reaches_stderr(programs: Programs) -> None:
    """A finally that fails while a signal unwinds: its traceback is printed, the status is the signal's."""
    result = programs.run(START + "lastly.install()\ntry:\n    hit(); time.sleep(60)\nfinally:\n    1 / 0")
    assert result.status == -TERM
    assert "ZeroDivisionError" in result.err


def test_globals_are_finalized_as_without_lastly(programs: Programs, python: str) -> None:
    """A normal end with install(): nothing of it holds the program's globals beyond their time."""
    result = programs.run(
        START
        + """
class Last:
    def __del__(self): os.write(1, b"deleted\\n")
last = Last()
lastly.install()
""",
        python=python,
    )
    assert (result.status, result.lines) == (0, ["deleted"]), result.err


@pytest.mark.parametrize(("block", "printed"), [("finally", True), ("except ValueError", False)])
def test_an_error_that_a_signal_overtakes_is_printed(
    programs: Programs, python: str, block: str, printed: bool
) -> None:
    """In a finally it was on its way to stderr; in an except it had been dealt with."""
    result = programs.run(
        START + f"lastly.install()\ntry:\n    int('x')\n{block}:\n    hit()\n    time.sleep(60)", python=python
    )
    assert result.status == -TERM
    assert ("invalid literal" in result.err) == printed, result.err


@pytest.mark.parametrize("order", [1, -1])
def test_buffers_and_archives_are_whole(programs: Programs, order: int, python: str) -> None:
    """What finalization would have written out is written out: text, bytes, gzip, zip, C's stdio. In whatever
    order the collector names them."""
    program = programs.start(
        START
        + f"""
import gc
objects = gc.get_objects
gc.get_objects = lambda: objects()[::{order}]
"""
        + """
import ctypes, gzip, zipfile
lastly.install()
a = open("a", "w"); a.write("text")
b = open("b", "wb"); b.write(b"bytes")
g = gzip.open("g", "wt"); g.write("packed")
z = zipfile.ZipFile("z", "w"); z.writestr("name", "inside")
m = zipfile.ZipFile("m", "w"); member = m.open("name", "w"); member.write(b"member")
ctypes.CDLL(None).printf(b"from C\\n")
hit(); time.sleep(60)
""",
        python=python,
    )
    result = program.wait()
    assert (result.status, result.out) == (-TERM, "from C\n"), result.err
    import gzip
    import zipfile

    assert (program.cwd / "a").read_text() + (program.cwd / "b").read_text() == "textbytes"
    assert gzip.open(program.cwd / "g").read() == b"packed"
    assert zipfile.ZipFile(program.cwd / "z").read("name") == b"inside"
    assert zipfile.ZipFile(program.cwd / "m").read("name") == b"member"


@pytest.mark.root
@pytest.mark.skipif(not shutil.which("unshare") or os.getuid() != 0, reason="needs unshare and root")
def test_pid_1_exits_with_the_code(programs: Programs) -> None:
    """As the first process of a container: 128 + number, all cleanups run."""
    probe = subprocess.run(["unshare", "--pid", "--fork", "true"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip("no pid namespaces here")
    program = programs.start(START + "pass")
    program.wait()
    (program.cwd / "one.py").write_text(
        START + "lastly.install()\natexit.register(print, os.getpid())\nhit()\ntime.sleep(60)"
    )
    result = programs.run_command(["unshare", "--pid", "--fork", sys.executable, str(program.cwd / "one.py")])
    assert (result.status, result.lines) == (143, ["1"]), result.err


STUCK = """
import ctypes
from lastly import actions
from lastly._exit import stuck
stuck.ANSWER = 0.3
lastly.install(GRACE)
os.mkdir("owed")
lastly.defer(actions.remove, os.path.abspath("owed"))
from lastly._reaper import client
while client._line is None or client._line.socket is None:
    lastly.defer(actions.remove, os.path.abspath("none")).detach()
    time.sleep(0.01)
mutex = ctypes.create_string_buffer(64)
lock = ctypes.LIBRARY(None).pthread_mutex_lock
lock(mutex)
print("ready", flush=True)
lock(mutex)  # for ever, and no signal interrupts it
"""


@pytest.mark.parametrize("library", ["CDLL", "PyDLL"])
@pytest.mark.parametrize("grace", ["", "grace=0.3"])
@pytest.mark.slow(keep=2)
def test_a_main_thread_stuck_in_c_is_ended_by_the_reaper(programs: Programs, library: str, grace: str) -> None:
    """With the GIL released (CDLL) and held (PyDLL): killed after the time, and what is durable is run."""
    code = STUCK.replace("GRACE", grace).replace("LIBRARY", library)
    program = programs.start(START + code)
    program.line("ready")
    stat = Path(f"/proc/{program.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S", what="it sleeps in C")
    program.send(TERM)
    assert program.wait().status == -signal.SIGKILL
    wait_until(lambda: not (program.cwd / "owed").exists(), what="the owed folder is gone")


@pytest.mark.parametrize("grace", ["inf", "1e12"])
def test_a_grace_without_an_end_is_none(programs: Programs, grace: str) -> None:
    """No clock of the kernel's can be set so far ahead."""
    code = START + f"""
lastly.install(grace=float("{grace}"))
lastly.defer(print, "cleaned up")
hit()
time.sleep(60)
"""
    result = programs.run(code)
    assert (result.status, result.out, result.err) == (-TERM, "cleaned up\n", "")


def test_who_imports_it_first_need_not_be_the_main_thread(programs: Programs) -> None:
    """A signal that is swallowed comes again, and to the main thread."""
    code = """
import os, signal, sys, threading, time
def use():
    import lastly
    try: lastly.install()
    except RuntimeError: print("refused")
thread = threading.Thread(target=use)
thread.start()
thread.join()
import lastly
lastly.install()
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
except:
    pass
time.sleep(60)
"""
    result = programs.run(code)
    assert (result.status, result.out) == (-TERM, "refused\n"), result.err


def test_signals_that_are_answered_leave_nothing_behind(programs: Programs) -> None:
    code = START + """
import _thread, threading
lastly.install()
before = len(threading._threading_atexits)
for _ in range(5):
    try:
        hit(signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
print(len(threading._threading_atexits) - before, flush=True)
while _thread._count():
    time.sleep(0.01)
os._exit(0)
"""
    assert programs.run(code).lines == ["0"]
