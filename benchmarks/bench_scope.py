"""Deferring and running cleanups, against atexit, ExitStack and the other libraries.

Runs in a process of its own: atexit's functions can only be run all at once. What is measured is the thread's
processor time: other programs change it least. The floor of registering makes a handle with four attributes in a dict;
that of running takes them out again and calls them.
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

from benchmarks.measure import Report, interleaved, median, run, seconds

from lastly import AsyncScope, Scope

Case = Callable[[], tuple[float, float]]
clock = time.thread_time


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
    gc.collect(0)  # of what has been registered: else it falls into whichever phase is there
    begun = clock()
    run()
    return (middle - start) / count, (clock() - begun) / count


class Handle:
    """The least that can be told apart and taken back in constant time."""

    __slots__ = ("args", "function", "keywords", "stack")


def handles(count: int, args: tuple) -> tuple[float, float]:
    """The floor."""
    stack: dict[Handle, None] = {}

    def add(function: Callable, *args: object, **keywords: object) -> Handle:
        handle = Handle()
        handle.function = function
        handle.args = args
        handle.keywords = keywords
        handle.stack = stack
        stack[handle] = None
        return handle

    def positional() -> None:
        while stack:
            handle, _ = stack.popitem()
            handle.function(*handle.args)

    def keywords() -> None:
        while stack:
            handle, _ = stack.popitem()
            handle.function(*handle.args, **handle.keywords)

    return timed(count, args, add, keywords if args == KEYWORDS else positional)


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
    """In a loop that has closed others. Of several, when they are small: the clock takes as long as one."""
    stacks = max(1, 200 // count)

    async def main() -> tuple[float, float]:
        async with make() as first:
            getattr(first, add)(undo_later)
        made = [make() for _ in range(stacks)]
        for stack in made:
            await stack.__aenter__()
        start = clock()
        for stack in made:
            register = getattr(stack, add)
            for _ in range(count):
                register(undo_later, "x", 1)
        middle = clock()
        gc.collect(0)  # as above
        begun = clock()
        for stack in made:
            await getattr(stack, close)()
        return (middle - start) / count / stacks, (clock() - begun) / count / stacks

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
        "floor": lambda: handles(count, args),
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
            # Of 100,000 the garbage collector takes half: it walks the growing heap again and again, and atexit's
            # array is not walked. With it the floor alone takes 4 times as long as atexit, without it 2.5 times.
            # A call with keyword arguments makes a dict and takes it apart again, here as in ExitStack; what is left
            # of the time is the floor's, and on 3.11 that alone is 0.8 of ExitStack's.
            at_exit, goal = (3.0, 0.65) if count == 1_000 else (4.5, 0.6)
            targets = {"atexit": at_exit if args else None, "ExitStack": 0.5}
            for verb, times, goals in (("defer", add, targets), ("run", closed, {"ExitStack": goal})):
                for peer in ("atexit", "ExitStack", "finalize", "safe-exit"):
                    if peer in times:
                        report.ratio(
                            f"{verb} {what}", times["lastly"], peer, times[peer], goals.get(peer), floor=times["floor"]
                        )


def others(report: Report) -> None:
    count = 250
    add, run = measured({"lastly": subjects(count, ("x", 1))["lastly"], **hooks(count)}, 5)
    for peer in add:
        if peer != "lastly":
            report.ratio(f"defer {count}", add["lastly"], peer, add[peer])
            report.ratio(f"run {count}", run["lastly"], peer, run[peer])


def in_loops(report: Report) -> None:
    costs = {}
    # In a task of its own no cancellation reaches a cleanup, however little that does. Before 3.12 a task begins with
    # the loop's next turn, which is 10 µs: 1, 20 and 256 miss by that. From 3.12 on the task is 1 µs, and what a scope
    # is asked at its close (who closes, what is left, whether it is cancelled) 4 µs: 1 misses by that.
    for count, target in ((1, 4.0), (20, 2.0), (256, 1.2), (1_000, 0.9), (10_000, None), (100_000, None)):
        cases = {
            "lastly": partial(in_loop, AsyncScope, "defer", "close", count),
            "AsyncExitStack": partial(in_loop, AsyncExitStack, "push_async_callback", "aclose", count),
        }
        add, closed = measured(cases, 60 if count < 1_000 else 20 if count == 1_000 else 3)
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
        return seconds(scope.close)

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
