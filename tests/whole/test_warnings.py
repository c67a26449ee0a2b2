"""Warnings point at the program's line, by whichever way it came into the library."""

import ast
import os

import pytest
from harness import SRC

NO_REAPER = {"LASTLY_REAPER": "0"}

WAYS = {
    "defer": "lastly.defer(lastly.actions.remove, 'x')",
    "temp_dir": "lastly.temp_dir()",
    "temp_file": "lastly.temp_file()",
    "pid_file": "lastly.pid_file('p')",
    "lock_file": "lastly.lock_file('l')",
    "unix_socket": "lastly.unix_socket('s')",
    "atomic_write": "lastly.atomic_write('a')",
    "Popen": "lastly.Popen(['true'])",
    "scope": "lastly.Scope('s').defer(lastly.actions.remove, 'x')",
    "planned": "lastly.Scope('s').planned(lastly.actions.remove, 'x')",
    "parallel": "scope = lastly.Scope(); scope.parallel().defer(lastly.actions.remove, 'x')",
    "exit_stack": "__import__('contextlib').ExitStack().enter_context(lastly.temp_dir())",
    "async": "lastly.AsyncScope().defer(lastly.actions.remove, 'x')",
}


def warned(done, category="RuntimeWarning"):
    return [line for line in done.err.splitlines() if f"{category}:" in line]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.slow(keep=4)
def test_the_first_durable_cleanup_without_a_reaper(programs, way):
    done = programs.run(f"import lastly\n\n{WAYS[way]}  # here\n", env=NO_REAPER, flags=("-W", "always::RuntimeWarning"))
    (line,) = warned(done)
    assert line.partition(": RuntimeWarning")[0].endswith(":3"), line
    assert "/lastly/" not in line.partition(": RuntimeWarning")[0]


def test_a_function_of_the_program_that_calls_it(programs):
    """The line that calls lastly, not the one that calls the function."""
    done = programs.run(
        """
        import lastly
        def build():
            return lastly.temp_dir()  # line 4
        build()
        """,
        env=NO_REAPER,
    )
    (line,) = warned(done)
    assert line.split(": RuntimeWarning")[0].endswith(":4"), line


@pytest.mark.parametrize("way", ["-c", "-m"])
def test_without_a_file_of_its_own(programs, tmp_path, way):
    """Who loads such a program is asked for nothing."""
    (tmp_path / "job.py").write_text("import lastly; lastly.temp_dir()")
    argv = ["python", way, "job" if way == "-m" else "import lastly; lastly.temp_dir()"]
    done = programs.run_command(argv, env=NO_REAPER, cwd=tmp_path)
    (line,) = warned(done)
    assert ("<string>:1:" if way == "-c" else "job.py:1:") in line
    assert done.status == 0


def test_an_idle_time_that_is_none(programs):
    """By the way through the reaper's client, which is longer."""
    done = programs.run("import lastly\n\nlastly.temp_dir()\n", env={"LASTLY_REAPER_IDLE": "soon"})
    (line,) = warned(done)
    assert line.split(": RuntimeWarning")[0].endswith(":3"), line


def test_a_handler_that_somebody_has_replaced(programs):
    done = programs.run(
        """
        import lastly, signal
        lastly.install()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        lastly.uninstall()  # line 5
        """
    )
    (line,) = warned(done)
    assert line.split(": RuntimeWarning")[0].endswith(":5"), line


def test_a_scope_that_was_never_closed(programs):
    done = programs.run(
        """
        import lastly
        scope = lastly.Scope("s")
        scope.defer(print)
        del scope  # line 5
        """,
        flags=("-W", "always"),
    )
    line, *_ = warned(done, "ResourceWarning")  # and one about tracemalloc
    assert line.split(": ResourceWarning")[0].endswith(":5"), line


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file of another group")
def test_an_owner_that_cannot_be_kept(programs):
    """At the end of a `with`, which is the line of the `with`."""
    done = programs.run(
        """
        import os, lastly
        open("x", "w").close()
        os.chown("x", 0, 12345)
        def refused(*_): raise PermissionError(1, "not permitted")
        os.fchown = refused
        with lastly.atomic_write("x") as file:  # line 7
            file.write("new")
        """
    )
    (line,) = warned(done)
    assert line.split(": RuntimeWarning")[0].endswith(":7"), done.err
    assert "belongs to group 0, the old one to 12345" in line


def test_one_place_gives_them():
    """A count of frames is right for one way into the library only; the next warning is given by `warn`, too."""
    for path in (SRC / "lastly").rglob("*.py"):
        if path.name == "_warn.py" or "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"warnings.warn", "warnings.warn_explicit"}:
                raise AssertionError(f"{path}:{node.lineno}: use lastly._words.warn.warn")
