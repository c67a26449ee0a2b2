"""examples/service.py under a service manager of the test's own, ended in each way."""

from __future__ import annotations

import http.client
import signal
from pathlib import Path

import pytest
from harness import PATIENCE, ROOT, Programs, gone, wait_until
from manager import Manager


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "KILL"])
def test_the_service(name: str, programs: Programs, tmp_path: Path) -> None:
    manager = Manager(f"{tmp_path}/notify")
    signum = signal.Signals[f"SIG{name}"]
    argv = ["python", str(ROOT / "examples" / "service.py"), "--port", "0", "--host", "127.0.0.1", "--goodbye", "0.1"]
    program = programs.start_command(argv, env={"NOTIFY_SOCKET": manager.address})
    words = program.line("work in").replace(",", "").split()
    port, work = int(words[1]), Path(words[-1])
    assert manager.message() == ["READY=1", "STATUS=at work"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/readyz")
    assert connection.getresponse().status == 200
    connection.close()
    assert work.is_dir()
    program.send(signum)
    result = program.wait()
    assert (result.status, result.err) == (-signum, "")
    if name != "KILL":
        assert manager.message() == ["STOPPING=1"]
    wait_until(lambda: gone(work))
    manager.socket.close()
