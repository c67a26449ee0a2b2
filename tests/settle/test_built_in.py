"""The table of built-in actions: each entry has what the program calls, and what the reaper calls."""

import inspect

import pytest

from lastly import actions
from lastly._settle import execute
from lastly._words import built_in, naming


def test_the_program_offers_those_of_the_table():
    offered = {getattr(actions, name).name: getattr(actions, name) for name in actions.__all__}
    assert offered.keys() == built_in.TABLE.keys()
    for name, action in offered.items():
        assert action.prepare is not None
        assert action.blocks == built_in.TABLE[name].blocks
        assert action.__name__ == name.removeprefix(built_in.PREFIX)
        assert set(built_in.TABLE[name].usual) <= set(inspect.signature(action.fn).parameters)


def test_the_reaper_runs_those_of_the_table():
    done = {built_in.PREFIX + name.removeprefix("_do_") for name in vars(execute) if name.startswith("_do_")}
    assert done == built_in.TABLE.keys()


@pytest.mark.parametrize("action", ["lastly.actions:frobnicate", "lastly.actions:"])
def test_one_of_a_later_version_is_known_as_such(action):
    assert built_in.is_later(action)
    assert not built_in.facts(action).contained
    assert naming.call({"action": action, "args": ["x"], "kwargs": {}}).endswith("x")


@pytest.mark.parametrize("action", [*built_in.TABLE, "shop:destroy", "mine.lastly.actions:remove"])
def test_others_are_not(action):
    assert not built_in.is_later(action)
