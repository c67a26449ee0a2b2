"""Some of what `make chaos` does, each time with another seed: it is printed when it fails."""

from __future__ import annotations

import os

import chaos
from harness import Programs, examples


def test_random_kills(programs: Programs) -> None:
    """I2, I3, I4, I5: one sweep after many kills, and nothing is left, nothing foreign touched, all of it settled."""
    seed = os.environ.get("CHAOS_SEED", "")
    result = programs.run_command(["python", chaos.__file__, str(examples(120)), *filter(None, [seed])], within=120)
    assert result.status == 0, result.out + result.err
    assert "nothing left" in result.out
    assert result.err == ""
