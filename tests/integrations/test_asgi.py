"""ASGI applications under the servers that people run: real requests and WebSockets, real signals."""

from __future__ import annotations

import select
import signal
from pathlib import Path

import pytest
from harness import ROOT, Programs, gone, process_gone, wait_process_gone, wait_until
from reaping import archived
from serving import Server, files, gunicorn, hypercorn, lines, rest, send, sequence, uvicorn, wait_lines
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

APP = """
    import asyncio, os
    from contextlib import asynccontextmanager
    import lastly
    from lastly.integrations.asgi import Lastly, current
    from lastly.integrations.health import Health
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocketDisconnect

    def note(*words):
        with open("notes", "a") as file:
            file.write(" ".join(map(str, words)) + "\\n")

    async def until(name):
        while not os.path.exists(name):
            await asyncio.sleep(0.01)

    async def closed():
        await asyncio.sleep(0)
        note("scope", os.getpid())

    @asynccontextmanager
    async def lifespan(app):
        current().defer(closed)
        yield
        note("lifespan", os.getpid())

    async def index(request):
        return PlainTextResponse(str(os.getpid()))

    async def make(request):
        return PlainTextResponse(str(lastly.temp_dir(scope=request.state.lastly)))

    async def wait(request):
        note("began /wait")
        await until("go")
        return PlainTextResponse(f"waited {os.getpid()}")

    async def echo(socket):
        await socket.accept()
        try:
            while True:
                await socket.send_text(await socket.receive_text())
        except WebSocketDisconnect as error:
            assert error.code == 1001

    async def ticks(socket):
        await socket.accept()
        while True:
            await socket.send_text("tick")
            await asyncio.sleep(0.01)

    lastly.defer(lambda: note("root", os.getpid()))
    app = Starlette(lifespan=lifespan, routes=[
        Route("/", index), Route("/make", make), Route("/wait", wait),
        WebSocketRoute("/echo", echo), WebSocketRoute("/ticks", ticks),
    ])
    app.add_middleware(Lastly)
"""

SERVERS = {"uvicorn": uvicorn, "hypercorn": hypercorn}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "site"
    files(made, app=APP)
    return made


def notes(folder: Path) -> list[str]:
    return lines(folder / "notes")


def make(server: Server) -> Path:
    made = Path(server.get("/make").text)
    assert made.is_dir()
    return made


def whole_end(pid: int | str) -> list[str]:
    return [f"lifespan {pid}", f"scope {pid}", f"root {pid}"]


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("signame", ["TERM", "INT"])
@pytest.mark.slow(keep=1)
def test_the_scope_closes_after_the_requests(
    programs: Programs, folder: Path, kind: str, signame: str
) -> None:
    server = SERVERS[kind](programs, folder)
    made, serves = make(server), server.get().text
    request = server.begin("/wait")
    wait_lines(folder / "notes", "began /wait")
    server.program.send(signal.Signals[f"SIG{signame}"])
    if kind == "uvicorn":
        server.program.error_line("Shutting down")
    (folder / "go").touch()
    assert "\r\n\r\nwaited " in rest(request)
    result = server.program.wait()
    assert notes(folder) == ["began /wait", *whole_end(serves)]
    assert gone(made)
    # uvicorn raises SIGTERM again when it has ended; nothing of ours changes that.
    assert result.status == (-signal.SIGTERM if (kind, signame) == ("uvicorn", "TERM") else 0)
    archived(programs.home)


@pytest.mark.parametrize("path", ["/echo", "/ticks"])
@pytest.mark.parametrize("kind", ["uvicorn auto", "uvicorn wsproto", "hypercorn"])
@pytest.mark.slow(keep=2)
def test_websockets_are_told_that_the_server_goes_away(
    programs: Programs, folder: Path, kind: str, path: str
) -> None:
    """One that waits for its client as well as one that only ever sends; neither leaves an error in the log."""
    name, *implementation = kind.split()
    args = ["--ws", *implementation] if implementation else []
    server = SERVERS[name](programs, folder, *args)
    serves = server.get().text
    with connect(f"ws://127.0.0.1:{server.port}{path}") as client:
        client.send("tick")
        assert client.recv() == "tick"
        server.program.send(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    result = server.program.wait()
    assert notes(folder) == whole_end(serves)
    assert "Traceback" not in result.err


def test_who_was_connected_is_answered(programs: Programs, folder: Path) -> None:
    """...also those whom uvicorn has not accepted yet when it is told to end: it would have reset them."""
    server = uvicorn(programs, folder)
    server.program.send(signal.SIGSTOP)
    requests = [server.begin("/") for _ in range(30)]
    server.program.send(signal.SIGTERM)
    server.program.send(signal.SIGCONT)
    answers = [rest(request) for request in requests]
    assert [answer.split(" ", 2)[1] for answer in answers] == ["200"] * 30
    assert server.program.wait().status == -signal.SIGTERM


def test_a_forced_exit_still_reaps_what_is_durable(programs: Programs, folder: Path) -> None:
    """A second Ctrl-C has uvicorn skip the lifespan."""
    server = uvicorn(programs, folder)
    made = make(server)
    with server.begin("/wait"):
        wait_lines(folder / "notes", "began /wait")
        server.program.send(signal.SIGINT)
        server.program.error_line("Waiting for connections to close")
        server.program.send(signal.SIGINT)
        result = server.program.wait()
    wait_until(lambda: gone(made), what=f"{made} reaped")
    assert f"scope {result.pid}" not in notes(folder)
    assert "forced to leave without 2 cleanups of the application" in result.err


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.slow(keep=1)
def test_a_killed_server(programs: Programs, folder: Path, kind: str) -> None:
    server = SERVERS[kind](programs, folder)
    made = make(server)
    send(int(server.get().text), signal.SIGKILL)
    wait_until(lambda: gone(made), what=f"{made} reaped")
    assert notes(folder) == []


@pytest.mark.parametrize("kind", ["uvicorn --workers=2", "uvicorn --reload", "hypercorn --workers=2"])
@pytest.mark.slow(keep=1)
def test_a_killed_master_takes_its_workers_along(programs: Programs, folder: Path, kind: str) -> None:
    """They would go on serving, on a port that the next server needs. uvicorn's end in order."""
    name, *args = kind.split()
    server = SERVERS[name](programs, folder, *args)
    made, serves = make(server), server.get().text
    server.program.send(signal.SIGKILL)
    wait_process_gone(int(serves))
    wait_until(lambda: gone(made), what=f"{made} removed")
    if name == "uvicorn":
        wait_lines(folder / "notes", *whole_end(serves))
    server.program.wait(eof=True)  # nobody is left who holds its output


def test_workers(programs: Programs, folder: Path) -> None:
    """Each closes its own; what a killed one owed is reaped while the others go on."""
    server = uvicorn(programs, folder, "--workers", "2")
    made = make(server)
    killed = made_by(programs.home, made)
    send(killed, signal.SIGKILL)
    wait_until(lambda: gone(made), what=f"{made} reaped")
    serves = server.get().text
    assert int(serves) != killed
    server.program.send(signal.SIGTERM)
    assert server.program.wait().status == 0
    assert sequence(notes(folder), *whole_end(serves))
    assert f"scope {killed}" not in notes(folder)


def test_workers_of_hypercorn(programs: Programs, folder: Path) -> None:
    """Its master sends TERM to the others as soon as one has ended: with install() they end in order all the same."""
    files(folder, app=APP + "\n    lastly.install()\n")
    server = hypercorn(programs, folder, "--workers", "2")
    serves = server.get().text
    server.program.send(signal.SIGTERM)
    assert server.program.wait().status == 0
    assert sequence(notes(folder), *whole_end(serves))
    assert len(set(notes(folder))) == len(notes(folder))


def made_by(home: Path, made: Path) -> int:
    """Which process owes a folder: the journal is called after it."""
    journals = [p for p in home.rglob("*.j") if str(made) in p.read_text()]
    assert len(journals) == 1
    return int(journals[0].name.split(".")[0])


def test_the_reloader(programs: Programs, folder: Path) -> None:
    """The process that serves is the owner: it closes at each reload, once."""
    server = uvicorn(programs, folder, "--reload", "--reload-delay", "0.05")
    first = server.get().text

    def changed() -> bool:
        # Once may be too early: the reloader has to have seen the file as it was.
        (folder / "app.py").write_text((folder / "app.py").read_text() + "\n# changed\n")
        return bool(select.select([], [], [], 1.0)) and bool(notes(folder))

    wait_until(changed, what="reloaded")
    wait_until(lambda: process_gone(int(first)))
    second = server.get().text
    assert second != first
    server.program.send(signal.SIGTERM)
    server.program.wait()
    assert notes(folder)[:3] == whole_end(first)
    assert sequence(notes(folder), *whole_end(second))
    assert len(set(notes(folder))) == len(notes(folder))


def test_readiness_while_it_lingers(programs: Programs, folder: Path) -> None:
    """Told to end, it is not ready, and still serves who comes, but keeps no connection; told twice, it ends."""
    lingering = "app.add_middleware(Lastly, linger=600)\n    app = Health().asgi(app)\n"
    files(folder, app=APP.replace("app.add_middleware(Lastly)\n", lingering))
    server = uvicorn(programs, folder)
    assert server.get("/readyz").status == 200
    server.program.send(signal.SIGTERM)
    wait_until(lambda: server.get("/readyz").status == 503, what="not ready")
    assert server.get().status == 200
    assert server.get("/livez").status == 200
    assert "\r\nconnection: close\r\n" in rest(server.begin("/", keep=True))
    server.program.send(signal.SIGTERM)
    result = server.program.wait()
    assert notes(folder) == whole_end(result.pid)


def test_signals_taken_by_the_application_are_given_back(programs: Programs, folder: Path) -> None:
    """A worker loads it when the signals are uvicorn's already."""
    files(folder, app=APP + "\n    lastly.install()\n")
    server = uvicorn(programs, folder, "--workers", "2")
    request = server.begin("/wait")
    wait_lines(folder / "notes", "began /wait")
    server.program.error_line("install() was undone: uvicorn owns the signals")
    server.program.send(signal.SIGTERM)
    server.program.error_line("Shutting down")
    (folder / "go").touch()
    answer = rest(request)
    assert server.program.wait().status == 0
    assert sequence(notes(folder), "began /wait", *whole_end(answer.split()[-1]))


def test_signals_taken_before_uvicorn_takes_them(programs: Programs, folder: Path) -> None:
    """It loads the application first, where there is one process: then both work together."""
    files(folder, app=APP + "\n    lastly.install()\n")
    server = uvicorn(programs, folder)
    request = server.begin("/wait")
    wait_lines(folder / "notes", "began /wait")
    server.program.send(signal.SIGTERM)
    server.program.error_line("Shutting down")
    (folder / "go").touch()
    assert "\r\n\r\nwaited " in rest(request)
    result = server.program.wait()
    assert result.status == -signal.SIGTERM
    assert notes(folder) == ["began /wait", *whole_end(result.pid)]


def test_a_program_that_owns_its_signals_and_runs_uvicorn(programs: Programs, folder: Path) -> None:
    """install() comes first: uvicorn takes the signals over for its time, and hands them back."""
    code = """
        import lastly, uvicorn
        from app import app, note
        lastly.install()
        try:
            uvicorn.run(app, port=0)
        finally:
            note("unwound")
    """
    files(folder, main=code)
    program = programs.start_command(["python", "main.py"], cwd=folder)
    server = Server(program, "Uvicorn running on")
    server.get()
    program.send(signal.SIGTERM)
    result = program.wait()
    assert result.status == -signal.SIGTERM
    lifespan, scope, root = whole_end(result.pid)
    assert notes(folder) == [lifespan, scope, "unwound", root]


def test_under_gunicorn(programs: Programs, folder: Path) -> None:
    files(folder, gunicorn_conf="from lastly.integrations.gunicorn import manage\nmanage(globals())\n")
    server = gunicorn(programs, folder, "--worker-class", "uvicorn_worker.UvicornWorker")
    worker = server.get().text
    with connect(f"ws://127.0.0.1:{server.port}/echo") as client:
        server.program.send(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    assert server.program.wait().status == 0
    assert notes(folder) == whole_end(worker)


def test_under_trio(programs: Programs, folder: Path) -> None:
    files(folder, app=APP.replace("asyncio", "trio"))
    server = hypercorn(programs, folder, "--worker-class", "trio")
    made, serves = make(server), server.get().text
    server.program.send(signal.SIGTERM)
    server.program.wait()
    assert notes(folder) == whole_end(serves)
    assert gone(made)


def test_told_to_end_while_it_starts(programs: Programs, folder: Path) -> None:
    slow = APP.replace("current().defer(closed)", 'note("starting"); await until("go"); current().defer(closed)')
    files(folder, app=slow)
    program = programs.start_command(["python", "-m", "uvicorn", "--port", "0", "app:app"], cwd=folder)
    wait_lines(folder / "notes", "starting")
    program.send(signal.SIGTERM)
    (folder / "go").touch()
    result = program.wait()
    assert notes(folder) == ["starting", *whole_end(result.pid)]
    assert "exception was never retrieved" not in result.err


def test_async_cleanups_of_the_process(programs: Programs, folder: Path) -> None:
    """They run as they do at exit: each in an event loop of its own."""
    extra = """
    async def last():
        await asyncio.sleep(0)
        print("awaited")
    lastly.defer(last)
    """
    files(folder, app=APP + extra)
    server = uvicorn(programs, folder)
    server.get()
    server.program.send(signal.SIGTERM)
    assert server.program.wait().lines[-1] == "awaited"


@pytest.mark.parametrize("signame", ["INT", "TERM", "KILL"])
@pytest.mark.slow(keep=1)
def test_the_example(programs: Programs, signame: str) -> None:
    program = programs.start_command(["python", str(ROOT / "examples" / "chat.py")])
    server = Server(program, "Uvicorn running on")
    folder = Path(program.line("transcripts in").split()[-1])
    with connect(f"ws://127.0.0.1:{server.port}/rooms/den") as guest:
        guest.send("hello")
        assert guest.recv() == "hello"
        assert [path.name for path in folder.iterdir()] == ["den.txt"]
        program.send(signal.Signals[f"SIG{signame}"])
        with pytest.raises(ConnectionClosed) as closed:
            guest.recv()
    program.wait()
    wait_until(lambda: gone(folder))
    if signame != "KILL":
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert "1 rooms are closed" in program.out
