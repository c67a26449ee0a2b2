"""Hosts that rent things for ever are killed at random, PostgreSQL in between: nothing may be left.

    python tests/reach/chaos.py [kills [seed]]      make chaos-hosts N=300

A host is a pid and a network namespace with a program that rents one thing after the other; the cloud is a folder.
It is killed at a random moment by SIGKILL of its first process, and another one is started. Every few kills
PostgreSQL is stopped as by a crash, and started again. In the end a worker must have given everything back, and no
thing may ever have stood in the cloud without a committed row that says how to undo it.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1] / "support")]

from harness import Programs, wait_until  # noqa: E402 - found by the line above
from sharing import Cloud, Fleet, new_database, new_server  # noqa: E402

RENTER = """
import itertools, os, sys, lastly, cloud
print("ready", flush=True)
for n in itertools.count():
    name = f"{sys.argv[1]}-{n}"
    try:
        lastly.defer(cloud.destroy, name)
    except lastly.NotRecorded:
        continue
    cloud.rent(name)
"""
HOSTS = 3


def campaign(kills: int, seed: int, say: object = print) -> tuple[int, int]:
    """Kill so many hosts; returns how many things were rented, and how many of them had no row."""
    dice = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    folder = Path(tempfile.mkdtemp(prefix="lt-", dir="/tmp"))
    server, data = new_server()
    (folder / "cloud").mkdir()
    (folder / "home").mkdir(mode=0o700)
    shared, cloud = new_database(server), Cloud(folder / "cloud")
    programs = Programs(folder / "home", folder)
    fleet = Fleet(programs, shared, cloud, folder)
    fleet.query |= {"wait": 1}
    without = 0
    try:
        hosts = [fleet.host(RENTER, f"h{n}") for n in range(HOSTS)]
        worker = fleet.worker("--engine", "sql")
        for kill in range(1, kills + 1):
            until = time.monotonic() + dice.uniform(0.05, 0.6)
            wait_until(lambda: time.monotonic() > until, what="the moment of the next kill")  # noqa: B023
            if dice.random() < 0.1:
                server.stop()
                server.start()
            victim = dice.randrange(HOSTS)
            fleet.kill(hosts[victim])
            without += rowless(shared, cloud, f"h{name_of(hosts[victim])}-")
            hosts[victim] = fleet.host(RENTER, f"h{fleet.hosts}")
            judge_the_dead(shared)
            worker.hear()  # or the pipe of its log is full one day, and it waits
            if kill % 50 == 0:
                say(f"{kill} hosts killed, {len(cloud.left)} things stand, {without} without a row")  # type: ignore[operator]
        for host in hosts:
            fleet.kill(host)
        if worker.popen.returncode is not None:
            raise AssertionError(f"the worker has died:\n{worker.err}")
        try:
            wait_until(lambda: worker.hear() or judge_the_dead(shared) or fleet.settled(), within=300, what="all is settled")
        except AssertionError as error:
            raise AssertionError(f"{error}; the worker said:\n{worker.err[-4000:]}") from None
        rented = shared.one("SELECT count(*) FROM lastly.cleanups")
        return rented, without + len(cloud.left)
    finally:
        programs.end()
        server.stop()
        shutil.rmtree(data, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def judge_the_dead(shared: object) -> None:
    """As a person does where so many die at once that the judges rather suspect the network."""
    shared.all("SELECT lastly.judge_host(epoch) FROM lastly.host_list WHERE state = 'alive' AND silent > 2 * ttl")  # type: ignore[attr-defined]


def name_of(host: object) -> str:
    return host.argv[-1].removeprefix("h")  # type: ignore[attr-defined]


def rowless(shared: object, cloud: Cloud, prefix: str) -> int:
    """How many things of a dead host stand without a row."""
    standing = [name for name in cloud.left if name.startswith(prefix)]
    known = {name for (name,) in shared.all("SELECT args ->> 0 FROM lastly.cleanups")}  # type: ignore[attr-defined]
    return sum(name not in known and name in os.listdir(cloud.things) for name in standing)


def main() -> int:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1] else 300
    seed = int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2] else random.randrange(1 << 30)  # noqa: S311
    print(f"seed {seed}", flush=True)
    rented, left = campaign(kills, seed)
    print(f"{kills} hosts killed: {rented} things planned, {left} left or without a row")
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
