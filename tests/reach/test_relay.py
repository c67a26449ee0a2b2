"""A remote plan is a committed row before `defer` returns; and what happens when it cannot be."""

from __future__ import annotations

import pytest
from harness import Programs, wait_until
from sharing import LONG, Cloud, Shared, needs_server

pytestmark = [needs_server, pytest.mark.xdist_group("reach-relay")]

RENT = """
import sys, lastly, cloud
for name in sys.argv[1:]:
    lastly.defer(cloud.destroy, name)
    cloud.rent(name)
print("ready", flush=True)
sys.stdin.readline()
"""


def rows(shared: Shared) -> list[tuple[str, str]]:
    return [
        (args[0], state) for args, state in shared.all("SELECT args, state FROM lastly.cleanups ORDER BY planned, id")
    ]


def env(shared: Shared, cloud: Cloud, user: str = "web1", **query: object) -> dict[str, str | None]:
    return {**cloud.env, "LASTLY_ENV": "CLOUD", "LASTLY_JOURNAL": shared.url(user, queue="shop", **{"wait": 20, **query})}


def test_a_plan_is_a_row_before_defer_returns(programs: Programs, shared: Shared, cloud: Cloud) -> None:
    import subprocess

    program = programs.start(RENT, "vm-1", "vm-2", env=env(shared, cloud), stdin=subprocess.PIPE)
    program.line("ready", within=LONG)
    assert rows(shared) == [("vm-1", "planned"), ("vm-2", "planned")]
    program.write("\n")
    assert program.wait(within=LONG).status == 0
    assert cloud.left == []
    wait_until(lambda: {state for _, state in rows(shared)} == {"done"}, within=LONG)


def test_a_killed_program_is_settled_by_its_own_host(programs: Programs, shared: Shared, cloud: Cloud) -> None:
    program = programs.start(RENT, "vm-1", env=env(shared, cloud))
    program.wait(within=LONG)
    program = programs.start(RENT.replace("sys.stdin.readline()", "import os; os.kill(os.getpid(), 9)"), "vm-2", env=env(shared, cloud))
    assert program.wait(within=LONG).status == -9
    wait_until(lambda: rows(shared) == [("vm-1", "done"), ("vm-2", "done")], within=LONG)
    assert cloud.left == []
    assert cloud.runs == ["vm-1", "vm-2"]
