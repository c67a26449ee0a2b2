"""Deferring and running cleanups, against atexit, ExitStack and the other libraries.

Runs in a process of its own: atexit's functions can only be run all at once.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial

from benchmarks.measure import Report, interleaved, median, run

from lastly import AsyncScope, Scope

Case = Callable[[], tuple[float, float]]
clock = time.perf_counter


def undo(path: str = "", number: int = 0, key: int = 0) -> None:
    """What is registered: as little as possible."""


KEYWORDS = (1, {"key": 2})


async def undo_later(path: str = "", number: int = 0) -> None:
    """The same, for a loop."""


def timed(count: int, args: tuple, add: Callable, run: Callable) -> tuple[float, float]:
    """Seconds per registration, seconds per run."""
    if args == KEYWORDS:
        start = clock()
        for _ in range(count):
            add(undo, 1, key=2)
    elif args:
        one, two = args
        start = clock()
        for _ in range(count):
            add(undo, one, two)
    else:
        start = clock()
        for _ in range(count):
            add(undo)
    middle = clock()
    run()
    return (middle - start) / count, (clock() - middle) / count


class Thing:
    pass


def finalizers(count: int, args: tuple) -> tuple[float, float]:
    things = [Thing() for _ in range(count)]
    positional, keywords = ((1,), {"key": 2}) if args == KEYWORDS else (args, {})
    start = clock()
    found = [weakref.finalize(thing, undo, *positional, **keywords) for thing in things]
    middle = clock()
    for finalizer in found:
        finalizer()
    return (middle - start) / count, (clock() - middle) / count


def in_loop(make: Callable, add: str, close: str, count: int) -> tuple[float, float]:
    async def main() -> tuple[float, float]:
        stack = make()
        await stack.__aenter__()
        register = getattr(stack, add)
        start = clock()
        for _ in range(count):
            register(undo_later, "x", 1)
        middle = clock()
        await getattr(stack, close)()
        return (middle - start) / count, (clock() - middle) / count

    return asyncio.run(main())


def subjects(count: int, args: tuple) -> dict[str, Case]:
    def scope() -> tuple[float, float]:
        ours = Scope()
        return timed(count, args, ours.defer, ours.close)

    def stack() -> tuple[float, float]:
        theirs = ExitStack()
        return timed(count, args, theirs.callback, theirs.close)

    cases: dict[str, Case] = {
        "lastly": scope,
        "atexit": lambda: timed(count, args, atexit.register, atexit._run_exitfuncs),
        "ExitStack": stack,
        "finalize": lambda: finalizers(count, args),
    }
    try:
        import safe_exit
    except ImportError:
        return cases
    safe_exit.register(undo)  # takes the signals; a process of our own
    cases["safe-exit"] = lambda: timed(count, args, safe_exit.register, safe_exit._call_exit_funcs)
    return cases


def hooks(count: int) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    try:
        import pyterminate
    except ImportError:
        pass
    else:

        def distinct() -> tuple[float, float]:
            functions = [lambda *_: None for _ in range(count)]
            start = clock()
            for function in functions:
                pyterminate.register(function, args=("x", 1))
            middle = clock()
            atexit._run_exitfuncs()
            times = (middle - start) / count, (clock() - middle) / count
            for function in functions:
                pyterminate.unregister(function)
            return times

        cases["pyterminate"] = distinct
    try:
        from cement.core.hook import HookManager
    except ImportError:
        return cases

    class FakeApp:
        pass

    def cement() -> tuple[float, float]:
        manager = HookManager(FakeApp())
        manager.define("pre_close")
        start = clock()
        for _ in range(count):
            manager.register("pre_close", undo)
        middle = clock()
        list(manager.run("pre_close", "x"))
        return (middle - start) / count, (clock() - middle) / count

    cases["Cement hooks"] = cement
    return cases


def measured(cases: dict[str, Case], passes: int) -> tuple[dict[str, float], dict[str, float]]:
    """Medians per subject: of registering, of running."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}

    def remember(name: str) -> Callable[[], float]:
        def case() -> float:
            found[name].append(cases[name]())
            return 0.0

        return case

    interleaved({name: remember(name) for name in cases}, passes=passes)
    return (
        {name: median([pair[0] for pair in pairs]) for name, pairs in found.items()},
        {name: median([pair[1] for pair in pairs]) for name, pairs in found.items()},
    )


def stacks(report: Report) -> None:
    for count, passes in ((1_000, 60), (100_000, 5)):
        for args, more in (((), ""), (("x", 1), ", with arguments"), (KEYWORDS, ", with a keyword")):
            what = f"{count:,}{more}"
            add, closed = measured(subjects(count, args), passes)
            # atexit stores a bare function in C and gives no handle; the target is for what has arguments.
            # Of 100,000 most of the time goes to the garbage collector, which walks the growing heap again and
            # again; atexit's array is not walked. On 3.11 a bare (function, arguments) in a list, without any
            # handle, takes 2.5 times as long as atexit there; 3.13 collects less.
            # A call with keyword arguments builds a dict, which ExitStack has to do as well.
            at_exit = 3.0 if count == 1_000 else 4.5
            targets = {"atexit": at_exit if args else None, "ExitStack": 0.5}
            for peer in ("atexit", "ExitStack", "finalize", "safe-exit"):
                if peer in add:
                    report.ratio(f"defer {what}", add["lastly"], peer, add[peer], target=targets.get(peer))
            for peer in ("atexit", "ExitStack", "finalize", "safe-exit"):
                if peer in closed:
                    least = 0.65 if count == 1_000 else 0.6
                    target = least if peer == "ExitStack" else None
                    report.ratio(f"run {what}", closed["lastly"], peer, closed[peer], target=target)


def others(report: Report) -> None:
    count = 250
    add, run = measured({"lastly": subjects(count, ("x", 1))["lastly"], **hooks(count)}, 5)
    for peer in add:
        if peer != "lastly":
            report.ratio(f"defer {count}", add["lastly"], peer, add[peer])
            report.ratio(f"run {count}", run["lastly"], peer, run[peer])


def in_loops(report: Report) -> None:
    costs = {}
    # A task is what one cleanup costs, however little it does: without, a cancellation would reach it.
    for count, target in ((1, 4.0), (20, 2.0), (256, 1.2), (1_000, 0.9), (10_000, None), (100_000, None)):
        cases = {
            "lastly": partial(in_loop, AsyncScope, "defer", "close", count),
            "AsyncExitStack": partial(in_loop, AsyncExitStack, "push_async_callback", "aclose", count),
        }
        add, closed = measured(cases, 60 if count < 1_000 else 10 if count == 1_000 else 3)
        costs[count] = closed["lastly"] * count
        if count == 1_000:
            report.ratio("AsyncScope, defer 1,000", add["lastly"], "AsyncExitStack", add["AsyncExitStack"], 0.5)
        what = f"AsyncScope, close {count:,}"
        report.ratio(what, costs[count], "AsyncExitStack", closed["AsyncExitStack"] * count, target)
    report.growth("AsyncScope, close", costs)


def growing(report: Report) -> None:
    """Without the collector, whose walks over a growing heap are not ours: see above."""
    adding, closing = {}, {}
    gc.disable()
    try:
        for count in (1, 10, 100, 1_000, 10_000, 100_000):
            pairs = [subjects(count, ("x", 1))["lastly"]() for _ in range(max(3, min(200, 20_000 // count)))]
            adding[count] = median([add for add, _ in pairs]) * count
            closing[count] = median([run for _, run in pairs]) * count
    finally:
        gc.enable()
    report.growth("defer", adding)
    report.growth("close", closing)


def detaching(report: Report) -> None:
    scope = Scope()
    handles = [scope.defer(undo, "x", i) for i in range(100_000)]
    few = handles[::100]
    start = clock()
    for handle in few:
        handle.detach()
    report.value("detach one of 100,000", (clock() - start) / len(few), target=2e-6)
    scope.detach_all()
    functions = [lambda: None for _ in range(20_000)]
    for function in functions:
        atexit.register(function)
    start = clock()
    for function in functions[::2_000]:
        atexit.unregister(function)
    report.value("  atexit.unregister, one of 20,000", (clock() - start) / 10)
    atexit._clear()


def together(report: Report) -> None:
    def close() -> float:
        scope = Scope()
        with scope.parallel() as pool:
            for _ in range(20):
                pool.defer(time.sleep, 0.1)
        start = clock()
        scope.close()
        return clock() - start

    report.value("close 20 of 100 ms in parallel", median([close() for _ in range(5)]), target=0.15)


def here() -> None:
    report = Report("scopes")
    stacks(report)
    others(report)
    in_loops(report)
    growing(report)
    detaching(report)
    together(report)
    report.print()


def main() -> None:
    """Print the table, from a process of its own."""
    sys.stdout.flush()
    sys.exit(subprocess.run([sys.executable, "-m", "benchmarks.bench_scope", "--here"], check=False).returncode)


if __name__ == "__main__":
    run(here) if "--here" in sys.argv else main()
