"""Eight signals in many situations: the parent sees what it would see without lastly, and nothing is lost.

Each program runs twice for every signal: as plain Python with the signal's default action, and with lastly. The
status must be the same, what was printed must begin the same, and with lastly the exit functions have run and the open
file is whole.
"""

from __future__ import annotations

import signal
import textwrap
from pathlib import Path

import pytest
from harness import Program, Programs, wait_until

SIGNALS = [
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGPIPE,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGALRM,
    signal.SIGXCPU,
]

START = """
import atexit, os, signal, sys, threading, time
N, HOW = int(sys.argv[1]), sys.argv[2]
def hit():
    os.kill(os.getpid(), N)
if HOW == "with":
    import lastly
    lastly.install(signals=[N])
else:
    signal.signal(N, signal.SIG_DFL)
log = open("log", "w")
log.write("an open file")
atexit.register(print, "exit function")
print("begun", flush=True)
"""

# The program hits itself in the middle of ...
HITS = {
    "import": """
        with open("part.py", "w") as file:
            file.write("import __main__\\n__main__.hit()\\nimport time\\ntime.sleep(60)\\n")
        sys.path.insert(0, ".")
        import part
    """,
    "body": "hit(); time.sleep(60)",
    "function": """
        def deep(n):
            if n:
                return deep(n - 1)
            hit()
            time.sleep(60)
        deep(200)
    """,
    "finally": """
        try:
            raise ValueError("the body's own")
        finally:
            hit()
            time.sleep(60)
    """,
    "bare except": """
        while True:
            try:
                hit()
                time.sleep(60)
            except:
                pass
            for i in range(1000):
                pass
    """,
    "del": """
        class Thing:
            def __del__(self):
                hit()
                time.sleep(0)
        Thing()
        time.sleep(60)
    """,
    "weakref callback": """
        import weakref
        class Thing: pass
        thing = Thing()
        ref = weakref.ref(thing, lambda _: (hit(), time.sleep(0)))
        del thing
        time.sleep(60)
    """,
    "cleanup of a scope": """
        def cleanup():
            hit()
            print("cleanup whole", flush=True)
        if HOW == "with":
            with lastly.Scope() as scope:
                scope.defer(cleanup)
        else:
            cleanup()
        time.sleep(60)
    """,
    "cleanup at exit": """
        def cleanup():
            hit()
            print("cleanup whole", flush=True)
        (lastly.defer if HOW == "with" else atexit.register)(cleanup)
    """,
    "exit function": """
        def cleanup():
            hit()
            print("cleanup whole", flush=True)
        atexit.register(cleanup)
    """,
    "exit function, from before": """
        def cleanup():
            hit()
            print("cleanup whole", flush=True)
    """,
    "join of threads": """
        def work():
            main = threading.main_thread()
            main.join()
            # Again, for the first may come in the instant before the interpreter's wait begins.
            while True:
                hit()
                time.sleep(0.2)
        threading.Thread(target=work).start()
    """,
    "excepthook": """
        def hook(*_):
            hit()
            print("hook whole", flush=True)
        sys.excepthook = hook
        raise ValueError
    """,
    "finalization": """
        class Last:
            def __del__(self, hit=hit, kill=os.kill, pid=os.getpid(), n=N):
                kill(pid, n)
        sys.last_thing = Last()
    """,
    "asyncio": """
        import asyncio
        async def main():
            try:
                asyncio.get_running_loop().call_soon(hit)
                await asyncio.sleep(60)
            finally:
                if HOW == "with":
                    await asyncio.sleep(0)
        asyncio.run(main())
    """,
    "executor": """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2) as pool:
            pool.submit(time.sleep, 0).result()
            hit()
            time.sleep(60)
    """,
    "generator": """
        def numbers():
            try:
                yield 1
                hit()
                time.sleep(60)
            finally:
                pass
        list(numbers())
    """,
}

# Somebody else hits it while it waits in ...
WAITS = {
    "sleep": "time.sleep(60)",
    "input": "input()",
    "queue": "import queue; queue.Queue().get()",
    "lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "child": "import subprocess; subprocess.run([sys.executable, '-c', 'input()'])",
    "thread join": "t = threading.Thread(target=time.sleep, args=(60,), daemon=True); t.start(); t.join()",
    "select": "import select; select.select([0], [], [])",
    "event loop": "import asyncio; asyncio.run(asyncio.sleep(60))",
}


def program(situation: str) -> str:
    """The whole program of a situation."""
    start = START
    if situation == "exit function, from before":
        body = textwrap.dedent(HITS[situation])
        return start.replace("if HOW ==", f"{body}\natexit.register(cleanup)\nif HOW ==", 1)
    if situation in WAITS:
        return f'{start}\nprint("ready", flush=True)\n{WAITS[situation]}'
    return start + textwrap.dedent(HITS[situation])


def both(programs: Programs, situation: str, number: int, python: str) -> tuple[Program, Program]:
    """Start it as plain Python and with lastly."""
    import subprocess

    plain, ours = (
        programs.start(program(situation), str(number), how, stdin=subprocess.PIPE, python=python)
        for how in ("plain", "with")
    )
    return plain, ours


def asleep(program: Program) -> None:
    """Wait until its main thread waits; what comes in the instant before is seen by Python only afterwards."""
    stat = Path(f"/proc/{program.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S", what="it sleeps")


@pytest.mark.parametrize("situation", [*HITS, *WAITS])
@pytest.mark.slow(keep=3)
def test_status_output_and_files_as_without_lastly(programs: Programs, situation: str, python: str) -> None:
    """I8: the same status, the same beginning of the output; exit functions run, files are whole."""
    for some in (SIGNALS[:4], SIGNALS[4:]):
        running = {number: both(programs, situation, number, python) for number in some}
        for number, pair in running.items():
            if situation in WAITS:
                for one in pair:
                    one.line("ready")
                    asleep(one)
                    one.send(number)
        for number, (plain, ours) in running.items():
            expected, got = plain.wait(), ours.wait()
            what = f"{situation}, {number.name}: {got.err}"
            assert (expected.status, got.status) == (-number, -number), what
            assert got.out.startswith(expected.out), what
            assert ("cleanup()" in program(situation)) == ("cleanup whole" in got.lines), what
            if situation != "finalization":  # there a signal acts by its default again
                assert "exit function" in got.lines, what
                assert (ours.cwd / "log").read_text() == "an open file", what
