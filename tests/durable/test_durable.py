"""Deferring an action: what is refused and why, what is written, what the handle does."""

import os
import pathlib
import sys
from enum import Enum, IntEnum

import pytest

import lastly
from lastly import actions, errors
from lastly._action import action
from lastly._durable import own
from lastly._durable import portable as _portable
from lastly._durable import seam as _durable
from lastly._journal.replay import read
from lastly._scope.scope import Scope

calls: list = []


@pytest.fixture(autouse=True)
def _own_journal(home, monkeypatch):
    """A journal of this test's own, no reaper, no warning."""
    monkeypatch.setattr(own, "_journal", None)
    monkeypatch.setattr(_durable, "_warned", True)
    monkeypatch.setattr(_durable, "_degraded", "")
    monkeypatch.setenv("LASTLY_REAPER", "0")
    monkeypatch.setattr(_durable, "_ensure", lambda path: None)
    calls.clear()
    yield
    if own.peek() is not None:
        own.peek().close(unlink=True)


@action
def note(*args, **kwargs):
    calls.append((args, kwargs))
    return "noted"


@action(remote=True, retries=2, timeout=7, backoff=0.5)
def told(name, *, attempt, token, confirmed):
    calls.append((name, attempt, token, confirmed))


@action
async def later(x):
    calls.append(x)
    return x + 1


@action
async def endless():
    import asyncio

    await asyncio.sleep(600)


@action
def failing():
    raise OSError("boom")


@action
def not_ours():
    raise errors.NotOurs("another file")


class Tools:
    @staticmethod
    @action
    def static(x):
        calls.append(x)


def items():
    return read(own.peek().path).items


def states():
    return [item.state for item in items().values()]


# ---- what is refused


def test_a_nested_function_is_refused():
    """Another process cannot find it; the message says what to do."""

    @action
    def inner():
        pass

    with pytest.raises(TypeError, match=r"inside another function.*top level"):
        Scope().defer(inner)
    with pytest.raises(TypeError, match="lambda"):
        Scope().defer(action(lambda: None))
    assert own.peek() is None


def test_a_name_that_means_something_else_is_refused(monkeypatch):
    """By its name another process would find another function."""
    clash = action(note.fn)
    clash.__dict__["__qualname__"] = "told"
    with pytest.raises(TypeError, match="is not this function"):
        Scope().defer(clash)


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, {"a": {3: 4}}, {1, 2}, float("nan"), float("inf"), 1j, open, [[object()]]]
)
def test_arguments_that_are_not_json_are_refused(value):
    """The message names the argument, its type, and the two ways out."""
    with pytest.raises(TypeError, match=r"note\(\).*another process.*\.fn"):
        Scope().defer(note, value)
    with pytest.raises(TypeError, match=r"key of|argument x"):
        Scope().defer(note, x=value)
    assert own.peek() is None


@pytest.mark.parametrize("deferred", [(actions.remove, "x"), (actions.kill, 2**22), (actions.run, ["true"])])
def test_arguments_that_a_built_in_action_has_not_are_refused(deferred):
    """A misspelt keyword is told now, not when the cleanup fails; nothing is owed."""
    with pytest.raises(TypeError, match=r"actions\.(remove|kill|run) has no argument 'timout'"):
        Scope().defer(*deferred, timout=5)
    assert own.peek() is None


def test_an_argument_that_holds_itself_is_refused():
    """No RecursionError."""
    ring: list = []
    ring.append(ring)
    with pytest.raises(TypeError, match="nested too deeply"):
        Scope().defer(note, ring)


def test_arguments_are_what_another_process_would_get():
    """Paths, bytes, tuples, enumerations: made plain at once, copied."""
    color = Enum("Color", {"RED": "red"}, type=str)
    number = IntEnum("Number", {"ONE": 1})
    mutable = {"a": [1]}
    scope = Scope()
    scope.defer(
        note, pathlib.Path("/a\nb"), b"/\xff", (1, 2.5, None, True), color.RED, [number.ONE], **mutable
    )
    mutable["a"].append(2)
    scope.close()
    plain = ["/a\nb", "/\udcff", [1, 2.5, None, True], "red", [1]]
    assert calls == [(tuple(plain), {"a": [1]})]
    item = items()[2]
    assert (item.args, item.kwargs) == (plain, {"a": [1]})
    assert type(calls[0][0][3]) is str


# ---- what is written


def test_planned_before_it_returns():
    """In the journal, by a name that another process can import."""
    scope = Scope("deploy")
    handle = scope.defer(note, "x")
    (item,) = items().values()
    assert (item.action, item.state, item.scope) == (f"{__name__}:note", "planned", "deploy")
    assert handle.durable
    assert handle.token == item.token
    assert item.extra == {"file": os.path.abspath(__file__)}
    handle.detach()


def test_settings_of_the_action_are_written():
    """The one who runs it needs not import it to know them."""
    with Scope() as scope:
        scope.defer(told, "x").detach()
    (item,) = items().values()
    assert (item.remote, item.retries, item.timeout, item.backoff) == (True, 2, 7.0, 0.5)


def test_surroundings_once(monkeypatch, tmp_path):
    """Interpreter, import path, directory, allow-listed environment; again only when they changed."""
    monkeypatch.setenv("SECRET", "s3cr3t")
    monkeypatch.setenv("LASTLY_ENV", "KUBECONFIG")
    monkeypatch.setenv("KUBECONFIG", "/k")
    scope = Scope()
    for _ in range(3):
        scope.defer(note)
    monkeypatch.chdir(tmp_path)
    scope.defer(note)
    found = read(own.peek().path)
    assert len(found.contexts) == 2
    first = found.items[min(found.items)].context
    assert first["exe"] == sys.executable
    assert first["path"] == [entry or os.getcwd() for entry in sys.path]
    assert first["env"]["KUBECONFIG"] == "/k"
    assert "s3cr3t" not in pathlib.Path(own.peek().path).read_text()
    assert found.contexts.newest()["cwd"] == str(tmp_path)
    scope.close()


def test_an_integration_lets_its_undo_have_more_variables(monkeypatch):
    """As they are when it defers, however late they were set; recorded again only when they have changed."""
    monkeypatch.setattr(_portable, "_allowed", set(_portable.ENVIRONMENT))
    with Scope() as scope:
        for value in ("one", "one", "two"):
            monkeypatch.setenv("WHERE", value)
            scope.defer(note)
            _portable.allow("WHERE")
            scope.defer(note)
        found = read(own.peek().path)
        seen = [item.context["env"].get("WHERE") for item in found.items.values()]
        assert seen == [None, "one", "one", "one", "one", "two"]
        assert len(found.contexts) == 3
        scope.detach_all()


def test_built_in_actions_need_no_surroundings(tmp_path):
    """Removing works without an interpreter of the owner's."""
    with Scope() as scope:
        scope.defer(actions.remove, tmp_path / "x").detach()
    assert read(own.peek().path).contexts.newest() is None


# ---- the handle


def test_run_by_the_scope():
    """In the process, newest first; the journal knows."""
    with Scope() as scope:
        scope.defer(note, 1)
        scope.defer(Tools.static, 2)
    assert calls == [2, ((1,), {})]
    assert states() == ["done", "done"]


def test_early_is_durable_too():
    scope = Scope()
    scope.defer(note, "second")
    handle = scope.defer_early(note, "first")
    assert handle.durable and states() == ["planned", "planned"]
    scope.close()
    assert [args for args, _ in calls] == [("first",), ("second",)]
    assert states() == ["done", "done"]
    late = Scope()
    assert late.defer_early(note).detach()
    assert states()[-1] == "released"


def test_detached_is_released():
    """Once; and nothing runs."""
    with Scope() as scope:
        handle = scope.defer(note)
        assert handle.detach()
        assert not handle.detach()
    assert calls == []
    assert states() == ["released"]


def test_run_now_once():
    """The result comes back; a second call does nothing."""
    with Scope() as scope:
        handle = scope.defer(note, 1)
        assert handle.run() == "noted"
        assert handle.run() is None
    assert len(calls) == 1
    assert states() == ["done"]


def test_calling_the_handle_while_it_waits():
    """As for every handle: the function, nothing else."""
    scope = Scope()
    handle = scope.defer(note, 1)
    assert handle() == "noted"
    assert states() == ["planned"]
    scope.close()
    assert len(calls) == 2


def test_a_failure_stays_owed():
    """Raised like any other, and the reaper tries again later."""
    scope = Scope()
    scope.defer(failing)
    with pytest.raises(errors.CleanupFailed):
        scope.close()
    assert states() == ["failed"]
    (item,) = items().values()
    assert (item.error, item.attempts) == ("OSError: boom", 1)


def test_what_is_not_ours_is_given_up():
    """Trying again will not help."""
    scope = Scope()
    scope.defer(not_ours)
    with pytest.raises(errors.CleanupFailed):
        scope.close()
    assert states() == ["abandoned"]


def test_told_what_it_asks_for():
    """attempt, token, confirmed: keyword-only parameters."""
    scope = Scope()
    handle = scope.defer(told, "x")
    handle.confirm({"id": "i-1"})
    scope.close()
    assert calls == [("x", 1, handle.token, {"id": "i-1"})]


def test_an_async_action():
    """Run to its end, in a scope without a loop and beneath one."""
    import asyncio

    with Scope() as scope:
        scope.defer(later, 1)

    async def beneath():
        with Scope() as inner:
            inner.defer(later, 2)
        async with lastly.AsyncScope() as outer:
            outer.defer(later, 3)
            return await outer.defer(later, 4).run()

    assert asyncio.run(beneath()) == 5
    assert calls == [1, 2, 4, 3]
    assert states() == ["done"] * 4


def test_an_async_action_that_is_planned():
    """Awaited when its block ends by an exception; failed when it is cancelled, and so still owed."""
    import asyncio

    async def whole():
        async with lastly.AsyncScope() as scope:
            with pytest.raises(ZeroDivisionError):
                async with scope.planned(later, 1):
                    1 / 0
            with pytest.raises(ZeroDivisionError):
                with scope.planned(later, 2):
                    1 / 0
            scope.defer(endless).within(0.05)

    with pytest.raises(errors.CleanupFailed):
        asyncio.run(whole())
    assert calls == [1, 2]
    assert states() == ["done", "done", "failed"]


def test_a_disk_that_is_full_at_the_end(monkeypatch):
    """The cleanup runs all the same; giving away says that it could not be written, and stays owed."""
    scope = Scope()
    scope.defer(note, 1)
    kept = scope.defer(note, 2)

    def full(fd, line):
        raise errors.NotRecorded("full")

    monkeypatch.setattr(own.peek(), "_write", full, raising=False)
    with pytest.raises(errors.NotRecorded):
        kept.detach()
    assert kept.pending
    scope.close()
    assert calls == [((2,), {}), ((1,), {})]


def test_nothing_in_a_forked_child():
    """The parent's cleanups are the parent's, also those of a scope whose block the child leaves."""
    scope = Scope()
    handle = scope.defer(note, 1)
    pid = os.fork()
    if pid == 0:
        before = len(calls)
        scope._stack.clear()
        handle()
        os._exit(0 if len(calls) == before and own.peek() is None else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert states() == ["planned"]
    scope.close()


# ---- planned()


def test_planned_and_confirmed():
    """The undo is owed before the thing exists, told what was confirmed, and runs at the scope's end."""
    with Scope() as scope:
        with scope.planned(told, "vm") as plan:
            assert states() == ["planned"]
            plan.confirm(vm_id="i-7")
            plan.confirm(zone="b")
        assert calls == []
    assert calls == [("vm", 1, plan.token, {"vm_id": "i-7", "zone": "b"})]
    assert states() == ["done"]


def test_planned_and_failed():
    """Leaving by an exception runs the undo at once, before the exception goes on."""
    with Scope() as scope:
        with pytest.raises(ZeroDivisionError):
            with scope.planned(note, "vm"):
                1 / 0
        assert calls == [(("vm",), {})]
    assert len(calls) == 1


def test_planned_and_the_undo_fails():
    """A note on the exception; still owed."""
    with pytest.raises(ZeroDivisionError) as caught, Scope() as scope, scope.planned(failing):
        1 / 0
    assert any("boom" in text for text in caught.value.__notes__)
    assert states() == ["failed"]


def test_planned_wants_an_action():
    """A plain function could not be run by another process."""
    with pytest.raises(TypeError, match="decorate it"):
        Scope().planned(print)


def test_confirming_what_is_not_json():
    """The plan stays as it was."""
    with Scope() as scope, scope.planned(note) as plan:
        with pytest.raises(TypeError, match="confirmed fact"):
            plan.confirm(vm=object())
        assert states() == ["planned"]
