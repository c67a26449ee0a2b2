"""What a program with types may write: checked by `mypy --strict` and pyright, never run. Both must find nothing.

`planted.py` beside it is the same with mistakes: each line that ends in ``# wrong`` must be found.
"""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, assert_type

import lastly
from lastly import (
    Action,
    App,
    AsyncScope,
    Cleanup,
    Popen,
    Scope,
    action,
    actions,
    defer,
    defer_early,
    install,
    register,
    server,
    unregister,
)


def undo(name: str, *, force: bool = False) -> int:
    return len(name) * force


async def later(name: str) -> None: ...


@action
def give_back(name: str, *, token: str = "") -> None: ...


@action(remote=True, retries=3, timeout=timedelta(minutes=2))
def destroy(name: str, region: str = "eu", *, attempt: int = 1, confirmed: dict[str, Any] | None = None) -> bool:
    return bool(name)


@action
async def drop(name: str) -> None: ...


class Machine:
    def stop(self, seconds: float) -> None: ...


@contextmanager
def opened() -> Iterator[int]:
    yield 1


@asynccontextmanager
async def connected() -> AsyncIterator[str]:
    yield "x"


# -- of the process
defer(print, "bye", end="")
defer(undo, "x")
defer(undo, "x", force=True)
defer(undo, name="x")
defer(Machine().stop, 5)
defer(lambda: None)
defer(give_back, "x")
defer(destroy, "x", region="us")
defer(drop, "x")
defer(actions.remove, "build", expect=None)
defer(actions.run, ["rm", "x"], timeout=5)
assert_type(defer(undo, "x").named("the undo").within(5), Cleanup)
defer_early(Machine().stop, 1.5)
assert_type(register(undo, "x")("y", force=True), int)
unregister(undo)


@defer
def at_the_end() -> None: ...


@register
def last() -> None: ...


at_the_end()
last()

# -- actions are the functions they were made of
assert_type(destroy("x"), bool)
assert_type(give_back("x", token="t"), None)
undone: Action[[str], int] = action(len)
assert_type(undone("x"), int)

# -- of a scope
with Scope("deploy", grace=60) as scope:
    scope.defer(give_back, "x", token="")
    scope.defer_early(destroy, "x", "eu")
    with scope.planned(destroy, "x") as plan:
        plan.confirm(id=5)
    with scope.parallel() as pool:
        pool.defer(undo, "x")
    assert_type(scope.enter(opened()), int)
    assert_type(scope.enter(sqlite3.connect(":memory:")), sqlite3.Connection)
    inner: Scope = scope.enter(Scope("inner"))

    @scope.defer
    def ended() -> None: ...


async def main() -> None:
    async with AsyncScope("client", grace=timedelta(seconds=5)) as scope:
        scope.defer(later, "x")
        scope.defer(undo, "x", force=True)
        assert_type(await scope.enter(opened()), int)
        assert_type(await scope.enter(connected()), str)
        async with scope.planned(drop, "x") as plan:
            plan.confirm(id=5)
        async with scope.parallel() as pool:
            pool.defer(later, "x")
        await scope.aclose()


asyncio.run(main())

# -- signals
install()
install("TERM")
install(["INT", signal.SIGTERM], status="code", grace=30)
with install((signal.SIGUSR1,), status="signal"):
    pass

# -- children
assert_type(Popen(["true"]).communicate()[0], bytes)
assert_type(Popen(["true"], text=True, stdout=-1).communicate()[0], str)
assert_type(Popen("true", shell=True, encoding="utf-8", scope=scope, grace=1).communicate()[0], str)
assert_type(server(["x"], ready=8080, cwd="/"), Popen[bytes])
assert_type(server(["x"], ready=("localhost", 8080), text=True), Popen[str])

# -- applications
with App("app", grace=5) as app:
    app.scope.defer(undo, "x")
    app.catch_signal("SIGUSR1")
    app.hook.register("pre_close", lambda app: None)

why = lastly.exit_reason()
assert_type(why.code if why else None, int | None)
