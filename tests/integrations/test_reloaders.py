"""Django's runserver and Werkzeug's reloader under `install()` alone: cleanups run in both processes, each once."""

from __future__ import annotations

import select
import signal
import socket

import pytest
from harness import Program, Programs, gone, process_gone, wait_process_gone, wait_until
from serving import children, get

DJANGO = """
import os, sys, lastly
lastly.install()
made = lastly.temp_dir()
lastly.defer(lambda: print("ran", os.getpid(), flush=True))
print("up", os.getpid(), made, flush=True)
from django.conf import settings
settings.configure(DEBUG=True, ROOT_URLCONF=__name__, SECRET_KEY="x", ALLOWED_HOSTS=["*"], INSTALLED_APPS=[], USE_TZ=True)
urlpatterns = []
if __name__ == "__main__":
    from django.core.management import execute_from_command_line
    execute_from_command_line(sys.argv)
"""
FLASK = """
import os, sys, lastly
{before}
lastly.install()
made = lastly.temp_dir()
lastly.defer(lambda: print("ran", os.getpid(), flush=True))
print("up", os.getpid(), made, flush=True)
from flask import Flask
app = Flask(__name__)
if __name__ == "__main__":
    app.run(port=int(sys.argv[1]), debug=True)
"""


def start(programs: Programs, kind: str, **options: object) -> tuple[Program, int, list[str]]:
    """The reloader, the pid of the process that serves, and the folders of both."""
    pytest.importorskip("django" if kind == "django" else "flask")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if kind == "django":
        program = programs.start(DJANGO, "runserver", f"127.0.0.1:{port}", script="manage.py", **options)
    else:
        before = "import werkzeug._reloader" if kind == "werkzeug, loaded before" else ""
        program = programs.start(FLASK.format(before=before), str(port), **options)
    ups = [program.line("up").split() for _ in range(2)]
    wait_until(lambda: _answers(port), what="it serves")
    (serving,) = (int(pid) for _, pid, _ in ups if int(pid) != program.pid)
    return program, serving, [made for *_, made in ups]


def _answers(port: int) -> bool:
    try:
        return get(port).status > 0  # by the process that serves: the reloader only listens
    except OSError:
        return False


KINDS = ["django", "werkzeug", "werkzeug, loaded before"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow(keep=2)
def test_both_processes_clean_up(programs: Programs, kind: str, signum: int) -> None:
    """The reloader gets the signal, and by itself would kill the other one."""
    program, serving, made = start(programs, kind, session=True)
    program.send(signum)
    got = program.wait(eof=True)
    assert [line for line in got.lines if line.startswith("ran")] == [f"ran {serving}", f"ran {program.pid}"]
    assert process_gone(serving)
    assert all(map(gone, made))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow(keep=1)
def test_a_killed_reloader_takes_the_process_that_serves_along(programs: Programs, kind: str) -> None:
    program, serving, made = start(programs, kind)
    program.send(signal.SIGKILL)
    wait_process_gone(serving)
    got = program.wait(eof=True)
    assert [line for line in got.lines if line.startswith("ran")] == [f"ran {serving}"]
    wait_until(lambda: all(map(gone, made)), what="the reloader's folder is reaped")


@pytest.mark.parametrize("kind", ["django", "werkzeug"])
@pytest.mark.slow(keep=1)
def test_a_reload_cleans_up_what_served(programs: Programs, kind: str) -> None:
    program, serving, _ = start(programs, kind)

    def changed() -> bool:
        with open(program.argv[1], "a") as file:  # once may be too early: it has to have seen the file as it was
            file.write("\n# changed\n")
        return bool(select.select([program.pidfd], [], [], 1.0)[0]) or process_gone(serving)

    wait_until(changed, what="reloaded")
    program.line(f"ran {serving}")
    wait_until(lambda: children(program.pid) not in ([], [serving]))
    program.send(signal.SIGTERM)
    got = program.wait(eof=True)
    ran = [line.split()[1] for line in got.lines if line.startswith("ran")]
    ups = [line.split()[1] for line in got.lines if line.startswith("up")]
    assert ran[0] == str(serving)
    assert ran[-1] == str(program.pid)
    assert len(set(ran)) == len(ran)
    assert set(ran) <= set(ups)


def test_a_module_found_through_the_finder_is_as_ever(programs: Programs) -> None:
    """Its spec, loader and source are what they are without it; install() twice puts one finder there."""
    pytest.importorskip("django")
    code = """
import inspect, sys, lastly
lastly.install(); lastly.install()
print(sum(type(finder).__name__ == "_Finder" for finder in sys.meta_path))
import django.utils.autoreload as module
print(module.__spec__.name, type(module.__loader__).__name__, "def run_with_reloader" in inspect.getsource(module))
import importlib
importlib.reload(module)
print(module.restart_with_reloader.__module__)
"""
    assert programs.run(code).lines == [
        "1", "django.utils.autoreload SourceFileLoader True", "lastly._exit.reloader",
    ]  # fmt: skip
