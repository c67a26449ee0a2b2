"""`lastly reap`, `retry`, `forget`, `history` and `why`, while the reaper is at it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from harness import Programs, asleep, wait_until

from lastly._journal import home as homes
from lastly._reaper import desk
from lastly._reaper.called import called

# It says that it runs, and runs until it may end.
SLOW = ["sh", "-c", 'touch began; while ! test -e go; do sleep 0.05; done; exit "$(cat go)"']


def dead(programs: Programs) -> Path:
    """A program that owed what takes long, and was killed; the reaper works on it when this returns."""
    code = f"""
    import os
    from lastly import actions, defer
    defer(actions.run, {SLOW!r})
    print("ready", flush=True)
    os.kill(os.getpid(), 9)
    """
    program = programs.start(code)
    program.line("ready")
    program.wait()
    wait_until((program.cwd / "began").exists, what="the reaper runs it")
    return program.cwd


def may_end(folder: Path, status: int = 0) -> None:
    (folder / "new").write_text(str(status))
    os.rename(folder / "new", folder / "go")


def ref() -> str:
    [found] = [item["ref"] for owner in desk.owners() for item in owner["cleanups"] if item["state"] != "done"]
    return str(found)


@pytest.mark.parametrize("which", ["all", "one", "owner"])
@pytest.mark.slow(keep=2)
def test_reap_waits_for_the_reaper(programs: Programs, home: Path, which: str) -> None:
    folder = dead(programs)
    words = {"all": [], "one": [ref()], "owner": [ref().partition(".")[0]]}[which]
    reap = programs.start_command(["lastly", "reap", *words])
    wait_until(lambda: asleep(reap.pid), what="reap waits")
    may_end(folder)
    result = reap.wait()
    assert (result.status, result.err) == (0, ""), result.out


def test_reap_is_not_done_when_the_reaper_fails(programs: Programs, home: Path) -> None:
    """It tries once more, and says what it sees."""
    folder = dead(programs)
    reap = programs.start_command(["lastly", "reap"])
    wait_until(lambda: asleep(reap.pid), what="reap waits")
    may_end(folder, 3)
    result = reap.wait()
    assert (result.status, "status 3" in result.out) == (1, True)


def test_reap_waits_no_longer_than_told(programs: Programs, home: Path) -> None:
    folder = dead(programs)
    result = programs.run_command(["lastly", "reap", "--wait", "0.1"])
    assert (result.status, "another process has the lease" in result.out) == (1, True)
    may_end(folder)


def test_retry_waits_for_the_reaper(programs: Programs, home: Path) -> None:
    folder = dead(programs)
    retry = programs.start_command(["lastly", "retry", ref()])
    wait_until(lambda: asleep(retry.pid), what="retry waits")
    may_end(folder)
    result = retry.wait()
    assert (result.status, result.out[-5:]) == (0, "done\n"), result.err


def test_forget_waits_for_the_reaper(programs: Programs, home: Path) -> None:
    """What has failed meanwhile is forgotten; it is not run again."""
    folder = dead(programs)
    forget = programs.start_command(["lastly", "forget", "--yes", ref()])
    wait_until(lambda: asleep(forget.pid), what="forget waits")
    may_end(folder, 3)
    assert forget.wait().status == 0
    wait_until(lambda: not homes.journals(), what="settled")
    assert [row["state"] for row in desk.past()] == ["released"]


def test_history_shows_what_is_done_of_an_owner_that_still_owes(programs: Programs, home: Path) -> None:
    """By the reaper; newest first, so what was deferred last is done before what takes long. Once, also when filed."""
    program = programs.start(f"""
    import os
    from lastly import actions, defer
    defer(actions.run, {SLOW!r})
    defer(actions.remove, os.path.abspath("gone"))
    print("ready", flush=True)
    os.kill(os.getpid(), 9)
    """)
    program.line("ready")
    program.wait()
    wait_until((program.cwd / "began").exists, what="the reaper runs it")
    [row] = desk.past()
    assert (row["action"], row["state"], row["pid"]) == ("lastly.actions:remove", "done", program.pid)
    shown = programs.run_command(["lastly", "history"])
    assert row["ref"] in shown.out
    may_end(program.cwd)
    wait_until(lambda: not homes.journals(), what="settled")
    assert sorted(row["state"] for row in desk.past()) == ["done", "done"]


def test_history_shows_what_was_retried(programs: Programs, home: Path) -> None:
    code = """
    import os
    from lastly import actions, defer
    defer(actions.remove, os.path.abspath("left")); defer(actions.run, ["false"]); os.mkdir("left")
    os.kill(os.getpid(), 9)
    """
    program = programs.start(code, env={"LASTLY_REAPER": "later"})
    program.wait()
    [removal] = called(os.path.join(program.cwd, "left"))
    assert desk.retry(removal, by="me")["state"] == "done"
    assert [row["ref"] for row in desk.past()] == [removal]


@pytest.mark.parametrize("filed", [False, True])
@pytest.mark.slow(keep=1)
def test_why_takes_what_is_shown(programs: Programs, home: Path, tmp_path: Path, filed: bool) -> None:
    """IDs whole and short, the owner's, its pid, its program, a scope, a path."""
    script = tmp_path / "makes_things.py"
    script.write_text(
        "import os\nimport lastly\nfrom lastly import actions\n"
        "scope = lastly.Scope('deploy').__enter__()\n"
        "scope.defer(actions.remove, os.path.join(os.path.dirname(__file__), 'one')); lastly.defer(actions.remove, os.path.join(os.path.dirname(__file__), 'two'))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    program = programs.start_command(["python", str(script)], env={"LASTLY_REAPER": "later"})
    program.wait()
    [owner] = desk.owners()
    refs = {item["ref"]: item["args"][0][-3:] for item in owner["cleanups"]}
    one, two = sorted(refs, key=lambda found: refs[found])
    if filed:
        assert programs.run_command(["lastly", "reap"]).status == 0

    def told(*words: str) -> set[str]:
        got = programs.run_command(["lastly", "why", "--json", *words])
        assert got.err == ""
        found = json.loads(got.out)
        assert found["cleanup"] == found["cleanups"][0]
        return {about["ref"] for about in found["cleanups"]}

    both = {one, two}
    assert told(one) == {one}
    assert told(owner["owner"]) == told(owner["owner"][:4]) == both
    assert told(str(program.pid)) == told("makes_things.py") == told(str(script)) == both
    assert told(str(tmp_path / "two")) == {two}
    assert told("deploy") == {one}
    shown = programs.run_command(["lastly", "why", str(program.pid)]).out
    assert shown.count("makes_things.py (pid") == 2
    nobody: Any = programs.run_command(["lastly", "why", "1"])
    assert (nobody.status, "see `lastly ls`" in nobody.err) == (1, True)
