"""What the pytest plugin costs on 1,000 empty tests: loaded and not used, used by each test, and looking for leaks."""

from __future__ import annotations

import os
import resource
import sys
import tempfile

from benchmarks.measure import Report, interleaved, median, private_home, wall

TESTS = 1000
PASSES = 7

# The peer of `lastly_scope`: what one writes today.
CONFTEST = """
import contextlib, pytest
@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack
"""


def suite(folder: str, name: str, argument: str = "") -> str:
    """Write a file of empty tests."""
    path = os.path.join(folder, f"test_{name}.py")
    with open(path, "w", encoding="utf-8") as out:
        out.writelines(f"def test_{number}({argument}): pass\n" for number in range(TESTS))
    return path


def busy(argv: list[str]) -> float:
    """Seconds of processor time that a command takes: two percent are less than what neighbours do to the clock."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall(argv)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder, private_home():
        for name, text in (("pytest.ini", "[pytest]\n"), ("conftest.py", CONFTEST)):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
                out.write(text)
        empty, scopes = suite(folder, "empty"), suite(folder, "scopes", "lastly_scope")
        stacks = suite(folder, "stacks", "stack")

        def run(*args: str) -> float:
            return busy([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args])

        cases = {
            "without": lambda: run("-p", "no:lastly", empty),
            "with": lambda: run(empty),
            "scopes": lambda: run(scopes),
            "stacks": lambda: run("-p", "no:lastly", stacks),
            "leaks": lambda: run("--lastly-leaks", empty),
        }
        for case in cases.values():
            case()  # compiled, and in the page cache
        results = interleaved(cases, passes=PASSES)
    times = {name: median(values) for name, values in results.items()}
    # Pass by pass: a slow second then counts on both sides.
    ratio = median(ours / theirs for ours, theirs in zip(results["with"], results["without"], strict=True))
    report = Report(f"pytest, {TESTS:,} empty tests")
    bare = times["without"]
    report.ratio("the plugin, not used", bare * ratio, "-p no:lastly", bare, target=1.02)
    report.ratio("lastly_scope in each", times["scopes"], "ExitStack in each", times["stacks"])
    report.ratio("--lastly-leaks", times["leaks"], "-p no:lastly", bare)
    report.print()


if __name__ == "__main__":
    main()
