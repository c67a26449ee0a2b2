"""A remote plan is a committed row before `defer` returns; and what happens when it cannot be."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

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


def test_a_relay_that_dies_again_and_again_is_asked_until_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """A dying one still takes connections for a moment, so two attempts may be over before it is gone."""
    from lastly._durable import shared as asking
    from lastly._journal import home as places
    from lastly._journal import relay_line

    where = asking.SharedUrl("postgresql:///x?wait=60")
    places.runtime_dir()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(relay_line.path(where.key))
    listener.listen()

    def die_three_times_then_answer() -> None:
        for answer in (b"", b"", b"", json.dumps({"ok": 7}).encode()):
            line, _ = listener.accept()
            with line:
                line.recv(1000)
                if answer:
                    line.send(answer)

    thread = threading.Thread(target=die_three_times_then_answer, daemon=True)
    thread.start()
    kept: list[tuple[int, int, socket.socket]] = []
    monkeypatch.setattr(asking, "_idle", kept)
    assert asking._ask(where, {"op": "plan"}) == {"ok": 7}
    thread.join(LONG)
    for one in (listener, *(line for _, _, line in kept)):
        one.close()


# Whatever a program pays for a shared plan it pays each time: the plan, one question, one answer, and that it is shared.
COUNTED = """
import os, sys, lastly, cloud
lastly.defer(cloud.destroy, "vm-1")
calls = []
for name in ("write", "fdatasync"):
    def counted(*args, _name=name, _call=getattr(os, name)):
        calls.append(_name)
        return _call(*args)
    setattr(os, name, counted)
lastly.defer(cloud.destroy, "vm-2")
print(calls, [name for name in ("json", "socket", "psycopg", "asyncio", "logging") if name in sys.modules], flush=True)
"""


def test_a_shared_plan_is_two_records_and_no_library_in_the_program(programs: Programs, shared: Shared, cloud: Cloud) -> None:
    """Red when the line to the relay needs the json module's Python half, or the disk is waited for as well."""
    program = programs.run(COUNTED, env=env(shared, cloud), within=LONG)
    assert program.status == 0, program.err
    assert program.lines[0] == "['write', 'write'] []"


def test_a_plan_that_is_no_text_and_one_that_is(programs: Programs, shared: Shared, cloud: Cloud) -> None:
    """What is JSON goes through program, journal, relay and database as it is; what PostgreSQL cannot keep is refused alone."""
    code = """
        import lastly, cloud
        for name in ("vm-ü-\\U0001f600", "vm-\\x00", "vm-last"):
            try:
                lastly.defer(cloud.destroy, name)
            except lastly.NotRecorded as error:
                print("refused", ascii(name), flush=True)
    """
    program = programs.run(code.replace("\\\\", "\\"), env=env(shared, cloud), within=LONG)
    assert program.status == 0, program.err
    assert program.lines == [r"refused 'vm-\x00'"]
    assert sorted(name for name, _ in rows(shared)) == ["vm-last", "vm-ü-\U0001f600"]
