"""Actions: functions with a name."""

import pytest

from lastly._action import Action, action

calls: list = []


@pytest.fixture(autouse=True)
def _no_calls():
    calls.clear()


@action
def note(*args, **kwargs):
    calls.append((args, kwargs))
    return "noted"


@action(remote=True)
def told(name, *, attempt, token, confirmed):
    calls.append((name, attempt, token, confirmed))


@action
def positional(token, attempt=None):
    calls.append((token, attempt))


def test_an_action_is_the_function():
    """Callable, with its name, module and documentation, picklable by name."""
    import pickle

    assert note(1, a=2) == "noted"
    assert calls == [((1,), {"a": 2})]
    assert (note.__name__, note.__module__, note.name) == ("note", __name__, f"{__name__}:note")
    assert pickle.loads(pickle.dumps(note)) is note
    assert "remote" in repr(told)
    assert note.__wrapped__ is note.fn


def test_settings_are_checked():
    """Seconds or a timedelta, never negative."""
    from datetime import timedelta

    assert action(timeout=timedelta(minutes=2))(note.fn).timeout == 120.0
    for bad in ({"retries": -1}, {"timeout": -1}, {"backoff": float("nan")}):
        with pytest.raises(ValueError):
            action(**bad)(note.fn)
    with pytest.raises(TypeError):
        Action(3)


def test_offers_are_for_keyword_only_parameters():
    """A positional `token` is the user's own; what the caller gave is not replaced."""
    offered = {"attempt": 3, "token": "t", "confirmed": {"a": 1}}
    told.call(["x"], {}, **offered)
    told.call(["x"], {"token": "mine"}, **offered)
    positional.call(["own"], {}, **offered)
    note.call([1], {"b": 2}, **offered)
    assert calls == [("x", 3, "t", {"a": 1}), ("x", 3, "mine", {"a": 1}), ("own", None), ((1,), {"b": 2})]


def test_an_action_of_an_action():
    """The same function with settings of its own."""
    twin = action(remote=True)(note)
    assert (twin.fn, twin.remote, note.remote) == (note.fn, True, False)
