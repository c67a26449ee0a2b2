"""Arguments of the wrong kind: refused at once, in words that say which, and what is wanted."""

from __future__ import annotations

import math
import pathlib

import pytest

import lastly
from lastly import Scope, action, actions


@pytest.fixture(autouse=True)
def _no_reaper(home, monkeypatch):
    monkeypatch.setenv("LASTLY_REAPER", "later")


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (math.nan, ValueError), ("soon", TypeError), ([], TypeError), (10**400, TypeError)],
)
def test_lengths_of_time(value, error):
    scope = Scope()
    for name, call in {
        "grace": lambda: Scope(grace=value),
        "within": lambda: scope.defer(int).within(value),
        "timeout": lambda: action(timeout=value)(int),
        "backoff": lambda: action(backoff=value)(int),
    }.items():
        with pytest.raises(error, match=f"^{name}=.*(must be 0 or more|seconds as a number, or a timedelta)$"):
            call()
    with pytest.raises(error, match="^timeout="):
        scope.defer(actions.run, ["true"], timeout=value)
    with pytest.raises(error, match="^grace="):
        scope.defer(actions.kill, 4194303, grace=value)
    scope.detach_all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Scope(60), "Scope(60): a name is a string"),
        (lambda: Scope().parallel(60), "Scope(60): a name is a string"),
        (lambda: lastly.AsyncScope(b"x"), "a name is a string"),
        (lambda: lastly.defer(int).named(5), "named(5): a name is a string"),
        (lambda: action(retries="x")(int), "retries='x': a number of further attempts"),
        (lambda: action(retries=1.5)(int), "retries=1.5: a number of further attempts"),
        (lambda: lastly.defer(actions.kill, None), "takes a pid or something with a pid, not None"),
        (lambda: lastly.defer(actions.run, ["ls", 5]), "takes a list of strings, not ['ls', 5]"),
        (lambda: lastly.install(None), "signals=None: names like 'TERM', or numbers"),
        (lambda: lastly.install(b"TERM"), "signals=b'TERM': names like 'TERM', or numbers"),
        (lambda: lastly.temp_dir(prefix=b"x"), "prefix=b'x', suffix='': parts of a name, as strings"),
        (lambda: lastly.temp_file(suffix=pathlib.Path("x")), "parts of a name, as strings"),
    ],
)
def test_of_another_type(call, words):
    with pytest.raises(TypeError) as caught:
        call()
    assert words in str(caught.value)


def test_a_nul_byte_in_a_command_is_refused_when_deferred():
    """Not by the reaper, which could only try again and give up."""
    with pytest.raises(ValueError, match="NUL byte"):
        lastly.defer(actions.run, ["echo", "a\0b"])
