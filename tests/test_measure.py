"""The tools of the benchmarks: a wrong ratio is worse than none."""

from __future__ import annotations

import os

import pytest
from harness import ROOT

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="an installed copy has no benchmarks"
)


@pytest.mark.slow
def test_cases_take_turns() -> None:
    from benchmarks.measure import interleaved

    order = []
    results = interleaved(
        {"a": lambda: order.append("a") or 1.0, "b": lambda: order.append("b") or 2.0}, passes=2
    )
    assert order == ["a", "b", "a", "b"]
    assert results == {"a": [1.0, 1.0], "b": [2.0, 2.0]}


def test_a_table_shows_ratio_target_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.measure import Report

    report = Report("defer")
    report.ratio("1,000", 240e-9, "atexit", 120e-9, target=3)
    report.ratio("slow", 5e-3, "peer", 1e-3, target=2)
    report.value("warm", 31e-6, target=50e-6)
    report.number("memory", 17, "MB", target=16)
    report.print()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[3] == "1,000 240 ns 120 ns atexit 2.00× ≤ 3× ok".split()
    assert rows[4] == "slow 5 ms 1 ms peer 5.00× ≤ 2× MISSED".split()
    assert rows[5] == "warm 31 µs ≤ 50 µs ok".split()
    assert rows[6] == "memory 17 MB ≤ 16 MB MISSED".split()


def test_percentiles_are_values_that_occurred() -> None:
    from benchmarks.measure import percentile

    assert [percentile(range(1, 101), p) for p in (0, 50, 99, 100)] == [1, 51, 100, 100]


def test_a_private_home_goes_and_the_old_one_comes_back(home: os.PathLike[str]) -> None:
    from benchmarks.measure import private_home

    with private_home() as inside:
        assert os.environ["LASTLY_HOME"] == inside != str(home)
    assert os.environ["LASTLY_HOME"] == str(home)
    assert not os.path.exists(inside)
