"""gunicorn's workers end in every way, and what they owe is run: real masters, real requests, real signals."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest
from harness import Programs, gone, process_gone, reaper_of, wait_process_gone, wait_until
from reaping import archived
from serving import Server, files, gunicorn, lines, rest, send, wait_lines

from lastly.errors import FrameworkError
from lastly.integrations.gunicorn import manage

APP = """
    import os, signal, time
    import lastly

    def note(*words):
        with open("notes", "a") as file:
            file.write(" ".join(map(str, words)) + "\\n")

    def until(name):
        while not os.path.exists(name):
            time.sleep(0.01)

    def close(kind):
        if kind == "slow":
            note("closing", os.getpid())
            until("go")
        note("closed", os.getpid(), lastly.exit_reason())

    lastly.defer(close, os.environ.get("CLOSE", "")).within(None)  # in the main thread, where signals are raised
    if os.environ.get("CLOSE") == "hangs":
        lastly.defer(time.sleep, 1000)
    if os.environ.get("CLOSE") == "made":
        note("made", os.getpid(), lastly.temp_dir())

    def app(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/make":
            text = str(lastly.temp_dir())
        else:
            text = str(os.getpid())
        if path in ("/wait", "/hang", "/stuck"):
            note("began", path, os.getpid())
        if path == "/wait":
            until("go")
        elif path == "/hang":
            until("never")
        elif path == "/stuck":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGABRT})  # as in one long call of C
            time.sleep(1000)
        start_response("200 OK", [("Content-Length", str(len(text)))])
        return [text.encode()]
"""
CONF = """
    from lastly.integrations.gunicorn import manage
    manage(globals())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "site"
    files(made, app=APP, gunicorn_conf=CONF)
    return made


def notes(folder: Path) -> list[str]:
    return lines(folder / "notes")


def closed(folder: Path) -> list[int]:
    """The workers that have run their cleanup, each as often as it did."""
    return [int(line.split()[1]) for line in notes(folder) if line.startswith("closed")]


def began(folder: Path, path: str) -> int:
    """The worker that began to answer; 0: none yet."""
    return next((int(line.split()[2]) for line in notes(folder) if line.startswith(f"began {path} ")), 0)


def make(server: Server) -> tuple[int, Path]:
    """A worker's temporary folder, and the worker."""
    made = Path(server.get("/make").text)
    assert made.is_dir()
    return int(server.get().text), made


@pytest.mark.parametrize("kind", ["sync", "gthread"])
@pytest.mark.parametrize("signame", ["TERM", "INT", "QUIT"])
@pytest.mark.slow(keep=1)
def test_each_worker_closes_once(programs: Programs, folder: Path, signame: str, kind: str) -> None:
    server = gunicorn(programs, folder, "--workers", "2", "--worker-class", kind)
    _, made = make(server)
    workers = wait_until(lambda: len(found := server.children()) == 2 and found)
    wait_until(lambda: server.program.err.count("Booting worker") == 2 or server.get())
    server.program.send(signal.Signals[f"SIG{signame}"])
    result = server.program.wait()
    assert result.status == 0
    assert sorted(closed(folder)) == sorted(workers)
    assert gone(made)
    archived(programs.home)


def test_requests_in_flight_finish_before_the_cleanups(programs: Programs, folder: Path) -> None:
    server = gunicorn(programs, folder)
    request = server.begin("/wait")
    wait_until(lambda: began(folder, "/wait"))
    server.program.send(signal.SIGTERM)
    server.program.error_line("Handling signal: term")
    assert closed(folder) == []
    (folder / "go").touch()
    answer = rest(request)
    assert " 200 OK" in answer
    assert server.program.wait().status == 0
    assert closed(folder) == [int(answer.split()[-1])]


def test_ctrl_c_reaches_workers_twice_and_cuts_no_cleanup(programs: Programs, folder: Path) -> None:
    """Once from the terminal, once from the master, and as often as somebody likes."""
    server = gunicorn(programs, folder, env={"CLOSE": "slow"})
    worker = int(server.get().text)
    send(worker, signal.SIGINT)
    server.program.send(signal.SIGINT)
    wait_lines(folder / "notes", f"closing {worker}")
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGINT):
        send(worker, signum)
    (folder / "go").touch()
    assert server.program.wait().status == 0
    assert closed(folder) == [worker]
    assert "Exception in cleanup" not in server.program.err


def test_a_killed_worker_leaves_nothing_durable(programs: Programs, folder: Path) -> None:
    server = gunicorn(programs, folder)
    worker, made = make(server)
    send(worker, signal.SIGKILL)
    wait_until(lambda: gone(made), what=f"{made} reaped")
    assert int(server.get().text) != worker
    server.program.send(signal.SIGTERM)
    server.program.wait()
    assert worker not in closed(folder)  # what is not durable died with it


def test_a_worker_and_its_reaper_killed(programs: Programs, folder: Path, home: Path) -> None:
    """The master sees that somebody takes over; nothing else there would."""
    server = gunicorn(programs, folder)
    worker, made = make(server)
    reaper = wait_until(lambda: reaper_of(home))
    send(reaper, signal.SIGKILL)
    wait_process_gone(reaper)
    send(worker, signal.SIGKILL)
    wait_until(lambda: gone(made), what=f"{made} reaped")


def test_a_killed_master(programs: Programs, folder: Path) -> None:
    """Its workers notice, and end in order."""
    server = gunicorn(programs, folder, "--timeout", "6")  # they look every three seconds
    worker, made = make(server)
    server.program.send(signal.SIGKILL)
    wait_until(lambda: process_gone(worker))
    assert closed(folder) == [worker]
    assert gone(made)


def test_workers_out_of_time(programs: Programs, folder: Path) -> None:
    """One hangs in Python: it closes like any other. One is stuck in C: killed; the reaper runs what is durable."""
    server = gunicorn(programs, folder, "--workers", "2", "--timeout", "6", env={"CLOSE": "made"})
    requests = {}
    for path in ("/hang", "/stuck"):  # a busy worker takes no other request
        requests[path] = server.begin(path)
        wait_until(lambda path=path: began(folder, path), what=path)
    hung, stuck = began(folder, "/hang"), began(folder, "/stuck")
    made = {int(line.split()[1]): Path(line.split()[2]) for line in notes(folder) if line.startswith("made")}
    for request in requests.values():
        rest(request)
    for worker in (hung, stuck):
        wait_until(lambda worker=worker: gone(made[worker]), what=f"{made[worker]} gone")
        wait_until(lambda worker=worker: process_gone(worker))
    assert [line for line in notes(folder) if line.startswith("closed")] == [f"closed {hung} signal SIGABRT"]
    assert int(server.get().text) not in (hung, stuck)


def test_a_hung_request_does_not_keep_the_cleanups(programs: Programs, folder: Path) -> None:
    """At the interpreter's end its thread is waited for, until the master kills: the cleanups come before."""
    server = gunicorn(programs, folder, "--worker-class", "gthread", "--graceful-timeout", "5")
    worker, made = make(server)
    with server.begin("/hang"):
        wait_until(lambda: began(folder, "/hang"))
        server.program.send(signal.SIGINT)
        wait_until(lambda: closed(folder) == [worker] and gone(made))
        (folder / "never").touch()
        server.program.wait()


def test_a_hung_cleanup_does_not_eat_the_time_of_the_others(programs: Programs, folder: Path) -> None:
    server = gunicorn(programs, folder, "--graceful-timeout", "4", env={"CLOSE": "hangs"})
    worker = int(server.get().text)
    server.program.send(signal.SIGTERM)
    server.program.wait()
    assert closed(folder) == [worker]


def test_max_requests(programs: Programs, folder: Path) -> None:
    server = gunicorn(programs, folder, "--max-requests", "1")
    first = int(server.get().text)
    wait_until(lambda: process_gone(first))
    assert closed(folder) == [first]
    second = int(server.get().text)
    assert second != first
    server.program.send(signal.SIGTERM)
    assert server.program.wait().status == 0
    assert closed(folder).count(first) == closed(folder).count(second) == 1


def test_reload_by_hup(programs: Programs, folder: Path) -> None:
    server = gunicorn(programs, folder)
    old = int(server.get().text)
    server.program.send(signal.SIGHUP)
    wait_until(lambda: process_gone(old))
    assert closed(folder) == [old]
    new = int(server.get().text)
    server.program.send(signal.SIGTERM)
    assert server.program.wait().status == 0
    assert closed(folder) == [old, new]


def test_preload(programs: Programs, folder: Path) -> None:
    """What the application owed when it was loaded is the master's; a worker owes what it deferred itself."""
    conf = """
        from lastly.integrations.gunicorn import manage

        def post_fork(server, worker):
            from app import close, lastly
            lastly.defer(close, "")

        manage(globals())
    """
    files(folder, gunicorn_conf=conf)
    server = gunicorn(programs, folder, "--preload")
    worker = int(server.get().text)
    server.program.send(signal.SIGTERM)
    assert server.program.wait().status == 0
    assert closed(folder) == [worker, server.program.pid]


def test_hooks_of_ones_own_stay(programs: Programs, folder: Path) -> None:
    conf = """
        import os
        from lastly.integrations.gunicorn import manage

        def note(word):
            with open("notes", "a") as file:
                print(word, os.getpid(), file=file)

        def post_worker_init(worker):
            note("post_worker_init")

        def worker_exit(server, worker):
            note("worker_exit")
            raise ValueError("theirs")

        def child_exit(server, worker):
            note("child_exit")

        manage(globals())
        manage(globals())
    """
    files(folder, gunicorn_conf=conf)
    server = gunicorn(programs, folder)
    worker = int(server.get().text)
    server.program.send(signal.SIGTERM)
    result = server.program.wait()
    words = [line.split()[:2] for line in notes(folder)]
    inside = ["post_worker_init", "worker_exit", "closed"]
    assert words == [*([word, str(worker)] for word in inside), ["child_exit", str(server.program.pid)]]
    assert "ValueError: theirs" in result.err


def test_signals_taken_in_a_worker_are_given_back(programs: Programs, folder: Path) -> None:
    """An application that calls install() when it is loaded would lose the requests in flight."""
    files(folder, app=APP + "\n    lastly.install()\n")
    server = gunicorn(programs, folder)
    request = server.begin("/wait")
    wait_until(lambda: began(folder, "/wait"))
    server.program.error_line("lastly.install() was called in a worker")
    server.program.send(signal.SIGTERM)
    server.program.error_line("Handling signal: term")
    (folder / "go").touch()
    assert " 200 OK" in rest(request)
    assert server.program.wait().status == 0
    assert len(closed(folder)) == 1


def test_a_failing_cleanup_shows_in_the_workers_status(programs: Programs, folder: Path) -> None:
    files(folder, app=APP + "\n    lastly.defer(lambda: 1 / 0)\n")
    server = gunicorn(programs, folder)
    server.get()
    server.program.send(signal.SIGTERM)
    result = server.program.wait()
    assert "ZeroDivisionError" in result.err
    assert "exited with code 1" in result.err
    assert len(closed(folder)) == 1


# ---- the hooks, without a server


def test_options_of_ones_own_application() -> None:
    options: dict[str, object] = {"workers": 2}
    assert manage(options) is options
    before = dict(options)
    manage(options)
    assert options == before
    assert {"post_worker_init", "worker_int", "worker_abort", "worker_exit", "child_exit"} < options.keys()


def test_a_config_object_and_hooks_given_by_name() -> None:
    from gunicorn.config import Config

    config = manage(Config())
    hook = config.worker_exit
    manage(config)
    assert config.worker_exit is hook
    options = {"worker_int": "gunicorn.util.is_ipv6"}
    manage(options)
    assert callable(options["worker_int"])


def test_called_in_the_master_for_a_worker_that_is_gone(programs: Programs) -> None:
    """gunicorn calls worker_exit there when a worker cannot be signalled any more: not our end."""
    code = """
        import os, types
        import lastly
        from lastly.integrations.gunicorn import manage
        lastly.defer(print, "the master's")
        worker = types.SimpleNamespace(pid=os.getpid() + 1, cfg=None)
        manage({})["worker_exit"](None, worker)
        print("serves on")
    """
    assert programs.run(code).lines == ["serves on", "the master's"]


def test_a_worker_out_of_time_is_heard_of_once_more(programs: Programs) -> None:
    """The master kills a second after SIGABRT: too soon where the worker waits for its client to go away."""
    code = """
        import os, tempfile, types
        from lastly.integrations.gunicorn import manage
        file = tempfile.TemporaryFile()
        os.utime(file.fileno(), (0, 0))
        worker = types.SimpleNamespace(tmp=file)
        hooks = manage({})
        hooks["post_worker_init"](worker)
        hooks["worker_abort"](worker)
        print(os.fstat(file.fileno()).st_mtime > 0)
    """
    assert programs.run(code).out == "True\n"


def test_gunicorn_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("gunicorn")
    old.__version__, old.version_info = "19.9.0", (19, 9, 0)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gunicorn", old)
    with pytest.raises(FrameworkError, match=r"19\.9\.0 is too old.*lastly\[gunicorn\]"):
        manage({})
    monkeypatch.setitem(sys.modules, "gunicorn", None)
    with pytest.raises(ImportError, match=r'pip install "lastly\[gunicorn\]"'):
        manage({})
