"""lastly.lease(): what a program hears of its machine's lease."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
from harness import Programs, wait_until
from sharing import LONG, Cloud, Shared, needs_server

pytestmark = [needs_server, pytest.mark.xdist_group("reach-lease")]

TELL = """
import json, sys, lastly, cloud

def tell():
    lease = lastly.lease()
    print(json.dumps([lease.held, lease.epoch, lease.ttl, lease.remaining, lease.why]), flush=True)

tell()
lastly.defer(cloud.destroy, "vm-1")
for _ in sys.stdin:
    tell()
"""


def test_without_a_shared_journal_there_is_none(programs: Programs) -> None:
    assert programs.run("import lastly\nprint(lastly.lease())").out == "None\n"


def test_a_lease_is_held_lost_and_had_again(programs: Programs, cloud: Cloud, own_server: Callable[[], Shared]) -> None:
    shared = own_server()
    env: dict[str, str | None] = {**cloud.env, "LASTLY_JOURNAL": shared.url(ttl=3, wait=20)}
    program = programs.start(TELL, env=env, stdin=subprocess.PIPE)
    held, epoch, ttl, remaining, why = json.loads(program.line("[", within=LONG))
    assert (held, epoch, ttl, remaining) == (False, 0, 3, 0)
    assert why == "no relay runs: the first remote action starts it"

    def told() -> list[object]:
        program.write("\n")
        return list(json.loads(program.line("[", within=LONG)))

    held, epoch, ttl, remaining, why = wait_until(lambda: (now := told())[0] and now, within=LONG)
    assert (epoch, why) == (1, "")
    assert 1 < remaining <= 3  # plans are refused at two thirds of the ttl
    shared.server.stop()
    held, epoch, _, remaining, why = wait_until(lambda: not (now := told())[0] and now, within=LONG)
    assert (epoch, remaining <= 1) == (1, True)
    assert why.startswith("shared journal postgresql://web1@")
    wait_until(lambda: told()[3] == 0, within=LONG)
    shared.server.start()
    wait_until(lambda: told()[0], within=LONG)
