"""The commands of a shared journal."""

import argparse
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor, wait

from lastly._cli import tables as show
from lastly._cli.options import Argument, Command, days, positive
from lastly._cli.output import Failed, emit
from lastly._words.counts import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from lastly._journal.shared_url import SharedUrl
    from lastly._reach.worker import Worker


def address(given: "str | None" = None) -> "SharedUrl":
    """Return the shared journal that is meant: the one given, else LASTLY_JOURNAL's."""
    from lastly._journal.shared_url import SharedUrl

    text = given or os.environ.get("LASTLY_JOURNAL")
    if not text:
        raise Failed("no shared journal: set LASTLY_JOURNAL=postgresql://USER@HOST/DATABASE")
    try:
        return SharedUrl(text)
    except ValueError as error:
        raise Failed(str(error)) from None


def journal(given: "Namespace") -> int:
    """Bring the shared journal's database up to date."""
    from lastly._reach.migrate import migrate

    url = address(given.url)
    steps = migrate(url, plan=given.plan)
    if given.json:
        emit(database=url.label, steps=[step.name for step in steps], done=not given.plan)
    elif given.plan:
        for step in steps:
            show.line(f"-- {step.name}")
            for line in step.sql.splitlines():
                show.line(line)
    else:
        for step in steps:
            show.line(f"{url.label}: {step.name}")
        if not steps:
            show.line(f"{url.label}: nothing to do")
    return 0


def _address(text: str) -> "tuple[str, int]":
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise argparse.ArgumentTypeError(f"must be [HOST]:PORT, like :9000, not {text!r}")
    return host, int(port)


def worker(given: "Namespace") -> int:
    """Undo what dead machines owe."""
    from lastly._reach import catalog
    from lastly._reach.hands import Unservable
    from lastly._reach.worker import Worker

    url = address(given.journal)
    names = catalog.modules(given.actions)
    if not names:
        raise Failed(
            "no actions to serve: --actions MODULE, or an installed package with entry points of the group "
            f"{catalog.GROUP!r}"
        )
    sys.path.insert(0, os.getcwd())
    version = os.environ.get("LASTLY_VERSION") if given.same_version else None
    if given.same_version and not version:
        raise Failed("--same-version: set LASTLY_VERSION, for the worker as for the programs")
    try:
        made = Worker(
            url, names, queue=given.queue or url.queue, slots=given.slots, engine=given.engine,
            once=given.once, keep=given.keep, version=version, log=_log,
        )  # fmt: skip
    except Unservable as error:
        raise Failed(str(error)) from None
    if given.dry_run:
        made.forkserver.close()
        return _dry_run(made, json=given.json)

    if given.metrics:
        from lastly._reach import metrics

        metrics.serve(made, *given.metrics)

    def stop(_signum: int, _frame: object) -> None:
        made.stopping.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    _log(f"{made.name} serves queue {made.queue!r} with {made.engine.name}: {', '.join(made.actions)}")
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(made.run)
        while not serving.done():  # in the main thread a signal's handler runs
            wait([serving], 0.2)
    serving.result()
    if given.once:
        show.line(
            ", ".join(f"{count} {state}" for state, count in sorted(made.counts.items())) or "nothing was due"
        )
    return int(given.once and bool(set(made.counts) - {"done"}))


def _dry_run(made: "Worker", *, json: bool) -> int:
    """Show what this worker would run, and what it would leave to others."""
    from lastly._reach import desk

    found = [{**item, "served": _is_served(made, item)} for item in desk.due(made.url, made.queue)]
    if json:
        emit(dry_run=True, cleanups=found)
        return 0
    table = show.Table("id", "cleanup", "state", "host", "this worker")
    for item in found:
        served = show.Cell.of("would run it", "ok") if item["served"] else "does not serve it"
        table.add(item["ref"], item["what"], show.Cell.of(_state(item), item["state"]), item["host"], served)
    table.print("no dead host owes anything in this queue")
    return 0


def _is_served(made: "Worker", item: "dict[str, Any]") -> bool:
    return item["action"] in made.actions and made.version in (None, item["about"].get("version"))


def hosts(given: "Namespace") -> int:
    """Show which hosts have a lease."""
    from lastly._reach import desk

    url = address(given.journal)
    if given.judge is not None:
        epoch, left = desk.judge(url, given.judge)
        if given.json:
            emit(judged=epoch, owners=left)
        else:
            show.line(f"epoch {epoch}: judged; the workers have {counted(left, 'owner')} to settle now")
        return 0
    if (name := given.drain or given.undrain) is not None:
        owed = desk.drain(url, name, drained=given.drain is not None)
        if given.json:
            emit(host=name, drained=given.drain is not None, owed=owed)
        elif given.drain is not None:
            show.line(f"{name}: takes no new plans; it still owes {counted(owed, 'cleanup')}")
        else:
            show.line(f"{name}: takes plans again")
        return 0
    found = desk.hosts(url)
    if given.json:
        emit(hosts=found)
        return 0
    table = show.Table("host", "epoch", "state", "last beat", "owners", "owed")
    for host in found:
        state = show.Cell.of(
            host["state"] + ", drained" * host["drained"], "ok" if host["state"] == "alive" else "wrong"
        )
        beat = f"{host['silent']:.0f} s ago"
        table.add(host["name"], host["epoch"], state, beat, host["owners"], host["owed"])
    table.print("no host has a lease")
    return 0


def everywhere(given: "Namespace") -> int:
    """Show what is owed on all machines."""
    from lastly._reach import desk

    found = desk.cleanups(address(), queue=given.queue, abandoned=given.abandoned)
    if given.json:
        emit(cleanups=found)
        return 0
    table = show.Table("id", "cleanup", "state", "since", "host", "queue")
    for item in found:
        table.add(
            item["ref"], item["what"], show.Cell.of(_state(item), item["state"]), show.age(item["planned"]),
            _host(item), item["queue"],
        )  # fmt: skip
    table.print("nothing is owed anywhere")
    return 0


def _host(item: "dict[str, Any]") -> str:
    return str(item["host"]) + ("" if item["host_state"] == "alive" else f" ({item['host_state']})")


def _state(item: "dict[str, Any]") -> str:
    return str(item["blocked"] or "") or show.state(item)


def is_shared(text: str) -> bool:
    """Whether it names a cleanup of the shared journal: s1234.2."""
    from lastly._reach import desk

    return desk.parts(text) is not None


def why(given: "Namespace") -> int:
    """Tell everything about a cleanup of the shared journal."""
    from lastly._reach import desk

    about = desk.why(address(), given.id)
    if given.json:
        emit(cleanup=about, cleanups=[about], more=0)
        return 0
    claim = f"{about['owner_claim']} of {about['claimed_by']}" if about["claimed"] else ""
    lines = {
        about["ref"]: about["what"], "state": show.state(about), "blocked by": about["blocked"],
        "host": f"{about['host']} ({about['host_state']}), epoch {about['epoch']}", "queue": about["queue"],
        "action": about["action"], "arguments": f"{about['args']} {about['kwargs'] or ''}".strip(),
        "known": about["known"], "attempts": f"{about['attempts']} of {about['retries'] + 1}", "claim": claim,
        "journal": about["journal"],
    }  # fmt: skip
    table = show.Table("", "")
    for name, value in lines.items():
        if value:
            table.add(name, value)
    for event in about["events"]:
        by = f" by {event['by']}" if event["by"] else ""
        table.add(f"{show.age(event['t'])} ago", f"{event['what']}{by} {event['detail'] or ''}".rstrip())
    table.print()
    return 0


def retry(given: "Namespace") -> int:
    """Have a cleanup of the shared journal run again."""
    from lastly._reach import desk

    desk.retry(address(), given.id)
    if given.json:
        emit(cleanup=desk.why(address(), given.id))
    else:
        show.line(f"{given.id}: a worker runs it now")
    return 0


def forget(given: "Namespace") -> int:
    """Stop owing a cleanup of the shared journal."""
    from lastly._reach import desk

    desk.forget(address(), given.id)
    if given.json:
        emit(forgotten=given.id)
    else:
        show.line(f"{given.id}: forgotten")
    return 0


def _log(text: str) -> None:
    sys.stderr.write(f"lastly: {show.plain(text)}\n")
    sys.stderr.flush()


COMMANDS = (
    Command(
        "journal",
        journal,
        "bring the database of a shared journal up to date; a second time it does nothing",
        Argument("what", choices=["migrate"], help="migrate: make or upgrade its schema and its roles"),
        Argument("url", metavar="URL", nargs="?", help="postgresql://… (default: $LASTLY_JOURNAL)"),
        Argument("--plan", action="store_true", help="do nothing; print the SQL"),
        Argument("--json", action="store_true", help="write JSON instead of a table"),
        section="Other machines",
        example="lastly journal migrate postgresql://admin@db/lastly",
    ),
    Command(
        "worker",
        worker,
        "undo what the programs of dead machines owe, until SIGTERM\n"
        "\nWith --once, exit status 1: something failed.",
        Argument(
            "--actions",
            action="append",
            default=[],
            metavar="MODULE",
            help="serve its remote actions; repeatable",
        ),
        Argument("--journal", metavar="URL", help="postgresql://… (default: $LASTLY_JOURNAL)"),
        Argument("--queue", metavar="QUEUE", help="whose hosts' things (default: the journal's)"),
        Argument("--slots", type=positive, metavar="N", default=8, help="cleanups at once (default: 8)"),
        Argument(
            "--engine",
            choices=["procrastinate", "sql"],
            default="procrastinate",
            help="default: procrastinate",
        ),
        Argument(
            "--keep",
            type=days,
            metavar="DAYS",
            default=30.0,
            help="days that settled owners are kept (default: 30)",
        ),
        Argument("--once", action="store_true", help="run what is due, then exit"),
        Argument(
            "--dry-run",
            action="store_true",
            help="run nothing; print what dead hosts owe and who would run it",
        ),
        Argument(
            "--same-version",
            action="store_true",
            help="serve only programs whose LASTLY_VERSION is this one's",
        ),
        Argument("--json", action="store_true", help="with --dry-run: write JSON instead of a table"),
        Argument(
            "--metrics", type=_address, metavar="[HOST]:PORT", help="serve /metrics for Prometheus there"
        ),
        section="Other machines",
        example="lastly worker --actions shop.cloud --queue shop",
    ),
    Command(
        "hosts",
        hosts,
        "show the machines that share a journal: which live, since when each is silent, what it owes",
        Argument("--journal", metavar="URL", help="postgresql://… (default: $LASTLY_JOURNAL)"),
        Argument(
            "--judge", metavar="HOST", help="declare this one (its name or epoch) dead: you know that it is"
        ),
        Argument(
            "--drain", metavar="NAME", help="let this one take no new plans; what it owes it settles itself"
        ),
        Argument("--undrain", metavar="NAME", help="let it take plans again"),
        Argument("--json", action="store_true", help="write JSON instead of a table"),
        section="Other machines",
        example="lastly hosts",
    ),
)
