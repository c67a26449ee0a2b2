"""SIGTERM until the process is reaped: cleanups, exit functions, flushes, and the death itself.

The peer is what many programs do: `signal.signal` with a handler that calls ``sys.exit(128 + n)``, and atexit. It goes
through the interpreter's whole finalization, which takes apart one by one what the kernel frees at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from benchmarks.measure import Report, interleaved, median, percentile

PASSES = 25
COUNT = 1000
LIBRARIES = "asyncio, sqlite3, logging"

_IMPORTS = "import sys, time{more}\n"
_END = "print('ready', flush=True)\ntime.sleep(60)\n"

HANDLERS = (
    "import atexit, signal\n"
    "def handler(number, frame):\n    sys.exit(128 + number)\n"
    "for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):\n"
    "    signal.signal(number, handler)\n"
    "def nothing(): pass\n"
    f"for i in range({COUNT}):\n    atexit.register(nothing)\n"
)
OURS = (
    "import lastly\n"
    "lastly.install()\n"
    "def nothing(): pass\n"
    f"for i in range({COUNT}):\n    lastly.defer(nothing)\n"
)


def died(code: str) -> float:
    """Start it, wait until it is ready, send SIGTERM; the seconds until it is reaped."""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    start = time.perf_counter()
    os.kill(child.pid, signal.SIGTERM)
    child.wait()
    seconds = time.perf_counter() - start
    child.stdout.close()
    return seconds


def main() -> None:
    """Print the table."""
    report = Report(f"SIGTERM until reaped, {COUNT} cleanups")
    for title, more in (("bare", ""), ("with " + LIBRARIES, ", " + LIBRARIES)):
        start = _IMPORTS.format(more=more)
        results = interleaved(
            {
                "lastly": lambda start=start: died(start + OURS + _END),
                "handlers": lambda start=start: died(start + HANDLERS + _END),
                "default": lambda start=start: died(start + _END),
            },
            passes=PASSES,
        )
        middle = {name: median(values) for name, values in results.items()}
        target = 1.0 if more else None
        report.ratio(title, middle["lastly"], "atexit + handlers", middle["handlers"], target=target)
        report.value(f"{title}: p90", percentile(results["lastly"], 90))
        report.value(f"{title}: the default action, no cleanup", middle["default"])
    report.print()


if __name__ == "__main__":
    main()
