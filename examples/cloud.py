"""A small cloud on this computer: machines for rent, over HTTP. It stands in for a provider's API.

    python cloud.py serve FOLDER [--boot SECONDS] [--failures N]      prints its address, serves until SIGTERM

    PUT    /machines/<token>    rent one; the same token again answers with the same machine
    DELETE /machines/<token>    give it back; one that is not there, or not there yet, is given back too
    GET    /machines            what is running, since when, and what it has cost so far

What makes it like the real ones, and what a program that rents here has to live with:

* A machine is not a child of the program that rented it. It is a process in a session of its own, with a disk (a
  folder), and it runs and costs until somebody gives it back, whatever became of the one who rented it.
* Renting takes time (`--boot`), and goes on when the one who asked has died: the machine is there, and nobody knows it.
* Renting may fail (`--failures N`: the first N requests are answered with 503).
* A token that was given back is never rented again, so the order in which two requests arrive does not matter.

A machine stores what is PUT to it and answers GET from its disk. Its port is open to this computer only;
`python cloud.py tunnel PORT` is the way in, as `ssh -N -L` would be: a process that runs as long as it is wanted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

PRICE = 0.12 / 3600  # of one machine, in dollars a second


class Machine:
    """One rented machine: its process, its disk, its meter."""

    def __init__(self, folder: str, token: str, boot: float) -> None:
        self.token, self.folder, self.since = token, os.path.join(folder, token), time.time()
        os.makedirs(os.path.join(self.folder, "disk"))
        self.process = subprocess.Popen(
            [sys.executable, __file__, "machine", self.folder, "--boot", str(boot)],
            env={**os.environ, "RENTED_MACHINE": token},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.ready = threading.Lock()
        self.port = 0

    def wait(self) -> bool:
        """Wait until it serves; False when it ended before."""
        with self.ready:
            if not self.port:
                self.port = int(self.process.stdout.readline() or 0)
        return bool(self.port)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)

    def describe(self) -> dict[str, object]:
        seconds = time.time() - self.since
        return {
            "token": self.token,
            "pid": self.process.pid,
            "port": self.port,
            "seconds": round(seconds, 3),
            "dollars": round(seconds * PRICE, 9),
        }


class Cloud:
    """All machines, by the token their renter chose."""

    def __init__(self, folder: str, boot: float, failures: int) -> None:
        self.folder, self.boot, self.failures = folder, boot, failures
        self.machines: dict[str, Machine] = {}
        self.given_back: set[str] = set()
        self.lock = threading.Lock()

    def rent(self, token: str) -> tuple[int, object]:
        with self.lock:
            if token in self.given_back:
                return 410, {"error": "this token was given back"}
            if self.failures > 0:
                self.failures -= 1
                return 503, {"error": "no capacity, try again"}
            if token not in self.machines:
                self.machines[token] = Machine(self.folder, token, self.boot)
            machine = self.machines[token]
        if not machine.wait():
            return 410, {"error": "given back before it had started"}
        return 200, machine.describe()

    def give_back(self, token: str) -> tuple[int, object]:
        with self.lock:
            self.given_back.add(token)
            machine = self.machines.pop(token, None)
        if machine is not None:
            machine.end()
        return 200, {}

    def running(self) -> tuple[int, object]:
        with self.lock:
            return 200, [machine.describe() for machine in self.machines.values()]

    def close(self) -> None:
        for token in list(self.machines):
            self.give_back(token)


class QuietHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every second answer waits 40 ms for an acknowledgement

    def log_message(self, *_: object) -> None:
        """Say nothing: the program that asked reports."""

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A renter that died in the middle of a request is nothing to report here."""


def serve(folder: str, boot: float, failures: int) -> None:
    cloud = Cloud(folder, boot, failures)

    class Api(QuietHandler):
        def do_PUT(self) -> None:
            self.answer(*cloud.rent(os.path.basename(self.path)))

        def do_DELETE(self) -> None:
            self.answer(*cloud.give_back(os.path.basename(self.path)))

        def do_GET(self) -> None:
            self.answer(*cloud.running())

    with QuietServer(("127.0.0.1", 0), Api) as server:
        # shutdown() waits for serve_forever(), which runs in the thread that the handler interrupts
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        try:
            server.serve_forever(poll_interval=0.05)
        except KeyboardInterrupt:
            pass
        finally:
            cloud.close()


def machine(folder: str, boot: float) -> None:
    disk = os.path.join(folder, "disk")

    class Disk(QuietHandler, SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=disk)

        def do_PUT(self) -> None:
            path = self.translate_path(self.path)  # never leads out of the disk
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(201, {})

    time.sleep(boot)
    with QuietServer(("127.0.0.1", 0), Disk) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


def tunnel(port: int) -> None:
    def copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # one of the two ends is gone: so is the connection
            source.close()
            sink.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=copy, args=(near, far), daemon=True).start()
            threading.Thread(target=copy, args=(far, near), daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description="Machines for rent on this computer.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("serve", "machine"):
        command = commands.add_parser(name)
        command.add_argument("folder")
        command.add_argument("--boot", type=float, default=0.1, help="seconds that a machine takes to start")
        if name == "serve":
            command.add_argument(
                "--failures", type=int, default=0, help="refuse the first N requests to rent"
            )
    commands.add_parser("tunnel").add_argument("port", type=int)
    options = vars(parser.parse_args())
    {"serve": serve, "machine": machine, "tunnel": tunnel}[options.pop("command")](**options)


if __name__ == "__main__":
    main()
