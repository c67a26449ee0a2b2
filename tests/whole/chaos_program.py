"""An owner for chaos.py: makes things in every way that lastly knows, until it is killed.

As a program: ``chaos_program.py FOLDER SEED HOW-MANY``. It ends by itself when HOW-MANY is negative.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import sys
import time
from pathlib import Path

import lastly
from lastly import action, actions, defer


@action(retries=1000, backoff=0.01)
def undo(path: str, pause: float) -> None:
    """Remove a "machine"; slow enough to be killed over it."""
    time.sleep(pause)
    shutil.rmtree(path, ignore_errors=True)


@action(remote=True, retries=1000, backoff=0.01)
def destroy(path: str, *, confirmed: dict[str, object]) -> None:
    """The same for what outlives this machine; it knows what was confirmed, or nothing."""
    assert confirmed in ({}, {"machine": path}), confirmed
    shutil.rmtree(path, ignore_errors=True)


class Owner:
    """Makes things in ``things/``, next to what others put there, with seeded choices."""

    def __init__(self, folder: Path, seed: str) -> None:
        self.folder = folder
        self.things = folder / "things"
        self.random = random.Random(seed)
        self.number = 0

    def path(self, kind: str) -> Path:
        self.number += 1
        return self.things / f"{kind}-{os.getpid()}-{self.number}"

    def fill(self, path: Path) -> None:
        """Files, a folder, and ways out of it: links to what belongs to somebody else."""
        for number in range(self.random.randrange(4)):
            (path / str(number)).write_text("x")
        (path / "below").mkdir()
        (path / "way-out").symlink_to(self.folder / "precious")
        os.link(self.folder / "precious" / "linked", path / "below" / "linked")

    # ---- the ways

    def folder_of_its_own(self) -> None:
        self.fill(Path(lastly.temp_dir(dir=self.things)))

    def file_of_its_own(self) -> None:
        lastly.temp_file(dir=self.things)

    def removal(self) -> None:
        path = self.path("owed")
        defer(actions.remove, path)
        path.mkdir()
        self.fill(path)

    def machine(self) -> None:
        path = self.path("machine")
        defer(undo, str(path), self.random.uniform(0.0, 0.02))
        path.mkdir()

    def remote_machine(self) -> None:
        path = self.path("remote")
        scope = lastly.Scope("remote")
        with scope.planned(destroy, str(path)) as plan:
            path.mkdir()
            plan.confirm(machine=str(path))
        if self.random.random() < 0.5:
            scope.close()
        else:
            defer(scope.close)

    def child(self) -> None:
        """With a grandchild, half of them in a session of its own."""
        apart = "setsid " if self.random.random() < 0.5 else ""
        lastly.Popen(["sh", "-c", f"{apart}sleep 1001 & exec sleep 1001"], grace=0.0)

    def kept(self) -> None:
        """Given away: nobody may remove it from the moment that detach() has returned."""
        path = self.path("keep")
        cleanup = defer(actions.remove, path)
        path.mkdir()
        assert cleanup.detach()
        (self.folder / "kept" / path.name).touch()

    def closed(self) -> None:
        with lastly.Scope("short") as scope:
            for _ in range(3):
                lastly.temp_dir(dir=self.things, scope=scope)
            lastly.temp_file(dir=self.things, scope=scope).close()

    def forked(self) -> None:
        """A child that owes something of its own, and ends without a word."""
        pid = os.fork()
        if not pid:
            try:
                self.folder_of_its_own()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    def run(self, how_many: int) -> None:
        ways = [self.folder_of_its_own, self.file_of_its_own, self.removal, self.kept, self.closed]
        rare = [self.machine, self.remote_machine, self.child, self.forked]
        for _ in range(how_many):
            self.random.choice(ways if self.random.random() < 0.8 else rare)()
            time.sleep(self.random.uniform(0.0, 0.004))

    def steady(self) -> None:
        """What a living owner owes is run by nobody: it says what that is, and waits."""
        self.folder_of_its_own()
        self.removal()
        self.machine()
        lines = [str(path) for path in self.things.iterdir() if f"-{os.getpid()}-" in path.name]
        child = lastly.Popen(["sleep", "1001"], grace=0.0)
        (self.folder / "steady" / str(os.getpid())).write_text("\n".join([str(child.pid), *lines]))


def wait_for_ever() -> None:
    select.select([], [], [])


def main(folder: str, seed: str, how_many: str) -> None:
    owner = Owner(Path(folder), seed)
    owner.run(abs(int(how_many)))
    if int(how_many) > 0:
        wait_for_ever()


if __name__ == "__main__":
    main(*sys.argv[1:])
