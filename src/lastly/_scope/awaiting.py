"""Wait for an awaitable in ordinary code."""

import asyncio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable
    from typing import Any


def wait_for(awaitable: "Awaitable[Any]") -> "Any":
    """Run *awaitable* to its end and return its result, also where an event loop is running already.

    Two loops cannot run in one thread, and ordinary code cannot wait for the running one. There the
    awaitable gets a thread and a loop of its own, and this thread, with its loop, waits for them.
    """

    async def main() -> "Any":
        return await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, main()).result()


def collect(items: "AsyncIterable[Any]") -> "list[Any]":
    """Return what an asynchronous generator yields, as a list."""

    async def main() -> "list[Any]":
        return [item async for item in items]

    return list(wait_for(main()))
