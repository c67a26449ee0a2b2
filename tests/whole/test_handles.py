"""All that a user can hold is closed by `close()` and by `with`: once, for a second time does nothing."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from harness import SRC

import lastly
from lastly import actions

ran: list[str] = []
around: list[Any] = []  # scopes of the handles: they must live until the test has ended


@lastly.action
async def undone(where: str) -> None:
    await asyncio.sleep(0)
    ran.append(where)


async def plain_coroutine(where: str) -> None:
    await asyncio.sleep(0)
    ran.append(where)


def kept(scope: Any) -> Any:
    around.append(scope)
    return scope


class Held(NamedTuple):
    handle: Any
    is_there: Callable[[], bool]


def path_is_there(handle: Any, path: object) -> Held:
    return Held(handle, lambda: os.path.lexists(os.fspath(path)))


def child_runs(child: Any) -> bool:
    return child.returncode is None


def counted(make: Callable[..., Any]) -> Held:
    """What runs is counted: a second close must not run it again."""
    ran.clear()
    return Held(make(ran.append, "it"), lambda: not ran)


def planned_file(where: Path) -> Held:
    plan = kept(lastly.Scope("s")).planned(actions.remove, str(where / "x"))
    (where / "x").touch()
    return path_is_there(plan, where / "x")


def deferred_file(where: Path) -> Held:
    (where / "x").touch()
    return path_is_there(lastly.defer(actions.remove, str(where / "x")), where / "x")


def written(where: Path) -> Held:
    from lastly.resources import atomic_write

    handle = atomic_write(where / "x")
    beside = next(where.iterdir())
    return path_is_there(handle, beside)


def child(where: Path) -> Held:
    held = lastly.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, grace=0)
    return Held(held, lambda: child_runs(held))


def serving(where: Path) -> Held:
    program = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); s.accept(); input()"
    held = lastly.server(
        [sys.executable, "-c", program, str(where / "s")], ready=where / "s", stdin=subprocess.PIPE, grace=0
    )
    return Held(held, lambda: child_runs(held))


def scope(make: Callable[[], lastly.Scope]) -> Held:
    ran.clear()
    held = make()
    held.defer(ran.append, "it")
    return Held(held, lambda: not ran)


def parallel() -> Held:
    return scope(kept(lastly.Scope("outer")).parallel)


def installed(where: Path) -> Held:
    before = signal.getsignal(signal.SIGUSR2)
    return Held(lastly.install("USR2"), lambda: signal.getsignal(signal.SIGUSR2) is not before)


def probes(where: Path) -> Held:
    from lastly.integrations.health import Health

    server = Health().serve(0, "127.0.0.1")

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", server.port)).close()
        except OSError:
            return False
        return True

    return Held(server, answers)


def flask_cleanups(where: Path) -> Held:
    flask = pytest.importorskip("flask")
    from lastly.integrations.flask import Lastly, cleanups_of

    app = flask.Flask("it")
    Lastly(app)
    ran.clear()
    held = cleanups_of(app)
    held.defer(ran.append, "it")
    return Held(held, lambda: not ran)


def application(where: Path) -> Held:
    app = lastly.TestApp("it")
    app.setup()
    ran.clear()
    app.scope.defer(ran.append, "it")
    return Held(app, lambda: not ran)


def rented(module: str, name: str) -> Callable[[Path], Held]:
    def make(where: Path) -> Held:
        kind = getattr(pytest.importorskip(f"lastly.integrations.{module}", exc_type=ImportError), name)
        from lastly.integrations._rented.handle import planned

        cleanup = planned(None, actions.remove, str(where / "x")).cleanup
        (where / "x").touch()
        return path_is_there(kind("it", cleanup), where / "x")

    return make


HANDLES: dict[str, Callable[[Path], Held]] = {
    "Cleanup": lambda _: counted(lastly.defer),
    "Cleanup of a scope": lambda _: counted(kept(lastly.Scope("s")).defer),
    "Cleanup, early": lambda _: counted(lastly.defer_early),
    "Cleanup, a coroutine": lambda _: counted(lambda _fn, it: lastly.defer(plain_coroutine, it)),
    "DurableCleanup": deferred_file,
    "DurableCleanup, a coroutine": lambda _: counted(lambda _fn, it: lastly.defer(undone, it)),
    "Plan": planned_file,
    "Plan, a coroutine": lambda _: counted(lambda _fn, it: kept(lastly.Scope("s")).planned(undone, it)),
    "Scope": lambda _: scope(lambda: lastly.Scope("s")),
    "Parallel": lambda _: parallel(),
    "Installation": installed,
    "App": application,
    "Temporary, a folder": lambda where: path_is_there(held := lastly.temp_dir(dir=where), held),
    "Temporary, a file": lambda where: path_is_there(held := lastly.temp_file(dir=where), held),
    "pid_file": lambda where: path_is_there(lastly.pid_file(where / "x"), where / "x"),
    "lock_file": lambda where: path_is_there(lastly.lock_file(where / "x"), where / "x"),
    "UnixSocket": lambda where: path_is_there(lastly.unix_socket(where / "x"), where / "x"),
    "AtomicFile": written,
    "Popen": child,
    "server": serving,
    "HealthServer": probes,
    "AppCleanups": flask_cleanups,
    **{
        name: rented(module, name)
        for module, names in {"aws": ("Instances", "Prefix", "Stack"), "postgresql": ("Database", "Schema", "AdvisoryLock")}.items()
        for name in names
    },
}
GATHERS = {"Parallel"}  # its block gathers; the scope that it came from closes it
KEEPS = {"Plan", "Plan, a coroutine"}  # left without an exception, it keeps what was created


@pytest.fixture
def held(request: pytest.FixtureRequest, home: Path, tmp_path: Path) -> Iterator[Held]:
    where = tmp_path / "where"
    where.mkdir()
    made = HANDLES[request.param](where)
    assert made.is_there()
    yield made
    made.handle.close()
    while around:
        around.pop().close()


@pytest.mark.parametrize("held", HANDLES, indirect=True)
def test_closed_twice(held: Held) -> None:
    assert held.handle.close() is None
    assert not held.is_there()
    assert len(ran) <= 1
    ran.clear()
    assert held.handle.close() is None
    assert ran == []


@pytest.mark.parametrize("held", [name for name in HANDLES if name not in GATHERS | KEEPS], indirect=True)
def test_closed_by_its_block(held: Held) -> None:
    with held.handle:
        assert held.is_there()
    assert not held.is_there()
    ran.clear()
    held.handle.close()
    assert ran == []


@pytest.mark.parametrize("held", sorted(KEEPS), indirect=True)
def test_a_plan_is_undone_by_an_exception(held: Held) -> None:
    with held.handle:
        pass
    assert held.is_there()
    with pytest.raises(ZeroDivisionError), held.handle:
        1 / 0  # noqa: B018
    assert not held.is_there()


@pytest.mark.parametrize("held", sorted(GATHERS), indirect=True)
def test_a_pool_gathers_in_its_block(held: Held) -> None:
    with held.handle:
        pass
    assert held.is_there()


# -- for coroutines


async def a_process() -> Held:
    child = await lastly.open_process([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, grace=0)
    return Held(child, lambda: child_runs(child))


async def an_async_scope() -> Held:
    return scope(lambda: lastly.AsyncScope("s"))


async def an_async_cleanup() -> Held:
    return counted(lambda _fn, it: kept(lastly.AsyncScope("s")).defer(plain_coroutine, it))


async def an_async_action() -> Held:
    return counted(lambda _fn, it: kept(lastly.AsyncScope("s")).defer(undone, it))


async def an_async_action_of_a_plain_scope() -> Held:
    return counted(lambda _fn, it: kept(lastly.Scope("s")).defer(undone, it))


async def an_async_plan() -> Held:
    return counted(lambda _fn, it: kept(lastly.AsyncScope("s")).planned(undone, it))


ASYNC = [a_process, an_async_scope, an_async_cleanup, an_async_action, an_async_action_of_a_plain_scope, an_async_plan]


@pytest.mark.parametrize("make", ASYNC)
def test_closed_twice_in_a_coroutine(make: Callable[[], Any], home: Path) -> None:
    async def main() -> None:
        held = await make()
        assert held.is_there()
        await held.handle.aclose()
        assert not held.is_there()
        ran.clear()
        await held.handle.aclose()
        assert ran == []
        around.clear()

    asyncio.run(main())


@pytest.mark.parametrize("make", [make for make in ASYNC if make is not an_async_plan])
def test_closed_by_its_block_in_a_coroutine(make: Callable[[], Any], home: Path) -> None:
    async def main() -> None:
        held = await make()
        if make is a_process:  # which would wait for it
            held.handle.stdin.close()
        async with held.handle:
            pass
        assert not held.is_there()
        around.clear()

    asyncio.run(main())


# -- none is forgotten


def test_every_kind_of_handle_is_in_the_list() -> None:
    """Whatever has a `with` block or can be detached, and is made by a function that users call, can be closed."""
    lacking, known = [], {name.partition(",")[0] for name in HANDLES} | {"Process", "AtomicFile", "AsyncScope", "AsyncParallel"}
    new = []
    files = [*(SRC / "lastly" / "resources").glob("*.py"), *(SRC / "lastly" / "integrations").glob("*.py")]
    names = [".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__") for path in files]
    names += ["lastly._scope.handle", "lastly._scope.scope", "lastly._scope.aio", "lastly._durable.seam", "lastly._exit.signals"]
    for name in names:
        try:
            module = importlib.import_module(name)
        except ImportError:  # a framework that is not installed
            continue
        for kind in vars(module).values():
            if not inspect.isclass(kind) or kind.__module__ != name or kind.__name__.startswith("_"):
                continue
            if not hasattr(kind, "detach") and not hasattr(kind, "__enter__") and not hasattr(kind, "close"):
                continue
            plain = hasattr(kind, "close") and hasattr(kind, "__exit__")
            if not plain and not (hasattr(kind, "aclose") and hasattr(kind, "__aexit__")):
                lacking.append(f"{name}.{kind.__name__}")
            if kind.__name__ not in known | {"Handle", "Temporary", "Turn"}:
                new.append(f"{name}.{kind.__name__}")
    assert lacking == ["lastly.resources._holder.Turn"]  # nobody is given one
    assert new == []
