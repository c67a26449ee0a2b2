"""examples/build_site.py on two hosts: the first dies in the middle, the second gives the rented machine back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, Programs, wait_until
from sharing import LONG, Shared, isolation, kill_host, needs_server

pytest.importorskip("markdown")
pytestmark = [needs_server, pytest.mark.xdist_group("reach-site-on-two-hosts")]
EXAMPLES = ROOT / "examples"
GIT = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_DIR": None, "GIT_INDEX_FILE": None, "GIT_WORK_TREE": None}


def repository(folder: Path) -> Path:
    folder.mkdir()
    (folder / "README.md").write_text("# The site\n")
    env = {name: value for name, value in {**os.environ, **GIT}.items() if value is not None}
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "first"]):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, "-C", folder, *words], check=True, env=env)
    return folder


def machines(cloud: str) -> list[Any]:
    with urllib.request.urlopen(f"{cloud}/machines", timeout=20) as response:
        return list(json.load(response))


def test_the_second_host_gives_the_machine_back(programs: Programs, shared: Shared, tmp_path: Path) -> None:
    query = {"queue": "site", "ttl": 2, "wait": 20}
    cloud = programs.start_command(["python", str(EXAMPLES / "cloud.py"), "serve", str(tmp_path / "cloud")])
    address = cloud.line("http")
    worker = programs.start_command(
        ["lastly", "worker", "--actions", "build_site"], cwd=EXAMPLES, env={"LASTLY_JOURNAL": shared.url("hand1", **query)}
    )
    worker.error_line("serves queue 'site'", within=LONG)
    home = tmp_path / "home1"
    home.mkdir(mode=0o700)
    # No network namespace: the cloud is on this machine's loopback. As `python -m`, for the worker has to import it, too.
    program = [sys.executable, "-m", "build_site", str(repository(tmp_path / "repository")), "HEAD"]
    host = programs.start_command(
        [*(word for word in isolation() if word != "--net"), *program, "--site", str(tmp_path / "site"), "--cloud", address],
        cwd=EXAMPLES, env={**GIT, "LASTLY_HOME": str(home), "LASTLY_JOURNAL": shared.url("web1", **query), "FAILPOINT": "verify=pause"},
    )  # fmt: skip
    host.line("paused in verify", within=LONG)
    assert len(machines(address)) == 1
    if isolation():
        host.send(signal.SIGKILL, busy=True)
    else:
        kill_host(home)
    wait_until(lambda: machines(address) == [], within=LONG, what="the machine is given back")
    worker.error_line("build_site:destroy_machine: done", within=LONG)
    worker.send(signal.SIGTERM, busy=True)
    assert worker.wait(within=LONG).status == 0
    cloud.send(signal.SIGTERM)
    assert cloud.wait().status == 0
