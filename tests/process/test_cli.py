"""The command line: what it shows, what it settles, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from harness import Programs, Result, gone

# Owes what its arguments say; then prints a line and waits to be killed.
OWES = """
    import os, signal, sys
    from lastly import Scope, action, actions, defer

    @action(retries=0)
    def fails(word):
        raise ValueError(f"no {word} \\x1b[31m today")

    if __name__ == "__main__":
        for word in sys.argv[1:]:
            if word == "fails":
                defer(fails, "way")
            else:
                defer(actions.remove, word)
                os.mkdir(word)
        print("owed", flush=True)
        signal.pause()
"""


def lastly(programs: Programs, *words: str, **options: object) -> Result:
    result = programs.run_command(["lastly", *words], **options)
    assert "Traceback" not in result.err
    return result


def table(result: Result) -> list[list[str]]:
    return [re.split(r"\s{2,}", line) for line in result.lines[1:]]


def killed(programs: Programs, *words: str) -> None:
    """A dead owner and no reaper: what it owes is for the command line."""
    program = programs.start(OWES, *words, env={"LASTLY_REAPER": "0"})
    program.line("owed")
    program.send(signal.SIGKILL)
    program.wait()


def test_ls_shows_what_the_living_and_the_dead_owe(programs: Programs, tmp_path: Path) -> None:
    killed(programs, str(tmp_path / "dead"))
    program = programs.start(OWES, str(tmp_path / "alive"), env={"LASTLY_REAPER": "0"})
    program.line("owed")
    rows = table(lastly(programs, "ls"))
    assert [(row[1], row[5]) for row in rows] == [
        (f"remove '{tmp_path}/dead'", "dead"),
        (f"remove '{tmp_path}/alive'", "alive"),
    ]
    data = json.loads(lastly(programs, "ls", "--json").out)
    assert [owner["alive"] for owner in data["owners"]] == [False, True]
    assert data["owners"][1]["pid"] == program.pid
    assert data["abandoned"] == []


def test_nothing_owed_is_said_on_stderr_only(programs: Programs) -> None:
    result = lastly(programs, "ls")
    assert (result.status, result.out, result.err) == (0, "", "Nothing is owed.\n")
    result = lastly(programs, "reap")
    assert (result.status, result.out) == (0, "")


def test_a_dry_run_runs_nothing_and_reap_does(programs: Programs, tmp_path: Path) -> None:
    path = tmp_path / "build"
    killed(programs, str(path))
    result = lastly(programs, "reap", "--dry-run")
    assert result.status == 0
    assert [row[2] for row in table(result)] == ["due"]
    assert path.is_dir()
    result = lastly(programs, "reap")
    assert result.status == 0
    assert [row[2] for row in table(result)] == ["done"]
    assert gone(path)
    assert [row[3] for row in table(lastly(programs, "history"))] == ["done"]


def test_reap_takes_one_cleanup_or_all_of_an_owner(programs: Programs, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    killed(programs, str(first), str(second))
    refs = {row[1]: row[0] for row in table(lastly(programs, "ls"))}
    lastly(programs, "reap", refs[f"remove '{first}'"])
    assert (gone(first), gone(second)) == (True, False)
    lastly(programs, "reap", refs[f"remove '{second}'"].partition(".")[0])
    assert gone(second)
    assert lastly(programs, "reap", "00000000.1").status == 1


def test_what_failed_is_abandoned_visible_retried_and_forgotten(programs: Programs) -> None:
    killed(programs, "fails")
    assert lastly(programs, "reap").status == 1
    shown = lastly(programs, "ls")
    assert "abandoned" in shown.out
    ref = shown.lines[1].split()[0]
    why = lastly(programs, "why", ref)
    assert "ValueError: no way \\x1b[31m today" in why.out
    assert json.loads(lastly(programs, "why", ref, "--json").out)["state"] == "abandoned"
    assert lastly(programs, "retry", ref).status == 1
    ref = lastly(programs, "ls").lines[1].split()[0]  # it is another attempt, and has its own journal
    asked = lastly(programs, "forget", ref)
    assert asked.status == 1
    assert "Forget" in asked.err
    assert lastly(programs, "forget", ref, "--yes").status == 0
    assert lastly(programs, "ls").out == ""


def test_a_living_owners_cleanup_is_neither_retried_nor_forgotten(programs: Programs, tmp_path: Path) -> None:
    program = programs.start(OWES, str(tmp_path / "mine"), env={"LASTLY_REAPER": "0"})
    program.line("owed")
    ref = lastly(programs, "ls").lines[1].split()[0]
    for words in (["retry", ref], ["forget", "--yes", ref]):
        result = lastly(programs, *words)
        assert result.status == 1
        assert "its owner lives" in result.err
    assert (tmp_path / "mine").is_dir()


def test_nothing_in_a_journal_moves_the_cursor(programs: Programs, tmp_path: Path) -> None:
    killed(programs, f"{tmp_path}/\x1b[2J\n\u202e\udcff")
    result = lastly(programs, "ls")
    assert len(result.lines) == 2
    assert "\x1b" not in result.out
    assert "\\x1b[2J" in result.out
    assert json.loads(lastly(programs, "ls", "--json").out)["owners"]


@pytest.mark.parametrize(
    "words",
    [["why", "nonsense"], ["why", "12345678.1"], ["retry", "12345678.1"], ["forget", "--yes", "12345678.1"]],
)
def test_an_unknown_reference_is_one_line(words: list[str], programs: Programs) -> None:
    result = lastly(programs, *words)
    assert (result.status, result.out, result.err.count("\n")) == (1, "", 1)


def test_a_wrong_command_line_is_status_2(programs: Programs) -> None:
    assert lastly(programs, "no-such-command").status == 2
    assert lastly(programs, "history", "--since", "yesterday-ish").status == 2


@pytest.mark.parametrize("command", ["ls", "reap"])
def test_a_home_that_others_may_write_to_is_an_error_of_one_line(command: str, programs: Programs) -> None:
    os.chmod(programs.home, 0o777)
    result = lastly(programs, command)
    assert (result.status, result.out, result.err.count("\n")) == (1, "", 1)
    assert "chmod 700" in result.err


def test_the_reaper_in_the_foreground_reaps_and_ends_by_itself(programs: Programs, tmp_path: Path) -> None:
    path = tmp_path / "left"
    killed(programs, str(path))
    reaper = programs.start_command(["lastly", "reaper", "--idle", "0.2"])
    assert reaper.wait().status == 0
    assert gone(path)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_the_commands(shell: str, programs: Programs) -> None:
    assert "_LASTLY_COMPLETE" in lastly(programs, "completion", shell).out
