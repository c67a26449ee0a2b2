"""An app beside Cement's: importing it, and a whole life of one: set up, run, closed."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial

from benchmarks.measure import Report, child_seconds, interleaved, median, private_home, wall

STARTS = 15
PASSES = 7

# One cycle in a process that has run many of them, with a hook that cleans up, as programs have.
CYCLE = """
import os, sys, time
from {framework} import App
class Bench(App):
    class Meta:
        label = "bench"
        argv = []
        hooks = [("pre_close", lambda app: None)]
def cycle():
    with Bench() as app:
        app.run()
for _ in range(20):
    cycle()
start = time.perf_counter()
for _ in range(100):
    cycle()
print((time.perf_counter() - start) / 100)
"""
HOOKS = """
import time
from {framework} import App
app = App("bench", argv=[], define_hooks=["mine"])
app.setup()
def hook(app):
    pass
start = time.perf_counter()
for _ in range(1000):
    app.hook.register("mine", hook)
for _ in app.hook.run("mine", app):
    pass
print((time.perf_counter() - start) / 1000)
app.close()
"""
PROGRAM = "from {framework} import App\nwith App('bench', argv=[]) as app:\n    app.run()\n"


def main() -> None:
    """Print the table; without Cement there is nothing to compare with."""
    if importlib.util.find_spec("cement") is None:
        print("bench_app: cement is not installed")
        return
    report = Report("App, beside Cement's")
    with private_home():
        cases = {
            f"{what} {framework}": partial(run, code.format(framework=framework))
            for what, code, run in (
                ("import", "import {framework}", start),
                ("program", PROGRAM, start),
                ("cycle", CYCLE, child_seconds),
                ("hooks", HOOKS, child_seconds),
            )
            for framework in ("lastly.app", "cement")
        }
        start("pass")
        bare = {"bare": lambda: start("pass")}
        starts = interleaved({**bare, **{n: c for n, c in cases.items() if n[0] in "ip"}}, passes=STARTS)
        rest = interleaved({n: c for n, c in cases.items() if n[0] not in "ip"}, passes=PASSES)
    for what, title, target in (
        ("import", "import, over a bare start", 0.5),
        ("program", "a whole program, over a bare start", None),
    ):
        ours, theirs = (over(starts, f"{what} {framework}") for framework in ("lastly.app", "cement"))
        report.ratio(title, ours, "cement", theirs, target=target)
    for what, title, target in (
        ("cycle", "setup, run, close; warm", 0.7),
        ("hooks", "register and run a hook", 1),
    ):
        ours, theirs = (median(rest[f"{what} {framework}"]) for framework in ("lastly.app", "cement"))
        report.ratio(title, ours, "cement", theirs, target=target)
    report.print()


def start(code: str) -> float:
    """Seconds of a fresh interpreter that runs this code."""
    return wall([sys.executable, "-c", code])


def over(results: dict[str, list[float]], name: str) -> float:
    """The median of what a start took more than the bare start of its pass."""
    return median(a - b for a, b in zip(results[name], results["bare"], strict=True))


if __name__ == "__main__":
    main()
