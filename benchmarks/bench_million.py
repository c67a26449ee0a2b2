"""One owner with a million removals: four minutes, so it runs only when it is named (`make bench B=million`)."""

from __future__ import annotations

from benchmarks.bench_backlog import removals
from benchmarks.measure import run

SIZES = (1, 1_000, 100_000, 1_000_000)


def main() -> None:
    """Print the table."""
    removals(SIZES, shown=100_000)


if __name__ == "__main__":
    run(main)
