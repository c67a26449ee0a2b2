"""A chat over WebSockets that leaves nothing behind: its transcripts go with it, its guests are told.

``python examples/chat.py [port]``, or ``uvicorn examples.chat:app``. Each room keeps its transcript in a file; all of them
are in a folder that is removed when the server ends: by Ctrl-C, SIGTERM, or kill -9.
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import lastly
from lastly.integrations.asgi import Lastly, current
from lastly.integrations.health import Health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

rooms: dict[str, set[WebSocket]] = {}


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.transcripts = lastly.temp_dir(prefix="chat-", scope=current())
    current().defer(lambda: print(f"{len(rooms)} rooms are closed", flush=True))
    print("transcripts in", app.state.transcripts, flush=True)
    yield


async def room(guest: WebSocket) -> None:
    name = guest.path_params["name"]
    guests = rooms.setdefault(name, set())
    await guest.accept()
    guests.add(guest)
    try:
        with open(Path(guest.app.state.transcripts) / f"{name}.txt", "a", encoding="utf-8") as transcript:  # noqa: ASYNC230  # a short line
            async for text in guest.iter_text():
                print(text, file=transcript)
                for other in list(guests):
                    await other.send_text(text)
    except WebSocketDisconnect:
        pass
    finally:
        guests.discard(guest)


site = Starlette(lifespan=lifespan, routes=[WebSocketRoute("/rooms/{name}", room)])
site.add_middleware(Lastly, grace=10)
app = Health().asgi(site)

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 0)
