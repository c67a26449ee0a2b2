"""What happens when … : the rows of docs/explanation/shared-journal.md, each by processes that really die."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Program, end_all_of, wait_until
from sharing import LONG, RENT, Fleet, Shared, freeze, isolation, needs_server

# Leases have to run out, which takes seconds: test_host_death.py is what stays in the default tier.
pytestmark = [needs_server, pytest.mark.xdist_group("reach-failures"), pytest.mark.slow]

# Rents one thing per line that it is given, and says how that went.
ON_DEMAND = """
import sys, lastly, cloud
print("ready", flush=True)
for line in sys.stdin:
    name = line.strip()
    try:
        lastly.defer(cloud.destroy, name)
    except lastly.NotRecorded as error:
        print(f"refused {name}: {type(error).__name__}: {error}", flush=True)
    else:
        cloud.rent(name)
        print(f"rented {name}", flush=True)
"""


OTHER = """
import lastly

@lastly.action(remote=True)
def other():
    pass
"""


def rent(host: Program, name: str) -> str:
    host.write(f"{name}\n")
    return host.line(f" {name}", within=LONG)


def host_state(shared: Shared) -> list[str]:
    return [state for (state,) in shared.all("SELECT state FROM lastly.hosts ORDER BY epoch")]


def serving(fleet: Fleet, *options: str, **more: Any) -> Program:
    worker = fleet.worker("--engine", "sql", *options, **more)
    worker.error_line("serves queue", within=LONG)
    return worker


def test_a_process_dies_and_its_host_lives(fleet: Fleet) -> None:
    """Its own reaper settles it; no worker is needed, and the words arrive."""
    if isolation():
        host = fleet.host(RENT.replace("sys.stdin.readline()", "import os, time; os.kill(os.getpid(), 9)"), "vm-1")
        host.wait(within=LONG)  # the host's first process ends with it: the reaper goes, too
        assert fleet.cloud.left == ["vm-1"]
    left = fleet.cloud.left
    code = 'import subprocess, sys\nsubprocess.run([sys.executable, "-c", sys.argv[1], "vm-2"])\nprint("over", flush=True)\nsys.stdin.readline()'
    killed = RENT.replace("sys.stdin.readline()", "import os; os.kill(os.getpid(), 9)")
    host = fleet.host(code, killed)
    host.line("over", within=LONG)
    wait_until(lambda: fleet.cloud.left == left, within=LONG)
    wait_until(lambda: fleet.states().get("done") == 1, within=LONG)
    assert host_state(fleet.shared)[-1] == "alive"


def test_the_server_is_away_for_longer_than_the_lease(fleet: Fleet, own_server: Callable[[], Shared]) -> None:
    """Plans are refused before anything exists; when it is back nobody was judged, and nothing was undone."""
    fleet.shared = shared = own_server()
    fleet.query |= {"ttl": 3, "wait": 1}
    serving(fleet)
    host = fleet.host(ON_DEMAND)
    host.line("ready", within=LONG)
    wait_until(lambda: rent(host, "before").startswith("rented"), within=LONG)  # a busy machine may need more than `wait`
    shared.server.stop()
    refused = rent(host, "during")
    assert refused.startswith("refused during: NotRecorded: cannot record a cleanup: shared journal postgresql://")
    assert fleet.cloud.left == ["before"]
    began = Path("/proc/uptime").read_text().split()[0]
    wait_until(lambda: float(Path("/proc/uptime").read_text().split()[0]) > float(began) + 4.0, within=LONG, what="4 s")
    shared.server.start()
    wait_until(lambda: rent(host, f"after{os.urandom(2).hex()}").startswith("rented"), within=LONG)
    beat = "SELECT beat FROM lastly.hosts WHERE state = 'alive'"
    at = shared.one(beat)
    wait_until(lambda: (shared.one(beat) or 0) > at + 12, within=LONG)  # two ttl of beats
    assert host_state(shared) == ["alive"]
    assert "before" in fleet.cloud.left
    assert fleet.cloud.runs == []


def test_a_frozen_server_makes_nobody_dead(fleet: Fleet, own_server: Callable[[], Shared]) -> None:
    """Red without the judge's rule that a look which took long is none."""
    fleet.shared = shared = own_server()
    serving(fleet)
    host = fleet.host(RENT, "vm-1")
    host.line("ready", within=LONG)
    beat = "SELECT beat FROM lastly.hosts WHERE state = 'alive'"
    for _ in range(2):
        at = shared.one(beat)
        wait_until(lambda: shared.one(beat) > at + 3, within=LONG)  # noqa: B023 - called at once
        shared.server.freeze()
        began = float(Path("/proc/uptime").read_text().split()[0])
        wait_until(
            lambda: float(Path("/proc/uptime").read_text().split()[0]) > began + 4.0,  # noqa: B023
            within=LONG, what="two ttl",
        )  # fmt: skip
        shared.server.thaw()
    at = shared.one(beat)
    wait_until(lambda: (shared.one(beat) or 0) > at + 12, within=LONG)
    assert host_state(shared) == ["alive"]
    assert fleet.cloud.left == ["vm-1"]


def test_local_policy_goes_on_and_publishes_later(fleet: Fleet, own_server: Callable[[], Shared]) -> None:
    fleet.shared = shared = own_server()
    fleet.query |= {"wait": 1, "on_unreachable": "local"}
    host = fleet.host(ON_DEMAND)
    host.line("ready", within=LONG)
    assert rent(host, "before").startswith("rented")
    shared.server.stop()
    assert rent(host, "during").startswith("rented")
    host.error_line("until it is back, this machine alone knows what is owed", within=LONG)
    shared.server.start()
    wait_until(lambda: fleet.states() == {"planned": 2}, within=LONG)


def test_a_host_that_was_frozen_wakes(fleet: Fleet) -> None:
    """I14: its lease is over. What it had was undone, it hears so once, and what it rents then is recorded."""
    serving(fleet)
    host = fleet.host(ON_DEMAND)
    host.line("ready", within=LONG)
    assert rent(host, "old").startswith("rented")
    freeze(fleet.home(host))
    wait_until(lambda: fleet.cloud.left == [] and fleet.settled(), within=LONG)
    freeze(fleet.home(host), signal.SIGCONT)
    assert rent(host, "lost").startswith("refused lost: LeaseLost: ")
    assert rent(host, "new").startswith("rented")
    assert host_state(fleet.shared) == ["dead", "alive"]
    host.popen.stdin.close()  # the program ends: what workers have run is not run again
    host.wait(within=LONG)
    wait_until(lambda: fleet.cloud.runs == ["old", "new"], within=LONG)
    wait_until(fleet.all_given_back, within=LONG)


def test_a_host_that_was_judged_while_no_worker_claimed_keeps_its_things(fleet: Fleet) -> None:
    """I18: taken back with a new lease, it goes on as if nothing had been."""
    (fleet.cloud.folder / "older.py").write_text(OTHER)
    worker = serving(fleet, actions="older")
    host = fleet.host(ON_DEMAND)
    host.line("ready", within=LONG)
    rent(host, "mine")
    freeze(fleet.home(host))
    wait_until(lambda: host_state(fleet.shared) == ["dead"], within=LONG)
    worker.send(signal.SIGKILL)
    worker.wait()
    freeze(fleet.home(host), signal.SIGCONT)
    assert rent(host, "more").startswith("rented")
    assert fleet.shared.all("SELECT DISTINCT epoch, state FROM lastly.owners") == [(2, "live")]
    serving(fleet)
    host.popen.stdin.close()
    host.wait(within=LONG)
    wait_until(fleet.all_given_back, within=LONG)
    assert sorted(fleet.cloud.runs) == ["mine", "more"]


def test_a_worker_that_was_frozen_wakes(fleet: Fleet) -> None:
    """I15: it stops before its next cleanup; only what was in flight runs twice. Red without the claim in `step`."""
    gate = fleet.folder / "gate"
    os.mkfifo(gate)
    (fleet.cloud.folder / "cloud.py").write_text(
        (fleet.cloud.folder / "cloud.py").read_text()
        + f"\n_give_back = give_back\ndef give_back(name):\n    if name == 'vm-3': open({str(gate)!r}).read()\n    _give_back(name)\n"
    )
    frozen = serving(fleet, "--slots", "1")
    host = fleet.host(RENT, *(f"vm-{n}" for n in range(4)))
    host.line("ready", within=LONG)
    fleet.kill(host)
    claimed = "SELECT claimed_by FROM lastly.owners WHERE claimed_until > clock_timestamp()"
    first = wait_until(lambda: fleet.shared.one(claimed), within=LONG)
    frozen.send(signal.SIGSTOP)  # in the middle of vm-3
    fleet.shared.do("UPDATE lastly.owners SET claimed_until = clock_timestamp()")
    second = serving(fleet)
    wait_until(lambda: (fleet.shared.one(claimed) or first) != first, within=LONG)
    open_for_all(gate)
    wait_until(fleet.all_given_back, within=LONG)
    frozen.send(signal.SIGCONT)
    frozen.error_line("somebody else has claimed it: stopped", within=LONG)
    runs = fleet.cloud.runs
    assert sorted(set(runs)) == [f"vm-{n}" for n in range(4)]
    assert len(runs) <= 5  # only vm-3 was in flight
    assert fleet.states() == {"done": 4}
    second.send(signal.SIGTERM, busy=True)
    assert second.wait(within=LONG).status == 0


def open_for_all(gate: Path) -> None:
    """Let everybody through who waits at a fifo, now and later."""
    gate.rename(gate.with_suffix(".old"))
    gate.write_text("")
    try:
        os.close(os.open(gate.with_suffix(".old"), os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # nobody waits
        pass


@pytest.mark.parametrize("engine", ["procrastinate", "sql"])
def test_a_worker_dies_in_the_middle(fleet: Fleet, engine: str) -> None:
    """Its claim runs out, and another goes on: a job that finds it busy is not done (I16)."""
    gate = fleet.folder / "gate"
    os.mkfifo(gate)
    (fleet.cloud.folder / "cloud.py").write_text(
        (fleet.cloud.folder / "cloud.py").read_text()
        + f"\n_give_back = give_back\ndef give_back(name):\n    if name == 'vm-3': open({str(gate)!r}).read()\n    _give_back(name)\n"
    )
    dying = fleet.worker("--engine", engine)
    dying.error_line("serves queue", within=LONG)
    host = fleet.host(RENT, *(f"vm-{n}" for n in range(4)))
    host.line("ready", within=LONG)
    fleet.kill(host)
    wait_until(lambda: fleet.states().get("running"), within=LONG)
    dying.send(signal.SIGKILL)
    dying.wait(within=LONG)
    open_for_all(gate)
    other = fleet.worker("--engine", engine)
    other.error_line("serves queue", within=LONG)
    wait_until(fleet.all_given_back, within=120)
    assert fleet.states() == {"done": 4}


def test_two_workers_and_duplicate_jobs(fleet: Fleet) -> None:
    """Each cleanup is run once, whoever is told of it, however often."""
    for _ in range(2):
        worker = fleet.worker()
        worker.error_line("serves queue", within=LONG)
    hosts = [fleet.host(RENT, *(f"{n}-{m}" for m in range(5))) for n in range(4)]
    for host in hosts:
        host.line("ready", within=LONG)
    for host in hosts:
        fleet.kill(host)
    wait_until(fleet.all_given_back, within=LONG)
    assert sorted(fleet.cloud.runs) == sorted(f"{n}-{m}" for n in range(4) for m in range(5))


POISON = """
import os, time
@lastly.action(remote=True, retries=1, backoff=0.05, timeout=0.5)
def poison(how):
    with open(os.path.join(FOLDER, "..", "poisoned"), "a") as file:
        file.write(f"{how}\\n")
    if how == "kill": os.kill(os.getpid(), 9)
    if how == "hang": time.sleep(1000)
    if how == "fork":
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(3)
    if how == "raise": raise OSError("no route")
    if how == "not ours": raise lastly.errors.NotOurs("another one")
"""
WAYS = ["kill", "hang", "fork", "raise", "not ours"]


def test_a_poison_action_takes_nothing_with_it(fleet: Fleet) -> None:
    """Only its own process dies; after its attempts it is given up, and the rest of its owner goes on."""
    with open(fleet.cloud.folder / "cloud.py", "a") as file:
        file.write(POISON)
    code = RENT.replace("for name in", f"for way in {WAYS}: lastly.defer(cloud.poison, way)\nfor name in")
    worker = serving(fleet)
    host = fleet.host(code, "vm-1")
    host.line("ready", within=LONG)
    fleet.kill(host)
    wait_until(lambda: fleet.states() == {"done": 1, "abandoned": 5}, within=LONG)
    assert fleet.cloud.left == []
    poisoned = (fleet.cloud.folder / "poisoned").read_text().splitlines()
    assert sorted(poisoned) == sorted([*WAYS[:4], *WAYS])  # `not ours` is never tried again
    told = dict(fleet.shared.all("SELECT args ->> 0, reason FROM lastly.cleanups WHERE state = 'abandoned'"))
    assert "died of signal 9 (SIGKILL)" in told["kill"]
    assert "took longer than 0.5 s and was killed" in told["hang"]
    assert "ended with status 3 before the function returned" in told["fork"]
    assert told["raise"] == "gave up after attempt 2: OSError: no route"
    assert "NotOurs: another one" in told["not ours"]
    worker.send(signal.SIGTERM, busy=True)
    assert worker.wait(within=LONG).status == 0


def test_what_no_worker_knows_waits_visibly(fleet: Fleet) -> None:
    """No attempt is used, and a worker that knows it runs it at once."""
    (fleet.cloud.folder / "older.py").write_text(OTHER)
    serving(fleet, actions="older")
    host = fleet.host(RENT, "vm-1")
    host.error_line("no worker of queue 'shop' knows cloud:destroy", within=LONG)
    host.line("ready", within=LONG)
    fleet.kill(host)
    blocked = "SELECT blocked FROM lastly.cleanup_list WHERE blocked IS NOT NULL"
    assert wait_until(lambda: fleet.shared.one(blocked), within=LONG) == "no worker knows cloud:destroy"
    (fleet.cloud.folder / "renamed.py").write_text(
        "import cloud, lastly\n"
        "@lastly.action(remote=True, aliases=['cloud:destroy'])\n"
        "def tear_down(name):\n    cloud.give_back(name)\n"
    )
    serving(fleet, actions="renamed")
    wait_until(fleet.all_given_back, within=LONG)
    assert fleet.shared.all("SELECT state, attempts FROM lastly.cleanups") == [("done", 1)]


@pytest.mark.parametrize("action", ["os:system", "builtins:eval", "lastly.actions:run", "cloud:rent", "posixpath:join"])
def test_a_row_never_makes_a_worker_import(fleet: Fleet, action: str) -> None:
    """I17: a host that was taken over asks for anything; what was not offered is not run."""
    from sharing import flush, join, plan

    epoch = join(fleet.shared, ttl=1.0)
    mark = fleet.folder / "mark"
    flush(fleet.shared, epoch, [plan(action=action, args=[f"touch {mark}"]), plan(number=2, action="cloud:destroy")])
    worker = serving(fleet)
    wait_until(lambda: fleet.states() == {"planned": 1, "done": 1}, within=LONG)
    assert not mark.exists()
    worker.send(signal.SIGTERM, busy=True)
    assert worker.wait(within=LONG).status == 0
    assert fleet.shared.all("SELECT attempts FROM lastly.cleanups ORDER BY id")[0] == (0,)


def test_the_relay_is_killed(fleet: Fleet) -> None:
    """The reaper starts another; the programs notice nothing, and everything is where it was."""
    host = fleet.host(ON_DEMAND)
    host.line("ready", within=LONG)
    assert rent(host, "one").startswith("rented")
    [relay] = fleet.inside(host, "lastly-relay")
    os.kill(relay, signal.SIGKILL)
    assert rent(host, "two").startswith("rented")
    wait_until(lambda: fleet.inside(host, "lastly-relay") not in ([], [relay]), within=LONG)
    serving(fleet)
    wait_until(lambda: host_state(fleet.shared) == ["dead", "alive"], within=LONG)  # the first relay's lease
    assert fleet.cloud.left == ["one", "two"]
    assert fleet.shared.all("SELECT DISTINCT epoch, state FROM lastly.owners") == [(2, "live")]
    fleet.kill(host)
    wait_until(fleet.all_given_back, within=LONG)


def test_the_reaper_is_killed_and_then_the_relay(fleet: Fleet) -> None:
    """Each starts the other again."""
    host = fleet.host(ON_DEMAND)
    host.line("ready", within=LONG)
    rent(host, "one")
    reaper = min(fleet.inside(host, "lastly-reaper"))  # the others are its workers
    [relay] = fleet.inside(host, "lastly-relay")
    os.kill(reaper, signal.SIGKILL)
    wait_until(lambda: (found := fleet.inside(host, "lastly-reaper")) and reaper not in found, within=LONG)
    assert fleet.inside(host, "lastly-relay") == [relay]
    log = fleet.folder / "home1" / "reaper.log"
    wait_until(lambda: log.read_text().count(" relay ") >= 2, within=LONG)  # it has made itself known
    os.kill(relay, signal.SIGKILL)
    wait_until(lambda: fleet.inside(host, "lastly-relay") not in ([], [relay]), within=LONG)
    assert rent(host, "two").startswith("rented")


def test_a_clock_that_jumps_means_nothing(fleet: Fleet) -> None:
    """Hosts whose wall clock is years off live and die like the others."""
    ahead = "import time\ntime.time = lambda t=time.time: t() + 1e8\n"
    serving(fleet)
    host, behind = fleet.host(ahead + RENT, "ahead"), fleet.host(ahead.replace("1e8", "-1e8") + RENT, "behind")
    host.line("ready", within=LONG)
    behind.line("ready", within=LONG)
    at = fleet.shared.one("SELECT min(beat) FROM lastly.hosts")
    wait_until(lambda: fleet.shared.one("SELECT min(beat) FROM lastly.hosts") > at + 12, within=LONG)
    assert host_state(fleet.shared) == ["alive", "alive"]
    fleet.kill(host)
    wait_until(lambda: fleet.cloud.left == ["behind"], within=LONG)


def test_many_hosts_fall_silent_at_once(fleet: Fleet) -> None:
    """Rather the network than all of them: nobody is judged, and a person decides."""
    from sharing import flush, join, plan

    for number in range(6):
        flush(fleet.shared, join(fleet.shared, ttl=1.0), [plan(f"h-b/{number}.j", action="cloud:destroy")])
    worker = serving(fleet)
    worker.error_line("6 of 6 hosts are silent at once: nobody is judged", within=LONG)
    assert host_state(fleet.shared) == ["alive"] * 6
    result = fleet.programs.run_command(["lastly", "hosts", "--judge", "1"], env=fleet.env("boss"), within=LONG)
    assert result.status == 0, result.err
    wait_until(lambda: fleet.states() == {"planned": 5, "done": 1}, within=LONG)


@pytest.mark.parametrize("policy", ["stop", "kill"])
def test_programs_end_before_others_undo_what_they_have(
    fleet: Fleet, own_server: Callable[[], Shared], policy: str
) -> None:
    fleet.shared = own_server()
    fleet.query |= {"on_lease_lost": policy, "ttl": 3}
    code = RENT.replace("sys.stdin.readline()", "sys.stdin.read()").replace(
        "import sys, lastly, cloud", "import sys, lastly, cloud\nlastly.install()"
    )
    host = fleet.host(code, "vm-1")
    host.line("ready", within=LONG)
    fleet.shared.server.stop()
    host.wait(within=LONG)
    assert fleet.cloud.left == ([] if policy == "stop" else ["vm-1"])


def all_at_once(fleet: Fleet, **query: Any) -> Path:
    """A host without namespaces of its own: program, reaper and relay, killed one after the other. Returns its home.

    What comes back after a reboot is in the same pid namespace, and a new one can never be that of a dead host.
    """
    home = fleet.folder / "home1"
    home.mkdir(mode=0o700)
    env = {**fleet.env(**query), "LASTLY_HOME": str(home)}
    program = fleet.programs.start(RENT, "vm-1", env=env, stdin=-1)
    program.line("ready", within=LONG)
    end_all_of(home)
    return home


def come_back(fleet: Fleet, home: Path, **query: Any) -> Program:
    return fleet.programs.start_command(["lastly", "reaper"], env={**fleet.env(**query), "LASTLY_HOME": str(home)})


def test_a_host_that_comes_back_before_it_was_judged(fleet: Fleet) -> None:
    """`lastly reaper` takes its things back, and undoes them itself: nobody else does."""
    home = all_at_once(fleet, ttl=60)
    reaper = come_back(fleet, home, ttl=60)
    wait_until(lambda: fleet.cloud.left == [], within=LONG)
    wait_until(lambda: fleet.states() == {"done": 1}, within=LONG)
    assert fleet.cloud.runs == ["vm-1"]
    reaper.send(signal.SIGINT, busy=True)
    reaper.wait(within=LONG)
    end_all_of(home)


def test_a_host_that_comes_back_after_it_was_judged(fleet: Fleet) -> None:
    """What workers have undone is not undone again: the name may mean another thing by now."""
    serving(fleet)
    home = all_at_once(fleet)
    wait_until(fleet.all_given_back, within=LONG)
    (fleet.cloud.things / "vm-1").touch()  # somebody else's, by now
    reaper = come_back(fleet, home)
    wait_until(lambda: not list(home.glob("owners/*/*.j")), within=LONG, what="its journal is settled")
    assert fleet.cloud.left == ["vm-1"]
    assert fleet.cloud.runs == ["vm-1"]
    reaper.send(signal.SIGINT, busy=True)
    reaper.wait(within=LONG)
    end_all_of(home)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_are_killed_at_random(fleet: Fleet) -> None:
    """I16: whatever state they leave an orphan in, the next worker finds it."""
    import random

    from sharing import flush, join, plan

    dice = random.Random(5)  # noqa: S311 - to be repeated, not to be secret
    epoch = join(fleet.shared, ttl=1.0)
    flush(fleet.shared, epoch, [
        plan(f"h-b/{owner}.j", number, "cloud:destroy", args=[f"{owner}-{number}"], retries=99)
        for owner in range(40) for number in range(1, 6)
    ])  # fmt: skip
    fleet.shared.do(f"SELECT lastly.judge_host({epoch})")
    for round_ in range(8):
        worker = fleet.worker("--engine", ("procrastinate", "sql")[round_ % 2])
        worker.error_line("serves queue", within=LONG)
        before = len(fleet.cloud.runs)
        some = dice.randrange(1, 20)
        wait_until(lambda: len(fleet.cloud.runs) >= before + some or fleet.settled(), within=LONG)  # noqa: B023
        worker.end()
        fleet.shared.do("UPDATE lastly.owners SET claimed_until = clock_timestamp() WHERE claimed_until IS NOT NULL")
    last = fleet.worker()
    last.error_line("serves queue", within=LONG)
    wait_until(lambda: last.hear() or fleet.settled(), within=240)
    assert fleet.states() == {"done": 200}
    assert len(set(fleet.cloud.runs)) == 200


def test_late_release_of_a_refused_plan(fleet: Fleet, own_server: Callable[[], Shared]) -> None:
    """The server hung while it was being committed: nobody is to undo a thing that was never made.

    Nothing else is owed, so that the relay does not know the program's journal when it hears of the release.
    """
    fleet.shared = shared = own_server()
    fleet.query |= {"wait": 1, "ttl": 60}
    host = fleet.host(ON_DEMAND.replace("    else:\n", "    else:\n        if name == 'before': handle.detach()\n")
                      .replace("        lastly.defer(", "        handle = lastly.defer("))  # fmt: skip
    host.line("ready", within=LONG)
    wait_until(lambda: rent(host, "before").startswith("rented"), within=LONG)  # a busy machine may need more than `wait`
    rows = "SELECT args ->> 0, state FROM lastly.cleanups"
    wait_until(lambda: dict(shared.all(rows)) == {"before": "released"}, within=LONG)
    shared.server.freeze()
    assert rent(host, "during").startswith("refused during: NotRecorded: ")
    shared.server.thaw()
    wait_until(lambda: rent(host, f"x{os.urandom(2).hex()}").startswith("rented"), within=LONG)
    wait_until(lambda: dict(shared.all(rows)).get("during") == "released", within=LONG)  # it was under way


def test_a_worker_starts_while_the_server_is_away(fleet: Fleet, own_server: Callable[[], Shared]) -> None:
    fleet.shared = shared = own_server()
    shared.server.stop()
    worker = fleet.worker("--engine", "sql")
    worker.error_line("shared journal postgresql://hand1@", within=LONG)
    shared.server.start()
    wait_until(lambda: shared.one("SELECT count(*) FROM lastly.workers"), within=LONG)
    worker.send(signal.SIGTERM, busy=True)
    assert worker.wait(within=LONG).status == 0


def test_a_worker_that_is_told_to_end_gives_the_rest_back(fleet: Fleet) -> None:
    """What began comes to its end; the others are free at once, not when a claim runs out. Its metrics say what it did."""
    import socket
    import urllib.request

    gate = fleet.folder / "gate"
    os.mkfifo(gate)
    module = fleet.cloud.folder / "cloud.py"
    module.write_text(
        module.read_text()
        + f"\n_give_back = give_back\ndef give_back(name):\n    if name == 'vm-2': open({str(gate)!r}).read()\n    _give_back(name)\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = serving(fleet, "--slots", "1", "--metrics", f"127.0.0.1:{port}")
    host = fleet.host(RENT, *(f"vm-{n}" for n in range(4)))
    host.line("ready", within=LONG)
    fleet.kill(host)
    wait_until(lambda: fleet.cloud.runs == ["vm-3"], within=LONG)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LONG) as answer:
        told = answer.read().decode().splitlines()
    assert {"lastly_up 1", 'lastly_settled_total{state="done"} 1', 'lastly_hosts{state="dead"} 1'} <= set(told)
    worker.send(signal.SIGTERM, busy=True)
    open_for_all(gate)
    assert worker.wait(within=LONG).status == 0
    assert fleet.cloud.runs == ["vm-3", "vm-2"]
    assert fleet.shared.all("SELECT state, claimed_until FROM lastly.owners") == [("orphan", None)]
