"""What the pytest plugin costs on 1,000 empty tests: loaded and not used, used by each test, and looking for leaks."""

from __future__ import annotations

import os
import sys
import tempfile

from benchmarks.measure import Report, busy, interleaved, median, private_home, ratios, run

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


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder, private_home():
        for name, text in (("pytest.ini", "[pytest]\n"), ("conftest.py", CONFTEST)):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
                out.write(text)
        empty, scopes = suite(folder, "empty"), suite(folder, "scopes", "lastly_scope")
        stacks = suite(folder, "stacks", "stack")

        def suite_takes(*args: str) -> float:  # two percent are less than what neighbours do to the clock
            return busy([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args])

        cases = {
            "without": lambda: suite_takes("-p", "no:lastly", empty),
            "with": lambda: suite_takes(empty),
            "scopes": lambda: suite_takes(scopes),
            "stacks": lambda: suite_takes("-p", "no:lastly", stacks),
            "leaks": lambda: suite_takes("--lastly-leaks", empty),
        }
        for case in cases.values():
            case()  # compiled, and in the page cache
        results = interleaved(cases, passes=PASSES)
    times = {name: median(values) for name, values in results.items()}
    # Pass by pass: a slow second then counts on both sides.
    ratio = ratios(results["with"], results["without"])
    report = Report(f"pytest, {TESTS:,} empty tests")
    bare = times["without"]
    report.ratio("the plugin, not used", bare * ratio, "-p no:lastly", bare, target=1.02)
    report.ratio("lastly_scope in each", times["scopes"], "ExitStack in each", times["stacks"])
    ratio = ratios(results["leaks"], results["without"])
    report.ratio("--lastly-leaks", bare * ratio, "-p no:lastly", bare, target=1.05, ratio=ratio)
    report.print()


if __name__ == "__main__":
    run(main)
