"""The page for Jupyter: its cells in a kernel, which ends in each way of its table."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages
import pytest
from harness import Programs, clean_environment, wait_process_gone, wait_until

client = pytest.importorskip("jupyter_client", reason="in the group dev; not in this environment")
pytest.importorskip("ipykernel", reason="in the group dev; not in this environment")

CLOSED = 'lastly.defer(lambda: open("closed", "w").close())'
SAYS = "import os; print(os.getpid(), server.pid, work, sep='\\n')"
ACTION = """
@lastly.action
def destroy(name): ...

lastly.defer(destroy, "site-42")
"""


class Kernel:
    """A kernel, and what its cells print."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.manager = client.KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "socket"))
        self.manager.start_kernel(env=env, cwd=str(folder))
        self.connect()

    def connect(self) -> None:
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str) -> str:
        """Run one cell; return what it printed, or its error."""
        told: list[str] = []

        def listen(message: dict[str, Any]) -> None:
            content = message["content"]
            told.append(content.get("text") or content.get("evalue") or "")

        self.client.execute_interactive(code, timeout=60, output_hook=listen)
        return "".join(told)

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(programs: Programs, tmp_path: Path) -> Iterator[Kernel]:
    (tmp_path / "tmp").mkdir()
    folder = Path(os.path.relpath(tmp_path))  # a socket's path is short
    env = clean_environment(programs.home, TMPDIR=str(tmp_path / "tmp"), HOME=str(tmp_path))
    made = Kernel(folder if len(str(tmp_path)) > 80 else tmp_path, env)
    yield made
    made.end()


def end(kernel: Kernel, pid: int, how: str) -> None:
    if how in ("shutdown", "restart"):
        getattr(kernel.manager, f"{how}_kernel")(now=False)
    elif how == "does not answer":
        kernel.manager.shutdown_kernel(now=True)
    else:
        os.kill(pid, signal.Signals[how])


@pytest.mark.filterwarnings("ignore")  # of jupyter_client's own
@pytest.mark.parametrize("how", ["shutdown", "SIGKILL", "restart", "does not answer", "SIGTERM"])
@pytest.mark.slow(keep=1)
def test_what_a_kernel_made_goes_with_it(kernel: Kernel, how: str) -> None:
    assert kernel.run(pages.code("how-to/jupyter.md", "cell.py")) == "started\n"
    kernel.run(CLOSED)
    pid, child, work = kernel.run(SAYS).split()
    end(kernel, int(pid), how)
    wait_process_gone(int(child), within=60)
    wait_until(lambda: not Path(work).exists(), within=60, what="the kernel's folder is gone")
    assert (kernel.folder / "closed").exists() == (how in ("shutdown", "restart"))


@pytest.mark.filterwarnings("ignore")
def test_an_action_of_a_cell_is_refused_and_says_why(kernel: Kernel) -> None:
    said = kernel.run(f"import lastly\n{ACTION}")
    assert "cannot defer destroy() durably: it was typed at a prompt or into a notebook" in said
    assert "lastly.action" not in kernel.run("print(lastly.defer(destroy.fn, 'site-42').durable)")
