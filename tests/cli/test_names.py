"""What people see of a cleanup: what it does to what, when it is tried again, and who ran it."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from harness import Program, Programs
from journals import folder_made, journal_by_hand, removal

from lastly._cli import tables
from lastly._reaper import desk
from lastly._reaper.sizes import Looker
from lastly._settle import history
from lastly._settle.settle import settle
from lastly._words import naming

__all__ = ["folder_made", "journal_by_hand"]  # fixtures

OFF = {"LASTLY_REAPER": "0"}  # so that what is owed waits for the commands

PROGRAM = """
    import os, signal, subprocess
    import lastly
    from lastly import Scope, action, actions

    @action(describe="destroy VM {name} of {owner}")
    def destroy_vm(name, owner="me", *, token=""):
        raise OSError("no route")

    @action(retries=5)
    def close_tunnel(name, port, *, token="", via=None):
        raise OSError("no route")

    with Scope("deploy") as scope:
        made = [scope.defer(destroy_vm, "site-42"), scope.defer(close_tunnel, "site-42", 80, via="a b")]
        made.append(lastly.defer(close_tunnel, "c", 1))
        print([one.name for one in made], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""
NAMES = [
    "destroy VM site-42 of me in scope deploy",
    "close_tunnel site-42 80 via='a b' in scope deploy",
    "close_tunnel c 1",
]


def lastly(programs: Programs, *words: str) -> Any:
    return programs.run_command(["lastly", *words], env=OFF)


def data(programs: Programs, *words: str) -> Any:
    return json.loads(lastly(programs, *words, "--json").out)


@pytest.fixture
def died(programs: Programs) -> Program:
    program = programs.start(PROGRAM, env=OFF, script="deploy.py")
    program.wait()
    return program


def test_a_description_is_shown_without_the_program(programs: Programs, died: Program) -> None:
    """The program that knows the template is gone when people ask."""
    assert repr(["destroy VM site-42 of me", "close_tunnel site-42 80 via='a b'", "close_tunnel c 1"]) in died.out
    os.unlink(died.cwd / "deploy.py")
    [owner] = data(programs, "ls")["owners"]
    assert [item["what"] for item in owner["cleanups"]] == NAMES
    assert owner["who"] == f"deploy.py (pid {died.pid}, dead)"
    shown = lastly(programs, "ls").out
    assert all(text in shown for text in (*NAMES, owner["who"]))
    ref = owner["cleanups"][0]["ref"]
    shown = lastly(programs, "why", ref).out
    assert NAMES[0] in shown
    assert owner["who"] in shown
    assert NAMES[0] in lastly(programs, "reap", "--dry-run").out
    assert f"{NAMES[0]}: this is then never run." in lastly(programs, "forget", ref).err
    assert lastly(programs, "forget", "--yes", ref).status == 0
    assert "token" not in shown


def test_what_failed_says_when_it_is_tried_again_and_who_ran_it(programs: Programs, died: Program) -> None:
    lastly(programs, "reap")
    [owner] = data(programs, "ls")["owners"]
    for item in owner["cleanups"]:
        assert item["state"] == "failed"
        assert item["by"].startswith("lastly reap, pid ")
        assert item["seconds"] >= 0
    assert "failed: OSError: no route, next attempt " in lastly(programs, "ls").out


def test_the_history_says_who_ran_it_and_how_long(journal: Any, folder: Any) -> None:
    path = journal(removal(folder / "x"), {"kind": "plan", "id": 2, "action": "m:destroy", "args": ["a"], "what": "destroy VM a"})
    (folder / "x").mkdir()
    settle(path, by="reaper")
    unfiled = {row["ref"]: row for row in desk.past()}
    history.archive([{"path": path}])
    for row in desk.past():
        assert row["by"] == "reaper"
        assert row["what"] in (f"remove {folder / 'x'}", "destroy VM a")
        if row["ref"] in unfiled:
            told = ("what", "by", "seconds", "state")
            assert [row[key] for key in told] == [unfiled[row["ref"]][key] for key in told]


def test_the_next_attempt_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables.time, "time", lambda: 1000.0)
    item = {"state": "failed", "error": "no", "next": 1090.0}
    assert tables.state(item) == "failed: no, next attempt in 2m"
    assert tables.state({**item, "next": 900.0}) == "failed: no, next attempt now"
    assert tables.state({**item, "state": "abandoned"}) == "abandoned: no"


@pytest.mark.parametrize(
    ("action", "args", "kwargs", "more", "shown"),
    [
        ("lastly.actions:kill", [{"pid": 4711, "name": "sleep", "command": "sleep 1000"}], {"token": "f87c", "grace": 5.0}, {}, "kill sleep 1000 (pid 4711)"),
        ("lastly.actions:kill", [None], {"token": "f87c"}, {"known": {"pid": 1, "name": "a"}}, "kill a (pid 1)"),
        ("lastly.actions:kill_token", ["f87c"], {}, {"scope": "s"}, "kill all children in scope s"),
        ("lastly.actions:run", [["docker", "rm", "a b"]], {"cwd": "/x", "timeout": 60.0}, {}, "run docker rm 'a b'"),
        ("lastly.actions:run", [["x"]], {"unless": ["y"]}, {}, "run x unless=['y']"),
        ("lastly.actions:remove", ["/tmp/a b"], {"expect": {"ino": 1}}, {"count": 3}, "remove '/tmp/a b' and 2 more"),
        ("shop.vm:destroy", ["", None, 7], {"region": None, "zone": "eu", "token": "f87c"}, {}, "destroy '' 7 zone=eu"),
        ("shop.vm:Cloud.destroy", ["a"], {}, {}, "destroy a"),
        ("shop.vm:kill", ["a"], {"cwd": "x"}, {}, "kill a cwd=x"),
        ("shop.vm:destroy", ["a"], {}, {"what": "destroy VM a"}, "destroy VM a"),
        ("", [], {}, {}, ""),
    ],
)  # fmt: skip
def test_a_cleanup_in_words(action: str, args: list, kwargs: dict, more: dict, shown: str) -> None:
    assert naming.cleanup({"action": action, "args": args, "kwargs": kwargs, **more}) == shown


def test_sizes_are_told_and_bounded(tmp_path: Any) -> None:
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    for number in range(5):
        (tree / "below" / str(number)).touch()
    (tmp_path / "link").symlink_to(tree)
    row = {"action": "lastly.actions:remove", "known": {}, "kwargs": {}}

    def size(path: Any, most: int = 100, **more: Any) -> str:
        return Looker(most).size({**row, "args": [str(path)], **more})

    assert size(tree) == "tree, 5 files"
    assert size(tree, most=3) == "tree"
    assert size(tree / "below" / "1") == "file"
    assert size(tmp_path / "link") == "link"
    assert size(tmp_path / "gone") == "not there"
    assert size(tree, known={"ino": os.stat(tree).st_ino}) == "tree, 5 files"
    assert size(tree, known={"ino": 1}) == ""  # another thing has this name now
    assert size(tree, kwargs={"expect": {"ino": 1}}) == ""
    assert size(tree, action="shop:remove") == ""
    assert Looker().size({**row, "args": [7]}) == ""
    looker = Looker(8)
    assert [looker.size({**row, "args": [str(tree)]}) for _ in "ab"] == ["tree, 5 files", "tree"]


def test_a_process_is_named_by_its_command(programs: Programs) -> None:
    died = programs.start(
        """
        import os, subprocess, lastly
        from lastly import Popen, actions, defer
        child = subprocess.Popen(["sleep", "1000"])
        kill = defer(actions.kill, child)
        own = Popen(["sleep", "2000"])
        print(kill.name, "|", lastly._exit.root.describe(), flush=True)
        print(child.pid, own.pid, flush=True)
        os.kill(os.getpid(), 9)
        """,
        env=OFF,
    )
    died.wait()
    first, second = died.out.splitlines()
    child, own = second.split()
    names = [f"kill sleep 1000 (pid {child})", f"kill sleep 2000 (pid {own})"]
    assert first == f"{names[0]} | 2 left: {names[1]}, {names[0]}"
    [owner] = data(programs, "ls")["owners"]
    assert [item["what"] for item in owner["cleanups"]] == names
    assert lastly(programs, "reap").status == 0
    shown = lastly(programs, "history").out
    assert all(name in shown for name in names)


NAMED = """
    import os, signal
    import lastly
    from lastly import Scope, action, actions

    @action(retries=0)
    def fails(name):
        raise OSError("no route")

    with Scope("deploy") as scope:
        scope.defer(fails, "site-42").named("the machine of the tests")
        scope.defer(actions.remove, "folder").named("work").named("folder of the build")
        os.mkdir("folder")
        ran = scope.defer(actions.remove, "other")
        ran.run()
        ran.named("too late to be written down")
        os.kill(os.getpid(), signal.SIGKILL)
"""
GIVEN = ["the machine of the tests in scope deploy", "folder of the build (tree, 0 files) in scope deploy"]


def test_a_name_that_the_program_gave_is_shown_after_its_death(programs: Programs) -> None:
    program = programs.start(NAMED, env=OFF)
    program.wait()
    [owner] = data(programs, "ls")["owners"]
    assert [(item["what"], item["state"]) for item in owner["cleanups"]] == [(name, "planned") for name in GIVEN]
    assert "too late" not in lastly(programs, "ls", "--all").out
    machine, folder = (item["ref"] for item in owner["cleanups"])
    shown = lastly(programs, "why", machine).out
    assert GIVEN[0] in shown
    assert "fails site-42" in shown  # what is called by that name
    assert all(name in lastly(programs, "reap", "--dry-run").out for name in (GIVEN[0], "folder of the build"))
    lastly(programs, "reap")
    filed = {item["ref"]: item["what"] for item in data(programs, "history")["cleanups"]}
    assert (filed[machine], filed[folder]) == (GIVEN[0], "folder of the build in scope deploy")
    assert "too late" not in str(filed)
    assert lastly(programs, "retry", machine).status == 1  # from the history, in a journal of its own
    assert GIVEN[0] in lastly(programs, "ls").out


@pytest.mark.parametrize("options", [[], ["--supervise"]])
def test_what_a_run_owes_is_the_killing_of_all_its_children(programs: Programs, options: list[str]) -> None:
    code = "import subprocess, time; subprocess.Popen(['sleep', '1000']); print('ready', flush=True); time.sleep(600)"
    program = programs.start_command(["lastly", "run", *options, "-c", code])
    program.line("ready")
    owed = [item["what"] for owner in data(programs, "ls")["owners"] for item in owner["cleanups"]]
    assert [text for text in owed if text.startswith("kill")] == ["kill its children"] * (1 + len(options))
    program.send(15)
    program.wait()
