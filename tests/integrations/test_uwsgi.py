"""The page for uWSGI: its application, served as it says, whose workers end in each way of its table."""

from __future__ import annotations

import http.client
import os
import re
import signal
import sys
from pathlib import Path

import pages
import pytest
from harness import Programs, wait_until

UWSGI = Path(sys.prefix, "bin", "uwsgi")
pytestmark = pytest.mark.skipif(not UWSGI.exists(), reason="uwsgi is not installed")

MASTER = """
import os
lastly.defer(lastly.actions.remove, "of-the-master")
lastly.defer(open, "closed-by-the-master", "w")
os.makedirs("of-the-master", exist_ok=True)
"""


class Server:
    """The application of the page, with one worker; what it has deferred is left to see in files."""

    def __init__(self, programs: Programs, *options: str) -> None:
        self.folder = programs.folder / "app"
        self.folder.mkdir()
        code = pages.code("how-to/uwsgi.md", "app.py")
        code = code.replace("print", "open").replace('"closed"', 'f"closed-{os.getpid()}", "w"')
        code = code.replace("temp_dir()", 'temp_dir(prefix=f"{os.getpid()}-")').replace("import lastly", f"import lastly\n{MASTER}", 1)
        slow = '    if environ["PATH_INFO"] == "/slow":\n        __import__("time").sleep(1000)\n    start_response('
        (self.folder / "app.py").write_text(code.replace("    start_response(", slow))
        argv = [str(UWSGI), "-H", sys.prefix, "--http-socket", "127.0.0.1:0", "--wsgi-file", "app.py", "--master"]
        self.program = programs.start_command([*argv, "--processes", "1", "--die-on-term", *options], cwd=self.folder)
        self.tmp = self.program.tmp
        self.program.error_line("bound to TCP address")
        self.port = int(re.search(r"address 127\.0\.0\.1:(\d+)", self.program.err)[1])  # type: ignore[index]
        self.worker = self.new_worker(0)

    def new_worker(self, before: int) -> int:
        """Its pid, once it has made its folder and answers."""
        pids = wait_until(lambda: [int(p.name.split("-")[0]) for p in self.tmp.iterdir() if not p.name.startswith(f"{before}-")])
        assert self.get("/") == b"hello\n"
        return int(pids[0])

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        except (ConnectionError, http.client.HTTPException):
            return b""  # the worker ended
        finally:
            connection.close()

    def stop(self) -> None:
        self.program.send(signal.SIGINT, busy=True)
        self.program.wait(eof=True)

    def has_closed(self) -> bool:
        return (self.folder / f"closed-{self.worker}").exists()

    def worker_is_settled(self) -> None:
        """What the first worker made is gone."""
        wait_until(lambda: not list(self.tmp.glob(f"{self.worker}-*")), what="the worker's folder is gone")


def test_a_worker_that_is_stopped_runs_all(programs: Programs) -> None:
    server = Server(programs)
    server.program.send(signal.SIGTERM, busy=True)
    server.program.wait(eof=True)
    server.worker_is_settled()
    assert server.has_closed()
    wait_until(lambda: not (server.folder / "of-the-master").exists(), what="the reaper runs the master's action")
    assert not (server.folder / "closed-by-the-master").exists()


@pytest.mark.slow
def test_a_worker_that_is_replaced_runs_all(programs: Programs) -> None:
    """By a reload; and after its number of requests."""
    server = Server(programs, "--max-requests", "3", "--min-worker-lifetime", "0")
    while not server.has_closed():
        server.get("/")
    server.worker_is_settled()
    server.worker = server.new_worker(server.worker)
    server.program.send(signal.SIGHUP, busy=True)
    wait_until(server.has_closed, what="the reloaded worker has ended")
    server.worker_is_settled()
    server.stop()


@pytest.mark.parametrize("how", ["killed", "harakiri"])
@pytest.mark.slow(keep=1)
def test_what_a_killed_worker_owed_is_run_by_the_reaper(programs: Programs, how: str) -> None:
    server = Server(programs, *(["--harakiri", "1"] if how == "harakiri" else []))
    if how == "killed":
        os.kill(server.worker, signal.SIGKILL)
    else:
        assert server.get("/slow") == b""
    server.worker_is_settled()
    assert not server.has_closed()
    server.stop()
