"""What fails while an app closes, and what is told although it is quiet."""

from __future__ import annotations

import pytest
from harness import Programs

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

def test_quiet_hides_output_and_log_but_no_traceback(programs: Programs) -> None:
    code = "with MyApp() as app:\n    print('hidden')\n    app.log.error('hidden')\n    app.run()\n    raise ValueError('seen')"
    result = programs.run(APP + code, "-q")
    assert (result.out, result.status) == ("", 1)
    assert result.err.endswith("ValueError: seen\n")
    assert "hidden\n" not in result.err


def test_quiet_app_that_nobody_closes_hides_no_traceback(programs: Programs) -> None:
    result = programs.run(APP + "app = MyApp()\napp.setup()\nraise ValueError('seen')", "--quiet")
    assert (result.out, result.status) == ("", 1)
    assert "ValueError: seen" in result.err


def test_failing_hooks_all_run_and_are_reported(programs: Programs) -> None:
    code = """
def bad(app):
    raise OSError("first")
def worse(app):
    raise KeyError("second")
app = MyApp()
app.hook.register("pre_close", bad, -2)
app.hook.register("pre_close", worse, -1)
app.scope.defer(lambda: 1 / 0)
with app:
    pass
"""
    result = programs.run(APP + code)
    assert (result.lines, result.status) == (["pre_close", "post_close"], 1)
    for error in ("CleanupFailed", "OSError: first", "KeyError: 'second'", "ZeroDivisionError"):
        assert error in result.err


@pytest.mark.parametrize(
    ("body", "status"),
    [("app.exit_code = 9", 9), ("sys.exit(9)", 9), ("sys.exit(0)", 1), ("raise ValueError('mine')", 1), ("pass", 1)],
)
def test_failing_hook_keeps_the_exit_code_but_not_success(programs: Programs, body: str, status: int) -> None:
    code = f"""
def bad(app):
    raise OSError("in hook")
app = MyApp(exit_on_close=True)
app.hook.register("post_close", bad)
with app:
    {body}
"""
    result = programs.run(APP + code)
    assert (result.lines, result.status) == (["pre_close", "post_close"], status)
    assert "in hook" in result.err


def test_sys_exit_in_a_hook_does_not_stop_the_others(programs: Programs) -> None:
    code = "app = MyApp()\napp.hook.register('pre_close', lambda app: sys.exit(5), -1)\nwith app:\n    pass"
    result = programs.run(APP + code)
    assert (result.lines, result.status) == (["pre_close", "post_close"], 5)
