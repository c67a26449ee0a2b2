"""The command line, but for ``lastly run``: see what is owed, and settle it.

Statuses: 0 when it is done, 1 when something is still owed, was not found or could not be done, 2 when the
command line is wrong.
"""

import os
import re
import sys
import time
from datetime import datetime
from typing import Any

import click

from lastly import _show as show
from lastly.errors import LastlyError

__all__ = ["main"]

_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class _Commands(click.Group):
    """Errors of ours are one line, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (LastlyError, OSError) as error:
            raise click.ClickException(show.printable(str(error))) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lastly", prog_name="lastly")
def commands() -> None:
    """Cleanup that runs, however your Python program ends."""


_json = click.option("--json", "as_json", is_flag=True, help="Print data for programs instead of a table.")


@commands.command("run", add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def _run(words: tuple[str, ...]) -> None:
    """Run any program, unchanged, and clean up after it."""
    from lastly._run.launch import main as run

    sys.exit(run(list(words)))


@commands.command("ls")
@click.option("--all", "everything", is_flag=True, help="Also what is done or released.")
@_json
def _ls(*, everything: bool, as_json: bool) -> None:
    """Show what is owed, by whom, since when."""
    from lastly.reaper import api

    owners, lost = api.owners(all=everything), api.abandoned()
    if as_json:
        show.as_json({"owners": owners, "abandoned": lost})
        return
    rows = [
        [
            c["ref"],
            show.cleanup_name(c),
            c["state"],
            show.age(c["planned"]),
            show.program_name(o),
            show.life(o),
        ]
        for o in owners
        for c in o["cleanups"]
    ]
    rows += [[c["ref"], show.cleanup_name(c), c["state"], show.age(c["planned"]), "", "dead"] for c in lost]
    if rows:
        show.table(["ID", "CLEANUP", "STATE", "SINCE", "OWNER", ""], rows)
    else:
        click.echo("Nothing is owed.", err=True)
    for owner in owners:
        for damage in owner["damage"]:
            click.echo(show.printable(f"{owner['journal']}: {damage}"), err=True)
        if owner["newer"]:
            click.echo(f"{owner['journal']}: written by a newer lastly; this one leaves it alone", err=True)
    if lost:
        click.echo(
            "Abandoned: `lastly why ID` tells the reason; then `lastly retry ID` or `lastly forget ID`.",
            err=True,
        )


@commands.command("why")
@click.argument("ref", metavar="ID")
@_json
def _why(ref: str, *, as_json: bool) -> None:
    """Tell all about one cleanup.

    Its owner, how that died, each attempt, what blocks.
    """
    from lastly.reaper import api

    about = api.why(ref)
    if as_json:
        show.as_json(about)
        return
    owner = about["owner"]
    lines = {
        "cleanup": show.cleanup_name(about),
        "state": about["state"] + (f": {about['reason']}" if about["reason"] else ""),
        "error": about["error"] or "",
        "owner": f"{show.program_name(owner)} on {owner['host']}, {show.life(owner)}"
        + (f", {owner['died']}" if owner["died"] else ""),
        "scope": about["scope"] or "",
        "planned": show.clock(about["planned"]),
        "attempts": f"{about['attempts']} of {about['retries'] + 1}" if about["retries"] is not None else "",
        "next": show.clock(about["next"]),
        "settled": str(about["settled"] or ""),
    }
    for name, text in lines.items():
        if text:
            click.echo(f"{name:9} {show.printable(text)}")
    for event in about["events"]:
        rest = {k: v for k, v in event.items() if k in ("by", "attempt", "error", "reason", "known") and v}
        words = " ".join(f"{k}={v}" for k, v in rest.items())
        click.echo(show.printable(f"  {show.clock(event.get('t'))}  {event.get('kind')} {words}".rstrip()))


@commands.command("reap")
@click.argument("ref", metavar="[ID]", required=False)
@click.option("--dry-run", is_flag=True, help="Run nothing; say what would be run.")
@_json
def _reap(ref: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Run what dead owners owe, now and here.

    All of it; or one cleanup, by its ID; or all of one owner, by the part before the dot.
    """
    from lastly.reaper import api
    from lastly.reaper.sweep import reference, sweep

    known = {c["ref"]: c for o in api.owners() for c in o["cleanups"]}
    outcomes = _swept(sweep, len(known), dry_run=dry_run, only=ref)
    if as_json:
        show.as_json([outcome.to_mapping() for outcome in outcomes])
    rows, owed = [], False
    for outcome in outcomes:
        owed = owed or outcome.state in ("wait", "busy", "kept")
        for item in outcome.ran:
            name = f"{reference(outcome.path)}.{item['id']}"
            cleanup = known.get(name, {"action": item["action"]})
            error = show.printable(str(item["error"] or ""))
            rows.append([name, show.cleanup_name(cleanup), "due" if dry_run else item["state"], error])
            owed = owed or item["state"] in ("failed", "abandoned")
        if outcome.why and not as_json:
            click.echo(show.printable(f"{reference(outcome.path)}: {outcome.why}"), err=True)
    if not as_json and rows:
        show.table(["ID", "CLEANUP", "STATE", ""], rows)
    elif not as_json and not outcomes:
        click.echo("Nothing is owed by the dead.", err=True)
    if ref is not None and not outcomes:
        raise click.ClickException(f"no dead owner owes {show.printable(ref)}: see `lastly ls`")
    sys.exit(1 if owed and not dry_run else 0)


def _swept(sweep: Any, expected: int, **options: Any) -> list[Any]:
    """Sweep, with a line that counts on a terminal."""
    terminal = show.console(stderr=True)
    if not terminal.is_terminal or options["dry_run"]:
        return list(sweep(by="lastly reap", **options))
    with terminal.status(f"reaping, {expected} cleanups") as status:
        count = 0

        def progress(outcome: Any) -> None:
            nonlocal count
            count += len(outcome.ran)
            status.update(f"reaping, {count} of {expected} cleanups")

        return list(sweep(by="lastly reap", progress=progress, **options))


@commands.command("retry")
@click.argument("ref", metavar="ID")
@_json
def _retry(ref: str, *, as_json: bool) -> None:
    """Run one cleanup now, also an abandoned one.

    Its owner must be dead.
    """
    from lastly.reaper import api

    about = api.retry(ref, by="lastly retry")
    if as_json:
        show.as_json(about)
    else:
        blocked = about["error"] or about["reason"] or ""
        click.echo(show.printable(f"{about['ref']} {about['state']} {blocked}".rstrip()))
    sys.exit(0 if about["state"] == "done" else 1)


@commands.command("forget")
@click.argument("ref", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
def _forget(ref: str, *, yes: bool) -> None:
    """Owe a cleanup no more, without running it."""
    from lastly.reaper import api

    about = api.why(ref)
    if not yes:
        click.confirm(f"Forget {show.cleanup_name(about)}? What it would undo stays.", abort=True, err=True)
    api.forget(ref, by="lastly forget")


@commands.command("history")
@click.option("--since", default="7d", show_default=True, help="How far back: 90s, 5min, 2h, 3d, or a date.")
@click.option("--limit", default=1000, show_default=True, help="How many at most.")
@_json
def _history(since: str, limit: int, *, as_json: bool) -> None:
    """Show what became of what the dead owed, newest first."""
    from lastly.reaper import api

    found = api.past(since=_moment(since), limit=limit)
    if as_json:
        show.as_json(found)
        return
    rows = [
        [
            show.clock(c["changed"]),
            c["ref"],
            show.cleanup_name(c),
            c["state"],
            show.printable(c["error"] or c["reason"] or ""),
        ]
        for c in found
    ]
    if rows:
        show.table(["WHEN", "ID", "CLEANUP", "STATE", ""], rows)
    else:
        click.echo(f"Nothing was settled since {show.clock(_moment(since))}.", err=True)


def _moment(text: str) -> float:
    if found := re.fullmatch(r"(\d+)\s*(s|min|m|h|d|w)", text):
        return time.time() - int(found[1]) * _UNITS[found[2]]
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError:
        raise click.BadParameter(f"{text!r}: write 90s, 5min, 2h, 3d or a date like 2025-01-31") from None


@commands.command("reaper")
@click.option(
    "--idle", default=float("inf"), help="Seconds without an owner after which it ends. Default: never."
)
def _reaper(idle: float) -> None:
    """Be the reaper, in the foreground.

    It logs to standard error: for a service manager.
    """
    from lastly.journal import home
    from lastly.reaper.__main__ import serve

    if not serve(home.state_dir(), home.runtime_dir(), idle, foreground=True):
        raise click.ClickException("a reaper is running already")


@commands.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
def _completion(shell: str | None) -> None:
    """Print a shell's completion.

    For bash: eval "$(lastly completion bash)"
    """
    from click.shell_completion import get_completion_class

    shell = shell or os.path.basename(os.environ.get("SHELL", "bash"))
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"no completion for {shell}; there is one for bash, zsh and fish")
    click.echo(kind(commands, {}, "lastly", "_LASTLY_COMPLETE").source())


def main() -> int:
    """Run a command; ends by SystemExit with its status."""
    commands(prog_name="lastly")
    return 0
