"""An exception is the program's own code, and so is what a cleanup calls: its ``__str__``, ``__repr__``, ``add_note``
or attributes may raise. Then nothing else is lost: no other cleanup, no failure, not the body's exception."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness import Programs

from lastly import AsyncScope, Scope, action
from lastly._journal.file import Journal
from lastly._scope.handle import name_of
from lastly.errors import CleanupFailed


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Frozen(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)

    def with_traceback(self, _trace: Any) -> Any:
        raise RuntimeError("it has a traceback of its own")


class NoNotes(Exception):
    def add_note(self, _note: str) -> None:
        raise RuntimeError("no notes")


KINDS = (Silent, Frozen, NoNotes)


def fail(error: BaseException) -> None:
    raise error


async def afail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["plain", "within", "many", "parallel", "early"])
def test_every_failure_is_told(kind: type[Exception], how: str) -> None:
    ran: list[str] = []
    first, second = kind(), ValueError("another")
    with pytest.raises(CleanupFailed) as caught, Scope("odd") as scope:
        if how == "many":
            for _ in range(300):
                scope.defer(int)
        target = scope.parallel() if how == "parallel" else scope
        defer = target.defer_early if how == "early" else target.defer
        defer(ran.append, "oldest")
        for error in (second, first):
            handle = defer(fail, error)
            if how == "within":
                handle.within(30)
        defer(ran.append, "newest")
    assert sorted(ran) == ["newest", "oldest"]
    told = caught.value.exceptions[0].exceptions if how == "parallel" else caught.value.exceptions  # type: ignore[attr-defined]
    assert sorted(map(id, told)) == sorted(map(id, (first, second)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_bodys_exception_goes_on(kind: type[Exception]) -> None:
    """It is not masked, whether it or a cleanup's cannot be shown."""
    body = kind()
    with pytest.raises(kind) as caught, Scope("odd") as scope:
        scope.defer(fail, kind())
        raise body
    assert caught.value is body


@pytest.mark.parametrize("kind", KINDS)
def test_async(kind: type[Exception]) -> None:
    ran: list[str] = []

    async def program() -> None:
        # Caught in here: asyncio shows an exception itself.
        with pytest.raises(CleanupFailed) as caught:
            async with AsyncScope("odd") as scope:
                scope.defer(ran.append, "oldest")
                scope.defer(fail, kind())
                scope.defer(afail, kind())
                scope.defer(ran.append, "newest")
        assert [type(one) for one in caught.value.exceptions] == [kind, kind]

    asyncio.run(program())
    assert ran == ["newest", "oldest"]


@action
def undo_badly() -> None:
    raise Silent


@pytest.mark.usefixtures("home")
def test_a_durable_one_stays_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its failure is in the journal, and the error that comes out is its own."""
    told: list[str] = []
    monkeypatch.setattr(Journal, "fail", lambda *args, **_: told.append(args[2]))
    with pytest.raises(CleanupFailed) as caught, Scope("odd") as scope:
        scope.defer(undo_badly)
    assert [type(one) for one in caught.value.exceptions] == [Silent]
    assert told == ["Silent: its message cannot be shown"]


@pytest.mark.usefixtures("home")
def test_the_undo_of_a_plan() -> None:
    body = NoNotes()
    with pytest.raises(NoNotes) as caught, Scope("odd") as scope:  # noqa: PT012  # the plan is what is tried
        scope.defer(int)
        with scope.planned(undo_badly):
            raise body
    assert caught.value is body


class Proxy:
    """As werkzeug's LocalProxy outside of its context: everything but calling it raises."""

    def __init__(self, call: Any) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return object.__getattribute__(self, "_call")(*args)

    def __getattribute__(self, name: str) -> Any:
        if name == "_call":
            return object.__getattribute__(self, name)
        raise RuntimeError("outside of its context")


def test_proxies() -> None:
    """A cleanup that is a proxy, and one that returns a proxy, have not failed."""
    ran: list[str] = []
    assert name_of(Proxy(int)) == "Proxy"
    with Scope("odd") as scope:
        scope.defer(Proxy(ran.append), "proxy")
        scope.defer(lambda: Proxy(int))
    assert ran == ["proxy"]
    assert [entry.outcome for entry in scope.report()] == ["done", "done"]


def test_at_exit(programs: Programs, python: str) -> None:
    code = """
    import sys
    from lastly import defer

    class Silent(Exception):
        def __str__(self):
            raise RuntimeError("no text")
        __repr__ = __str__

    def fails():
        raise Silent

    sys.stderr.close()
    defer(print, "oldest")
    defer(fails)
    defer(print, "newest")
    """
    result = programs.run(code, python=python)
    assert result.lines == ["newest", "oldest"]
    assert result.status == 1
