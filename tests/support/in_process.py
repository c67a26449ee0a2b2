"""Programs of the half that needs no other process, for every Python and system: what each prints, and its status."""

from __future__ import annotations

import signal

BEGIN = "import lastly, sys, os, time, threading, asyncio\nfrom lastly import defer, Scope, register\n"
TERM, INT = signal.SIGTERM, signal.SIGINT
# name: program, signal, what it prints, status
PROGRAMS = {
    "order": ("defer(print,'a'); defer(print,'b'); register(print,'c')", None, "c b a", 0),
    "uncaught": ("defer(print,'a'); 1/0", None, "a", 1),
    "exit-3": ("defer(print,'a'); sys.exit(3)", None, "a", 3),
    "failed": ("defer(print,'a'); defer(lambda: 1/0); defer(print,'b')", None, "b a", 1),
    "failed-late": (
        "import atexit; atexit.register(print,'mine'); lastly.defer_early(lambda: 1/0); defer(print,'b')", None, "b mine", 1
    ),
    "scope": ("with Scope('s') as s:\n s.defer(print,'a'); s.defer(print,'b')\nprint('after')", None, "b a after", 0),
    "hung": ("with Scope('s') as s:\n s.defer(print,'a'); s.defer(time.sleep,60).within(0.3)\n", None, "a", 1),
    "async": (
        ("async def u(x): print(x)\nasync def m():\n async with lastly.AsyncScope('s') as s:\n"
         "  s.defer(u,'a'); s.defer(print,'b')\nasyncio.run(m())"), None, "b a", 0
    ),
    "early": (
        ("ev=threading.Event(); t=threading.Thread(target=ev.wait); t.start()\n"
         "lastly.defer_early(ev.set); defer(print,'a')"), None, "a", 0
    ),
    "closed": (
        "s=Scope('s'); s.close()\ntry: s.defer(print,1)\nexcept lastly.ScopeClosed: print('refused')", None, "refused", 0
    ),
    "parallel": (
        "with Scope('s') as s:\n s.defer(print,'last')\n with s.parallel() as p:\n  [p.defer(time.sleep, 0) for _ in range(4)]\n",
        None, "last", 0,
    ),
    "term": (
        "lastly.install(); defer(print,'a')\ntry:\n print('up',flush=True); time.sleep(60)\nfinally: print('f')",
        TERM, "up f a", -TERM,
    ),
    "int": (
        "lastly.install(); defer(print,'a')\ntry:\n print('up',flush=True); time.sleep(60)\nfinally: print('f')",
        INT, "up f a", -INT,
    ),
    "code": (
        "lastly.install(status='code'); defer(print,'a')\nprint('up',flush=True); time.sleep(60)", TERM, "up a", 128 + TERM
    ),
    "swallowed": (
        ("lastly.install(); defer(print,'a')\nprint('up',flush=True)\n"
         "for i in range(600):\n try: time.sleep(0.1)\n except: pass\n"), TERM, "up a", -TERM
    ),
    "grace": (
        "lastly.install(grace=0.2)\nprint('up',flush=True)\ntry: time.sleep(60)\nfinally:\n for _ in range(600): time.sleep(0.1)",
        TERM, "up", -TERM,
    ),
    "in-a-cleanup": (
        ("lastly.install()\ndef slow():\n print('up',flush=True)\n for _ in range(7): time.sleep(0.1)\n print('whole')\n"
         "defer(print,'a'); defer(slow)"), TERM, "up whole a", -TERM
    ),
    "app": (
        "with lastly.App('x', argv=[]) as app:\n app.scope.defer(print,'a')\n print('up',flush=True); time.sleep(60)",
        TERM, "up a", -TERM,
    ),
    "asyncio": (
        ("lastly.install()\nasync def m():\n async with lastly.AsyncScope('s') as s:\n"
         "  s.defer(print,'a'); print('up',flush=True); await asyncio.sleep(60)\nasyncio.run(m())"), TERM, "up a", -TERM
    ),
    "uninstalled": ("lastly.install(); lastly.uninstall(); defer(print,'a')", None, "a", 0),
}  # fmt: skip

RESOURCES = """
made = [lastly.temp_dir(dir="."), lastly.temp_file(dir=".")]
os.makedirs(os.path.join(made[0], "a", "b"))
open(os.path.join(made[0], "a", "f"), "w").close()
child = lastly.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"], stdout=-1)
child.stdout.readline()
defer(lambda: print("child", child.wait()))
defer(child.close)
from lastly import actions
defer(actions.remove, os.path.abspath("tree"))
os.makedirs("tree/below")
defer(actions.run, [sys.executable, "-c", "open('ran', 'w').close()"])
print("made", all(os.path.exists(each) for each in made))
"""

REFUSED = """
from lastly.errors import UnsupportedPlatform
for make in (lambda: lastly.temp_dir(dir="."), lambda: lastly.pid_file("it.pid"), lambda: lastly.lock_file("it.lock"),
             lambda: lastly.unix_socket("it.sock"), lambda: lastly.atomic_write("it")):
    try: make()
    except UnsupportedPlatform as error: print(error)
print(os.listdir("."))
"""

# Every public name, and every integration whose framework is installed where this runs.
NAMES = """
import importlib, pkgutil, lastly.resources, lastly.actions, lastly.errors, lastly.app, lastly.testing, lastly.integrations
for module in (lastly, lastly.resources, lastly.actions, lastly.errors, lastly.app, lastly.testing):
    for name in module.__all__:
        getattr(module, name)
for found in pkgutil.iter_modules(lastly.integrations.__path__):
    if not found.name.startswith("_"):
        try:
            importlib.import_module(f"lastly.integrations.{found.name}")
        except ImportError as error:
            if "needs" not in str(error) and error.name not in ("opentelemetry", "apscheduler"): raise
print("all")
"""

OPEN_PROCESS = """
SLEEPS = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
async def main():
    for name in ("terminate", "kill", "aclose"):
        child = await lastly.open_process(SLEEPS, stdout=-1)
        print((await child.stdout.readline()).decode().strip())
        result = getattr(child, name)()
        if result is not None: await result
        await child.wait()
        getattr(child, "kill")()  # nothing happens when it has ended
        print(name)
asyncio.run(main())
"""
OPENED = "up terminate up kill up aclose".split()

# The command line: what needs the reaper says so, in one line.
COMMANDS = """
from lastly.__main__ import main
for words in (["doctor"], ["ls"], ["run", "true"], ["--version"]):
    sys.argv[1:] = words
    print(words[0], main())
"""
ANSWERS = "doctor 1 ls 1 run 1 lastly, version 0.1.0 --version 0".split()
