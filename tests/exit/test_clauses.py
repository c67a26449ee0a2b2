"""Reading which clause caught an exception: only where this interpreter's code reads as expected."""

from __future__ import annotations

import sys

import pytest

from lastly._exit import clauses as _byname
from lastly.errors import CaughtSignal


@pytest.fixture
def unread(monkeypatch):
    monkeypatch.setattr(_byname, "_readable", None)
    return monkeypatch


def caught_by_everything(error):
    try:
        raise error
    except BaseException as caught:
        return caught


def caught_by_name(error):
    try:
        raise error
    except (KeyboardInterrupt, CaughtSignal) as caught:
        return caught


def test_this_interpreters_code_can_be_read(unread):
    assert _byname.readable()
    assert _byname.caught_by_name(caught_by_name(CaughtSignal(15)))
    assert not _byname.caught_by_name(caught_by_everything(KeyboardInterrupt()))


@pytest.mark.parametrize("verdict", [_byname.NAMED, _byname.CAUGHT, _byname.NOBODY])
def test_where_it_reads_differently_plain_pythons_rule_holds(unread, verdict):
    """Who catches a Ctrl-C has answered it, who catches another signal has not: whatever is read."""
    unread.setattr(_byname, "_search", lambda *_: verdict)
    assert not _byname.readable()
    assert _byname.caught_by_name(caught_by_everything(KeyboardInterrupt()))
    assert not _byname.caught_by_name(caught_by_name(CaughtSignal(15)))
    assert not _byname.in_flight(ValueError())


def test_an_interpreter_without_a_table_is_one_that_reads_differently(unread):
    unread.delattr("dis.Bytecode")
    assert not _byname.readable()
    assert _byname.caught_by_name(caught_by_name(KeyboardInterrupt()))


@pytest.mark.parametrize("shell", ["python", "ipython"])
def test_a_shell_answers_ctrl_c_alone(monkeypatch, shell):
    if shell == "python":
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    else:
        monkeypatch.setattr("builtins.__IPYTHON__", True, raising=False)
    assert _byname.caught_by_name(caught_by_everything(KeyboardInterrupt()))
    assert not _byname.caught_by_name(caught_by_everything(CaughtSignal(15)))
