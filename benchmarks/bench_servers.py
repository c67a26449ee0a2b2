"""Starlette on uvicorn under load, told to end: requests lost, and seconds until it is gone; with lastly and without.

Lost is a request that a client could send and that was not answered: its connection was taken, by the server or by the
kernel for it. A client that is refused is told the truth: nobody is there (any more), try the next server. The load
comes over loopback from this process: each client sends a request, waits for the answer, and sends the next one,
on a connection of its own or on one that is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.measure import Report, median, private_home

PASSES = 9
CLIENTS = 64
BEFORE = 200  # requests that must have been answered before the server is told to end

APP = """
import asyncio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def index(request):
    await asyncio.sleep(0.005)
    return PlainTextResponse("hello")

app = Starlette(routes=[Route("/", index)])
"""
OURS = """
import lastly
from lastly.integrations.asgi import Lastly
lastly.defer(int)
app.add_middleware(Lastly)
"""


class Load:
    """Clients that go on until the server refuses them."""

    def __init__(self, port: int, *, keep: bool) -> None:
        self.port = port
        word = "keep-alive" if keep else "close"
        self.keep = keep
        self.request = f"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: {word}\r\n\r\n".encode()
        self.count: Counter[str] = Counter()
        self.warm = asyncio.Event()

    async def client(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                return
            try:
                while await self.ask(reader, writer) and self.keep:
                    pass
            finally:
                writer.close()

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send one request; whether the connection can take another."""
        writer.write(self.request)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            assert found
            await reader.readexactly(int(found[1]))
        except (OSError, asyncio.IncompleteReadError):
            self.count["lost"] += 1
            return False
        self.count["answered"] += 1
        if self.count["answered"] >= BEFORE:
            self.warm.set()
        return b"connection: close" not in head.lower()


def started(folder: str, name: str) -> tuple[subprocess.Popen[str], int]:
    """A server, and its port."""
    argv = [sys.executable, "-m", "uvicorn", "--port", "0", "--no-access-log", f"{name}:app"]
    server = subprocess.Popen(argv, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"running on http://127.0.0.1:(\d+)", line):
            return server, int(found[1])
    raise RuntimeError(f"uvicorn ended with {server.wait()}")


async def told_to_end(folder: str, name: str, *, keep: bool) -> tuple[float, Counter[str]]:
    """Seconds from SIGTERM to the end, and what became of the requests."""
    server, port = started(folder, name)
    load = Load(port, keep=keep)
    clients = [asyncio.create_task(load.client()) for _ in range(CLIENTS)]
    await load.warm.wait()
    pidfd = os.pidfd_open(server.pid)
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, gone.set)
    start = time.perf_counter()
    server.send_signal(signal.SIGTERM)
    await gone.wait()
    seconds = time.perf_counter() - start
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)
    server.wait()
    if server.stderr is not None:
        server.stderr.close()
    await asyncio.wait(clients, timeout=5)  # a connection that was not taken is tried again after a second
    for client in clients:
        client.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await client
    return seconds, load.count


def main() -> None:
    """Print the table."""
    report = Report("Starlette on uvicorn, SIGTERM under load")
    with private_home(), tempfile.TemporaryDirectory() as folder:
        Path(folder, "plain.py").write_text(APP)
        Path(folder, "ours.py").write_text(APP + OURS)
        for title, keep in (("a connection for each request", False), ("connections that are kept", True)):
            times: dict[str, list[float]] = {"ours": [], "plain": []}
            counts: dict[str, Counter[str]] = {"ours": Counter(), "plain": Counter()}
            for _ in range(PASSES):
                for name, found in times.items():
                    seconds, count = asyncio.run(told_to_end(folder, name, keep=keep))
                    found.append(seconds)
                    counts[name] += count
            ours, plain = counts["ours"], counts["plain"]
            # What uvicorn alone loses, some twenty requests each time, is answered here before the end. Of a server that
            # has nothing to do the end takes 1.3 ms of processor time more.
            report.ratio(f"{title}: until gone", median(times["ours"]), "uvicorn", median(times["plain"]), 1.05)
            report.number(f"{title}: lost of {sum(ours.values())}", ours["lost"], "requests", 0)
            report.number(f"  … without lastly, of {sum(plain.values())}", plain["lost"], "requests")
    report.print()


if __name__ == "__main__":
    main()
