"""docs/tutorial-two-hosts.md as a reader follows it: its files, its commands, its output; and the host really dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
from harness import ROOT, Programs, wait_until
from sharing import LONG, Shared, isolation, kill_host, needs_server, psycopg

from lastly._journal.shared_url import SharedUrl

pytestmark = [needs_server, pytest.mark.xdist_group("reach-tutorial")]
PAGE = (ROOT / "docs" / "tutorial-two-hosts.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_two_terminals_as_two_hosts(programs: Programs, shared: Shared, tmp_path: object) -> None:
    folder = programs.folder
    for name, text in re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        (folder / name).write_text(text)
    commands = "".join(blocks("sh"))
    words = folder / "bin"
    words.mkdir()
    (words / "lastly").write_text(f'#!/bin/sh\nexec {sys.executable} -m lastly "$@"\n')
    (words / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for script in words.iterdir():
        script.chmod(0o755)

    def address(user: str) -> str:
        given = re.search(r'LASTLY_JOURNAL="(.*)"', commands)[1].replace("$USER", user)
        psycopg.conninfo.conninfo_to_dict(SharedUrl(given).database)  # libpq takes it as it stands there
        return f"{shared.url(user)}&{given.partition('?')[2]}"

    env = {"PATH": f"{words}:{os.environ['PATH']}", "LASTLY_JOURNAL": address("postgres"), "LASTLY_ENV": "PYTHONPATH"}
    [migrate] = re.findall(r"^lastly journal migrate.*$", commands, re.MULTILINE)
    done = programs.run_command(["sh", "-c", migrate.replace("postgresql://$USER@/lastly", shared.url("postgres"))], env=env, within=LONG)
    assert "nothing to do" in done.out
    [work] = re.findall(r"^lastly worker.*$", commands, re.MULTILINE)
    worker = programs.start_command(["sh", "-c", f"exec {work}"], env=env, cwd=folder)
    worker.error_line("serves queue 'tutorial'", within=LONG)
    [rent] = re.findall(r"^mkdir -p host1\nLASTLY_HOME=.*$", commands, re.MULTILINE)
    if not isolation():  # as the page says
        rent = re.sub(r"unshare .*--kill-child ", "", rent)
    host = programs.start_command(["sh", "-c", rent.replace("\nLASTLY_HOME=", "\nexec env LASTLY_HOME=")], env=env, cwd=folder, stdin=subprocess.PIPE)
    host.line("rented site-42", within=LONG)
    assert os.listdir(folder / "cloud") == ["site-42"]
    shown = programs.run_command(["sh", "-c", "lastly hosts"], env=env, within=LONG)
    told = shown.out.splitlines()
    [(head, row)] = re.findall(r"^\$ lastly hosts\n(.*)\n(.*)$", PAGE, re.MULTILINE)
    assert told[0].split() == head.split()
    assert told[1].split()[1:3] == row.split()[1:3]
    assert told[1].split()[-2:] == row.split()[-2:]
    if isolation():
        host.send(signal.SIGKILL, busy=True)
    else:
        kill_host(folder / "host1")
    wait_until(lambda: os.listdir(folder / "cloud") == [], within=LONG)
    for line in re.findall(r"^lastly: .*$", PAGE, re.MULTILINE):
        worker.error_line(line, within=LONG)
