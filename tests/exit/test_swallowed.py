"""A signal's exception that the program loses: it comes again, unless it is under way or was answered.

The rule stands in lastly/_swallowed.py. Each way to lose an exception is a program here, and each way to have it
under way for long, which looks the same from afar.
"""

from __future__ import annotations

import signal
import sys

import pytest
from harness import Programs

TERM, INT = signal.SIGTERM, signal.SIGINT

START = """
import atexit, os, signal, sys, time
import lastly
from lastly._exit import delivery, state
from lastly._exit.state import end

lastly.install()
atexit.register(print, "exit function", flush=True)

def hit(number=signal.SIGTERM):
    os.kill(os.getpid(), number)

looks = 0
fate = delivery.fate
def counted():
    global looks
    looks += 1
    return fate()
delivery.fate = counted

def some_looks():
    "Wait until the thread has looked more often than it needs to be sure."
    before = looks
    while looks < before + 4:
        time.sleep(0.01)

kept = []
"""

# What a program does with the exception in its hand, or with one that somebody hands to it.
KEEPS = {
    "a list": "kept.append(error)",
    "a variable": "mine = error",
    "a global": "global last; last = error",
    "what sys.exc_info() returns": "mine = sys.exc_info()",
    "a future": "kept.append(future := Future()); future.set_exception(error)",
    "a log record": "memory.handle(logging.makeLogRecord({'exc_info': sys.exc_info()}))",
    "the context of another error": """
            try: raise ValueError("reported")
            except ValueError as other: kept.append(other)""",
    "a group": "kept.append(BaseExceptionGroup('all of them', [error]))",
    "an object's attribute": "class State: pass\n            (state := State()).error = error; kept.append(state)",
    "a closure": "def again(): raise error\n            kept.append(again)",
    "a frame that is over": "helper(error)",
    "sys.last_exc": "sys.last_exc = sys.last_value = error",
}


@pytest.mark.parametrize("keeper", KEEPS)
@pytest.mark.slow(keep=2)
def test_one_that_is_kept_comes_again(programs: Programs, python: str, keeper: str) -> None:
    """It does not die, so its death tells nothing: that nobody handles it any more does."""
    code = (
        START
        + f"""
import logging
from concurrent.futures import Future
from logging.handlers import MemoryHandler
memory = MemoryHandler(1000)

def helper(mine):
    kept.append(sys._getframe())

def loop():
    while True:
        try:
            print("waits", flush=True)
            time.sleep(60)
        except BaseException as error:
            {KEEPS[keeper]}
loop()
"""
    )
    program = programs.start(code, python=python)
    program.line("waits")
    program.send(TERM)
    result = program.wait()
    assert (result.status, result.lines[-1]) == (-TERM, "exit function"), result.err


@pytest.mark.parametrize("clause", ["except BaseException as error: kept.append(error)", "except: pass"])
def test_what_swallows_it_is_named(programs: Programs, python: str, clause: str) -> None:
    """After too many attempts the program ends where it stands, and says which line keeps it from ending."""
    code = (
        START
        + f"""
from lastly._exit import swallowed as _swallowed
_swallowed.TRIES = 1
def loop():
    while True:
        try:
            hit(); time.sleep(60)
        {clause}
loop()
"""
    )
    result = programs.run(code, python=python)
    line = 1 + code.splitlines().index("            hit(); time.sleep(60)")
    assert (result.status, result.lines) == (-TERM, ["exit function"]), result.err
    assert "lastly: SIGTERM was swallowed 1 times, last by" in result.err
    assert f"program.py:{line}, in loop" in result.err


def test_it_comes_again_outside_of_what_swallowed_it(programs: Programs, python: str) -> None:
    """Once is enough for a program that swallows once; what is around is unwound in order."""
    code = (
        START
        + """
try:
    try:
        print("ready", flush=True)
        time.sleep(60)
    except BaseException as error:
        kept.append(error)
    time.sleep(60)
finally:
    print("around", flush=True)
"""
    )
    program = programs.start(code, python=python)
    program.line("ready")
    program.send(TERM)
    result = program.wait()
    assert (result.status, result.lines[1:]) == (-TERM, ["around", "exit function"]), result.err
    assert result.err == ""


CALLBACKS = {
    "del": """
        class Thing:
            def __del__(self): hit(); time.sleep(0)
        Thing()""",
    "weakref callback": """
        import weakref
        class Thing: pass
        thing = Thing()
        ref = weakref.ref(thing, lambda _: (hit(), time.sleep(0)))
        del thing""",
    "collector": """
        import gc
        def callback(*_):
            gc.callbacks.clear(); hit(); time.sleep(0)
        gc.callbacks.append(callback)
        gc.collect()""",
}


@pytest.mark.parametrize("where", CALLBACKS)
@pytest.mark.parametrize("hook", [False, True])
def test_one_that_goes_nowhere_comes_again(programs: Programs, where: str, hook: bool) -> None:
    """In __del__ and callbacks the interpreter drops it; a hook like an error reporter's may keep it then."""
    keep = "sys.unraisablehook = lambda what: kept.append(what.exc_value)" if hook else ""
    result = programs.run(f"{START}\n{keep}\nif True:{CALLBACKS[where]}\ntime.sleep(60)")
    assert (result.status, result.lines) == (-TERM, ["exit function"]), result.err


def test_the_second_signal_does_not_wait_for_the_first(programs: Programs) -> None:
    """Something that Python cannot see keeps the exception: it might be in between, so nothing comes by itself."""
    code = (
        START
        + """
import ctypes
first = True
while True:
    try:
        print("waits", flush=True)
        time.sleep(60)
    except BaseException as error:
        if not first:
            raise
        first = False
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(error))
"""
    )
    program = programs.start(code)
    for _ in range(2):
        program.line("waits")
        program.send(TERM)
    result = program.wait()
    assert (result.status, result.lines[-1]) == (-TERM, "exit function"), result.err
    assert result.err == ""


UNDER_WAY = {
    "a finally, and a list": """
        try:
            hit(); time.sleep(60)
        except BaseException as error:
            kept.append(error)
            raise
        finally:
            some_looks()
            print("whole", flush=True)""",
    "another error in a finally": """
        try:
            hit(); time.sleep(60)
        finally:
            try:
                1 / 0
            except ZeroDivisionError as error:
                kept.append(error)
                some_looks()
                print("whole", flush=True)""",
    "a destructor, while a frame is left": """
        class Slow:
            def __del__(self):
                some_looks()
                print("whole", flush=True)
        def function():
            slow = Slow()
            hit(); time.sleep(60)
        function()""",
    "a context manager": """
        from contextlib import contextmanager
        @contextmanager
        def manager():
            try: yield
            finally:
                some_looks()
                print("whole", flush=True)
        with manager():
            hit(); time.sleep(60)""",
    "a generator that is suspended": """
        def steps():
            try: hit(); time.sleep(60)
            finally:
                yield "cleans up"
        generator = steps()
        next(generator)
        some_looks()
        print("whole", flush=True)
        for _ in generator: pass""",
    "a greenlet that is suspended": """
        import greenlet
        main = greenlet.getcurrent()
        def body():
            try: hit(); time.sleep(60)
            finally:
                main.switch()
        other = greenlet.greenlet(body)
        other.switch()
        some_looks()
        print("whole", flush=True)
        other.switch()""",
    "another thread": """
        import threading
        handed = []
        def work():
            while not handed: time.sleep(0.01)
            try: raise handed.pop()
            except BaseException as error:
                some_looks()
                print("whole", flush=True)
                back.append(error)
        back = []
        thread = threading.Thread(target=work)
        thread.start()
        try: hit(); time.sleep(60)
        except BaseException as error: handed.append(error)
        thread.join()
        raise back.pop()""",
}


@pytest.mark.parametrize("what", UNDER_WAY)
def test_one_that_is_under_way_is_left_alone(programs: Programs, python: str, what: str) -> None:
    """However long it takes: cleanups are not cut short by the signal that started them."""
    if what == "a greenlet that is suspended" and python != sys.executable:
        python = sys.executable  # the others have no greenlet
    code = START + "if True:" + UNDER_WAY[what]
    result = programs.run(code, python=python)
    assert (result.status, result.lines) == (-TERM, ["whole", "exit function"]), result.err
    assert "swallowed" not in result.err


ANSWERS = {
    "by name, and kept": ("except KeyboardInterrupt as error: kept.append(error)", INT, True),
    "TERM by name, and kept": ("except lastly.CaughtSignal as error: kept.append(error)", TERM, True),
    "by name, and logged": ("except KeyboardInterrupt: kept.append(sys.exc_info())", INT, True),
    "not by name": ("except BaseException as error: kept.append(error)", INT, False),
    "by the name of something else": ("except SystemExit as error: kept.append(error)", TERM, False),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_one_that_was_answered_and_kept(programs: Programs, python: str, what: str) -> None:
    """A clause that names it has dealt with it, whatever it does with the exception."""
    clause, number, named = ANSWERS[what]
    code = (
        START
        + f"""
try:
    hit({int(number)}); time.sleep(60)
{clause}
while end.signum:
    time.sleep(0.01)
print("goes on", flush=True)
os._exit(3)
"""
    )
    result = programs.run(code, python=python)
    expected = (3, ["goes on"]) if named else (-number, ["exit function"])
    assert (result.status, result.lines) == expected, result.err


def test_a_third_interrupt_forces_nothing_where_nothing_is_cleaned_up(programs: Programs) -> None:
    """The first two were swallowed: it is raised once more, and all is cleaned up."""
    code = (
        START
        + """
for _ in range(2):
    try:
        print("waits", flush=True)
        time.sleep(60)
    except BaseException as error:
        import ctypes
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(error))
print("waits", flush=True)
time.sleep(60)
"""
    )
    program = programs.start(code)
    for _ in range(3):
        program.line("waits")
        program.send(INT)
    result = program.wait()
    assert (result.status, result.lines[-1]) == (-INT, "exit function"), result.err
    assert "forced" not in result.err


SHELLS = {
    "code": "import code; code.interact(banner='', exitmsg='')",
    "ipython": "import IPython; IPython.start_ipython(argv=['--no-banner', '--simple-prompt', '--no-confirm-exit',"
    " '--HistoryManager.enabled=False'])",
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.slow(keep=1)
def test_a_shell_answers_ctrl_c(programs: Programs, shell: str) -> None:
    """It stops the statement, not the session, although shells catch everything and keep it."""
    code = (
        START
        + f"""
delivery.fate = fate
raised = []
state.subscribe(raising=lambda caught: raised.append(caught.signum))
{SHELLS[shell]}
os._exit(len(raised))
"""
    )
    program = programs.start(code, env={"HOME": str(programs.home)}, stdin=-1)
    for number in range(3):
        program.write("import time; print('wai' + 'ts', flush=True); time.sleep(60)\n")
        program.line("waits", within=60)  # IPython alone takes seconds of processor time to start
        program.send(INT)
        program.write("from lastly._exit.state import end\n")
        program.write("while end.signum: time.sleep(0.01)\n\n")
        program.write(f"print('goes on', {number}, flush=True)\n")
        program.line(f"goes on {number}")
    assert program.popen.stdin is not None
    program.popen.stdin.close()
    assert program.wait().status == 3  # each was raised once
