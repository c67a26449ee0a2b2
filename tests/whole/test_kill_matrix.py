"""The kill matrix, lastly's column: however the program ends, nothing is left, and the parent sees the truth."""

from __future__ import annotations

import pytest
from kill_matrix import measure
from kill_matrix_program import WAYS, Way


@pytest.mark.parametrize("way", [pytest.param(way, id=name) for name, way in WAYS.items()])
@pytest.mark.slow(keep=8)
def test_nothing_is_left(way: Way) -> None:
    outcome = measure("lastly", way)
    assert (outcome.left, outcome.status, outcome.lost) == (0, way.status, False), outcome.error


def test_there_are_enough_ways() -> None:
    assert len(WAYS) >= 36


@pytest.mark.parametrize("system", ["atexit", "ExitStack", "handlers"])
def test_the_matrix_finds_what_others_leave(system: str) -> None:
    """The test of the test: directory, pid file, machine, child and grandchild are seen."""
    assert measure(system, WAYS["SIGKILL"])[:2] == (5, -9)
    assert measure(system, WAYS["return"])[:2] == (0, 0)
