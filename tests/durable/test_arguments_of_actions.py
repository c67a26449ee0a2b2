"""Arguments that an action does not take: a TypeError at the line that defers it, not after the program's death."""

from __future__ import annotations

import functools
import os

import pytest

import lastly
from lastly import AsyncScope, Scope, action, actions
from lastly.integrations import aws, postgresql


@pytest.fixture(autouse=True)
def _no_reaper(home, monkeypatch):
    monkeypatch.setenv("LASTLY_REAPER", "later")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")


@action(remote=True)
def destroy(name, region, *, force=False, confirmed, attempt, token=""):
    """Takes two, and asks for what the library offers."""


@action
def positional(one, two=2, /, three=3):
    """Takes some by position only."""


@action
def anything(*args, **kwargs):
    """Takes all there is."""


@action
async def later(name):
    """Awaited."""


def retrying(function):
    @functools.wraps(function)
    def again(*args, **kwargs):
        return function("session", *args, **kwargs)

    return again


@action
@retrying
def given_more(session, name):
    """Called with one argument more than is deferred."""


class Callable:
    def __call__(self, name):
        """An object that can be called."""


called = Callable()
called.__qualname__ = called.__name__ = "called"
called.__module__ = __name__
called = action(called)
unlink = action(os.unlink)

WRONG = [
    (destroy, ("vm",), {}, "missing a required argument: 'region'; it takes (name, region, force"),
    (destroy, (), {"region": "eu"}, "missing a required argument: 'name'"),
    (destroy, ("vm", "eu", "x"), {}, "got too many positional arguments, 3"),
    (destroy, ("vm",), {"regoin": "eu"}, "got an unexpected keyword argument 'regoin'"),
    (destroy, ("vm", "eu"), {"name": "x"}, "got multiple values for argument 'name'"),
    (positional, (), {}, "missing a required argument: 'one'"),
    (positional, (), {"one": 1}, "got an unexpected keyword argument 'one'"),
    (positional, (1, 2, 3), {"three": 3}, "got multiple values for argument 'three'"),
    (later, (), {}, "missing a required argument: 'name'"),
    (called, (), {}, "missing a required argument: 'name'"),
    (unlink, (), {}, "missing a required argument: 'path'"),
    (actions.remove, (), {}, "takes one path, 0 were given"),
    (actions.remove, ("x",), {"ignore": True}, "has no argument 'ignore'"),
    (actions.run, ("true", "x"), {}, "takes one argv, 2 were given"),
    (actions.run, (["true"],), {"tmeout": 5}, "has no argument 'tmeout'"),
    (actions.kill, (), {}, "takes one target, 0 were given"),
    (actions.kill_token, (), {}, "takes one token, 0 were given"),
    (actions.kill_token, (5,), {}, "takes a string, not 5"),
    (aws.terminate_instances, (), {"regoin": "x"}, "got an unexpected keyword argument 'regoin'"),
    (aws.delete_prefix, ("bucket",), {}, "missing a required argument: 'prefix'"),
    (postgresql.drop_database, ("x",), {"conn": ""}, "got an unexpected keyword argument 'conn'"),
]
RIGHT = [
    (destroy, ("vm", "eu"), {}),
    (destroy, ("vm",), {"region": "eu", "force": True}),
    (destroy, ("vm", "eu"), {"confirmed": {"id": 1}, "token": "mine"}),
    (positional, (1,), {}),
    (positional, (1, 2), {"three": 3}),
    (anything, (1, 2), {"a": 3}),
    (later, ("x",), {}),
    (given_more, ("x",), {}),
    (called, ("x",), {}),
    (unlink, ("/nowhere/x",), {}),
]
WAYS = {
    "defer": lambda scope: scope.defer,
    "defer_early": lambda scope: scope.defer_early,
    "planned": lambda scope: scope.planned,
    "parallel": lambda scope: scope.parallel().defer,
    "AsyncScope.defer": lambda _: AsyncScope().defer,
    "AsyncScope.planned": lambda _: AsyncScope().planned,
    "process": lambda _: lastly.defer,
    "register": lambda _: lastly.register,
}


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_called_is_refused(way):
    for what, args, kwargs, words in WRONG:
        with Scope() as scope:
            defer = WAYS[way](scope)
            pending = len(lastly._exit.root.root)
            with pytest.raises(TypeError) as caught:
                defer(what, *args, **kwargs)
        assert words in str(caught.value)
        assert len(lastly._exit.root.root) == pending


def test_what_can_be_called_is_taken():
    scope = Scope()
    for what, args, kwargs in RIGHT:
        assert scope.defer(what, *args, **kwargs).durable
        assert scope.planned(what, *args, **kwargs).detach()
    scope.detach_all()


def test_a_method_is_refused_where_it_is_made():
    with pytest.raises(TypeError, match="Machine.destroy.. is a method"):

        class Machine:
            @action
            def destroy(self, name=None):
                """With a default nothing would be missing, and the name would be taken for the object."""

    with pytest.raises(TypeError, match="Made.make.. is a method"):

        class Made:
            @classmethod
            @action(remote=True)
            def make(cls):
                """The class is not the other process's, either."""


class Undo:
    """Where functions are kept; no objects are made of it."""

    @staticmethod
    @action
    def destroy(name):
        """Importable as Undo.destroy."""

    def method(self):
        """Of an object."""

    @action
    def plain(name):
        """As above, without a word of it."""


def test_functions_that_a_class_only_keeps_are_taken():
    scope = Scope()
    assert scope.defer(Undo.destroy, "x").durable
    assert scope.defer(Undo.plain, "x").durable
    scope.detach_all()


def test_a_bound_method_is_refused_when_it_is_deferred():
    with pytest.raises(TypeError, match="Undo.method.. is a method"):
        action(Undo().method)


def test_a_local_function_that_calls_its_first_argument_self_is_no_method():
    @action
    def local(self):
        """Called as it is; only deferring it is refused, as before."""
        return self

    assert local(5) == 5
    with pytest.raises(TypeError, match="inside another function"):
        lastly.defer(local, 5)
