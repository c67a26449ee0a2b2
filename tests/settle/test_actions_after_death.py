"""A user's actions, run by the reaper after the program was killed: with the name, facts and token it was given."""

import json
import os
import signal
import subprocess

import pytest
from harness import wait_until

SCRIPT = """
    import json, os, sys
    import lastly

    def note(name, *rest):
        path = os.path.join(os.environ["LASTLY_HOME"], "notes-" + name)
        with open(path + ".part", "w") as f:
            json.dump(rest, f)
        os.rename(path + ".part", path)

    @lastly.action(remote=True)
    def destroy(name, *, attempt, token, confirmed):
        note("destroy", name, attempt, token, confirmed, __name__, os.getcwd())

    @lastly.action
    async def later(name):
        import asyncio
        await asyncio.sleep(0)
        note("later", name)

    class Tools:
        @staticmethod
        @lastly.action
        def static(*paths):
            note("static", *paths)

    if __name__ == "__main__":
        scope = lastly.Scope("vm")
        with scope.planned(destroy, "vm-1") as plan:
            plan.confirm(id="i-77")
        scope.defer(later, "x")
        scope.defer(Tools.static, b"/tmp/\\xff", "a\\nb")
        print(plan.token, flush=True)
        os.read(0, 1)
"""


def notes(home, *names):
    def whole():
        found = {}
        for name in names:
            try:
                found[name] = json.loads((home / f"notes-{name}").read_text())
            except (FileNotFoundError, json.JSONDecodeError):  # opened, and not yet written
                return None
        return found

    return wait_until(whole, what=f"notes of {names}")


def test_a_script(programs, home, python):
    """Its own functions: loaded by path, under another name, so that the program does not run again."""
    program = programs.start(SCRIPT, stdin=subprocess.PIPE, python=python)
    token = program.line()
    program.send(signal.SIGKILL)
    program.wait()
    found = notes(home, "destroy", "later", "static")
    name, attempt, got, confirmed, module, cwd = found["destroy"]
    assert (name, attempt, got, confirmed) == ("vm-1", 1, token, {"id": "i-77"})
    assert module != "__main__"
    assert os.path.samefile(cwd, program.cwd)
    assert found["later"] == ["x"]
    assert found["static"] == ["/tmp/\udcff", "a\nb"]
    wait_until(lambda: not list(home.glob("owners/*/*.j")))


def test_a_module(programs, home, tmp_path):
    """Imported by name, from the import path that the program had at that moment."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "undoing.py").write_text(
        "import os, lastly\n"
        "@lastly.action\n"
        "def undo(x):\n"
        "    open(os.path.join(os.environ['LASTLY_HOME'], 'notes-undo'), 'w').write(str(x))\n"
    )
    program = programs.start(
        """
        import os, sys, lastly
        lastly.defer(lastly.actions.remove, "/nowhere/at/all")
        sys.path.insert(0, sys.argv[1])
        import undoing
        lastly.defer(undoing.undo, 42)
        print("ready", flush=True)
        os.read(0, 1)
        """,
        str(tmp_path / "lib"),
        stdin=subprocess.PIPE,
    )
    program.line("ready")
    program.send(signal.SIGKILL)
    program.wait()
    assert notes(home, "undo") == {"undo": 42}


@pytest.mark.parametrize("how", ["raises", "exits", "kills itself"])
def test_a_cleanup_that_fails_in_the_program(programs, home, how):
    """Tried here once, and again by the reaper when the program has ended."""
    end = {
        "raises": "raise OSError('not now')",
        "exits": "os._exit(3)",
        "kills itself": "os.kill(os.getpid(), 9)",
    }[how]
    programs.run(
        f"""
        import os, lastly
        @lastly.action(backoff=0.01)
        def undo(owner):
            if os.getpid() == owner:
                {end}
            open(os.path.join(os.environ["LASTLY_HOME"], "notes-undo"), "w").write("7")
        if __name__ == "__main__":
            lastly.defer(undo, os.getpid())
        """
    )
    assert notes(home, "undo") == {"undo": 7}


def test_detached_is_never_run(programs, home, tmp_path):
    """Also when the program is killed right after."""
    (tmp_path / "kept").mkdir()
    program = programs.start(
        """
        import os, sys, lastly
        kept = lastly.defer(lastly.actions.remove, sys.argv[1] + "/kept")
        other = lastly.temp_dir(dir=sys.argv[1])
        assert kept.detach()
        print(other, flush=True)
        os.read(0, 1)
        """,
        str(tmp_path),
        stdin=subprocess.PIPE,
    )
    other = program.line()
    program.send(signal.SIGKILL)
    program.wait()
    wait_until(lambda: not os.path.exists(other))
    wait_until(lambda: not list(home.glob("owners/*/*.j")))
    assert (tmp_path / "kept").is_dir()


def test_remote_order(programs, home):
    """Written, synced, the directories synced, and only then the creation."""
    done = programs.run(
        """
        import os, lastly
        calls = []
        for name in ("write", "fdatasync", "fsync", "mkdir"):
            real = getattr(os, name)
            def wrapped(*a, name=name, real=real, **k):
                calls.append(name)
                return real(*a, **k)
            setattr(os, name, wrapped)
        @lastly.action(remote=True)
        def destroy(path): os.rmdir(path)
        if __name__ == "__main__":
            scope = lastly.Scope()
            scope.defer(destroy, "first").detach()
            del calls[:]
            with scope.planned(destroy, os.path.abspath("thing")) as plan:
                os.mkdir("thing")
                plan.confirm(made=True)
            print(*calls)
            scope.close()
            print(os.path.exists("thing"))
        """,
        env={"LASTLY_REAPER": "0"},  # whose start would make folders, too
    )
    assert done.status == 0, done.err
    assert done.lines == ["write fdatasync mkdir write fdatasync", "False"]
