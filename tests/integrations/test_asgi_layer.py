"""The layer around an ASGI application, without a server: its scope, its lifespan, what is used wrongly."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import uvicorn
from fastapi import Depends, FastAPI
from starlette.testclient import TestClient
from uvicorn.protocols.http.h11_impl import H11Protocol

from lastly import AsyncScope
from lastly.errors import FrameworkError, LastlyError
from lastly.integrations._servers import uvicorn as _serving
from lastly.integrations.asgi import Lastly, current

Message = MutableMapping[str, Any]
ASGI = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


async def live(app: ASGI) -> list[Message]:
    """Have an application live from its start to its end; return what it said."""
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    said: list[Message] = []

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        said.append(message)

    await app({"type": "lifespan", "state": {}}, receive, send)
    return said


def kinds(said: list[Message]) -> list[str]:
    return [message["type"].removeprefix("lifespan.") for message in said]


def of_its_own(ran: list[str], *, fails: str = "") -> ASGI:
    """An application with a lifespan, that fails in one phase if so wished."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        for phase in ("startup", "shutdown"):
            await receive()
            if phase == "startup":
                current().defer(ran.append, "cleanup")
            if fails == phase:
                await send({"type": f"lifespan.{phase}.failed", "message": "no"})
                raise ValueError(phase)
            ran.append(phase)
            await send({"type": f"lifespan.{phase}.complete"})

    return app


def test_the_scope_closes_before_the_server_hears_of_the_end() -> None:
    ran: list[str] = []
    said = asyncio.run(live(Lastly(of_its_own(ran))))
    assert kinds(said) == ["startup.complete", "shutdown.complete"]
    assert ran == ["startup", "shutdown", "cleanup"]


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
def test_an_application_that_fails_is_cleaned_up(phase: str) -> None:
    ran: list[str] = []
    with pytest.raises(ValueError, match=phase):
        asyncio.run(live(Lastly(of_its_own(ran, fails=phase))))
    assert ran[-1] == "cleanup"


def test_a_failing_cleanup_is_told_to_the_server() -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        current().defer(lambda: 1 / 0)

    said = asyncio.run(live(Lastly(app)))
    assert kinds(said) == ["startup.complete", "shutdown.failed"]
    assert "ZeroDivisionError" in said[-1]["message"]


async def refuses(scope: Message, receive: Any, send: Any) -> None:
    raise ValueError("HTTP only")


async def ignores(scope: Message, receive: Any, send: Any) -> None:
    return


async def starts_only(scope: Message, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})


@pytest.mark.parametrize("app", [refuses, ignores, starts_only])
def test_applications_without_a_whole_lifespan_get_one(app: ASGI) -> None:
    assert kinds(asyncio.run(live(Lastly(app)))) == ["startup.complete", "shutdown.complete"]


def test_cancelled_it_closes() -> None:
    """What a server does to the lifespan when it goes down by an error of its own."""
    ran: list[str] = []

    async def main() -> None:
        waiting = asyncio.Event()

        async def receive() -> Message:
            if not waiting.is_set():
                waiting.set()
                return {"type": "lifespan.startup"}
            return await asyncio.Future()

        async def send(message: Message) -> None:
            return

        task = asyncio.create_task(Lastly(of_its_own(ran))({"type": "lifespan"}, receive, send))
        await waiting.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ran == ["startup", "cleanup"]


def test_two_layers_are_one() -> None:
    ran: list[str] = []
    asyncio.run(live(Lastly(Lastly(of_its_own(ran)))))
    assert ran == ["startup", "shutdown", "cleanup"]


def test_an_application_that_lives_again_has_a_new_scope() -> None:
    scopes: list[AsyncScope] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        scopes.append(current())

    layer = Lastly(app)
    for _ in range(3):
        asyncio.run(live(layer))
    assert len({id(scope) for scope in scopes}) == 3
    assert all(scope.closed for scope in scopes)
    assert layer.scope is None


def make_app(ran: list[str]) -> FastAPI:
    """An application factory, as tests call it many times."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        current().defer(ran.append, "from the lifespan")
        yield

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(Lastly, grace=60)

    @app.get("/")
    async def index() -> str:
        current().defer(ran.append, "from a request")
        return "fine"

    @app.get("/depends")
    def depends(scope: Annotated[AsyncScope, Depends(current)]) -> str:
        scope.defer(ran.append, "from a thread")
        return repr(scope)

    return app


def test_fastapi_with_a_factory_called_many_times() -> None:
    for _ in range(3):
        ran: list[str] = []
        with TestClient(make_app(ran)) as client:
            assert client.get("/").json() == "fine"
            assert client.get("/depends").json() == "<AsyncScope 'app' open: 3 pending, 0 run>"
            assert ran == []
        assert ran == ["from a thread", "from a request", "from the lifespan"]


def test_without_the_layer_or_the_lifespan() -> None:
    with pytest.raises(LastlyError, match=r"app = Lastly\(app\)"):
        current()
    client = TestClient(make_app([]))
    with pytest.raises(LastlyError, match="run its lifespan"):
        client.get("/")  # a client that is not entered runs no lifespan


def test_not_an_application() -> None:
    with pytest.raises(FrameworkError, match="an ASGI application is a callable"):
        Lastly("app:app")  # type: ignore[arg-type]


def test_a_websocket_of_a_test_client() -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": current().name})
            await send({"type": "websocket.close", "code": 4000})

    with TestClient(Lastly(app)) as client, client.websocket_connect("/") as socket:
        assert socket.receive_text() == "app"
        assert socket.receive()["code"] == 4000


def test_uvicorn_in_a_thread() -> None:
    """It holds no signals there; the lifespan is all that there is, and enough."""
    ran: list[str] = []
    server = uvicorn.Server(uvicorn.Config(Lastly(of_its_own(ran)), port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    server.should_exit = True
    thread.join()
    assert ran == ["startup", "shutdown", "cleanup"]


def test_connections_that_have_said_nothing_yet_are_waited_for() -> None:
    async def main() -> None:
        connection = SimpleNamespace(cycle=None)
        state = SimpleNamespace(connections=[connection])
        server = _serving.Uvicorn(SimpleNamespace(server_state=state, servers=[]))
        settling = asyncio.create_task(server._close_door())
        for _ in range(100):
            await asyncio.sleep(0.001)
        assert not settling.done()
        connection.cycle = "a request"
        await settling

    asyncio.run(main())


def test_uvicorn_still_has_what_is_used_of_it() -> None:
    """Its private names, and the one method that is replaced; see integrations/_servers/uvicorn.py."""
    server = uvicorn.Server(uvicorn.Config(of_its_own([])))
    assert [*inspect.signature(server.shutdown).parameters] == ["sockets"]
    assert _serving._server_of(server.handle_exit) is server
    assert (server._captured_signals, server.force_exit) == ([], False)
    server.handle_exit(signal.SIGTERM, None)
    server.handle_exit(signal.SIGINT, None)
    assert (server._captured_signals, server.force_exit) == ([signal.SIGTERM, signal.SIGINT], True)
    assert server.server_state.connections == set()
    server.config.load()
    loop = asyncio.new_event_loop()
    assert H11Protocol(server.config, server.server_state, {}, loop).cycle is None
    loop.close()
