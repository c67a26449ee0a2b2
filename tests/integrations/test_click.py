"""click and Typer: the context's scope, and the exit status with it and without it."""

from __future__ import annotations

import signal
import threading
from typing import Any

import click
import pytest
import typer
from click.testing import CliRunner
from harness import Programs, Result, gone, wait_until

import lastly
from lastly.integrations.click import pass_scope, scope

WORK = """
    import os, sys, time
    import lastly
    from lastly.integrations.click import pass_scope, scope

    def work(here, how):
        here.defer(print, "closed", flush=True)
        if how.startswith("broken "):
            here.defer(lambda: 1 / 0)
            how = how.removeprefix("broken ")
        if how == "error":
            raise LookupError("the body's own")
        if how == "wait":
            print("waits", flush=True)
            while True:
                time.sleep(0.02)
        if how == "sys.exit":
            sys.exit(5)
        if how == "EOF":
            raise EOFError
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "usage":
            raise framework.BadParameter("no good")
        if how == "abort":
            raise framework.Abort()
        if how.startswith("ctx"):
            framework_context().exit(int(how.removeprefix("ctx")))
        if how != "end":
            raise leave(int(how))
"""
CLICK = (
    WORK
    + """
    import click as framework
    leave, framework_context = framework.exceptions.Exit, framework.get_current_context

    @framework.command()
    @framework.argument("how")
    @framework.option("--install", is_flag=True)
    @pass_scope
    def main(here, how, install):
        if install:
            lastly.install()
        assert scope() is here
        work(here, how)

    main()
"""
)
TYPER = (
    WORK
    + """
    import typer as framework
    leave = framework.Exit
    app = framework.Typer(pretty_exceptions_enable=False)

    @app.command()
    def main(context: framework.Context, how: str, install: bool = False):
        global framework_context
        framework_context = lambda: context
        if install:
            lastly.install()
        assert scope(context) is scope()
        work(scope(context), how)

    app()
"""
)
frameworks = pytest.mark.parametrize("code", [CLICK, TYPER], ids=["click", "typer"])

# How the command ends: the status, and a word on stderr; None: nothing is there.
ENDS: dict[str, tuple[int, str | None]] = {
    "end": (0, None),
    "0": (0, None),
    "3": (3, None),
    "ctx0": (0, None),
    "ctx3": (3, None),
    "error": (1, "the body's own"),
    "sys.exit": (5, None),
    "usage": (2, "no good"),
    "abort": (1, "Aborted"),
    "interrupt": (1, "Aborted"),
    "EOF": (1, "Aborted"),
}


@frameworks
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.slow(keep=3)
def test_closed_however_the_command_ends(code: str, how: str, programs: Programs) -> None:
    result = programs.run(code, how)
    status, said = ENDS[how]
    if code is TYPER and how == "interrupt" and result.status == 130:
        status, said = 130, None  # what newer ones make of it
    assert (result.status, result.lines) == (status, ["closed"])
    assert said in result.err if said else result.err == ""


@frameworks
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.slow(keep=2)
def test_a_cleanup_that_fails_is_told_and_turns_0_into_1(code: str, how: str, programs: Programs) -> None:
    broken = programs.run(code, f"broken {how}")
    status, said = ENDS[how]
    if code is TYPER and how == "interrupt" and broken.status == 130:
        status, said = 130, None  # what newer ones make of it
    assert (broken.status, broken.lines) == (status or 1, ["closed"])
    assert "ZeroDivisionError: division by zero" in broken.err
    assert said is None or said in broken.err
    assert "During handling" not in broken.err
    assert "exceptions.Exit" not in broken.err


@frameworks
@pytest.mark.parametrize("name", ["TERM", "HUP", "QUIT"])
@pytest.mark.slow(keep=3)
def test_signals(code: str, name: str, programs: Programs) -> None:
    program = programs.start(code, "wait", "--install")
    program.line("waits")
    program.send(signum := signal.Signals[f"SIG{name}"])
    result = program.wait()
    assert (result.status, result.lines) == (-signum, ["waits", "closed"])
    assert result.err == ""


@frameworks
@pytest.mark.slow(keep=1)
def test_interrupted_as_without_lastly(code: str, programs: Programs) -> None:
    """...but for the status: after install() the parent sees the truth."""

    def interrupt(*args: str) -> Result:
        program = programs.start(code, "wait", *args)
        program.line("waits")
        program.send(signal.SIGINT)
        return program.wait()

    plain, installed = interrupt(), interrupt("--install")
    assert (plain.status, plain.lines) in ((1, ["waits", "closed"]), (130, ["waits", "closed"]))
    assert (installed.status, installed.lines) == (-signal.SIGINT, ["waits", "closed"])
    assert installed.err == plain.err


def test_killed(programs: Programs) -> None:
    """What was deferred as an action goes after a SIGKILL, too."""
    code = """
        import time
        import click, lastly
        from lastly.integrations.click import pass_scope

        @click.command()
        @pass_scope
        def main(here):
            with open("work", "w"):
                here.defer(lastly.actions.remove, "work")
            print("waits", flush=True)
            time.sleep(60)

        main()
    """
    program = programs.start(code)
    program.line("waits")
    program.send(signal.SIGKILL)
    assert program.wait().status == -signal.SIGKILL
    wait_until(lambda: gone(program.cwd / "work"))


def test_a_group_closes_after_its_command() -> None:
    @click.group()
    @pass_scope
    def group(here: lastly.Scope) -> None:
        here.defer(click.echo, "group")

    @group.command()
    @click.pass_context
    def command(context: click.Context) -> None:
        context.call_on_close(lambda: click.echo("registered before"))
        here = scope(context, grace=5)
        assert here is scope() and here.grace == 5 and here.name == "group command"
        here.defer(click.echo, "command")
        context.call_on_close(lambda: click.echo("registered after"))

    runner = CliRunner()
    for _ in range(2):  # called many times in tests
        result = runner.invoke(group, ["command"])
        assert result.output.split("\n")[:-1] == ["registered after", "command", "registered before", "group"]
        assert result.exit_code == 0


def test_in_python_the_error_reaches_the_caller() -> None:
    @click.command()
    @pass_scope
    def command(here: lastly.Scope) -> str:
        here.defer(lambda: 1 / 0)
        return "result"

    with pytest.raises(lastly.CleanupFailed):
        command.main([], standalone_mode=False)
    try:
        raise LookupError("being handled outside")
    except LookupError as outside:
        with pytest.raises(lastly.CleanupFailed):
            command.main([], standalone_mode=False)
        with pytest.raises(lastly.CleanupFailed), click.Context(command) as context:
            context.invoke(command)
        assert click.get_current_context(silent=True) is None
        assert not hasattr(outside, "__notes__")


def test_the_reason_of_the_end() -> None:
    @click.command()
    @click.argument("how")
    @pass_scope
    def command(here: lastly.Scope, how: str) -> None:
        here.defer(lambda: click.echo(lastly.exit_reason()))
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "usage":
            raise click.UsageError("no good")
        click.get_current_context().exit(int(how))

    said = [CliRunner().invoke(command, [how]).output.split("\n")[0] for how in ("0", "3", "interrupt")]
    assert [line.strip() for line in said] == ["exit code 0", "exit code 3", "signal SIGINT"]
    assert "exception UsageError: no good" in CliRunner().invoke(command, ["usage"]).output


def test_where_no_command_runs() -> None:
    with pytest.raises(RuntimeError, match=r"no command .* 'lastly\[click\]'"):
        scope()
    with pytest.raises(TypeError, match="a context of click or Typer, not 42"):
        scope(42)


def test_in_a_thread_the_context_is_given() -> None:
    said: list[Any] = []

    @click.command()
    @click.pass_context
    def command(context: click.Context) -> None:
        def work() -> None:
            with pytest.raises(RuntimeError, match="give scope"):
                scope()
            scope(context).defer(said.append, "closed")

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert said == []

    assert CliRunner().invoke(command, []).exit_code == 0
    assert said == ["closed"]


def test_a_context_that_has_closed() -> None:
    with click.Context(click.Command("c"), info_name="c") as context:
        here = scope(context)
    with pytest.raises(lastly.ScopeClosed, match="scope 'c' is closed"):
        scope(context).defer(print)
    assert here.closed


def test_typer_and_click_in_one_program() -> None:
    app = typer.Typer()

    @app.command()
    def inner() -> None:
        assert scope().name is not None
        scope().defer(print)

    app([], standalone_mode=False)


def test_imports_no_framework(programs: Programs) -> None:
    code = "import sys, lastly.integrations.click; print(sorted({'click', 'typer'} & set(sys.modules)))"
    assert programs.run(code).out == "[]\n"
