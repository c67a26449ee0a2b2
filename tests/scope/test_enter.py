"""Context managers entered on a Scope: told of what ends the body, as by ``with``; see test_async_scope for its sibling."""

from __future__ import annotations

import contextlib
import sqlite3
import sys

import pytest

import lastly
from lastly import Scope, atomic_write
from lastly.errors import CleanupFailed, ScopeClosed


@pytest.fixture
def ran():
    return []


def boom():
    raise ValueError("boom")


class Manager:
    def __init__(self, ran, name):
        self.ran, self.name = ran, name

    def __enter__(self):
        self.ran.append(f"enter {self.name}")
        return self.name

    def __exit__(self, *exc):
        self.ran.append((f"exit {self.name}", exc))
        return True


class Failed(Exception):
    pass


@pytest.mark.parametrize("within", ["plain", "grace", "limit", "many"])
def test_a_manager_is_told_what_ends_the_body_and_cannot_swallow_it(ran, within):
    error = Failed()
    with pytest.raises(Failed) as caught:
        with Scope(grace=60 if within == "grace" else None) as scope:
            for _ in range(300 if within == "many" else 0):
                scope.defer(int)
            scope.enter(Manager(ran, "a"))
            if within == "limit":
                next(iter(scope._stack)).within(60)
            raise error
    assert caught.value is error
    (_, (_, (kind, told, trace))) = ran
    assert (kind, told) == (Failed, error)
    assert trace.tb_frame.f_code is sys._getframe().f_code
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("grace", [None, 60])
def test_a_transaction_is_rolled_back_when_the_body_fails(grace):
    db = sqlite3.connect(":memory:")
    db.execute("create table t (x)")
    for fails in (True, False):
        with contextlib.suppress(Failed), Scope(grace=grace) as scope:
            scope.enter(db)
            db.execute("insert into t values (?)", [fails])
            if fails:
                raise Failed
    db.rollback()
    assert db.execute("select x from t").fetchall() == [(0,)]
    db.close()
    db.close()


def test_a_half_written_file_is_not_published(tmp_path, home, monkeypatch):
    monkeypatch.setenv("LASTLY_REAPER", "later")
    path = tmp_path / "state"
    path.write_text("old")
    with pytest.raises(Failed), Scope() as scope:
        scope.enter(atomic_write(path)).write("ne")
        raise Failed
    assert (path.read_text(), len([*tmp_path.iterdir()])) == ("old", 1 + home.is_relative_to(tmp_path))
    with Scope() as scope:
        scope.enter(atomic_write(path)).write("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("grace", [None, 60])
@pytest.mark.parametrize("kind", ["scope", "pool", "both"])
def test_managers_of_inner_scopes_are_told_too(ran, kind, grace):
    reasons = []
    with pytest.raises(Failed), Scope(grace=grace) as outer:
        inner = outer.parallel() if kind == "pool" else outer.enter(Scope("inner"))
        inner = inner.enter(Scope("innermost")) if kind == "both" else inner
        inner.enter(Manager(ran, "a"))
        inner.defer(lambda: reasons.append(lastly.exit_reason().exception))
        raise Failed
    assert ran[-1][1][0] is Failed
    assert [type(reason) for reason in reasons] == [Failed]


def test_what_fails_in_an_inner_scope_is_one_failure_of_the_outer_one():
    """The exception belongs to the outer body: it goes on, and its note names the inner scope."""
    error = Failed("body")
    with pytest.raises(Failed), Scope("outer") as outer:
        outer.enter(Scope("inner")).defer(boom)
        raise error
    assert error.__notes__ == [
        "cleanup Scope.__exit__ of scope 'outer' failed: CleanupFailed: 1 cleanup of scope 'inner' failed (1 sub-exception)"
    ]
    assert [entry.outcome for entry in outer.report()] == ["failed"]


@pytest.mark.parametrize("how", ["raise", "raise again", "in a group", "with another", "another"])
def test_what_a_manager_raises_is_a_failure_unless_it_was_told(how):
    class Raises:
        def __enter__(self):
            pass

        def __exit__(self, kind, told, trace):
            if how == "raise":
                raise
            if how == "raise again":
                raise told
            if how == "in a group":
                raise ExceptionGroup("unhandled", [ExceptionGroup("here", [told])])
            if how == "with another":
                raise ExceptionGroup("unhandled", [told, ValueError("child")])
            raise ValueError("another")

    error = Failed()
    with pytest.raises(Failed) as caught, Scope() as scope:
        scope.enter(Raises())
        raise error
    assert caught.value is error
    assert len(getattr(error, "__notes__", [])) == how.endswith("another")
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert frames == [sys._getframe().f_code.co_name]


def test_a_failed_cleanup_is_not_the_bodys(ran):
    with pytest.raises(CleanupFailed), Scope() as scope:
        scope.enter(Manager(ran, "a"))
        scope.defer(boom)
    assert ran[-1] == ("exit a", (None,) * 3)


def test_a_manager_that_came_too_late_is_told_so(ran):
    scope = Scope()
    manager = Manager(ran, "a")

    def entering(_):
        scope.close()
        ran.append("entered")

    Manager.__enter__, enter = entering, Manager.__enter__
    try:
        with pytest.raises(ScopeClosed) as caught:
            scope.enter(manager)
    finally:
        Manager.__enter__ = enter
    assert ran[0] == "entered"
    assert ran[1][1][:2] == (ScopeClosed, caught.value)
