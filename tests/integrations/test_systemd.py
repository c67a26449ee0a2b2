"""What systemd hears of a program: on a socket of the test's own, that speaks its protocol."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Programs, wait_until
from manager import Manager

from lastly.integrations import systemd


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = f"{tmp_path}/notify" if request.param == "path" else f"@lastly-test-{os.getpid()}-{tmp_path.name}"
    found = Manager(address)
    yield found
    found.socket.close()


# Its one cleanup waits until the file "go" is there.
PROGRAM = """
    import os, sys, threading, time
    import lastly
    from lastly.integrations import systemd

    def work():
        print("works", flush=True)
        while True:
            time.sleep(0.02)

    def wait_for_go():
        print("cleaning up", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)

    systemd.EVERY = 0.02
    {body}
"""


def start(programs: Programs, manager: Manager, body: str, **options: Any) -> Any:
    return programs.start(PROGRAM.format(body=body), env={"NOTIFY_SOCKET": manager.address}, **options)


def test_ready_stopping_and_more_time(programs: Programs, manager: Manager, python: str) -> None:
    body = 'lastly.install(); lastly.defer(wait_for_go); print(systemd.ready("serving")); work()'
    program = start(programs, manager, body, python=python)
    assert manager.message() == ["READY=1", "STATUS=serving"]
    program.line("works")
    program.send(signal.SIGTERM)
    assert manager.message() == ["STOPPING=1"]
    for _ in range(3):
        extend, status = manager.message()
        assert extend == "EXTEND_TIMEOUT_USEC=10000000"
        assert status.startswith("STATUS=stopping (signal SIGTERM):")
    wait_until(lambda: "running wait_for_go" in manager.next("STATUS"))
    (program.cwd / "go").touch()
    assert program.wait().status == -signal.SIGTERM
    assert [lines for lines in manager.rest() if lines == ["STOPPING=1"]] == [["STOPPING=1"]]


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_an_end_without_a_signal(programs: Programs, manager: Manager, python: str) -> None:
    program = start(programs, manager, "lastly.defer(wait_for_go); systemd.ready()", python=python)
    assert manager.message() == ["READY=1"]
    assert manager.message() == ["STOPPING=1"]
    assert "the program ends" in manager.next("STATUS")
    (program.cwd / "go").touch()
    assert program.wait().status == 0


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_an_end_with_nothing_to_do(programs: Programs, manager: Manager, python: str) -> None:
    assert start(programs, manager, "systemd.ready()", python=python).wait().status == 0
    assert manager.rest()[:2] == [["READY=1"], ["STOPPING=1"]]


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_no_more_time_than_the_grace(programs: Programs, manager: Manager) -> None:
    """Each time is within the grace, and each is shorter than the one before."""
    body = "lastly.install(grace=9); lastly.defer(wait_for_go); systemd.ready(); work()"
    program = start(programs, manager, body)
    program.line("works")
    program.send(signal.SIGTERM)
    times = [int(manager.next("EXTEND_TIMEOUT_USEC")) for _ in range(5)]
    assert times == sorted(set(times), reverse=True)
    assert times[0] <= 9_000_000
    (program.cwd / "go").touch()
    program.wait()


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_no_more_time_than_the_limit(programs: Programs, manager: Manager) -> None:
    body = "lastly.defer(wait_for_go); systemd.ready(grace=1); thread = threading.enumerate()[-1]; lastly.defer(thread.join)"
    program = start(programs, manager, body)
    program.line("cleaning up")  # the thread that asked for time has ended
    assert [manager.message(), manager.message()] == [["READY=1"], ["STOPPING=1"]]
    (program.cwd / "go").touch()
    assert program.wait().status == 0
    asked = [int(lines[0].partition("=")[2]) for lines in manager.rest() if lines[0].startswith("EXTEND")]
    assert asked and max(asked) <= 1_000_000


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_a_signal_that_is_answered(programs: Programs, manager: Manager) -> None:
    """The program goes on, and tells of its end when that comes."""
    body = """
    lastly.install()
    systemd.ready()
    try:
        work()
    except KeyboardInterrupt:
        systemd.ready("goes on")
    work()
    """
    program = start(programs, manager, body)
    assert manager.message() == ["READY=1"]
    program.line("works")
    program.send(signal.SIGINT)
    while manager.message() != ["READY=1", "STATUS=goes on"]:
        pass
    program.line("works")
    program.send(signal.SIGTERM)
    assert program.wait().status == -signal.SIGTERM


@pytest.mark.parametrize("manager", ["path"], indirect=True)
@pytest.mark.parametrize("how", [[], ["--supervise"]], ids=["run", "supervise"])
def test_under_lastly_run(how: list[str], programs: Programs, manager: Manager, tmp_path: Path) -> None:
    """It is the same process; or a child of the unit's, which is asked to stop all the same."""
    script = tmp_path / "service.py"
    script.write_text(textwrap.dedent(PROGRAM.format(body="lastly.defer(wait_for_go); systemd.ready(); work()")))
    argv = ["lastly", "run", *how, "--", sys.executable, str(script)]
    program = programs.start_command(argv, env={"NOTIFY_SOCKET": manager.address})
    program.line("works")
    program.send(signal.SIGTERM)
    assert [manager.message(), manager.message()] == [["READY=1"], ["STOPPING=1"]]
    assert manager.next("EXTEND_TIMEOUT_USEC") == "10000000"
    (program.cwd / "go").touch()
    assert program.wait().status == -signal.SIGTERM


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_a_signal_that_came_before_it_was_ready(programs: Programs, manager: Manager) -> None:
    body = """
    lastly.install()
    try:
        work()
    finally:
        systemd.ready()
        wait_for_go()
    """
    program = start(programs, manager, body)
    program.line("works")
    program.send(signal.SIGTERM)
    assert [manager.message(), manager.message()] == [["READY=1"], ["STOPPING=1"]]
    assert manager.next("EXTEND_TIMEOUT_USEC") == "10000000"
    (program.cwd / "go").touch()
    assert program.wait().status == -signal.SIGTERM


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_a_forked_child_tells_nothing(programs: Programs, manager: Manager) -> None:
    body = """
    lastly.install()
    systemd.ready()
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        os._exit(0)
    """
    assert start(programs, manager, body).wait().status == 0
    assert manager.rest() == [["READY=1"]]


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_twice_and_from_a_thread(programs: Programs, manager: Manager) -> None:
    body = """
    thread = threading.Thread(target=systemd.ready, args=("one",))
    thread.start()
    thread.join()
    systemd.ready("two\\nlines")
    print(sum(t.name == "lastly-systemd" for t in threading.enumerate()))
    """
    result = start(programs, manager, body).wait()
    assert (result.status, result.out) == (0, "1\n")
    assert manager.rest()[:2] == [["READY=1", "STATUS=one"], ["READY=1", "STATUS=two lines"]]


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative", "/", "/nowhere/at/all", "/" + "x" * 200, "@" + "x" * 200])
def test_where_nobody_listens(address: str | None, programs: Programs) -> None:
    """Nothing happens, nothing is set up, and the program ends as ever."""
    body = 'print(systemd.ready("serving"), systemd.notify("WATCHDOG=1"), threading.active_count())'
    result = programs.run(PROGRAM.format(body=body), env={"NOTIFY_SOCKET": address})
    assert (result.status, result.out, result.err) == (0, "False False 1\n", "")


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_a_manager_that_does_not_read_keeps_nobody_waiting(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    sent = 0
    while systemd.notify("WATCHDOG=1"):
        sent += 1
        assert sent < 100_000
    assert len(manager.rest()) == sent


@pytest.mark.parametrize("line", ["READY", "=1", "", "STATUS=two\nREADY=1"])
def test_what_is_no_line(line: str) -> None:
    with pytest.raises(ValueError, match="NAME=value"):
        systemd.notify(line)
