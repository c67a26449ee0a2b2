"""Close hooks run whatever happened: each way to end is a real program that really ends that way."""

from __future__ import annotations

import signal

import pytest
from harness import Programs, Result, wait_until

APP = """
import os, signal, sys, threading, time
from lastly.app import App, CaughtSignal

def says(word):
    def hook(app, *more):
        print(word, *more[:1], flush=True)
    return hook

class MyApp(App):
    class Meta:
        label = "endings"
        hooks = [("pre_close", says("pre_close")), ("post_close", says("post_close")), ("signal", says("signal"))]
"""

ENDS = {
    "return": ("with MyApp() as app:\n    app.run()", [], 0),
    "exception in the block": ("with MyApp() as app:\n    raise ValueError('boom')", [], 1),
    "exception in run": (
        "class A(MyApp):\n    def run(self):\n        raise ValueError('boom')\nwith A() as app:\n    app.run()",
        [],
        1,
    ),
    "sys.exit": ("with MyApp() as app:\n    sys.exit(3)", [], 3),
    "help": ("with MyApp() as app:\n    app.run()", ["--help"], 0),
    "bad option": ("with MyApp() as app:\n    app.run()", ["--nonsense"], 2),
    "exit code": ("with MyApp(exit_on_close=True) as app:\n    app.exit_code = 100", [], 100),
    "failing setup": ("with MyApp(extensions=['no_such_thing']) as app:\n    app.run()", [], 1),
    "failing pre_setup": (
        ("def bad(app):\n    raise ValueError('boom')\n"
        "app = MyApp()\napp.hook.register('pre_setup', bad)\nwith app:\n    app.run()"),
        [],
        1,
    ),
    "broken configuration": (
        "open('x.conf', 'w').write('no section')\nwith MyApp(config_files=['x.conf']) as app:\n    app.run()",
        [],
        1,
    ),
    "nobody closes": ("app = MyApp()\napp.setup()\napp.run()", [], 0),
    "nobody closes, local": ("def main():\n    app = MyApp()\n    app.setup()\nmain()", [], 0),
    "nobody closes, exception": ("app = MyApp()\napp.setup()\nraise ValueError('boom')", [], 1),
    "nobody closes, exit code": ("app = MyApp(exit_on_close=True)\napp.setup()\napp.exit_code = 7", [], 7),
    "closed by hand": ("app = MyApp()\napp.setup()\napp.run()\napp.close()", [], 0),
    "closed twice": ("with MyApp(exit_on_close=True) as app:\n    app.close(5)", [], 5),
    "in a thread": (
        ("def work():\n    with MyApp() as app:\n        app.run()\n"
        "t = threading.Thread(target=work)\nt.start()\nt.join()"),
        [],
        0,
    ),
    "KeyboardInterrupt": ("with MyApp() as app:\n    raise KeyboardInterrupt", [], -2),
}


@pytest.mark.parametrize("way", ENDS)
@pytest.mark.slow(keep=6)
def test_close_hooks_run_once(programs: Programs, python: str, way: str) -> None:
    body, args, status = ENDS[way]
    result = programs.run(APP + body, *args, python=python)
    closes = [line for line in result.lines if line.endswith("_close")]
    assert (closes, result.status) == (["pre_close", "post_close"], status), result.err
    if status == 1:
        assert "Traceback" in result.err


WAITS = {
    "in the block": "with MyApp() as app:\n    print('ready', flush=True)\n    time.sleep(60)",
    "in run": (
        "class A(MyApp):\n    def run(self):\n        print('ready', flush=True)\n        time.sleep(60)\n"
        "with A() as app:\n    app.run()"
    ),
    "in main": (
        "def main(app):\n    print('ready', flush=True)\n    time.sleep(60)\nwith MyApp(main=main) as app:\n    app.run()"
    ),
    "in a hook": (
        "def slow(app):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "app = MyApp()\napp.hook.register('pre_run', slow)\nwith app:\n    app.run()"
    ),
    "in setup": (
        "def slow(app):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "app = MyApp()\napp.hook.register('pre_setup', slow)\nwith app:\n    app.run()"
    ),
    "nobody closes": "app = MyApp()\napp.setup()\nprint('ready', flush=True)\ntime.sleep(60)",
    "in a function": (
        "def main():\n    with MyApp(exit_on_close=True) as app:\n        print('ready', flush=True)\n        time.sleep(60)\n"
        "main()"
    ),
    "caught by name": (
        "with MyApp(exit_on_close=True) as app:\n"
        "    try:\n        print('ready', flush=True)\n        time.sleep(60)\n"
        "    except CaughtSignal as e:\n        print('caught', e.signum, flush=True)\n        app.exit_code = 0\n"
        "    print('goes on', flush=True)"
    ),
}


def ended_by(programs: Programs, code: str, signum: int, **options: str) -> Result:
    program = programs.start(APP + code, **options)
    program.line("ready")
    program.send(signum)
    return program.wait()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("where", WAITS)
@pytest.mark.slow(keep=8)
def test_signal_runs_its_hook_and_the_close_hooks_and_is_what_the_parent_sees(
    programs: Programs, python: str, where: str, signum: int
) -> None:
    result = ended_by(programs, WAITS[where], signum, python=python)
    hooks = [line for line in result.lines if line.split()[0] in ("signal", "pre_close", "post_close")]
    assert (hooks, result.status) == ([f"signal {signum:d}", "pre_close", "post_close"], -signum), result.err


def test_program_that_catches_the_signal_by_name_goes_on_to_its_close(programs: Programs) -> None:
    result = ended_by(programs, WAITS["caught by name"], signal.SIGTERM)
    assert result.lines == ["ready", "caught 15", "goes on", "signal 15", "pre_close", "post_close"]


CAUGHT = """
with MyApp(exit_on_close={exits}) as app:
    try:
        print("ready", flush=True)
        time.sleep(60)
    except {what}:
        {then}
"""


@pytest.mark.parametrize(
    ("exits", "then", "status"),
    [(True, "pass", -15), (False, "pass", -15), (True, "app.exit_code = 9", 9), (False, "app.exit_code = 9", -15)],
)
def test_caught_by_name_the_exit_code_is_the_programs_but_never_success(
    programs: Programs, exits: bool, then: str, status: int
) -> None:
    code = CAUGHT.format(exits=exits, what="CaughtSignal", then=then)
    result = ended_by(programs, code, signal.SIGTERM)
    assert (result.lines, result.status) == (["ready", "signal 15", "pre_close", "post_close"], status), result.err


def test_exit_status_given_after_the_app_is_kept(programs: Programs) -> None:
    code = CAUGHT.format(exits=False, what="CaughtSignal", then="pass") + "sys.exit(7)"
    assert ended_by(programs, code, signal.SIGTERM).status == 7


@pytest.mark.parametrize("what", ["BaseException", "SystemExit", ""])
def test_swallowed_signal_comes_again(programs: Programs, what: str) -> None:
    """A clause that does not name it was not meant for it: nothing in the block runs on for long."""
    code = CAUGHT.format(exits=False, what=what, then="pass") + "    time.sleep(60)\n"
    result = ended_by(programs, code, signal.SIGTERM)
    assert (result.lines[-2:], result.status) == (["pre_close", "post_close"], -15), result.err


def test_signal_swallowed_outside_the_app_comes_again(programs: Programs) -> None:
    code = """
try:
    with MyApp() as app:
        print("ready", flush=True)
        time.sleep(60)
except BaseException:
    pass
time.sleep(60)
"""
    result = ended_by(programs, code, signal.SIGTERM)
    assert (result.lines, result.status) == (["ready", "signal 15", "pre_close", "post_close"], -15)


def test_signals_installed_before_an_app_are_still_installed_after_it(programs: Programs) -> None:
    code = """
import lastly
lastly.install(["USR1", "TERM"], status="code")
with MyApp():
    pass
print(signal.getsignal(signal.SIGHUP) == signal.SIG_DFL, flush=True)
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(60)
"""
    result = programs.run(APP + code)
    assert (result.lines, result.status) == (["pre_close", "post_close", "True"], 138), result.err


def test_child_with_an_app_of_its_own(programs: Programs) -> None:
    code = """
with MyApp() as app:
    child = os.fork()
    if child == 0:
        with MyApp() as mine:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
    print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
    result = programs.run(APP + code)
    assert result.lines == ["signal 15", "pre_close", "post_close", "child -15", "pre_close", "post_close"]
    assert result.status == 0


def test_signal_while_closing_cuts_no_hook(programs: Programs) -> None:
    """The hook that runs is finished, the others follow, and the program ends by the signal."""
    code = """
def slow(app):
    print("ready", flush=True)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        time.sleep(0.01)
    print("slow done", flush=True)
app = MyApp()
app.hook.register("pre_close", slow, weight=-1)
with app:
    pass
print("goes on")
"""
    result = ended_by(programs, code, signal.SIGTERM)
    assert (result.lines, result.status) == (["ready", "slow done", "pre_close", "post_close", "signal 15"], -15), result.err


def test_second_signal_cuts_no_hook(programs: Programs) -> None:
    code = """
def again(app):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)
    print("not cut", flush=True)
app = MyApp()
app.hook.register("pre_close", again, weight=-1)
with app:
    print("ready", flush=True)
    time.sleep(60)
"""
    result = ended_by(programs, code, signal.SIGTERM)
    expected = ["ready", "signal 15", "not cut", "pre_close", "post_close"]
    assert (result.lines, result.status) == (expected, -15), result.err


def test_signal_in_an_async_main(programs: Programs) -> None:
    code = """
import asyncio
async def main(app):
    try:
        print("ready", flush=True)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.01)
        print("finally", flush=True)
with MyApp(main=main) as app:
    app.run()
"""
    result = ended_by(programs, code, signal.SIGTERM)
    assert (result.lines, result.status) == (["ready", "finally", "signal 15", "pre_close", "post_close"], -15)


def test_async_hooks_are_awaited_inside_and_after_a_loop(programs: Programs) -> None:
    code = """
import asyncio
async def later(app):
    await asyncio.sleep(0.001)
    print("awaited", flush=True)
async def main():
    with MyApp(hooks=[("pre_close", later)]):
        pass
asyncio.run(main())
app = MyApp(hooks=[("post_close", later)])
app.setup()
"""
    result = programs.run(APP + code)
    assert (result.lines, result.status) == (["awaited"] * 2, 0), result.err


def test_ignored_signal_stays_ignored(programs: Programs) -> None:
    result = programs.run(
        "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        + APP
        + "with MyApp() as app:\n    os.kill(os.getpid(), signal.SIGHUP)\n    print('lives')"
    )
    assert (result.lines, result.status) == (["lives", "pre_close", "post_close"], 0)


def test_forked_child_does_not_run_the_hooks_of_its_parent(programs: Programs) -> None:
    code = """
with MyApp() as app:
    app.scope.defer(print, "scope", flush=True)
    if os.fork() == 0:
        sys.exit(4)
    print("child ended with", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
    result = programs.run(APP + code)
    assert (result.lines, result.status) == (["child ended with 4", "pre_close", "scope", "post_close"], 0)


def test_forked_child_that_leaves_the_block_runs_no_hooks(programs: Programs) -> None:
    code = """
with MyApp() as app:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
print("left", flush=True)
"""
    result = programs.run(APP + code)
    assert (result.lines, result.status) == (["left", "pre_close", "post_close", "left"], 0)


def test_custom_signal_handler_decides(programs: Programs) -> None:
    code = """
def mine(signum, frame):
    os.write(1, b"handler\\n")
with MyApp(signal_handler=mine, catch_signals=[signal.SIGUSR1]) as app:
    os.kill(os.getpid(), signal.SIGUSR1)
    print("goes on", flush=True)
print(signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL)
"""
    result = programs.run(APP + code)
    assert result.lines == ["handler", "signal 10", "goes on", "pre_close", "post_close", "True"]
    assert result.status == 0


def test_reload_answers_a_hangup(programs: Programs) -> None:
    """A daemon that rereads its configuration on SIGHUP ends as it wants to, and not by that signal."""
    code = """
with MyApp(exit_on_close=True) as app:
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(60)
    except CaughtSignal as e:
        app.reload()
    print("reloaded", flush=True)
"""
    result = programs.run(APP + code)
    assert (result.lines, result.status) == (["reloaded", "pre_close", "post_close"], 0), result.err


def test_durable_cleanup_of_an_app_survives_a_kill(programs: Programs) -> None:
    code = """
from lastly import actions
app = MyApp()
app.setup()
os.mkdir("work")
app.scope.defer(actions.remove, os.path.abspath("work"))
print("ready", flush=True)
time.sleep(60)
"""
    program = programs.start(APP + code)
    program.line("ready")
    program.send(signal.SIGKILL)
    program.wait()
    wait_until(lambda: not (program.cwd / "work").exists(), what="the reaper to remove the directory")
