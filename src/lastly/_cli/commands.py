"""The commands: what each does with what it was given. `lastly run` is a program of its own: see _run."""

import io
import math
import os
import signal
import sys
import warnings
from argparse import Namespace

from lastly import __version__
from lastly._cli import complete, reach
from lastly._cli import tables as show
from lastly._cli.options import (
    FILE,
    ID,
    Argument,
    Command,
    UsageError,
    ending,
    moment,
    number,
    overview,
    positive,
    seconds,
)
from lastly._cli.output import Failed, by, emit
from lastly._system import probe
from lastly._words.nearest import nearest
from lastly.errors import LastlyError, UnsupportedPlatform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly._settle.settle import Outcome


MOST = 20  # cleanups that `lastly why` tells all about
_AT_HOME = ("What is owed", "Settling")  # sections whose commands read the journals
ROWS = 50  # of `lastly ls`: a screenful


def run(_given: Namespace) -> int:
    """Show what it takes. The running begins in `lastly.__main__`, where there is any."""
    if why := probe.no_reaper():
        raise UnsupportedPlatform(f"`lastly run` does not work here: {why}")
    from lastly._run.options import USAGE

    sys.stdout.write(USAGE)
    return 0


def ls(given: Namespace) -> int:
    """Show what is owed."""
    if given.all_hosts:
        return reach.everywhere(given)
    from lastly._reaper import desk

    if given.json:
        emit(owners=desk.owners(all=given.all), abandoned=desk.abandoned())
    elif given.all:
        show.all_owners(desk.each(all=True), desk.abandoned())
    else:
        given_up, abandoned = desk.count_abandoned(), desk.abandoned(most=ROWS)
        # What a person has to decide about is not hidden behind what comes to an end by itself.
        owners, after = desk.first(ROWS - min(len(abandoned), ROWS // 2))
        del abandoned[ROWS - sum(max(1, len(owner["cleanups"])) for owner in owners) :]
        given_up -= len(abandoned)
        show.owners(owners, abandoned)
        show.more(after + given_up, given_up)
    return 0


def reap(given: Namespace) -> int:
    """Run what dead owners owe."""
    from lastly._settle.sweep import sweep

    with show.progress("reaping", quiet=given.json or given.dry_run) as tick:
        outcomes = sweep(
            dry_run=given.dry_run, only=given.id, by=by("reap"), elsewhere=given.elsewhere, wait=given.wait,
            progress=tick,
        )  # fmt: skip
    if given.id is not None and not outcomes:
        raise Failed(f"no dead owner owes {given.id!r}: see `lastly ls`")
    if given.json:
        emit(dry_run=given.dry_run, outcomes=[outcome.to_mapping() for outcome in outcomes])
    else:
        show.outcomes(outcomes, dry_run=given.dry_run)
    one = "." in (given.id or "")
    return int(not given.dry_run and not all(_settled(outcome, one=one) for outcome in outcomes))


def _settled(outcome: "Outcome", *, one: bool) -> bool:
    """Whether all that was asked for is done; of one cleanup's owner something else may still be owed."""
    last = {item["id"]: item["state"] for item in outcome.ran}  # a reaper that died is an attempt of its own
    if not {"failed", "abandoned"}.isdisjoint(last.values()):
        return False
    return outcome.state in ("final", "gone") or (one and outcome.state == "wait")


def why(given: Namespace) -> int:
    """Tell everything about one cleanup, or several."""
    if reach.is_shared(given.id):
        return reach.why(given)
    from lastly._reaper import desk
    from lastly._reaper.called import called

    meant = called(given.id) or [given.id]
    found = [desk.why(one) for one in meant[:MOST]]
    if given.json:
        emit(cleanup=found[0], cleanups=found, more=len(meant) - len(found))
        return 0
    for place, about in enumerate(found):
        if place:
            show.line("")
        show.cleanup(about)
    if len(meant) > MOST:
        show.line("")
        show.line(f"and {len(meant) - MOST} more: {meant[MOST]} … {meant[-1]}")
    return 0


def retry(given: Namespace) -> int:
    """Run one cleanup again."""
    if reach.is_shared(given.id):
        return reach.retry(given)
    from lastly._reaper import desk

    about = desk.retry(given.id, by=by("retry"))
    if given.json:
        emit(cleanup=about)
    else:
        show.line(f"{about['ref']}: {show.state(about)}")
    return int(about["state"] != "done")


def forget(given: Namespace) -> int:
    """Stop owing one cleanup."""
    from lastly._reaper import desk

    shared = reach.is_shared(given.id)
    if not given.yes:
        what = given.id if shared else desk.why(given.id)["what"]
        _confirm(f"{what}: this is then never run. Forget {given.id}?")
    if shared:
        return reach.forget(given)
    desk.forget(given.id, by=by("forget"))
    if given.json:
        emit(forgotten=given.id)
    else:
        show.line(f"{given.id}: forgotten")
    return 0


def _confirm(question: str) -> None:
    while True:
        sys.stderr.write(f"{question} [y/N]: ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
        if not answer.endswith("\n"):
            sys.stderr.write("\n")
        if answer.strip().lower() in ("y", "yes"):
            return
        if answer.strip().lower() in ("", "n", "no"):
            raise Failed("nothing was changed")


def history(given: Namespace) -> int:
    """Show what became of the cleanups of dead owners."""
    from lastly._reaper import desk

    found = desk.past(since=given.since, limit=given.limit)
    if given.json:
        emit(since=given.since, cleanups=found)
    else:
        show.history(found, given.since)
    return 0


def reaper(given: Namespace) -> int:
    """Be the reaper."""
    from lastly._journal import home
    from lastly._reaper import desk
    from lastly._reaper.__main__ import serve

    state, runtime = home.state_dir(), home.runtime_dir()
    if serve(state, runtime, math.inf if given.idle is None else given.idle, foreground=True):
        return 0
    running = desk.status()
    pid = f" (pid {running['pid']})" if running else ""
    raise Failed(f"a reaper runs already{pid}")


def doctor(given: Namespace) -> int:
    """Say what is protected here."""
    from lastly._cli import budgets
    from lastly._cli.doctor import examine
    from lastly._system.cgroup import own_group

    grace = given.grace
    findings = budgets.examine(given.file, grace) if given.file else examine(own_group(), grace)
    if given.json:
        emit(findings=[finding.to_mapping() for finding in findings])
    else:
        show.findings(findings)
    return int(any(finding.level == "wrong" for finding in findings))


def crash(given: Namespace) -> int:
    """End a program at each of its points."""
    from lastly.testing import crash_everywhere

    options = dict(vars(given))
    program, args, module, as_json = (options.pop(name) for name in ("program", "args", "module", "json"))
    report = crash_everywhere(["-m", program] if module else program, *args, **options)
    sys.stdout.write(f"{report.json() if as_json else report.text(command=True)}\n")
    return int(not report)


def completion(given: Namespace) -> int:
    """Print completion code."""
    sys.stdout.write(complete.CODE[given.shell])
    return 0


_JSON = Argument("--json", action="store_true", help="write JSON instead of a table")
_ID = Argument("id", kind=ID, metavar="ID", help="a cleanup, as `lastly ls` shows it: 3f2a9c1b.2")

COMMANDS = (
    Command(
        "run",
        run,
        "run any program, unchanged, with its cleanup guarded",
        section="Programs",
        example="lastly run -- python deploy.py",
    ),
    Command(
        "crash",
        crash,
        "end a program at each of its lines, and show what each death leaves behind\n"
        "\nExit status 1: something was left, or no point was tried.",
        Argument("-m", dest="module", action="store_true", help="PROGRAM is a module"),
        Argument("--run", action="store_true", help="start it by `lastly run`"),
        Argument(
            "--points", choices=["lines", "events", "cleanups"], default="lines", help="default: lines"
        ),
        Argument(
            "--how", type=ending, default="KILL", help="a signal, exit or raise (default: KILL)"
        ),
        Argument("--at-most", type=positive, metavar="N", default=200, help="points (default: 200)"),
        Argument("--seconds", type=seconds, metavar="S", default=120.0, help="for all (default: 120)"),
        Argument("--timeout", type=seconds, metavar="S", default=30.0, help="for one run (default: 30)"),
        Argument("--seed", type=number, metavar="N", default=0, help="chooses points when there are more"),
        Argument("--jobs", type=positive, metavar="N", help="runs at once (default: the processors)"),
        Argument(
            "--only", type=number, metavar="N", action="append", default=[], help="this point; repeatable"
        ),
        Argument(
            "--include", kind=FILE, metavar="PATH", action="append", default=[],
            help="folder or file whose lines count; repeatable",
        ),
        Argument("--inputs", kind=FILE, metavar="PATH", help="folder to copy as the working directory"),
        Argument(
            "--watch", kind=FILE, metavar="PATH", action="append", default=[],
            help="a further path to look at; repeatable",
        ),
        Argument(
            "--allow", metavar="PATTERN", action="append", default=[],
            help="file names that may be left; repeatable",
        ),
        _JSON,
        Argument("program", kind=FILE, metavar="PROGRAM", help="a script, or a module after -m"),
        Argument("args", nargs="...", metavar="ARG", help="given to the program"),
        section="Programs",
        example="lastly crash --at-most 50 build.py",
    ),
    Command(
        "ls",
        ls,
        "show what is owed, by whom and since when, and what was abandoned",
        Argument(
            "--all", action="store_true", help="all of it; also what is done or released and not yet filed"
        ),
        Argument("--all-hosts", action="store_true", help="of all that share LASTLY_JOURNAL's journal"),
        Argument("--queue", metavar="QUEUE", help="with --all-hosts: of this queue only"),
        Argument("--abandoned", action="store_true", help="with --all-hosts: only what was given up"),
        _JSON,
        section="What is owed",
        example="lastly ls",
    ),
    Command(
        "why",
        why,
        "tell everything about one cleanup: owner, how it died, each attempt, what blocks it",
        Argument(
            "id", kind=ID, metavar="ID",
            help="whatever `lastly ls` shows of it: 3f2a9c1b.2, 3f2a9c1b, a pid, a program, a scope, a path",
        ),
        _JSON,
        section="What is owed",
        example="lastly why 3f2a9c1b.2",
    ),
    Command(
        "history",
        history,
        "show what became of the cleanups of dead owners, newest first",
        Argument("--since", type=moment, metavar="T", default="1d", help="90m, 2h, 3d, a date (default: 1d)"),
        Argument("--limit", type=positive, metavar="N", default=1000, help="rows (default: %(default)s)"),
        _JSON,
        section="What is owed",
        example="lastly history --since 3d",
    ),
    Command(
        "reap",
        reap,
        "run what dead owners owe, now\n\nExit status 1: something failed, or is still owed.",
        Argument(
            "id", kind=ID, metavar="ID", nargs="?", help="one cleanup (3f2a9c1b.2) or one owner (3f2a9c1b)"
        ),
        Argument("--dry-run", action="store_true", help="run nothing; show what would be run"),
        Argument(
            "--elsewhere",
            action="store_true",
            help="also for other machines and containers: you know that they are gone",
        ),
        Argument(
            "--wait", type=seconds, default=60.0, metavar="SECONDS",
            help="how long to wait for what the reaper is just working on (default 60)",
        ),
        _JSON,
        section="Settling",
        example="lastly reap --dry-run",
    ),
    Command(
        "retry",
        retry,
        "run one cleanup of a dead owner again, abandoned or waiting\n\nExit status 1: it failed again.",
        _ID,
        _JSON,
        section="Settling",
        example="lastly retry 3f2a9c1b.2",
    ),
    Command(
        "forget",
        forget,
        "owe one cleanup no more, without running it: what it would have removed stays",
        _ID,
        Argument("--yes", action="store_true", help="do not ask"),
        _JSON,
        section="Settling",
        example="lastly forget 3f2a9c1b.2",
    ),
    Command(
        "doctor",
        doctor,
        "say what is protected here, what is not, and how to change that\n"
        "\nExit status 1: something is wrong.",
        Argument(
            "file", kind=FILE, metavar="FILE", nargs="*",
            help="units of systemd and manifests of Kubernetes to look at instead; a unit may be a name that "
            'systemd knows, "-" is a manifest on standard input',
        ),
        Argument("--grace", type=seconds, metavar="SECONDS", help="how long all cleanups may take"),
        _JSON,
        section="This machine",
        example="lastly doctor",
    ),
    Command(
        "reaper",
        reaper,
        "be the reaper, in the foreground, until Ctrl-C; its log goes to standard error as well",
        Argument("--idle", type=seconds, metavar="SECONDS", help="exit after this long without an owner"),
        section="This machine",
        example="lastly reaper",
    ),
    Command(
        "completion",
        completion,
        "print completion code for bash, zsh or fish",
        Argument("shell", choices=list(complete.CODE), metavar="SHELL", help="bash, zsh or fish"),
        section="This machine",
        example='eval "$(lastly completion bash)"',
    ),
    *reach.COMMANDS,
)  # fmt: skip


def main(words: "list[str]") -> int:
    """Run the command line; return its exit status. An error of ours is one line, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name need not be of the locale's alphabet
            stream.reconfigure(errors="backslashreplace")
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take the status of each action away
    warnings.formatwarning = lambda message, *_, **__: f"lastly: {show.plain(message)}\n"
    try:
        status = _dispatch(words)
        sys.stdout.flush()
    except BrokenPipeError:  # `lastly ls | head`: what is left in the buffer would fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except UsageError as error:
        sys.stderr.write(f"lastly: {show.plain(error)}\n")
        return 2
    except Exception as error:
        if isinstance(error, ImportError) and error.name == "_sqlite3":
            sys.stderr.write(f"lastly: {probe.NO_SQLITE}; use another one: {sys.executable}\n")
            return 1
        if not isinstance(error, (LastlyError, OSError, Failed)) and type(error).__module__ != "sqlite3":
            raise
        sys.stderr.write(f"lastly: {show.plain(_said(error))}\n")
        return 1
    return status


def _said(error: Exception) -> str:
    """What an error says to a person: the system's errors without their number."""
    if isinstance(error, LastlyError) or not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return error.strerror if error.filename is None else f"{os.fsdecode(error.filename)}: {error.strerror}"


def _dispatch(words: "list[str]") -> int:
    name, *rest = words or ["--help"]
    if name == "help" and rest:  # `lastly help why` is `lastly why --help`
        name, rest = rest[0], ["--help"]
    if name in ("-h", "--help", "help"):
        sys.stdout.write(overview(COMMANDS))
        return 0 if words else 2
    if name in ("-V", "-v", "--version"):
        sys.stdout.write(f"lastly, version {__version__}\n")
        return 0
    if name == complete.ASK:
        for answer in complete.answers(rest, COMMANDS):
            sys.stdout.write(f"{answer}\n")
        return 0
    command = next((command for command in COMMANDS if command.name == name), None)
    if command is None:
        what = "option" if name.startswith("-") else "command"
        known = ("--help", "--version", *(each.name for each in COMMANDS))
        raise UsageError(f"no such {what}: {name!r}{nearest(name, known)}; see `lastly --help`")
    if command.run is run:
        return run(Namespace())
    try:
        given = command.parser().parse_words(rest)
    except SystemExit:  # argparse has shown the help
        return 0
    _check_place(command)
    return command.run(given)


def _check_place(command: Command) -> None:
    """Raise UnsupportedPlatform or NotRecorded where the command cannot work."""
    if command.run is not completion and (why := probe.no_reaper()):
        raise UnsupportedPlatform(f"`lastly {command.name}` does not work here: {why}")
    if command.section in _AT_HOME:
        from lastly._journal import home

        home.check()
