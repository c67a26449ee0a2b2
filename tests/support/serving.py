"""What the tests of servers share: starting one on a free port, and speaking with it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness import PATIENCE, Program, Programs, start_time, wait_until

from lastly._system.proc import is_tracker


class Server:
    """A server that was started, and says on stderr where it listens."""

    def __init__(self, program: Program, listens: str) -> None:
        self.program = program
        line = program.error_line(listens)
        found = re.search(r"https?://[^:/ ]+:(\d+)", line)
        assert found, line
        self.port = int(found[1])
        wait_until(self._takes_connections, what=f"a connection to port {self.port}")

    def _takes_connections(self) -> bool:
        """Where workers do the listening, the line comes too early."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE).close()
        except ConnectionRefusedError:
            return False
        return True

    def get(self, path: str = "/", **options: float) -> Answer:
        return get(self.port, path, **options)

    def begin(self, path: str, *, keep: bool = False) -> socket.socket:
        """Send a request and do not wait for the answer."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        after = "keep-alive" if keep else "close"
        made.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: {after}\r\n\r\n".encode())
        return made

    def children(self) -> list[int]:
        return children(self.program.pid)


class Answer(NamedTuple):
    status: int
    text: str


def get(port: int, path: str = "/", *, timeout: float = PATIENCE) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode())
    finally:
        connection.close()


def rest(made: socket.socket) -> str:
    """All that the server still sends on a connection."""
    with made:
        received = bytearray()
        while data := made.recv(65536):
            received += data
    return received.decode()


def files(folder: Path, **contents: str) -> None:
    """Write Python files: ``app="…"`` becomes app.py, ``gunicorn_conf`` gunicorn.conf.py."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        name = "gunicorn.conf" if name == "gunicorn_conf" else name
        (folder / f"{name}.py").write_text(textwrap.dedent(text))


def gunicorn(
    programs: Programs, folder: Path, *args: str, env: Mapping[str, str | None] | None = None, **options: object
) -> Server:
    """Start gunicorn with app:app of this folder; `args` follow."""
    argv = ["python", "-m", "gunicorn", "--bind", "127.0.0.1:0", "app:app", *args]
    own = {"HOME": str(folder), "XDG_RUNTIME_DIR": None}  # where its control socket is
    program = programs.start_command(argv, cwd=folder, env={**own, **(env or {})}, **options)
    return Server(program, "Listening at:")


def children(pid: int) -> list[int]:
    """The living children of a process; not the one that keeps multiprocessing's semaphores.

    Werkzeug's development server has such a semaphore, and Python 3.14 watches it by a process that ends with its last user.
    """
    try:
        found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except FileNotFoundError:
        return []
    return [child for child in found if start_time(child) is not None and not is_tracker(child)]


def lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []


def wait_lines(path: Path, *wanted: str) -> list[str]:
    """Wait until a file has these lines, in whichever order and beside others; return all."""
    wait_until(lambda: set(wanted) <= set(lines(path)), what=f"{wanted} in {path}: {lines(path)}")
    return lines(path)


def send(pid: int, signum: int) -> None:
    """Send a signal to a process that this test's server has started."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signum)
    finally:
        os.close(pidfd)


def sequence(found: Sequence[str], *wanted: str) -> bool:
    """Whether the lines occur in this order, with others in between."""
    remaining = iter(found)
    return all(line in remaining for line in wanted)


def uvicorn(programs: Programs, folder: Path, *args: str, **options: object) -> Server:
    """Start uvicorn with app:app of this folder; `args` follow."""
    argv = ["python", "-m", "uvicorn", "--port", "0", "app:app", *args]
    return Server(programs.start_command(argv, cwd=folder, **options), "Uvicorn running on")


def hypercorn(programs: Programs, folder: Path, *args: str, **options: object) -> Server:
    """Start Hypercorn with app:app of this folder; `args` follow."""
    argv = ["python", "-m", "hypercorn", "--bind", "127.0.0.1:0", *args, "app:app"]
    return Server(programs.start_command(argv, cwd=folder, **options), "Running on")
