"""Flask: cleanups run once, in the process that serves, after the last request; with real servers and signals."""

from __future__ import annotations

import signal
import socket
import struct
from pathlib import Path

import pytest
from harness import Program, Programs, gone, process_gone, wait_process_gone, wait_until
from load import Load
from serving import Server, children, files, gunicorn, rest, send

pytest.importorskip("flask")

TERM, INT, HUP, QUIT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL

APP = """
    import os, sys, time
    import lastly
    from flask import Flask
    from lastly.integrations.flask import Lastly

    app = Flask(__name__)
    ext = Lastly(app, signals=True, health=True)
    work = lastly.temp_dir(prefix="work-")
    app.extensions["lastly"].defer(print, "closed", os.getpid(), flush=True)

    @app.get("/")
    def index():
        return "hello"

    @app.get("/work")
    def where():
        return str(work)

    @app.get("/slow")
    def slow():
        print("slow begins", os.getpid(), flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
        print("slow ends", flush=True)
        return "slow done"

    def develop(**options):
        app.run(port=0, **options)

    def waitress():
        import waitress
        server = waitress.create_server(app, host="127.0.0.1", port=0)
        print(f"Running on http://127.0.0.1:{server.effective_port}", file=sys.stderr, flush=True)
        server.run()

    if __name__ == "__main__":
        eval(sys.argv[1])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files(tmp_path / "app", app=APP)
    return tmp_path / "app"


def start(programs: Programs, folder: Path, how: str, **options: object) -> Server:
    argv = ["python", "app.py", how]
    if how == "flask run":
        argv = ["python", "-m", "flask", "--app", "app", "run", "--port", "0"]
    return Server(programs.start_command(argv, cwd=folder, **options), "Running on http://127")


def closed(program: Program) -> list[str]:
    return [line for line in program.out.splitlines() if line.startswith("closed")]


@pytest.mark.parametrize(
    ("how", "signum"),
    [
        ("develop()", TERM),
        ("develop()", INT),
        ("develop(threaded=False)", TERM),
        ("waitress()", TERM),
        ("waitress()", INT),
        ("waitress()", HUP),
        ("flask run", TERM),
        ("flask run", QUIT),
    ],
)
@pytest.mark.slow(keep=1)
def test_a_request_in_flight_is_answered_and_then_all_is_closed(
    how: str, signum: int, programs: Programs, folder: Path
) -> None:
    """...while readiness says 503; and the parent sees the signal."""
    server = start(programs, folder, how)
    assert server.get("/readyz").status == 200
    work = server.get("/work").text
    slow = server.begin("/slow")
    server.program.line("slow begins")
    server.program.send(signum)
    if "threaded=False" not in how:  # that one answers nobody else meanwhile
        wait_until(lambda: server.get("/readyz").status == 503, what="not ready")
        assert server.get("/").text == "hello"
    (folder / "go").touch()
    assert rest(slow).endswith("slow done")
    result = server.program.wait()
    assert (result.status, result.lines[-2:]) == (-signum, ["slow ends", f"closed {result.pid}"]), result.err
    assert gone(work)


def test_a_second_ctrl_c_does_not_wait(programs: Programs, folder: Path) -> None:
    """...and a second SIGTERM does; cleanups run in both cases."""
    server = start(programs, folder, "develop()")
    slow = server.begin("/slow")
    server.program.line("slow begins")
    server.program.send(TERM)
    wait_until(lambda: server.get("/readyz").status == 503)
    server.program.send(TERM)
    server.program.error_line("SIGTERM again")
    server.program.send(INT)
    result = server.program.wait()
    assert (result.status, result.lines[-1]) == (-TERM, f"closed {result.pid}")
    slow.close()


def test_the_time_of_requests_ends(programs: Programs, folder: Path) -> None:
    code = (folder / "app.py").read_text().replace("health=True", "health=True, timeout=0.2")
    (folder / "app.py").write_text(code)
    server = start(programs, folder, "waitress()")
    slow = server.begin("/slow")
    server.program.line("slow begins")
    server.program.send(TERM)
    server.program.error_line("did not end in time")
    # waitress itself waits for its threads for 5 s
    (folder / "go").touch()
    result = server.program.wait()
    assert (result.status, result.lines[-1]) == (-TERM, f"closed {result.pid}")
    slow.close()


@pytest.mark.parametrize("how", ["develop()", "waitress()"])
@pytest.mark.slow(keep=1)
def test_under_load_no_request_is_lost(how: str, programs: Programs, folder: Path) -> None:
    server = start(programs, folder, how)
    with Load(server.port, clients=6) as load:
        wait_until(lambda: load.answered > 50)
        server.program.send(TERM)
        result = server.program.wait()
    assert (load.lost, result.status, len(closed(server.program))) == ([], -TERM, 1)


def test_a_client_that_reset_its_connection_is_not_waited_for(programs: Programs, folder: Path) -> None:
    """Werkzeug never closes an answer that it could not send; and an error's is in a circle with its traceback."""
    text = (folder / "app.py").read_text()
    (folder / "app.py").write_text("import gc; gc.disable()\n" + text)
    server = start(programs, folder, "develop()")
    for _ in range(10):
        client = server.begin("/nowhere")
        assert client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing is a reset
        client.close()
    server.program.send(TERM)
    result = server.program.wait()
    assert "did not end in time" not in result.err
    assert closed(server.program) == [f"closed {result.pid}"]


# ---- the reloader


def reloading(programs: Programs, folder: Path, **options: object) -> tuple[Server, int]:
    """The server, and the pid of the process that serves."""
    server = start(programs, folder, "develop(debug=True)", **options)
    server.get("/")
    (serving,) = children(server.program.pid)
    return server, serving


@pytest.mark.parametrize("signum", [TERM, INT, HUP])
@pytest.mark.slow(keep=1)
def test_with_the_reloader_only_the_process_that_serves_closes(
    signum: int, programs: Programs, folder: Path
) -> None:
    """The reloader gets the signal: by itself Werkzeug kills the other process then."""
    server, serving = reloading(programs, folder)
    slow = server.begin("/slow")
    server.program.line("slow begins")
    server.program.send(signum)
    server.program.error_line("Restarting")
    (folder / "go").touch()
    assert rest(slow).endswith("slow done")
    server.program.wait(eof=True)
    assert closed(server.program) == [f"closed {serving}"]
    assert process_gone(serving)


def test_a_reload_closes_the_old_process_first(programs: Programs, folder: Path) -> None:
    server, serving = reloading(programs, folder)
    with open(folder / "app.py", "a") as file:
        file.write("\n# changed\n")
    server.program.line(f"closed {serving}")
    wait_until(lambda: children(server.program.pid) not in ([], [serving]))
    (new,) = children(server.program.pid)
    assert server.get("/").text == "hello"
    server.program.send(TERM)
    server.program.wait(eof=True)
    assert closed(server.program) == [f"closed {serving}", f"closed {new}"]


def test_kill_leaves_nothing_durable(programs: Programs, folder: Path) -> None:
    """...in neither of the reloader's two processes."""
    server, serving = reloading(programs, folder)
    works = list((folder / server.program.tmp).glob("work-*"))
    assert len(works) == 2
    server.program.send(KILL)
    send(serving, KILL)
    wait_process_gone(serving)
    wait_until(lambda: not any(work.exists() for work in works), what="reaped")


def test_a_killed_reloader_takes_the_process_that_serves_along(programs: Programs, folder: Path) -> None:
    """...in order: it would go on serving, beside the next one that is started."""
    server, serving = reloading(programs, folder)
    server.program.send(KILL)
    wait_process_gone(serving)
    server.program.wait(eof=True)
    assert closed(server.program) == [f"closed {serving}"]


# ---- gunicorn


@pytest.mark.parametrize("kind", ["sync", "gthread"])
@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
@pytest.mark.slow(keep=1)
def test_gunicorn_closes_in_each_worker(kind: str, preload: bool, programs: Programs, folder: Path) -> None:
    """What is deferred at import belongs to the process that imported it; Lastly takes no signals there."""
    with open(folder / "app.py", "a") as file:
        file.write("\n@app.get('/more')\ndef more():\n    ext.defer(print, 'more', os.getpid(), flush=True)\n    return ''\n")
    files(folder, gunicorn_conf="from lastly.integrations.gunicorn import manage\nmanage(globals())\n")
    server = gunicorn(programs, folder, "--workers=1", f"--worker-class={kind}", *["--preload"] * preload)
    server.get("/more")
    (worker,) = server.children()
    slow = server.begin("/slow")
    server.program.line("slow begins")
    server.program.send(TERM)
    (folder / "go").touch()
    assert rest(slow).endswith("slow done")
    result = server.program.wait(eof=True)
    owner = result.pid if preload else worker
    assert result.status == 0
    assert [line for line in result.lines if line.startswith(("closed", "more"))] == (
        [f"more {worker}", f"closed {owner}"]
    ), result.err
    assert "lastly.install() was called" not in result.err


@pytest.mark.parametrize("kind", ["sync", "gthread"])
@pytest.mark.slow(keep=1)
def test_under_load_gunicorn_loses_no_connection(kind: str, programs: Programs, folder: Path) -> None:
    """...not those either that no worker had fetched: more clients than it serves at once wait in the queue."""
    files(folder, gunicorn_conf="from lastly.integrations.gunicorn import manage\nmanage(globals())\n")
    server = gunicorn(programs, folder, "--workers=2", f"--worker-class={kind}")
    with Load(server.port, clients=10) as load:
        wait_until(lambda: load.answered > 100)
        server.program.send(TERM)
        result = server.program.wait(eof=True)
    assert (load.lost, result.status, len(closed(server.program))) == ([], 0, 2)


# ---- the extension


def test_used_from_everywhere_and_wrongly(programs: Programs) -> None:
    code = """
        import contextlib, re, threading, warnings
        import lastly
        from flask import Flask
        from lastly.integrations import flask as ours

        @contextlib.contextmanager
        def raises(error, match):  # pytest's would load more than all the rest
            try:
                yield
            except error as raised:
                assert re.search(match, str(raised)), raised
            else:
                raise AssertionError(match)

        def factory(ext):
            app = Flask("one")
            ext.init_app(app)
            return app

        ext = ours.Lastly()
        with raises(RuntimeError, match="looks after 0"):
            ext.defer(print)
        with raises(RuntimeError, match="no application is current"):
            ours.defer(print)
        with raises(TypeError, match="takes a Flask application"):
            ext.init_app(object())
        app = factory(ext)
        layered = app.wsgi_app
        ext.init_app(app)
        ours.Lastly(app)
        assert app.wsgi_app is layered

        ext.defer(print, "by the extension")
        with app.app_context():
            ours.defer(print, "by the current application")
        thread = threading.Thread(target=app.extensions["lastly"].defer, args=(print, "from a thread"))
        thread.start(); thread.join()
        print(repr(app.extensions["lastly"]), repr(ext))

        many = [factory(ext) for _ in range(100)]
        with raises(RuntimeError, match="looks after 101"):
            ext.defer(print)
        with many[0].app_context():
            ext.defer(print, "of the first")
        cleanups = many[0].extensions["lastly"]
        cleanups.close()
        cleanups.close()
        assert not len(cleanups)
        cleanups.defer(print, "of the first, once more")
        with Flask("other").app_context():
            with raises(RuntimeError, match="was not given"):
                ours.defer(print)

        def in_thread():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                ours.Lastly(Flask("threaded"), signals=True)
            print(caught[0].message)
        thread = threading.Thread(target=in_thread)
        thread.start(); thread.join()
    """
    result = programs.run(code)
    assert result.err == ""
    assert result.lines == [
        "<AppCleanups one: 3 pending> <Lastly one>",
        "of the first",
        "signals=True has no effect outside the main thread",
        "of the first, once more",
        "from a thread",
        "by the current application",
        "by the extension",
    ]


def test_requests_are_counted_until_their_answer_is_sent(programs: Programs) -> None:
    """Streams, files, errors and test clients; a layer outside sees what it would see without us."""
    code = """
        import io
        from flask import Flask, send_file
        from lastly.integrations._servers import in_flight
        from lastly.integrations.flask import Lastly
        from werkzeug.test import run_wsgi_app, EnvironBuilder

        app = Flask("counted")
        app.testing = True
        Lastly(app)

        @app.get("/stream")
        def stream():
            def parts():
                for part in "abc":
                    yield part + str(len(in_flight.at_work))
            return parts()

        @app.get("/file")
        def file():
            return send_file(io.BytesIO(b"content"), "text/plain")

        @app.get("/error")
        def error():
            1 / 0

        client = app.test_client()
        print(client.get("/stream").text, client.get("/file").data)
        try:
            client.get("/error")
        except ZeroDivisionError:
            print("error")
        from werkzeug.middleware.proxy_fix import ProxyFix
        app.wsgi_app = ProxyFix(app.wsgi_app, x_port=1)
        client.get("/file", headers={"X-Forwarded-Port": "443"})
        print(sorted(in_flight.ports))
        answer = app.wsgi_app(EnvironBuilder("/stream").get_environ(), lambda *_: None)
        print(len(in_flight.at_work))
        answer.close()
        assert not in_flight.at_work, in_flight.at_work
    """
    result = programs.run(code)
    assert (result.lines, result.err) == (["a1b1c1 b'content'", "error", "['443', '80']", "1"], "")


@pytest.mark.parametrize("how", ["develop()", "waitress()"])
@pytest.mark.slow(keep=1)
def test_a_file_is_sent_as_the_server_likes_it(how: str, programs: Programs, folder: Path) -> None:
    """By its own file wrapper; and while it is sent, the process does not end."""
    with open(folder / "app.py") as file:
        code = file.read().replace("def develop", """@app.get('/file')
def file():
    from flask import send_file
    return send_file(os.path.abspath("large"), conditional=False)

def develop""")
    (folder / "app.py").write_text(code)
    size = 16 << 20  # more than the kernel's buffers hold
    (folder / "large").write_bytes(b"x" * size)
    server = start(programs, folder, how)
    made = server.begin("/file")
    received = len(made.recv(1000))
    server.program.send(TERM)
    wait_until(lambda: server.get("/readyz").status == 503)
    head, _, body = rest(made).rpartition("\r\n\r\n")
    assert received + len(head) + len(body) > size
    assert server.program.wait().status == -TERM


def test_without_flask_one_line_says_what_to_install(programs: Programs) -> None:
    code = "import sys; sys.modules['flask'] = None\nimport lastly.integrations.flask"
    assert programs.run(code).err.splitlines()[-1] == (
        'ImportError: lastly.integrations.flask needs Flask: pip install "lastly[flask]"'
    )
