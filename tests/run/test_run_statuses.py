"""`actions.run` with ok= and unless=: what counts as done, in the process itself and after its death."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import Programs

import lastly
from lastly import actions
from lastly._durable import own
from lastly._reaper import desk

# What is given; whether the program has run; what it came to.
WAYS: list[tuple[str, str, bool, str]] = [
    ("exit 32", "ok=(0, 32)", True, ""),
    ("exit 32", "ok=32", True, ""),
    ("exit 0", "ok=(0, 32)", True, ""),
    ("exit 0", "ok=32", True, "ended with status 0"),
    ("exit 1", "ok=(0, 32)", True, "ended with status 1"),
    ("exit 32", "", True, "ended with status 32"),
    ("kill -9 $$", "ok=(0, 9, 137)", True, "9"),
    ("exit 1", "unless=['true']", False, ""),
    ("exit 0", "unless=['false']", True, ""),
    ("exit 3", "unless=['false'], ok=3", True, ""),
    ("exit 3", "unless=['sh', '-c', 'exit 3'], ok=3", True, ""),
    ("exit 0", "unless=['/nonexistent/program']", False, "could not be started"),
    ("exit 0", "unless=['sh', '-c', 'kill -9 $$']", False, "signal 9"),
    ("exit 0", "unless=['sleep', '100'], timeout=0.2", False, "0.2 s"),
    ("exit 0", "unless=['test', '-e', 'program.py']", False, ""),  # in the folder where it was deferred
]


def settled(programs: Programs, code: str, more: str, dead: bool) -> tuple[bool, str]:
    """Whether the program was run, and what was said of it."""
    text = f"""
    import os, lastly
    from lastly import actions
    scope = lastly.Scope()
    scope.defer(actions.run, ["sh", "-c", "touch ran; {code}"], {more})
    if {dead}:
        os.kill(os.getpid(), 9)
    try:
        scope.close()
    except lastly.CleanupFailed as error:
        print(error.exceptions[0])
    """
    program = programs.start(text, env={"LASTLY_REAPER": "later"})
    said = program.wait().out.strip()
    if dead:
        programs.run_command(["lastly", "reap"])
        said = " ".join(item["error"] for owner in desk.owners() for item in owner["cleanups"])
    return (program.cwd / "ran").exists(), said


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize(("code", "more", "runs", "says"), WAYS)
@pytest.mark.slow(keep=12)
def test_what_counts_as_done(
    programs: Programs, home: Path, code: str, more: str, runs: bool, says: str, dead: bool
) -> None:
    ran, said = settled(programs, code, more, dead)
    assert ran == runs
    assert (says in said) if says else not said


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"ok": "0"}, TypeError), ({"ok": ()}, TypeError), ({"ok": None}, TypeError), ({"ok": (True,)}, TypeError),
        ({"ok": 1.0}, TypeError), ({"ok": (0, 256)}, ValueError), ({"ok": -9}, ValueError),
        ({"unless": "true"}, TypeError), ({"unless": []}, TypeError), ({"unless": [1]}, TypeError),
        ({"unless": ["a\0b"]}, ValueError), ({"unles": ["true"]}, TypeError),
    ],
)  # fmt: skip
def test_refused_when_deferred(home: Path, more: dict[str, Any], error: type[Exception]) -> None:
    with lastly.Scope() as scope, pytest.raises(error):
        scope.defer(actions.run, ["true"], **more)


def test_what_is_recorded_is_json(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_journal", None)  # another test's is in another home
    with lastly.Scope() as scope:
        scope.defer(actions.run, ["true"], ok={0, 3}, unless=["test", "-e", Path("/x")])
        [item] = [item for owner in desk.owners() for item in owner["cleanups"]]
        assert item["kwargs"]["unless"] == ["test", "-e", "/x"]
        assert sorted(item["kwargs"]["ok"]) == [0, 3]
