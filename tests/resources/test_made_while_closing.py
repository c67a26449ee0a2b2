"""A thing that is made in one thread while another one closes its scope: the undo has run before there was anything.

Then the maker undoes it, and is told; or, if the process ends before, the reaper does. Nothing is left either way.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness import Programs, wait_until

import lastly
from lastly import AsyncScope, Scope, action, actions
from lastly._durable import seam
from lastly._durable.handle import DurableCleanup, Making
from lastly._journal import home as homes
from lastly.errors import ScopeClosed
from lastly.resources import atomic_write, pid_file, temp_dir, temp_file

pytestmark = pytest.mark.usefixtures("home")


def closes_before(monkeypatch: pytest.MonkeyPatch, scope: Scope, place: Any, name: str, folder: Path | None) -> None:
    """Have another thread close the scope just before a function is called that makes the thing, in this folder."""
    make = getattr(place, name)

    def late(*args: Any, **kwargs: Any) -> Any:
        creates = name != "open" or args[1] & os.O_CREAT
        if creates and (folder is None or str(args[0]).startswith((str(folder), ".lastly-"))):
            monkeypatch.setattr(place, name, make)
            other = threading.Thread(target=scope.close)
            other.start()
            other.join()
        return make(*args, **kwargs)

    monkeypatch.setattr(place, name, late)


MAKERS: dict[str, tuple[str, Callable[[Path, Scope], object]]] = {
    "temp_dir": ("mkdir", lambda folder, scope: temp_dir(dir=folder, scope=scope)),
    "temp_file": ("open", lambda folder, scope: temp_file(dir=folder, scope=scope)),
    "pid_file": ("open", lambda folder, scope: pid_file(folder / "pid", scope=scope)),
    "atomic_write": ("open", lambda folder, scope: atomic_write(folder / "new", scope=scope)),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nothing_is_left(maker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, make = MAKERS[maker]
    scope = Scope("jobs")
    closes_before(monkeypatch, scope, os, step, tmp_path)
    with pytest.raises(ScopeClosed):
        make(tmp_path, scope)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("step", ["link", "unlink"])
def test_a_name_that_others_know(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pid file gets its name by a link, and loses the other one: the scope closes before either."""
    scope = Scope("jobs")
    closes_before(monkeypatch, scope, os, step, tmp_path)
    with suppress(OSError):
        pid_file(tmp_path / "pid", scope=scope)
    assert scope.closed
    assert not os.listdir(tmp_path)


def test_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not outlive the program, as none does that was started before the scope closed."""
    scope = Scope("jobs")
    started: list[int] = []
    confirm = DurableCleanup.confirm

    def note(self: DurableCleanup, known: dict[str, Any]) -> None:
        started.append(known["pid"])
        confirm(self, known)

    monkeypatch.setattr(DurableCleanup, "confirm", note)
    closes_before(monkeypatch, scope, subprocess.Popen, "_execute_child", None)
    with pytest.raises(ScopeClosed):
        lastly.Popen(["sleep", "60"], scope=scope)
    assert len(started) == 1
    with pytest.raises(ChildProcessError):  # it has ended, and has been waited for
        os.waitpid(started[0], 0)


machines: set[str] = set()


@action
def destroy(name: str) -> None:
    machines.discard(name)


@action
async def adestroy(name: str) -> None:
    await asyncio.sleep(0)
    machines.discard(name)


def test_planned() -> None:
    scope = Scope("jobs")
    with pytest.raises(ScopeClosed), scope.planned(destroy, "one"):
        other = threading.Thread(target=scope.close)
        other.start()
        other.join()
        machines.add("one")
    assert not machines


def test_planned_and_failed() -> None:
    """The block's own exception goes on, and what it had made by then is undone."""
    scope = Scope("jobs")
    with pytest.raises(KeyError), scope.planned(destroy, "one"):  # noqa: PT012  # the block is what is tried
        scope.close()
        machines.add("one")
        raise KeyError("half made")
    assert not machines


def test_planned_in_another_task() -> None:
    async def make(scope: AsyncScope, closed: asyncio.Event) -> None:
        async with scope.planned(adestroy, "one"):
            await closed.wait()
            machines.add("one")

    async def program() -> None:
        scope, closed = AsyncScope("jobs"), asyncio.Event()
        task = asyncio.create_task(make(scope, closed))
        await asyncio.sleep(0)
        await scope.aclose()
        closed.set()
        with pytest.raises(ScopeClosed):
            await task

    asyncio.run(program())
    assert not machines


def test_detached_or_undone_in_its_block() -> None:
    """What the block itself decides is not decided anew."""
    calls: list[str] = []
    scope = Scope("jobs")
    with scope.planned(destroy, "one") as plan:
        machines.add("one")
        assert plan.detach()
        scope.close()
    assert machines == {"one"}
    scope = Scope("jobs")
    with scope.planned(destroy, "one") as plan:
        plan.close()
        calls.append("left well")
    assert calls
    assert not machines


def test_planned_too_late(tmp_path: Path) -> None:
    """The scope has closed before the block begins: nothing is made."""
    scope = Scope("jobs")
    plan = scope.planned(destroy, "one")
    scope.close()
    with pytest.raises(ScopeClosed), plan:
        machines.add("one")
    assert not machines
    assert not os.listdir(tmp_path)


def test_it_stays_owed(tmp_path: Path) -> None:
    """Until its maker has come back, the journal owes it."""
    scope = Scope("jobs")
    cleanup = seam.deferred(scope, actions.remove, str(tmp_path / "thing"), expect={})
    Making(cleanup).__enter__()
    scope.close()
    assert cleanup.journal is not None
    assert cleanup.id in cleanup.journal.live
    assert cleanup.made()
    cleanup.run()
    assert cleanup.id not in cleanup.journal.live


def test_the_process_ends_first(programs: Programs, tmp_path: Path) -> None:
    """A thread that is cut off at exit, just after it has made its folder: the reaper removes it."""
    code = """
    import os, sys, threading
    import lastly, lastly.resources

    lastly.temp_dir(dir=sys.argv[1]).close()  # imports what is needed
    made, planned, mkdir = threading.Event(), threading.Event(), os.mkdir

    def slow(path, mode):
        planned.set()
        made.wait()  # until the cleanups have run
        mkdir(path, mode)
        os.write(1, b"made\\n")
        threading.Event().wait()

    os.mkdir = slow
    threading.Thread(target=lastly.temp_dir, kwargs={"dir": sys.argv[1]}, daemon=True).start()
    planned.wait()

    lastly._exit.root.root.close()
    made.set()
    while not os.listdir(sys.argv[1]):
        pass
    """
    folder = tmp_path / "made"
    folder.mkdir()
    result = programs.run(code, str(folder))
    assert result.status == 0, result.err
    programs.run_command(["lastly", "reap"])
    wait_until(lambda: not os.listdir(folder), what="the folder is gone")
    wait_until(lambda: not homes.journals(), what="no journal is left")
