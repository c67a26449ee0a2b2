"""The command line: what is owed, why, and how to settle it. Needs the extra `cli` (click and rich).

`lastly run` is not here: `lastly.__main__` takes it before any of this is imported.

Exit status of every command: 0 done; 1 not done, or something is wrong (said on standard error); 2 the
command line was not understood. `--json` writes one object with ``"version": 1``; keys are only ever added.
"""

import io
import json
import math
import os
import re
import signal
import sys
import time
from datetime import datetime

import click

from lastly import __version__
from lastly.cli import show
from lastly.errors import LastlyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lastly.reaper.settle import Outcome

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

PATH = click.Path(readable=False)  # any text; completed as the name of a file


class _Seconds(click.FloatRange):
    """A number of seconds; "nan", which is in every range, is none."""

    def convert(self, value: "Any", param: "click.Parameter | None", ctx: "click.Context | None") -> "Any":
        seconds = super().convert(value, param, ctx)
        if not seconds >= 0:
            self.fail("nan is no number of seconds.", param, ctx)
        return seconds


SECONDS = _Seconds(0)
as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON instead of a table.")


def emit(**values: "Any") -> None:
    """Write one JSON object; bytes that are no text come as lone surrogates, as in the journal."""
    made = {"version": 1, **values}
    try:
        text = json.dumps(made, indent=2, allow_nan=False)
    except ValueError:  # 1e999 in a record
        text = json.dumps(_finite(made), indent=2)
    sys.stdout.write(text + "\n")


def _finite(value: "Any") -> "Any":
    """JSON has no infinity: as text."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def by(command: str) -> str:
    """Who is doing this, for the history."""
    return f"lastly {command}, pid {os.getpid()}"


def _moment(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    """Return 90m, 2h, 3d before now, or an ISO date, as unix time."""
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", value)
    if ago:
        return time.time() - float(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.fromisoformat(value).timestamp()
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a time like 2h, 3d or 2026-05-01T12:00") from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lastly")
def cli() -> None:
    """Cleanup that runs, however your Python program ends."""


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=PATH)
def run(words: tuple[str, ...]) -> None:
    """Run any program, unchanged; see `lastly run --help`."""
    from lastly._run.launch import main as launch

    sys.exit(launch(list(words)))


@cli.command()
@as_json
@click.option("--all", "everything", is_flag=True, help="Also what is done or released and not yet filed.")
def ls(as_json: bool, everything: bool) -> None:
    """Show what is owed, by whom, since when; and what was abandoned."""
    from lastly.reaper import api

    owners, abandoned = api.owners(all=everything), api.abandoned()
    if as_json:
        emit(owners=owners, abandoned=abandoned)
    else:
        show.owners(owners, abandoned)


@cli.command()
@click.argument("ref", metavar="[ID]", required=False)
@click.option("--dry-run", is_flag=True, help="Run nothing; show what would be run.")
@click.option(
    "--elsewhere", is_flag=True, help="Also for other machines and containers. You know that they are gone."
)
@as_json
def reap(ref: str | None, dry_run: bool, elsewhere: bool, as_json: bool) -> None:
    """Run what dead owners owe, now. ID: one cleanup (3f2a9c1b.2) or one owner (3f2a9c1b).

    Exit status 1: something failed, or is still owed.
    """
    from lastly.reaper.sweep import sweep

    with show.progress("reaping", quiet=as_json or dry_run) as tick:
        outcomes = sweep(dry_run=dry_run, only=ref, by=by("reap"), elsewhere=elsewhere, progress=tick)
    if ref is not None and not outcomes:
        raise click.ClickException(f"no dead owner owes {ref!r}: see `lastly ls`")
    if as_json:
        emit(dry_run=dry_run, outcomes=[outcome.to_mapping() for outcome in outcomes])
    else:
        show.outcomes(outcomes, dry_run=dry_run)
    if not dry_run and not all(_settled(outcome, one="." in (ref or "")) for outcome in outcomes):
        sys.exit(1)


def _settled(outcome: "Outcome", *, one: bool) -> bool:
    """Whether all that was asked for is done; of one cleanup's owner something else may still be owed."""
    last = {item["id"]: item["state"] for item in outcome.ran}  # a reaper that died is an attempt of its own
    if not {"failed", "abandoned"}.isdisjoint(last.values()):
        return False
    return outcome.state in ("final", "gone") or (one and outcome.state == "wait")


@cli.command()
@click.argument("ref", metavar="ID")
@as_json
def why(ref: str, as_json: bool) -> None:
    """Tell everything about one cleanup: owner, how it died, each attempt, what blocks it."""
    from lastly.reaper import api

    about = api.why(ref)
    if as_json:
        emit(cleanup=about)
    else:
        show.cleanup(about)


@cli.command()
@click.argument("ref", metavar="ID")
@as_json
def retry(ref: str, as_json: bool) -> None:
    """Run one cleanup of a dead owner again, abandoned or waiting. Exit status 1: it failed again."""
    from lastly.reaper import api

    about = api.retry(ref, by=by("retry"))
    if as_json:
        emit(cleanup=about)
    else:
        show.line(f"{about['ref']}: {show.state(about)}")
    if about["state"] != "done":
        sys.exit(1)


@cli.command()
@click.argument("ref", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def forget(ref: str, yes: bool, as_json: bool) -> None:
    """Owe one cleanup no more, without running it. What it would have removed stays."""
    from lastly.reaper import api

    if not yes:
        about = api.why(ref)
        click.confirm(f"{show.call(about)} is then never run. Forget {about['ref']}?", abort=True, err=True)
    api.forget(ref, by=by("forget"))
    if as_json:
        emit(forgotten=ref)
    else:
        show.line(f"{ref}: forgotten")


@cli.command()
@click.option("--since", callback=_moment, default="1d", show_default=True, help="90m, 2h, 3d, or a date.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True)
@as_json
def history(since: float, limit: int, as_json: bool) -> None:
    """Show what became of the cleanups of dead owners, newest first."""
    from lastly.reaper import api

    found = api.past(since=since, limit=limit)
    if as_json:
        emit(since=since, cleanups=found)
    else:
        show.history(found)


@cli.command()
@click.option("--idle", type=SECONDS, help="Exit after this many seconds without an owner.")
def reaper(idle: float | None) -> None:
    """Be the reaper, in the foreground, until Ctrl-C; its log goes to standard error as well."""
    from lastly.journal import home
    from lastly.reaper import api
    from lastly.reaper.__main__ import serve

    state, runtime = home.state_dir(), home.runtime_dir()
    if serve(state, runtime, math.inf if idle is None else idle, foreground=True):
        return
    running = api.status()
    pid = f" (pid {running['pid']})" if running else ""
    raise click.ClickException(f"a reaper runs already{pid}")


@cli.command()
@click.argument("files", metavar="[FILE]...", nargs=-1, type=PATH)
@click.option("--grace", type=SECONDS, metavar="SECONDS", help="How long all cleanups may take.")
@as_json
def doctor(files: tuple[str, ...], grace: float | None, as_json: bool) -> None:
    """Say what is protected here, what is not, and how to change that. Exit status 1: something is wrong.

    FILE: look at units of systemd and manifests of Kubernetes instead; a unit that systemd knows by its name;
    "-" for a manifest on standard input.
    """
    from lastly._system.cgroup import own_group
    from lastly.cli import budgets
    from lastly.cli.doctor import examine

    findings = budgets.examine(list(files), grace) if files else examine(own_group(), grace)
    if as_json:
        emit(findings=[finding.to_mapping() for finding in findings])
    else:
        show.findings(findings)
    if any(finding.level == "wrong" for finding in findings):
        sys.exit(1)


@cli.command(context_settings={"allow_interspersed_args": False})
@click.argument("program", metavar="PROGRAM", type=PATH)
@click.argument("args", metavar="[ARGS]...", nargs=-1, type=PATH)
@click.option("-m", "module", is_flag=True, help="PROGRAM is a module.")
@click.option("--run", is_flag=True, help="Start it by `lastly run`.")
@click.option(
    "--points", type=click.Choice(["lines", "events", "cleanups"]), default="lines", show_default=True
)
@click.option("--how", default="KILL", show_default=True, help="The name of a signal, exit, or raise.")
@click.option("--at-most", type=click.IntRange(1), default=200, show_default=True, help="How many points.")
@click.option("--seconds", type=float, default=120.0, show_default=True, help="For everything.")
@click.option("--timeout", type=float, default=30.0, show_default=True, help="Seconds for one run.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses points when there are more.")
@click.option("--jobs", type=click.IntRange(1), help="Runs at once.  [default: the processors]")
@click.option("--only", type=int, multiple=True, help="Just this point; may be repeated.")
@click.option(
    "--include", type=PATH, multiple=True, help="Folder or file whose lines count; may be repeated."
)
@click.option("--inputs", type=PATH, help="A folder that is copied to be the working directory.")
@click.option("--watch", type=PATH, multiple=True, help="A further path to look at; may be repeated.")
@click.option("--allow", multiple=True, help="A pattern of file names that may be left; may be repeated.")
@as_json
def crash(program: str, args: tuple[str, ...], module: bool, as_json: bool, **options: "Any") -> None:
    """End PROGRAM at each of its points, and show what each death leaves behind.

    Exit status 1: something was left, or no point was tried.
    """
    from lastly.testing import crash_everywhere

    report = crash_everywhere(["-m", program] if module else program, *args, **options)
    if as_json:
        sys.stdout.write(report.to_json() + "\n")
    else:
        sys.stdout.write(f"{report}\n")
    if not report:
        sys.exit(1)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print completion code for a shell: eval "$(lastly completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "lastly", "_LASTLY_COMPLETE").source())


def main(call: "Callable[..., Any]" = cli) -> int:
    """Run the command line; return its exit status. An error of ours is one line, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name need not be of the locale's alphabet
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take the status of each action away
    try:
        call(prog_name="lastly")
    except BrokenPipeError:  # `lastly ls | head`: what is left in the buffer would fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        if not isinstance(error, (LastlyError, OSError)) and type(error).__module__ != "sqlite3":
            raise
        click.echo(f"lastly: {show.plain(error)}", err=True)
        return 1
    return 0
