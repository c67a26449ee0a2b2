"""A deployment on one of two hosts, which dies as if its power had gone: the other one gives its machine back.

    make demo        or: python examples/two_hosts.py

The journal is shared: a PostgreSQL that this program starts for itself. The first host is a pid namespace, so that the
kernel kills all that is in it, its reaper included; where namespaces are forbidden it is all its processes, killed
together. On the second runs `lastly worker`, which serves the actions of build_site.py.
"""

from __future__ import annotations

import glob
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NoReturn

import lastly

HERE = os.path.dirname(os.path.abspath(__file__))
PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
NAMESPACES = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"]
TTL = 2  # seconds of silence after which a host counts as dead
PATIENCE = 120


class Missing(Exception):  # noqa: N818 - says what happened
    """Something that this needs is not on this computer."""


def programs() -> str:
    """The folder of PostgreSQL's programs, the newest."""
    found = [path for place in PLACES for path in glob.glob(place)]
    found.sort(key=lambda path: [int(part) for part in path.replace("-", "/").split("/") if part.isdecimal()])
    on_path = shutil.which("postgres")
    folder = os.path.dirname(os.path.realpath(on_path)) if on_path else (found or [""])[-1]
    if not os.path.exists(os.path.join(folder, "initdb")):
        raise Missing("no PostgreSQL here")
    return folder


def start_database(folder: str) -> str:
    """Start a PostgreSQL that lives in a folder and listens there; returns the address of its database."""
    where, who = programs(), {}
    try:
        import procrastinate as _  # noqa: F401 - looked for, not used
    except ImportError:
        raise Missing('no driver: pip install "lastly[reach]"') from None
    if os.geteuid() == 0:  # it must be another user's, it insists
        if not all(path.stat().st_mode & 0o001 for path in Path(folder).parents):
            raise Missing("as root a PostgreSQL needs a TMPDIR that others can enter")
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    options = {"cwd": folder, "env": {"PATH": os.defpath, "HOME": folder, "LC_ALL": "C"}, **who}
    data = os.path.join(folder, "data")
    initdb = [os.path.join(where, "initdb"), "-D", data, "-U", "demo", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **options)
    postgres = [os.path.join(where, "postgres"), "-D", data, "-k", folder, "-c", "listen_addresses="]
    log = os.path.join(folder, "log")
    with open(log, "wb") as file:
        server = lastly.Popen(postgres, stdin=subprocess.DEVNULL, stdout=file, stderr=file, **options)
    wait(lambda: "ready to accept connections" in read(log), "PostgreSQL starts", server)
    return f"postgresql://demo@/postgres?host={folder}&queue=demo&ttl={TTL}&wait=20"


def wait(condition: object, what: str, *processes: subprocess.Popen[bytes]) -> None:
    """Wait until it is so, while these processes live."""
    deadline = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            raise RuntimeError(f"{what}: it does not happen")
        time.sleep(0.02)


def read(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()


def host_command() -> list[str]:
    """What makes a host of a program; nothing where that is not allowed."""
    for command in (NAMESPACES, [*NAMESPACES, "--user", "--map-root-user"]):
        if shutil.which(command[0]) and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    return []


def kill_all_of(home: str) -> None:
    """Stop, then kill, every process of a host that has no namespace: none of them is to see another die."""
    for signum in (signal.SIGSTOP, signal.SIGKILL):
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
            try:
                told = read(f"/proc/{pid}/environ") + read(f"/proc/{pid}/cmdline")
                if home in told and pid != os.getpid():
                    os.kill(pid, signum)
            except OSError:
                continue


def machines(cloud: str) -> set[str]:
    with urllib.request.urlopen(f"{cloud}/machines", timeout=PATIENCE) as response:
        return {machine["token"] for machine in json.load(response)}


def perform(folder: str, environment: dict[str, str], cloud: str, repository: str, commit: str) -> str:
    """Let a host die in the middle of a deployment; returns what was seen.

    Raises:
        Missing: PostgreSQL or its driver.
    """
    address = start_database(os.fspath(lastly.temp_dir(prefix="lastly-demo-pg-")))
    environment = {**environment, "LASTLY_JOURNAL": address, "PYTHONPATH": HERE}
    command = [sys.executable, "-m", "lastly"]
    migrate = [*command, "journal", "migrate", address]
    subprocess.run(migrate, check=True, env=environment, stdout=subprocess.DEVNULL)
    output, home = os.path.join(folder, "two hosts"), os.path.join(folder, "first host")
    with open(output, "wb") as file:
        worker = lastly.Popen([*command, "worker", "--actions", "build_site"], env=environment, stderr=file)
    wait(lambda: "serves queue" in read(output), "the worker starts", worker)
    before, isolated = machines(cloud), host_command()
    first = [*isolated, sys.executable, "-m", "build_site", repository, commit]
    first += ["--site", os.path.join(folder, "site of two hosts"), "--cloud", cloud]
    more = {"LASTLY_HOME": home, "FAILPOINT": "verify=pause"}
    with open(os.path.join(folder, "first"), "wb") as file:
        host = lastly.Popen(first, env=environment | more, cwd=folder, stdout=file, stderr=file)
    wait(lambda: machines(cloud) - before and "paused" in read(file.name), "a machine is rented", host)
    rented = machines(cloud) - before
    began = time.monotonic()
    if isolated:
        os.kill(host.pid, signal.SIGKILL)
    else:
        kill_all_of(home)
    wait(lambda: not rented & machines(cloud), "the machine is given back", worker)
    seconds = time.monotonic() - began
    kind = "" if isolated else "Hosts are process groups: namespaces are forbidden here.\n"
    return (
        "A host dies, as if its power had gone, in the middle of a deployment. Another\n"
        f"one gave back what it had rented ({len(rented)} machine) after {seconds:.1f} s; {TTL} s of these\n"
        f"it had to be silent for, to count as dead.\n{kind}"
    ).rstrip()


def part(folder: str, environment: dict[str, str], cloud: str, repository: str, commit: str) -> str:
    """As `perform`; where something is missing, a line that says what."""
    try:
        return perform(folder, environment, cloud, repository, commit)
    except Missing as missing:
        return f"Left out: a host dies, and another cleans up ({missing})"


def main() -> NoReturn:
    from demo import Stage  # which has its own use for this module

    lastly.install()
    stage = Stage(os.fspath(lastly.temp_dir(prefix="lastly-demo-")))
    stage.start_cloud()
    print(part(stage.folder, stage.environment, stage.cloud, stage.repository, stage.commits[0]))
    sys.exit(0)


if __name__ == "__main__":
    main()
