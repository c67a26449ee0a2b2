"""A grace is a length of real time, whatever a test has done to the clocks of Python."""

from __future__ import annotations

import importlib.util

import pytest

frozen = pytest.mark.skipif(importlib.util.find_spec("freezegun") is None, reason="freezegun is not installed")

HANG = """
import asyncio, contextlib, freezegun, importlib, sys, threading, time
import lastly
from lastly import AsyncScope, Scope
def hang(): threading.Event().wait()
async def ahang(): await asyncio.Event().wait()
def told(scope): print(*[(e.name, e.outcome) for e in scope.report().entries], flush=True)
"""


def run(programs, python, body, expected):
    result = programs.run(HANG + body + "\nimport os; os._exit(0)  # the threads that hang\n", python=python)
    assert (result.lines, result.status) == (expected, 0), result.err


@frozen
def test_a_scope_under_frozen_time(programs, python):
    body = """
with freezegun.freeze_time("2024-01-01"):
    for scope in (Scope(grace=2), Scope()):
        with contextlib.suppress(lastly.CleanupFailed), scope:
            scope.defer(print, "ran", flush=True)
            scope.defer(hang).within(60 if scope.grace else 0.2)
        told(scope)
"""
    run(programs, python, body, ["ran", "('hang', 'timeout') ('print', 'done')"] * 2)


@frozen
def test_time_that_jumps_leaves_the_grace_whole(programs, python):
    body = """
with freezegun.freeze_time("2024-01-01") as now:
    with Scope(grace=60) as scope:
        scope.defer(print, "older", flush=True)
        scope.defer(now.tick, 3600)
    told(scope)
"""
    run(programs, python, body, ["older", "('FrozenDateTimeFactory.tick', 'done') ('print', 'done')"])


@frozen
@pytest.mark.parametrize("own_clock", [True, False])
def test_an_async_scope_under_frozen_time(programs, python, own_clock):
    """Also where the loop's own clock stands still."""
    body = f"""
@contextlib.asynccontextmanager
async def entered():
    yield
    await ahang()
async def main():
    with freezegun.freeze_time("2024-01-01", real_asyncio={own_clock}):
        with contextlib.suppress(lastly.CleanupFailed):
            async with AsyncScope(grace=4) as scope:
                scope.defer(print, "ran", flush=True)
                scope.defer(ahang)
                await scope.enter(entered())
                scope.defer(hang).within(0.1)
        print(*[e.outcome for e in scope.report().entries], flush=True)
asyncio.run(main())
"""
    run(programs, python, body, ["ran", "timeout timeout timeout done"])


@frozen
@pytest.mark.skipif(importlib.util.find_spec("trio") is None, reason="trio is not installed")
def test_an_async_scope_of_trio_under_frozen_time(programs):
    body = """
import anyio, trio
async def main():
    with freezegun.freeze_time("2024-01-01"):
        with contextlib.suppress(lastly.CleanupFailed):
            async with AsyncScope(grace=2) as scope:
                scope.defer(print, "ran", flush=True)
                scope.defer(trio.sleep_forever)
        told(scope)
trio.run(main)
"""
    run(programs, None, body, ["ran", "('sleep_forever', 'timeout') ('print', 'done')"])


@frozen
def test_imported_while_time_is_frozen(programs, python):
    code = """
    import contextlib, freezegun, threading
    with freezegun.freeze_time("2024-01-01"):
        import lastly
        with contextlib.suppress(lastly.CleanupFailed), lastly.Scope(grace=1) as scope:
            scope.defer(threading.Event().wait)
        print(scope.report().entries[0].outcome, flush=True)
    import os; os._exit(0)
    """
    assert programs.run(code, python=python).lines == ["timeout"]


@frozen
def test_the_grace_of_a_signal_under_frozen_time(programs, python):
    code = """
    import freezegun, os, threading
    import lastly
    lastly.install(grace=4)
    lastly.defer(print, "ran", flush=True)
    lastly.defer(threading.Event().wait)
    with freezegun.freeze_time("2024-01-01"):
        os.kill(os.getpid(), 15)
    """
    result = programs.run(code, python=python)
    assert (result.lines, result.status) == (["ran"], -15)
    assert "is no longer waited for" in result.err


@frozen
@pytest.mark.parametrize(
    "call",
    [
        "lastly.server([sys.executable, '-c', 'import time; time.sleep(99)'], ready=lambda: False, timeout=0.3)",
        "actions.run.call((['sleep', '99'],), {'timeout': 0.3}, attempt=1, token='', confirmed={})",
        "lastly.lock_file('lock', wait=0.3)",
        "actions.kill.call((child,), {'grace': 0.3}, attempt=1, token='', confirmed={}) or 1/0",
    ],
)
@pytest.mark.slow(keep=2)
def test_other_limits_under_frozen_time(programs, call):
    code = f"""
    import freezegun, os, subprocess, sys
    import lastly
    from lastly import actions
    holder = subprocess.Popen([sys.executable, "-c", {HOLDER!r}], stdout=subprocess.PIPE)
    child = subprocess.Popen([sys.executable, "-c", {DEAF!r}], stdout=subprocess.PIPE)
    holder.stdout.readline(), child.stdout.readline()
    try:
        with freezegun.freeze_time("2024-01-01"):
            {call}
    except Exception as error:
        print("ended", flush=True)
    finally:
        holder.kill(), child.kill(), holder.wait(), child.wait()
    """
    assert programs.run(code).lines == ["ended"]


HOLDER = "import lastly, time; lastly.lock_file('lock'); print('held', flush=True); time.sleep(99)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"
