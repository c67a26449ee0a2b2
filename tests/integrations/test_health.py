"""Readiness and liveness: as a layer around an application, as an application, on a port of its own."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import subprocess
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from harness import PATIENCE, Programs, wait_until

from lastly._exit import state
from lastly.integrations import health
from lastly.integrations.health import Health

# Serves probes; its one cleanup waits until the file "go" is there.
PROGRAM = """
    import os, sys, time
    import lastly
    from lastly.integrations.health import Health

    def work():  # in turns: a signal that comes right before a wait is seen in the next
        print("waits", flush=True)
        while True:
            time.sleep(0.02)

    def wait():
        print("cleaning up", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)

    {install}
    lastly.defer(wait)
    server = Health().serve(0, "127.0.0.1")
    print(server.port, flush=True)
    {end}
"""


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def resumed() -> Any:
    yield
    health.resume()


def test_not_ready_from_the_first_signal_on(programs: Programs, python: str) -> None:
    """...and alive all through the cleanups, on Pythons too where no thread can be started any more."""
    code = PROGRAM.format(install="lastly.install()", end="work()")
    program = programs.start(code, python=python)
    port = int(program.line())
    program.line("waits")
    assert ask(port, "/readyz") == (200, "ready\n")
    assert ask(port, "/livez") == (200, "alive\n")
    program.send(signal.SIGTERM)
    program.line("cleaning up")
    assert ask(port, "/readyz") == (503, "not ready: signal SIGTERM\n")
    assert ask(port, "/livez") == (200, "alive, and draining: signal SIGTERM\n")
    (program.cwd / "go").touch()
    assert program.wait().status == -signal.SIGTERM


def test_not_ready_while_the_program_unwinds(programs: Programs) -> None:
    """Before any cleanup runs: a `finally` may take its time, too."""
    end = """
    try:
        work()
    finally:
        wait()
    """
    program = programs.start(PROGRAM.format(install="lastly.install()", end=end))
    port = int(program.line())
    program.line("waits")
    program.send(signal.SIGTERM)
    program.line("cleaning up")
    assert ask(port, "/readyz") == (503, "not ready: signal SIGTERM\n")
    (program.cwd / "go").touch()
    assert program.wait().status == -signal.SIGTERM


def test_not_ready_once_the_program_ends(programs: Programs, python: str) -> None:
    program = programs.start(PROGRAM.format(install="", end=""), python=python)
    port = int(program.line())
    program.line("cleaning up")
    assert ask(port, "/readyz") == (503, "not ready: the program ends\n")
    (program.cwd / "go").touch()
    assert program.wait().status == 0


def test_why_it_ends_is_not_for_everybody(programs: Programs) -> None:
    code = """
        import lastly
        from lastly.integrations import health

        app = lastly.App("app", argv=[], hooks=[("pre_close", lambda app: print(lastly.exit_reason(), "|", health.draining()))])
        app.setup()
        raise LookupError("password=secret")
    """
    result = programs.run(code)
    assert (result.status, result.lines) == (1, ["exception LookupError: password=secret | the program ends"])


def test_ready_again_after_a_signal_that_the_program_answers(programs: Programs) -> None:
    end = """
    try:
        work()
    except KeyboardInterrupt:
        print("answered", flush=True)
    sys.stdin.readline()
    """
    code = PROGRAM.format(install="lastly.install()", end=end)
    program = programs.start(code, stdin=-1)
    port = int(program.line())
    program.line("waits")
    program.send(signal.SIGINT)
    program.line("answered")
    assert wait_until(lambda: ask(port, "/readyz") == (200, "ready\n"))
    program.write("\n")
    program.line("cleaning up")
    (program.cwd / "go").touch()
    program.wait()


def test_a_forked_child_does_not_hold_the_port(programs: Programs) -> None:
    """The parent is killed, the child lives: the port is free."""
    code = """
        import os, signal
        from lastly.integrations.health import Health
        server = Health().serve(0, "127.0.0.1")
        if os.fork() == 0:
            print(server.port, flush=True)
            signal.pause()
        signal.pause()
    """
    program = programs.start(code)
    port = int(program.line())
    assert ask(port, "/livez")[0] == 200
    program.send(signal.SIGKILL)
    program.wait()
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/livez")


def test_who_connects_and_says_nothing_keeps_nobody_waiting() -> None:
    with Health().serve(0, "127.0.0.1") as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(150)]
        idle[-1].sendall(b"GET /readyz HT")
        assert ask(server.port, "/readyz") == (200, "ready\n")
        assert len(server._open) <= 100
        for connection in idle:
            connection.close()
        assert ask(server.port, "/livez") == (200, "alive\n")


def test_when_no_descriptor_is_left(programs: Programs) -> None:
    """Who asks waits, and is answered when there is one again."""
    code = """
        import os, resource, sys
        from lastly.integrations.health import Health
        server = Health().serve(0, "127.0.0.1")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        probe = os.dup(0)
        os.close(probe)
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
        print(server.port, flush=True)
        sys.stdin.readline()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sys.stdin.readline()
    """
    program = programs.start(code, stdin=subprocess.PIPE)
    with socket.create_connection(("127.0.0.1", int(program.line())), timeout=PATIENCE) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        program.write("\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    program.write("\n")
    assert program.wait().status == 0


@pytest.mark.parametrize("data", [b"\r\n\r\n", b"\xff\x00 nonsense\r\n\r\n", b"x" * 10_000, b"GET /readyz\r\n\r\n"])
def test_nonsense_is_refused(data: bytes) -> None:
    with Health().serve(0, "127.0.0.1") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
            connection.sendall(data)
            try:
                answer = connection.recv(1000)
            except ConnectionResetError:  # what it did not read
                answer = b""
        assert answer[:12] in (b"HTTP/1.1 400", b"")
        assert ask(server.port, "/readyz") == (200, "ready\n")


def test_on_all_addresses() -> None:
    with Health().serve(0) as server:
        assert ask(server.port, "/readyz") == (200, "ready\n")


def test_a_port_that_is_taken() -> None:
    with Health().serve(0, "127.0.0.1") as server:
        with pytest.raises(OSError, match="in use"):
            Health().serve(server.port, "127.0.0.1")
        server.close()
    server.close()


def test_methods_and_paths() -> None:
    with Health(ready="/up").serve(0, "127.0.0.1") as server:
        assert ask(server.port, "/up?verbose") == (200, "ready\n")
        assert ask(server.port, "/up", "HEAD") == (200, "")
        assert ask(server.port, "/up", "POST")[0] == 405
        assert ask(server.port, "/readyz")[0] == 404


def test_drain_and_resume() -> None:
    told = []
    ending = [lambda: 1 / 0, lambda: told.append(1)]
    for call in ending:
        state.subscribe(ending=call)
    try:
        health.drain("worker_int")
        health.drain("again")
    finally:
        for call in ending:
            state.unsubscribe(call)
    assert told == [1]
    assert health.draining() == "worker_int"
    assert Health().answer("GET", "/readyz") == (503, "not ready: worker_int\n")
    health.resume()
    assert health.draining() is None
    assert Health().answer("GET", "/readyz") == (200, "ready\n")


def test_checks() -> None:
    """They are named and no more is said; while the process drains liveness does not ask them."""
    here = Health()

    @here.check_ready
    def database() -> object:
        raise OSError("password=secret")

    here.check_ready(lambda: None, "fine")
    here.check_live(lambda: False, "worker")
    assert here.answer("GET", "/readyz") == (503, "not ready: database\n")
    assert here.answer("GET", "/livez") == (503, "not alive: worker\n")
    health.drain("shutdown")
    assert here.answer("GET", "/livez") == (200, "alive, and draining: shutdown\n")

    async def wrong() -> bool:
        return True

    with pytest.raises(TypeError, match="plain function"):
        here.check_ready(wrong)


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
def test_a_check_that_ends_is_one_that_fails(error: type[BaseException]) -> None:
    """And whoever answers goes on to answer."""
    here = Health()

    @here.check_ready
    def gives_up() -> object:
        raise error

    with here.serve(0, "127.0.0.1") as server:
        for _ in range(2):
            assert ask(server.port, "/readyz") == (503, "not ready: gives_up\n")


def test_beats() -> None:
    here = Health(live_within=1000)
    assert here.answer("GET", "/livez") == (200, "alive\n")
    here._beaten -= 1001
    assert here.answer("GET", "/livez") == (503, "not alive: no beat for 1001 s\n")
    assert here.answer("GET", "/readyz") == (200, "ready\n")
    here.beat()
    assert here.answer("GET", "/livez") == (200, "alive\n")


@pytest.mark.parametrize("paths", [{"ready": "up"}, {"ready": "/livez"}, {"live_within": -1}])
def test_settings_that_make_no_sense(paths: Any) -> None:
    with pytest.raises(ValueError, match=r"begin with|two paths|live_within"):
        Health(**paths)


# ── WSGI ────────────────────────────────────────────────────────────────────────────────


def wsgi(app: Any, path: str, method: str = "GET") -> tuple[str, bytes]:
    environ: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method, "QUERY_STRING": "", "SCRIPT_NAME": ""}
    setup_testing_defaults(environ)
    said: list[str] = []
    body = validator(app)(environ, lambda status, _headers, _error=None: said.append(status))
    try:
        return said[0] if said else "", b"".join(body)
    finally:
        body.close()


def hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def test_wsgi() -> None:
    app = Health().wsgi()
    assert wsgi(app, "/readyz") == ("200 OK", b"ready\n")
    assert wsgi(app, "/else") == ("404 Not Found", b"not found\n")
    assert wsgi(app, "/livez", "POST")[0] == "405 Method Not Allowed"
    around = Health().wsgi(app=Health(ready="/inner").wsgi(hello))  # around one another: used twice
    assert wsgi(around, "/inner") == wsgi(around, "/readyz") == ("200 OK", b"ready\n")
    assert wsgi(around, "/")[1] == b"hello"
    health.drain("TERM")
    assert wsgi(around, "/readyz") == ("503 Service Unavailable", b"not ready: TERM\n")
    assert wsgi(around, "/")[1] == b"hello"


# ── ASGI ────────────────────────────────────────────────────────────────────────────────


def asgi(app: Any, *messages: dict[str, Any], **scope: Any) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    received = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(received)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app({"method": "GET", **scope}, receive, send))
    return sent


def test_asgi() -> None:
    app = Health().asgi()
    sent = asgi(app, type="http", path="/readyz")
    assert [sent[0]["status"], sent[1]["body"]] == [200, b"ready\n"]
    assert asgi(app, type="http", path="/api/readyz", root_path="/api")[0]["status"] == 200
    assert asgi(app, type="http", path="/else")[0]["status"] == 404
    assert asgi(app, type="http", path="/livez", method="HEAD")[1]["body"] == b""
    assert asgi(app, type="websocket", path="/readyz") == [{"type": "websocket.close", "code": 1000}]
    health.drain("TERM")
    assert asgi(app, type="http", path="/readyz")[0]["status"] == 503


def test_asgi_around_an_application() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": f"inner {scope['type']}"})

    app = Health().asgi(inner)
    assert asgi(app, type="http", path="/") == [{"type": "inner http"}]
    assert asgi(app, type="lifespan") == [{"type": "inner lifespan"}]
    assert asgi(app, type="websocket", path="/livez") == [{"type": "inner websocket"}]
    assert asgi(app, type="http", path="/livez")[0]["status"] == 200


def test_asgi_lifespan_without_an_application() -> None:
    sent = asgi(Health().asgi(), {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}, type="lifespan")
    assert [m["type"] for m in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_nothing_is_left_open() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with Health().serve(0, "127.0.0.1") as server:
            ask(server.port, "/readyz")
    assert sorted(os.listdir("/proc/self/fd")) == before
