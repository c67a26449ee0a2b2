"""Functions of a dead owner: run in a child like the owner's own, within bounds, and nothing of it stays hidden."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipapp

import pytest
from harness import SRC, process_gone, wait_until

from lastly._journal import home as homes
from lastly._reaper import desk

SCRIPT = """
import asyncio, json, os, subprocess, sys, time
from lastly import action, actions, defer

HERE = os.path.dirname(os.path.abspath(__file__))

def say(**what):
    with open(os.path.join(HERE, "said"), "a") as file:
        file.write(json.dumps(what) + "\\n")

{functions}

if __name__ == "__main__":
    {defers}
    print("ready", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def dead(programs, home):
    """Run a program that defers something, kill it, and wait until all it owes is settled; returns (history, said)."""

    def run(functions, defers, *, script=SCRIPT, within=20.0, before=None, **options):
        text = script.replace("{functions}", functions).replace("{defers}", defers)
        program = programs.start(text, **options)
        program.line("ready")
        if before:
            before(program)
        program.send(signal.SIGKILL)
        program.wait()
        wait_until(lambda: not homes.journals(), within=within, what=f"settled: {desk.owners()}")
        path = program.cwd / "said"
        said = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return desk.past(), said

    return run


def test_a_function_of_the_script(dead):
    """Its file is loaded under another name; the program does not run again."""
    [row], said = dead(
        "@action\ndef undo(name, *, times): say(name=name, times=times, module=__name__)",
        'defer(undo, "site", times=2)',
    )
    assert said == [{"name": "site", "times": 2, "module": "__lastly_main__"}]
    assert (row["action"], row["state"], row["attempts"]) == ("__main__:undo", "done", 1)


def test_on_every_interpreter(dead, python):
    _, said = dead(
        "@action\ndef undo(): say(version=sys.version_info[:2], exe=sys.executable)",
        "defer(undo)",
        python=python,
    )
    asked = subprocess.run(
        [python, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True
    )
    assert tuple(said[0]["version"]) == eval(asked.stdout)


def test_an_async_function(dead):
    _, said = dead("@action\nasync def undo(n):\n    await asyncio.sleep(0)\n    say(n=n)", "defer(undo, 5)")
    assert said == [{"n": 5}]


def test_a_script_without_a_guard(dead):
    """Loading it stops where it defers: what follows is not run again."""
    script = SCRIPT.replace('if __name__ == "__main__":', "if True:")
    [row], said = dead(
        "@action\ndef undo(): say(undone=True)\nsay(loaded=__name__)",
        "defer(undo)\n    say(after=True)",
        script=script,
    )
    assert said == [{"loaded": "__main__"}, {"after": True}, {"loaded": "__lastly_main__"}, {"undone": True}]
    assert row["state"] == "done"


FUNCTION = "@action(retries=0)\ndef undo(name): os.unlink(name)\n"
ARGUMENTS = "parser = argparse.ArgumentParser()\nparser.add_argument('name')\nargs = parser.parse_args()\n"


@pytest.mark.parametrize("parts", [FUNCTION + ARGUMENTS, ARGUMENTS + FUNCTION], ids=["function", "arguments"])
@pytest.mark.slow(keep=1)
def test_a_script_that_wants_its_arguments(programs, home, tmp_path, parts):
    """They are not in the journal. It fails without them; once the function is there, no matter."""
    made = tmp_path / "made"
    made.touch()
    code = "import argparse, os, time\nfrom lastly import action, defer\n" + parts
    program = programs.start(code + "defer(undo, args.name)\nprint('ready', flush=True)\ntime.sleep(1000)", str(made))
    program.line("ready")
    program.send(signal.SIGKILL)
    wait_until(lambda: not homes.journals(), what=f"settled: {desk.owners()}")
    [row] = desk.past()
    if parts.startswith(FUNCTION):
        assert (row["state"], made.exists()) == ("done", False)
    else:
        assert "SystemExit: 2, before undo() was defined" in row["reason"]
        assert '__name__ == "__main__"' in row["reason"]


RUN_AGAIN = """
import os, sys, time
from lastly import action, defer

HERE = os.getcwd()

@action(timeout=3, retries=0)
def undo():
    os.unlink(os.path.join(HERE, "made"))

def main():
    with open(os.path.join(HERE, "runs"), "a") as file:
        print(__name__, file=file)
    defer(undo)
    open(os.path.join(HERE, "made"), "w").close()
    print("ready", flush=True)
    time.sleep(1000)

main()
"""


def undone(program):
    """The program is killed; what it owes is done by one child, which stops where the program deferred."""
    program.line("ready")
    program.send(signal.SIGKILL)
    program.wait()
    wait_until(lambda: not homes.journals(), what=f"settled: {desk.owners()}")
    assert [row["state"] for row in desk.past()] == ["done"]
    assert not (program.cwd / "made").exists()
    return (program.cwd / "runs").read_text().split()


@pytest.mark.parametrize("name", ["tool", "package", "package.tool"])
@pytest.mark.slow(keep=1)
def test_a_module_without_a_guard_that_is_run(programs, home, tmp_path, name):
    """``python -m package``: hardly any __main__.py has a guard. Loaded as a whole it would run, owe, and be killed anew,
    and so would what each of these runs owes."""
    file = tmp_path / {"package": "package/__main__"}.get(name, name.replace(".", "/"))
    file.parent.mkdir(exist_ok=True)
    file.with_suffix(".py").write_text(RUN_AGAIN)
    program = programs.start_command(["python", "-m", name], cwd=tmp_path)
    assert undone(program) == ["__main__", {"package": "package.__main__"}.get(name, name)]


@pytest.mark.parametrize("words", [["cProfile"], ["trace", "--count", "-C", "counts"], ["pdb", "-c", "continue"]])
@pytest.mark.slow(keep=1)
def test_a_script_under_a_profiler(programs, home, tmp_path, words):
    """It runs in names of its own, and __main__ is the profiler."""
    (tmp_path / "script.py").write_text(RUN_AGAIN)
    program = programs.start_command(["python", "-m", *words, "script.py"], cwd=tmp_path)
    assert undone(program) == ["__main__", "__lastly_main__"]


@pytest.mark.parametrize("first_line", [None, "/usr/bin/env python3"])
@pytest.mark.slow(keep=1)
def test_an_archive_with_everything_in_it(programs, home, tmp_path, first_line):
    """With lastly itself: then no interpreter can open the file that runs the action."""
    shutil.copytree(SRC / "lastly", tmp_path / "app" / "lastly", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "app" / "__main__.py").write_text(RUN_AGAIN)
    zipapp.create_archive(tmp_path / "app", tmp_path / "app.pyz", first_line)
    program = programs.start_command(["python", str(tmp_path / "app.pyz")], cwd=tmp_path)
    assert undone(program) == ["__main__", "__lastly_main__"]


def test_a_function_of_a_module(dead, tmp_path):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "mine.py").write_text(
        "import os\nfrom lastly import action\n@action\ndef undo(path): open(path, 'w').write(os.getcwd())\n"
    )
    out = tmp_path / "out"
    [row], _ = dead(
        "",
        f"sys.path.insert(0, {str(folder)!r}); import mine; os.chdir({str(folder)!r}); defer(mine.undo, {str(out)!r})",
    )
    assert row["action"] == "mine:undo"
    assert out.read_text() == str(folder)


def test_what_an_action_may_ask_for(dead):
    rows, said = dead(
        """
@action(retries=2, backoff=0.01)
def undo(name, *, attempt, token, confirmed):
    say(attempt=attempt, token=token, confirmed=confirmed)
    if attempt < 3:
        raise OSError("not yet")
""",
        """
    import lastly
    plan = lastly.Scope("s")
    with plan.planned(undo, "vm") as planned:
        say(planned=planned.token)
        planned.confirm(vm_id=42)
""",
    )
    token = said[0]["planned"]
    assert said[1:] == [{"attempt": n, "token": token, "confirmed": {"vm_id": 42}} for n in (1, 2, 3)]
    [row] = rows
    assert (row["state"], row["attempts"], row["scope"]) == ("done", 3, "s")
    events = desk.why(row["ref"])["events"]
    assert [e["kind"] for e in events] == ["plan", "confirm", "run", "fail", "run", "fail", "run", "done"]
    assert "OSError: not yet" in events[3]["error"]


def test_a_function_that_always_fails_is_given_up(dead):
    [row], said = dead(
        "@action(retries=2, backoff=0.01)\ndef undo():\n    say(tried=1)\n    print('x' * 50)\n    raise ValueError('never')",
        "defer(undo)",
    )
    assert len(said) == 3
    assert row["state"] == "abandoned"
    assert "ValueError: never" in row["reason"]
    about = desk.why(row["ref"])
    assert "Traceback" in about["events"][-1]["output"]


def test_a_function_that_hangs_is_killed(dead):
    [row], said = dead(
        "@action(retries=1, backoff=0.01, timeout=0.6)\ndef undo():\n    say(pid=os.getpid())\n    time.sleep(1000)",
        "defer(undo)",
    )
    assert row["state"] == "abandoned"
    assert "took longer than 0.6 s" in row["reason"]
    assert len(said) == 2
    for one in said:
        assert process_gone(one["pid"])


def test_a_limit_of_months(dead):
    """poll() takes no more than 24 days."""
    [row], said = dead("@action(timeout=1e7)\ndef undo(): say(ran=True)", "defer(undo)")
    assert row["state"] == "done"
    assert said == [{"ran": True}]


def test_what_a_function_forks_is_killed(dead):
    """In its group, in a session of its own, and without the token."""
    [row], said = dead(
        """
@action
def undo():
    plain = subprocess.Popen(["sleep", "1000"]).pid
    session = subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
    bare = subprocess.Popen(["sleep", "1000"], start_new_session=True, env={}).pid
    say(pids=[plain, session, bare])
""",
        "defer(undo)",
    )
    assert row["state"] == "done"
    for pid in said[0]["pids"]:
        wait_until(lambda pid=pid: process_gone(pid))


def test_megabytes_of_output(dead):
    [row], _ = dead(
        "@action(retries=0)\ndef undo():\n    for i in range(200): print('x' * 100_000)\n    print('the end', flush=True)\n    os._exit(3)",
        "defer(undo)",
    )
    assert row["state"] == "abandoned"
    assert "ended with status 3: the end" in row["reason"]
    output = desk.why(row["ref"])["events"][-1]["output"]
    assert output.endswith("the end\n")
    assert len(output) <= 4000


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os.kill(os.getpid(), 11)", "died of signal 11 (SIGSEGV)"),
        ("os._exit(0)", "ended before the function returned"),
        ("sys.exit(0)", "SystemExit: 0"),
    ],
)
@pytest.mark.slow(keep=2)
def test_it_did_not_return(dead, body, reason):
    [row], _ = dead(f"@action(retries=0)\ndef undo(): {body}", "defer(undo)")
    assert row["state"] == "abandoned"
    assert reason in row["reason"]


def test_the_virtual_environment_is_gone(dead, tmp_path, programs):
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", venv], check=True)
    from harness import SRC

    [row], _ = dead(
        "@action(retries=1, backoff=0.01)\ndef undo(): say(ran=1)", "defer(undo)", python=str(venv / "bin" / "python"),
        env={"PYTHONPATH": str(SRC)}, before=lambda _: (venv / "bin").rename(venv / "away"),
    )  # fmt: skip
    assert row["state"] == "abandoned"
    assert "interpreter" in row["reason"]
    assert "is gone" in row["reason"]


def test_an_import_error(dead):
    def take_away(program):
        (program.cwd / "program.py").write_text("import nothing_of_that_name\n")

    [row], _ = dead("@action(retries=0)\ndef undo(): say(ran=1)", "defer(undo)", before=take_away)
    assert row["state"] == "abandoned"
    assert "ModuleNotFoundError" in row["reason"]


def test_its_environment_is_an_allow_list(dead):
    _, said = dead(
        "@action\ndef undo(): say(env=dict(os.environ), stdin=sys.stdin.read(), tty=os.path.exists('/dev/tty') and _tty())\n"
        "def _tty():\n    try: os.close(os.open('/dev/tty', 0))\n    except OSError: return False\n    return True",
        "defer(undo)",
        env={"PASSWORD": "secret", "LANG": "C.UTF-8"},
    )
    env = said[0]["env"]
    assert "PASSWORD" not in env
    assert env["LANG"] == "C.UTF-8"
    assert (said[0]["stdin"], said[0]["tty"]) == ("", False)


def test_run_a_program(dead, tmp_path):
    rows, _ = dead(
        "",
        f'defer(actions.run, ["sh", "-c", "pwd > out; echo $0 $1 > args", "a b", "c"], cwd={str(tmp_path)!r})',
    )
    assert [row["state"] for row in rows] == ["done"]
    assert (tmp_path / "out").read_text().strip() == str(tmp_path)
    assert (tmp_path / "args").read_text() == "a b c\n"


def test_run_has_the_owner_s_environment_and_directory(dead):
    """Without cwd=: where the owner was when it deferred; its PATH, and nothing secret."""
    code = 'defer(actions.run, ["sh", "-c", "pwd > said.cwd; echo $PATH-$PASSWORD > said.env"])'
    seen = []
    dead("", code, env={"PASSWORD": "secret"}, before=lambda program: seen.append(program.cwd))
    assert (seen[0] / "said.cwd").read_text().strip() == str(seen[0])
    assert (seen[0] / "said.env").read_text().strip() == os.environ["PATH"] + "-"


def test_run_a_program_that_fails(programs, home):
    """It is tried again, and what it said is in the journal."""
    program = programs.start(
        SCRIPT.replace("{functions}", "").replace(
            "{defers}", 'defer(actions.run, ["sh", "-c", "echo sorry; exit 7"])'
        )
    )
    program.line("ready")
    program.send(signal.SIGKILL)
    [item] = wait_until(lambda: [i for o in desk.owners() for i in o["cleanups"] if i["state"] == "failed"])
    assert "ended with status 7: sorry" in item["error"]
    assert item["next"] > 0
    assert desk.why(item["ref"])["events"][-1]["output"] == "sorry\n"


def test_kill_what_the_program_started(dead):
    """The child and its child; the identity was recorded when it was deferred."""
    _, said = dead(
        "",
        """
    child = subprocess.Popen([sys.executable, "-c", "import os, time, subprocess; p = subprocess.Popen(['sleep', '1000']); print(p.pid, flush=True); time.sleep(1000)"], stdout=subprocess.PIPE, text=True)
    say(pids=[child.pid, int(child.stdout.readline())])
    defer(actions.kill, child, grace=1)
""",
    )
    for pid in said[0]["pids"]:
        wait_until(lambda pid=pid: process_gone(pid))
