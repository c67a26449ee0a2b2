"""A program at its end may have nothing left: no descriptor, no memory, no standard library to import from.

Many programs end *because* of that. Their cleanups run all the same, and the status tells what happened.
"""

from __future__ import annotations

import signal

import pytest
from harness import Programs

BEGIN = """
import asyncio.base_subprocess  # so that children of event loops are looked for at the end
import os, resource, signal, sys
import lastly
from lastly import Scope, defer, defer_early
from lastly._exit.root import root


def say(word):
    os.write(1, word.encode() + b"\\n")

def fails():
    raise ValueError("this cleanup fails")

"""
NOTHING = {
    "no descriptor": """
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
""",
    "no library": "sys.path[:] = []\nsys.meta_path[:] = []\n",
}
CLEANUPS = {
    "plain": "defer(say, 'ran')",
    "with a limit": "defer(say, 'ran').within(30)",
    "with a grace": "root.grace = 30.0\ndefer(say, 'ran')",
    "early": "defer_early(say, 'ran')",
    "parallel": "pool = root.parallel()\npool.defer(say, 'ran').within(30)",
    "a scope": "scope = Scope('inner', grace=30)\nscope.defer(say, 'ran')\ndefer(scope.close)",
    "beside one that fails": "defer(say, 'ran')\ndefer(fails)",
}
ENDS = {
    "its end": ("", 0),
    "an error": ("raise ValueError('the program fails')", 1),
    "sys.exit": ("sys.exit(3)", 3),
    "a signal": ("os.kill(os.getpid(), signal.SIGTERM)\nsignal.pause()", -signal.SIGTERM),
}


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize("cleanup", CLEANUPS)
@pytest.mark.parametrize("ending", ENDS)
@pytest.mark.slow(keep=12)
def test_cleanups_run(nothing: str, cleanup: str, ending: str, programs: Programs, python: str) -> None:
    """What runs a cleanup, and what tells the status, is imported before it is needed."""
    code, status = ENDS[ending]
    first = "lastly.install()" if "kill" in code else ""
    steps = [BEGIN, first, CLEANUPS[cleanup], NOTHING[nothing], code]
    result = programs.run("\n".join(steps), python=python)
    assert result.lines == ["ran"], result.err
    assert "lastly/" not in result.err.replace("lastly/actions", ""), result.err
    assert result.status == (1 if "fails" in cleanup and not status else status), result.err


@pytest.mark.parametrize("signum", [0, signal.SIGTERM])
def test_no_memory(signum: int, programs: Programs, python: str) -> None:
    """The kernel gives no page more; the signal is still the one that is seen."""
    code = """
    lastly.install()
    scope = Scope("inner")
    defer(scope.close)
    defer(say, "ran")
    resource.setrlimit(resource.RLIMIT_AS, (0, 0))
    """
    end = f"os.kill(os.getpid(), {signum})\nsignal.pause()" if signum else "raise ValueError('the program fails')"
    result = programs.run(BEGIN + "\n".join(line.strip() for line in code.splitlines()) + "\n" + end, python=python)
    assert result.lines == ["ran"], result.err
    assert result.status == (-signum or 1), result.err
