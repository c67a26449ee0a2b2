"""``pytest --lastly-leaks``: fail a test that leaves something behind, and name the line that made it.

A test is judged when it ends: after its teardown nothing may be left that was made since its setup began.
What was made in the setup of a fixture that lives longer is the fixture's, and judged when that has been torn
down; what a test has deferred to such a fixture's scope is kept on purpose. A thread or a process may be on
its way out: it has a second.
"""

import os
import tempfile
import threading
import time
import warnings

import pytest

from lastly._scope import closing
from lastly._system import proc
from lastly._words.clock import monotonic
from lastly.testing._pytest.recorder import CHILDREN, FILES, KINDS, SCOPES, THREADS, Made, Recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from lastly import Scope

MARK = "lastly_may_leave"
_PATIENCE = 1.0  # seconds


class _Use:
    """One setup of a fixture."""

    def __init__(self, fixturedef: "pytest.FixtureDef[Any]") -> None:
        self.title = f"fixture {fixturedef.argname!r}"
        self.over = False


class Leaks:
    """The hooks."""

    def __init__(self, config: pytest.Config) -> None:
        base = config.getoption("basetemp", None)
        home = os.environ.get("LASTLY_HOME")
        apart = tuple(f"{os.path.abspath(path)}/" for path in (base, home) if path)
        self.recorder = Recorder(f"{config.rootpath}/", apart)
        self.token = os.urandom(12).hex()
        self.outer: str | None = None  # LASTLY_TOKEN
        self.begun = False
        self.uses: dict[object, _Use] = {}
        self.threads: set[threading.Thread] = set()
        self.told: list[Scope] = []  # kept: another test would get the warning when they are collected
        self.known: dict[int, int] = {}  # processes that were there, or have been told: pid → start

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> "Iterator[None]":
        """See what is there before."""
        if not self.begun:
            self._begin()
        self._forget()
        self.threads = set(threading.enumerate())
        fixtures = {made.thing for made in self.recorder.made if made.kind == CHILDREN}
        self._know(set(proc.living_children()) - fixtures)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: "pytest.FixtureDef[Any]") -> "Iterator[Any]":
        """What a fixture makes that lives longer than the test is its own."""
        if fixturedef.scope == "function" or not self.begun:
            return (yield)
        use = self.uses[fixturedef] = _Use(fixturedef)
        before, self.recorder.owner = self.recorder.owner, use
        children = self.recorder.children
        try:
            return (yield)
        finally:
            if self.recorder.children > children:  # one may have started a daemon, and ended
                self.recorder.made += [Made(CHILDREN, pid, "", use) for pid in self._strangers()]
            self.recorder.owner = before

    def pytest_fixture_post_finalizer(self, fixturedef: "pytest.FixtureDef[Any]") -> None:
        """From now on what it has made must be gone."""
        if (use := self.uses.pop(fixturedef, None)) is not None:
            use.over = True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> "Iterator[None]":
        """See what is there now."""
        try:
            yield
        except (KeyboardInterrupt, pytest.exit.Exception):
            raise
        except BaseException as error:
            if text := self._judge(item):
                error.add_note(text)
            raise
        if text := self._judge(item):
            pytest.fail(text, pytrace=False)

    def pytest_unconfigure(self) -> None:
        """Put everything back."""
        if not self.begun:
            return
        self.recorder.stop()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self.told.clear()
        if self.outer is None:
            os.environ.pop("LASTLY_TOKEN", None)
        else:
            os.environ["LASTLY_TOKEN"] = self.outer

    def _begin(self) -> None:
        """At the first test: a controller of xdist, which runs none, is left alone."""
        self.begun = True
        tempfile.gettempdir()  # is found by making a file
        self.outer = os.environ.get("LASTLY_TOKEN")
        os.environ["LASTLY_TOKEN"] = f"{self.outer}:{self.token}" if self.outer else self.token
        self.recorder.start()

    def _judge(self, item: pytest.Item) -> str:
        """Return what the test has left, as a text; nothing when it has left nothing."""
        allowed = _allowed(item)
        until = monotonic() + _PATIENCE
        while left := [made for made in self._left() if made.kind not in allowed]:
            if monotonic() > until:
                break
            time.sleep(0.01)
        self._know(made.thing for made in left if made.kind == CHILDREN)
        self.told += [made.thing for made in left if made.kind == SCOPES]
        self._forget()
        left.sort(key=lambda made: KINDS.index(made.kind))
        return "\n".join(f"left behind: {_described(made)}" for made in left)

    def _forget(self) -> None:
        """Keep only what belongs to fixtures that are in use."""
        self.recorder.made = [made for made in self.recorder.made if _in_use(made)]
        self.recorder.children = 0

    def _left(self) -> "list[Made]":
        due = [made for made in self.recorder.made if not _in_use(made)]
        kept = [made for made in self.recorder.made if _in_use(made)]
        promised = _Promised(made.thing for made in kept if made.kind == SCOPES)
        lines = {made.thing: made for made in due if made.kind in (CHILDREN, THREADS)}
        known = {made.thing for made in kept if made.kind == THREADS} | self.threads
        threads = [thread for thread in threading.enumerate() if thread not in known and not _idle(thread)]
        left = [lines.get(pid) or self._stranger(pid, due) for pid in self._strangers()]
        left += [lines.get(thread) or Made(THREADS, thread, "", None) for thread in threads]
        left += _files(made for made in due if made.kind == FILES)
        left += _scopes(made for made in due if made.kind == SCOPES)
        return [made for made in left if made.thing not in promised]

    def _stranger(self, pid: int, due: "list[Made]") -> Made:
        """A process that none of our functions has started, but one of the children may have."""
        lines = dict.fromkeys(made.where for made in due if made.kind == CHILDREN and made.where)
        return Made(CHILDREN, pid, f"a child started at {' or '.join(lines)}" if lines else "", None)

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────

    def _know(self, pids: "Iterable[int]") -> None:
        for pid in pids:
            self.known[pid] = proc.start_time(pid) or 0

    def _strangers(self) -> "list[int]":
        """Return the new processes that are ours, by parent or token; of a family the eldest."""
        living = proc.living_children()
        if not self.recorder.children and all(self.known.get(pid) == proc.start_time(pid) for pid in living):
            return []
        table, us, token = proc.processes(), os.getpid(), self.token.encode()
        known = {pid for pid, start in self.known.items() if pid in table and table[pid].start == start}
        known |= {made.thing for made in self.recorder.made if made.kind == CHILDREN and _in_use(made)}
        new = {
            pid
            for pid, process in table.items()
            if not process.dead
            and pid not in known
            and pid != us
            and (not _forkserver(pid) if process.ppid == us else proc.has_token(pid, token))
            and not proc.is_tracker(pid)
        }

        def stands_alone(pid: int) -> bool:
            while (pid := table[pid].ppid) in table and pid != us:
                if pid in known or pid in new:
                    return False
            return True

        return sorted(filter(stands_alone, new))


class _Promised:
    """What the open scopes of fixtures still in use will see to: paths, processes, threads, scopes."""

    def __init__(self, scopes: "Iterable[Scope]") -> None:
        self.values: set[str | int] = set()
        self.others: set[int] = set()
        for scope in scopes:
            self._add(scope)

    def _add(self, scope: "Scope") -> None:
        for cleanup in closing.pending(scope):
            bound = getattr(cleanup.func, "__self__", None)
            known = getattr(cleanup, "known", {})
            for thing in (
                *cleanup.args,
                bound,
                getattr(bound, "pid", None),
                known.get("pid"),
                cleanup.nested,
            ):
                if isinstance(thing, str | int):
                    self.values.add(thing)
                elif thing is not None:
                    self.others.add(id(thing))
            if cleanup.nested is not None:
                self._add(cleanup.nested)

    def __contains__(self, thing: object) -> bool:
        if not isinstance(thing, str):
            return id(thing) in self.others or (isinstance(thing, int) and thing in self.values)
        return any(path in self.values for path in _above(thing))


def _above(path: str) -> "Iterator[str]":
    """Yield the path and the folders that it is in."""
    while path not in ("/", ""):
        yield path
        path = os.path.dirname(path)


def _in_use(made: Made) -> bool:
    """Whether it belongs to a fixture that has not been torn down."""
    return isinstance(made.owner, _Use) and not made.owner.over


def _files(due: "Iterable[Made]") -> "list[Made]":
    """Return those that are there, without what is in a folder that is named as well."""
    there = {made.thing: made for made in due if os.path.lexists(made.thing)}
    return [made for path, made in there.items() if not any(map(there.get, [*_above(path)][1:]))]


def _scopes(due: "Iterable[Made]") -> "list[Made]":
    """Return those that are open and have something to do, without what is nested in them."""
    there = [made for made in due if not made.thing.closed and len(made.thing)]
    nested = {id(cleanup.nested) for made in there for cleanup in closing.pending(made.thing)}
    return [made for made in there if id(made.thing) not in nested]


def _idle(thread: threading.Thread) -> bool:
    """Whether trio keeps it for a while, or `threading` has only met it, and cannot say if it lives."""
    dummy = isinstance(thread, threading._DummyThread)  # noqa: SLF001  # no public name
    return dummy or thread.name.startswith("Trio thread ")


def _forkserver(pid: int) -> bool:
    """Whether it is the one that multiprocessing keeps; those that it forks have its command line, too."""
    return "multiprocessing.forkserver import main" in _command(pid)


def _command(pid: int) -> str:
    return b" ".join(proc.command(pid)).decode(errors="replace").strip()


def _allowed(item: pytest.Item) -> "set[str]":
    """Return the kinds that the test's marks name; all of them for a mark without arguments."""
    found: set[str] = set()
    for mark in item.iter_markers(MARK):
        found.update(mark.args or KINDS)
    if unknown := found - set(KINDS):
        pytest.fail(f"{MARK}({', '.join(map(repr, sorted(unknown)))}): use {', '.join(KINDS)}", pytrace=False)
    return found


def _described(made: Made) -> str:
    thing, verb = made.thing, "made"
    if made.kind == CHILDREN:
        command = _command(thing)
        text, verb = f"child process {thing} ({command[:60]}{'…' if len(command) > 60 else ''})", "started"
    elif made.kind == THREADS:
        text, verb = f"thread {thing.name!r}", "started"
    elif made.kind == FILES:
        text = f"{'folder' if os.path.isdir(thing) else 'file'} {thing}"
    else:
        names = [cleanup.name for cleanup in closing.pending(thing)]
        text = f"scope {thing.name!r}, not closed ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})"
    by = "by" if made.where.startswith("a child") else "at"
    place = f"{verb} {by} {made.where}" if made.where else "and where from is not known"
    return f"{text}, {place}{f' ({made.owner.title})' if isinstance(made.owner, _Use) else ''}"
