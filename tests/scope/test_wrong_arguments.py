"""Arguments of the wrong kind: refused at once, in words that say which, and what is wanted."""

from __future__ import annotations

import math
import pathlib
import re

import click
import pytest
from apscheduler.schedulers.background import BackgroundScheduler

import lastly
from lastly import Scope, action, actions, integrations
from lastly.errors import FrameworkError
from lastly.integrations import apscheduler, asgi, aws, flask, health, postgresql, systemd  # noqa: F401
from lastly.integrations.click import scope as click_scope
from lastly.testing import crash_everywhere


@pytest.fixture(autouse=True)
def _no_reaper(home, monkeypatch):
    monkeypatch.setenv("LASTLY_REAPER", "later")


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError),
        (math.nan, ValueError),
        ("soon", TypeError),
        ("60", TypeError),
        (b"60", TypeError),
        (True, TypeError),
        ([], TypeError),
        (10**400, TypeError),
    ],
)
def test_lengths_of_time(value, error):
    scope = Scope()
    for name, call in {
        "grace": lambda: Scope(grace=value),
        "within": lambda: scope.defer(int).within(value),
        "timeout": lambda: action(timeout=value)(int),
        "backoff": lambda: action(backoff=value)(int),
    }.items():
        with pytest.raises(error, match=f"^{name} must be (0 or more|a number of seconds or a timedelta), not "):
            call()
    with pytest.raises(error, match="^timeout must be "):
        scope.defer(actions.run, ["true"], timeout=value)
    with pytest.raises(error, match="^grace must be "):
        scope.defer(actions.kill, 4194303, grace=value)
    scope.detach_all()


TIMES = {
    "Scope": lambda value: Scope(grace=value),
    "Scope.parallel": lambda value: Scope().parallel(grace=value),
    "AsyncScope": lambda value: lastly.AsyncScope(grace=value),
    "AsyncScope.parallel": lambda value: lastly.AsyncScope().parallel(grace=value),
    "within": lambda value: lastly.defer(int).within(value),
    "install": lambda value: lastly.install(grace=value),
    "action, timeout": lambda value: action(timeout=value)(int),
    "action, backoff": lambda value: action(backoff=value)(int),
    "actions.run": lambda value: actions.run(["true"], timeout=value),
    "actions.run, deferred": lambda value: lastly.defer(actions.run, ["true"], timeout=value),
    "actions.kill": lambda value: actions.kill(4194303, grace=value),
    "actions.kill, deferred": lambda value: lastly.defer(actions.kill, 4194303, grace=value),
    "actions.kill_token": lambda value: actions.kill_token("no such token", grace=value),
    "actions.kill_token, deferred": lambda value: lastly.defer(actions.kill_token, "no such token", grace=value),
    "Popen": lambda value: lastly.Popen(["true"], grace=value),
    "server, ready": lambda value: lastly.server(["true"], ready=lambda: True, timeout=value),
    "server": lambda value: lastly.server(["true"], ready=lambda: True, grace=value),
    "lock_file, wait": lambda value: lastly.lock_file("lock", wait=value),
    "lock_file, grace": lambda value: lastly.lock_file("lock", grace=value),
    "pid_file, wait": lambda value: lastly.pid_file("pid", wait=value),
    "pid_file, grace": lambda value: lastly.pid_file("pid", grace=value),
    "App": lambda value: lastly.App("app", grace=value),
    "App.run_forever": lambda value: lastly.App("app").run_forever(interval=value),
    "crash_everywhere, seconds": lambda value: crash_everywhere("x", seconds=value),
    "crash_everywhere, timeout": lambda value: crash_everywhere("x", timeout=value),
    "crash_everywhere, wait": lambda value: crash_everywhere("x", wait=value),
    "click": lambda value: click_scope(click.Context(click.Command("x")), grace=value),
    "flask, timeout": lambda value: integrations.flask.Lastly(timeout=value),
    "flask, linger": lambda value: integrations.flask.Lastly(linger=value),
    "asgi, grace": lambda value: integrations.asgi.Lastly(print, grace=value),
    "asgi, linger": lambda value: integrations.asgi.Lastly(print, linger=value),
    "health": lambda value: integrations.health.Health(live_within=value),
    "systemd": lambda value: integrations.systemd.ready(grace=value),
    "apscheduler": lambda value: integrations.apscheduler.manage(BackgroundScheduler(), value),
    "postgresql": lambda value: integrations.postgresql.advisory_lock(1, wait=value),
    "aws, instances": lambda value: integrations.aws.run_instances(wait=value, MinCount=1, MaxCount=1, region="x"),
    "aws, prefix": lambda value: integrations.aws.s3_prefix("bucket", "name", wait=value),
    "aws, stack": lambda value: integrations.aws.create_stack("name", wait=value, region="x"),
}


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.slow(keep=12)
def test_each_length_of_time_is_a_number(name, tmp_path, monkeypatch):
    """Before anything is made, started or owed."""
    monkeypatch.chdir(tmp_path)
    for value in ("60", b"60", "soon", -1.0, math.nan):
        pending = len(lastly._exit.root.root)
        error = ValueError if isinstance(value, float) else TypeError
        with pytest.raises(error, match=f"not {re.escape(repr(value))}$"):
            TIMES[name](value)
        assert [*tmp_path.iterdir()] == []
        assert len(lastly._exit.root.root) - pending == (name == "within")


@pytest.mark.parametrize("text", ["60", "1.5", "soon", "-1"])
def test_an_app_reads_its_grace_from_text(text, tmp_path):
    """All is text in a configuration file: it is converted there, or refused with the section's name."""
    (tmp_path / "x.conf").write_text(f"[x]\ngrace = {text}\n")
    app = lastly.App("x", config_files=[str(tmp_path / "x.conf")], meta_override=["grace"], argv=[])
    if text in ("soon", "-1"):
        with pytest.raises(FrameworkError, match=f"grace = '{text}' in the section 'x'"):
            app.setup()
    else:
        with app:
            assert app.scope.grace == float(text)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Scope(60), "Scope: the name must be a string, not 60"),
        (lambda: Scope().parallel(60), "Scope: the name must be a string, not 60"),
        (lambda: lastly.AsyncScope(b"x"), "the name must be a string"),
        (lambda: lastly.defer(int).named(5), "named: the name must be a string, not 5"),
        (lambda: action(retries="x")(int), "retries must be a whole number, not 'x'"),
        (lambda: action(retries=1.5)(int), "retries must be a whole number, not 1.5"),
        (lambda: lastly.defer(actions.kill, None), "takes a pid or something with a pid, not None"),
        (lambda: lastly.defer(actions.run, ["ls", 5]), "takes a list of strings, not ['ls', 5]"),
        (lambda: lastly.install(None), "signals must be names like 'TERM', or numbers, not None"),
        (lambda: lastly.install(b"TERM"), "signals must be names like 'TERM', or numbers, not b'TERM'"),
        (lambda: lastly.temp_dir(prefix=b"x"), "prefix and suffix must be strings, not b'x' and ''"),
        (lambda: lastly.temp_file(suffix=pathlib.Path("x")), "prefix and suffix must be strings"),
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


@pytest.mark.parametrize("name", ["defer", "defer_early"])
def test_a_function_that_was_called_already_is_refused_with_the_way_to_write_it(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^None is not callable: write {name}\(function, argument\), without calling"):
        getattr(lastly, name)(print())
