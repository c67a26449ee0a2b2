"""Settle one dead owner: prove its death, take the lease, run what it owes, write down what became of it.

The lease is the POSIX lock on the owner's journal. The owner held it while it lived; now the process that
settles holds it, and the kernel takes it back from a settler that dies. What has been done is in the journal,
so the next one goes on from there: at least once, never exactly once.

What is owed runs by phase, then newest first, each whatever became of the ones before it. The words:

    done      it ran, or there was nothing left to do
    fail      it did not; ``next`` says when it is tried again (backoff doubled each time, with jitter)
    abandon   given up: too many failures, or something else is there than was planned (it stays untouched)
    void      the boot (or container) is over, and the process to be killed with it
"""

import os
import time

from lastly._journal import home, relay_line
from lastly._journal.file import Journal
from lastly._journal.replay import Item, Replay
from lastly._settle import execute
from lastly._system.family import Family
from lastly._words import built_in
from lastly._words.clock import monotonic
from lastly.errors import NotOurs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LONGEST = 300.0  # seconds of backoff
FULL = 5.0  # seconds after which a journal that could not be written is tried again
MOST_UNWRITTEN = 100  # records that are kept in memory: in one message to the reaper
MOST_TOLD = 1000  # cleanups of one owner that are listed although all went well
_TOGETHER = 64  # removals that are begun and ended with one write each
_LONGEST_UNWRITTEN = 0.05  # seconds that one that is done may wait for the others to be written
_ANSWER = 2.0  # seconds that the relay of a shared journal may take to say whether this host may go on
_ASK_AGAIN = 2.0  # seconds until it is asked again


class Outcome:
    """What became of one journal.

    Attributes:
        state: ``final`` (nothing is owed any more), ``wait`` (something is tried again at ``next``), ``busy``
            (another process holds the lease), ``gone`` (no journal), ``alive`` (the owner lives, or that
            cannot be told), ``kept`` (there is something this version must neither run nor drop).
        next: unix time of the next attempt, for ``wait``.
        ran: one dict per cleanup that was run or settled: id, action, what, state, error, seconds.
            more: how many are done beside these.
        unwritten: records that the journal did not take (a full disk). They must be given to the next
            `settle`, or it runs again what has been run.
        why: for people.
    """

    __slots__ = ("more", "next", "path", "ran", "state", "unwritten", "why")

    def __init__(self, path: str, state: str, why: str = "", next: float | None = None) -> None:  # noqa: A002 - the journal's word
        self.path = path
        self.state = state
        self.why = why
        self.next = next
        self.ran: list[dict[str, Any]] = []
        self.more = 0
        self.unwritten: list[dict[str, Any]] = []

    def to_mapping(self) -> "dict[str, Any]":
        """The same as JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def settle(
    path: str,
    *,
    by: str = "reaper",
    force: bool = False,
    only: int | None = None,
    died: "tuple[float, float] | None" = None,
    elsewhere: bool = False,
    unwritten: "list[dict[str, Any]] | None" = None,
    family: Family | None = None,
    keep: "list[tuple[Journal, Replay, dict[str, Any]]] | None" = None,
    slow: "Callable[[], None] | None" = None,
    announce: "Callable[[float], None] | None" = None,
) -> Outcome:
    """Run what the dead owner of the journal at ``path`` owes; a second call runs what is still owed.

    Args:
        path: the journal.
        by: which tool does this, for the history.
        force: also run what waits for its next attempt.
        only: just the cleanup with this number.
        died: when the owner was seen to die, where that is known: unix time, and seconds since the boot.
        elsewhere: an owner of another machine or pid namespace is dead, too: the caller guarantees it.
        unwritten: what an earlier outcome for this journal had in its attribute of that name.
        family: the descendants of the owner that were seen while it lived.
        keep: a journal that is final then is put in here instead of being closed; the caller that gives it
            closes it.
        slow: called before each cleanup that is not a plain removal.
        announce: called before something that may take long, with its limit in seconds.
    """
    try:
        journal = Journal.take(path)
    except OSError as error:
        return Outcome(path, "kept", str(error))
    if journal is None:
        exists = os.path.lexists(path)
        return Outcome(path, "busy" if exists else "gone", "another process has the lease" if exists else "")
    try:
        seen = journal.taken or journal.read()
        if (refusal := not_dead(seen, elsewhere=elsewhere)) is not None:
            return refusal
        # Whether its processes are not of this boot, machine and namespace.
        over = not (seen.identity and seen.identity.same_boot())
        over = over or (elsewhere and seen.identity is not None and seen.identity.alive() is None)
        settling = _Settling(
            journal, seen, by, died, world_over=over, family=family, announce=announce, slow=slow
        )
        if unwritten:
            settling.remember(unwritten)
        outcome = settling.run(force, only)
        if keep is not None and outcome.state == "final":
            keep.append((journal, seen, {}))
        return outcome
    finally:
        if not keep:
            journal.close()


def rehearse(fd: int) -> None:
    """Settle a journal that is about nothing, in an empty file that has no name.

    After a fork each page of memory is copied when it is first written to, and in Python that is whatever is
    used. A worker that has rehearsed has its pages when an owner dies.

    Args:
        fd: of that file; it is closed.
    """
    journal = Journal("", fd, {}, 1)
    try:
        for _ in range(2):
            journal.plan("lastly.actions:remove", ["/proc/nothing-of-this-name"], {"expect": {}})
        seen = Replay("", lambda offset, size: os.pread(fd, size, offset))
        settling = _Settling(
            journal, seen, "reaper", None, world_over=False, family=None, announce=None, slow=None
        )
        settling.run(force=False, only=None)
    finally:
        journal.close()


def not_dead(seen: Replay, *, elsewhere: bool = False) -> Outcome | None:
    """Why this owner's cleanups must not be run, or None when they may."""
    if seen.newer:
        return Outcome(seen.path, "kept", "written by a later version of lastly")
    if seen.identity is None:
        return Outcome(seen.path, "kept", "the journal does not say whose it is")
    alive = seen.identity.alive()
    if alive is None:
        if elsewhere:
            return None
        return Outcome(seen.path, "alive", "its owner belongs to another machine or pid namespace")
    return Outcome(seen.path, "alive", "its owner lives") if alive else None


class _Settling:
    """One journal under lease."""

    def __init__(
        self,
        journal: Journal,
        seen: Replay,
        by: str,
        died: "tuple[float, float] | None",
        *,
        world_over: bool,
        family: Family | None,
        announce: "Callable[[float], None] | None",
        slow: "Callable[[], None] | None",
    ) -> None:
        self.journal = journal
        self.seen = seen
        self.by = by
        self.announce = announce or (lambda _limit: None)
        self.slow = slow or (lambda: None)
        same_boot = seen.identity is not None and seen.identity.same_boot()
        self.world_over = world_over
        self.void = "the boot it belonged to is over"
        if same_boot is not False:
            self.void = "the machine or pid namespace it belonged to was given up"
        not_born = _since_boot() if same_boot is False else _since(*died) if died else None
        if family is None and seen.identity is not None:
            family = Family(seen.identity.pid, seen.identity.start)
        if family is not None:
            family.parent = family.parent or (seen.header or {}).get("ppid", 0)
            family.died = died[1] if died is not None else None
        self.death = execute.Death(not_born, family)
        self.outcome = Outcome(journal.path, "final")
        self.plain: list[Item] = []  # to be run together
        self.words: list[dict[str, Any]] = []  # to be written
        self.alone = False  # a person has decided: no shared journal is asked
        self.flushed = monotonic()
        self.next: float | None = None  # when something is tried again
        self.unknown = ""  # an action of a later version

    def remember(self, unwritten: "list[dict[str, Any]]") -> None:
        """Write what could not be written the last time; what still cannot holds as if it stood there."""
        self.words = [record for record in unwritten if record["id"] in self.seen.items]
        self.flush()
        self.seen.refresh()
        for record in self.outcome.unwritten:
            self.seen.items.add(record)

    def run(self, force: bool, only: int | None) -> Outcome:
        self.alone = only is not None and force
        if only is not None:
            self._run_one(self.seen.items[only], force)
        else:
            self._run_all(force)
        self.flush()
        outcome = self.outcome
        if self.next is not None or outcome.unwritten:
            outcome.state, outcome.next = "wait", self.next or time.time() + FULL
        elif self.unknown or self.seen.unknown:
            outcome.state = "kept"
            outcome.why = f"this version does not know {self.unknown or 'some of its records'}"
        return outcome

    def _run_one(self, item: Item, force: bool) -> None:
        if not item.final or (force and item.state == "abandoned"):
            self._settle(item, force)
        self.flush()
        self.seen.refresh()
        if self.next is None and self.seen.owes:
            self.next = time.time()

    def _run_all(self, force: bool) -> None:
        for item in self.seen.items.owed():
            if not self._is_plain(item):
                self._run_plain()
                self._settle(item, force)
                continue
            self.plain.append(item)
            if len(self.plain) == _TOGETHER:
                self._run_plain()
        self._run_plain()

    def _is_plain(self, item: Item) -> bool:
        """A removal that was not tried yet. Many of them are begun with one write, and ended with one."""
        return (
            item.action == built_in.REMOVE
            and not (item.attempts or item.odd or item.doubt or item.error)
            and not self.outcome.unwritten
        )

    def _run_plain(self) -> None:
        items, self.plain = self.plain, []
        for item in items:
            self._note(item, "run", attempt=1, by=self.by, pid=os.getpid())
        self.flush()
        for item in items:
            self._later(self._do(item, 1))
            if monotonic() - self.flushed > _LONGEST_UNWRITTEN:
                self.flush()
        self.flush()

    def _settle(self, item: Item, force: bool) -> None:
        if built_in.is_later(item.action):
            self.unknown = item.action
            return
        self.slow()
        self._later(self._one(item, force))
        self.flush()

    def _later(self, again: float | None) -> None:
        if again is not None:
            self.next = again if self.next is None else min(self.next, again)

    def _one(self, item: Item, force: bool) -> float | None:
        """Settle one cleanup; returns when it is to be tried again, if it is."""
        if item.shared and not self.alone and (again := self._shared(item)) is not None:
            return again or None
        if item.doubt:
            return self._abandon(
                item,
                "the journal is damaged where this may have been released: look, then retry or forget it",
            )
        if item.odd:
            return self._abandon(item, f"its record is odd ({', '.join(item.odd)}): look, then forget it")
        if self.world_over and built_in.facts(item.action).kills:
            self._note(item, "void", reason=self.void)
            self._say(item, "void", self.void)
            return None
        if item.state == "running" and item.events[-1].get("by") != "owner":
            # The process that ran it died meanwhile: that was an attempt, and the cleanup itself may be what
            # kills.
            again = self._failed(
                item,
                f"attempt {item.attempts} ended with the death of the process that ran it",
                item.attempts,
            )
            if not force or again is None:  # waits for its turn, or was given up
                return again
        # Further away than any backoff: the clock was set back since, and may not get there for years.
        now = time.time()
        if item.next is not None and not force and now < item.next <= now + 1.25 * LONGEST:
            return item.next
        return self._attempt(item)

    def _shared(self, item: Item) -> float | None:
        """What a shared journal says: None, this host may run it; when to ask again; 0, it is settled.

        Unless its relay says so, it is unknown whether this host was taken for dead and workers have undone
        it: the name may mean another thing by now.
        """
        answer = relay_line.may(item.shared, home.journal_name(self.journal.path), item.id, _ANSWER)
        if answer is not None and "ok" in answer:
            return None
        if answer is not None and "settled" in answer:
            by, state = str(answer["settled"]), answer.get("state")
            kind = {"abandoned": "abandon", "released": "release"}.get(str(state), "done")
            self._note(item, kind, by=by, reason=f"{state} on another machine")
            self._say(item, item.state)
            return 0.0
        self.outcome.why = "its relay cannot tell whether another machine has run it: see the shared journal"
        return time.time() + _ASK_AGAIN

    def _attempt(self, item: Item) -> float | None:
        if len(self.outcome.unwritten) >= MOST_UNWRITTEN and not built_in.facts(item.action).harmless:
            return time.time() + FULL  # never run what could not be remembered
        number = item.attempts + 1
        self._note(item, "run", attempt=number, by=self.by, pid=os.getpid())
        self.flush()
        return self._do(item, number)

    def _do(self, item: Item, number: int) -> float | None:
        began = monotonic()
        try:
            execute.run(item, number, self.seen, death=self.death, announce=self.announce)
        except NotOurs as error:
            return self._abandon(item, str(error), attempt=number)
        except Exception as error:
            text = str(error) or type(error).__name__
            if not isinstance(error, execute.ActionFailed):
                text = f"{type(error).__name__}: {text}"
            return self._failed(item, text, number, output=getattr(error, "output", ""))
        took = round(monotonic() - began, 4)
        self._note(item, "done", by=self.by, took=took)
        self._say(item, "done", seconds=took)
        return None

    def _failed(self, item: Item, error: str, number: int, *, output: str = "") -> float | None:
        failures = 1 + sum(1 for event in item.events if event["kind"] == "fail")
        if failures > item.retries:
            return self._abandon(
                item, f"gave up after attempt {number}: {error}", attempt=number, output=output
            )
        delay = min(item.backoff * 2.0 ** min(failures - 1, 30), LONGEST) * _jitter()
        again = round(time.time() + delay, 3)
        more = {"output": output[-2000:]} if output else {}
        self._note(item, "fail", error=error[:4000], attempt=number, next=again, by=self.by, **more)
        self._say(item, "failed", error)
        return again

    def _abandon(self, item: Item, reason: str, *, output: str = "", **more: "Any") -> float | None:
        if output:
            more["output"] = output[-2000:]
        self._note(item, "abandon", reason=reason[:4000], by=self.by, **more)
        self._say(item, "abandoned", reason)
        return None

    def _note(self, item: Item, kind: str, **fields: "Any") -> None:
        record = {"kind": kind, "id": item.id, **fields}
        item.take_in(record, record, [])  # nothing is odd in what we have just made
        self.words.append(record)

    def flush(self) -> None:
        """Write what was noted. A full disk must not keep us from the cleanup that may free it, nor make us
        run again what has been run: what cannot be written is handed on.
        """
        if self.words:
            waiting = [*self.outcome.unwritten, *self.words]
            words, self.words = self.words, []
            error = self.journal.note(waiting)
            current = self.seen.current and not waiting
            self.seen.current = current and all(map(self.seen.items.settled, words))
            if error is not None:
                self.outcome.why = f"cannot write to the journal: {error}"
            while len(waiting) > MOST_UNWRITTEN and self._harmless(waiting[-1]):
                waiting.pop()
            self.outcome.unwritten = waiting
        self.flushed = monotonic()

    def _harmless(self, record: "dict[str, Any]") -> bool:
        return built_in.facts(self.seen.items[record["id"]].action).harmless

    def _say(self, item: Item, state: str, error: str = "", seconds: float | None = None) -> None:
        if state == "done" and len(self.outcome.ran) >= MOST_TOLD:
            self.outcome.more += 1
            return
        said = {
            "id": item.id,
            "action": item.action,
            "what": item.called(),
            "state": state,
            "error": error[:1000],
            "seconds": seconds,
        }
        self.outcome.ran.append(said)


def _jitter() -> float:
    """Between 0.75 and 1.25: what failed together is not tried again together."""
    return 0.75 + os.urandom(1)[0] / 510


def _since(died_at: float, died_up: float) -> "tuple[float, float]":
    """Between which unix times a file was created if it was created after a death during this boot.

    The clock may be set at any time, and a birth time is what the clock said. So both ends are reckoned from
    the seconds since boot, which no change of the clock moves: if the clock was set back before the death,
    what the owner made carries a time that is still to come, so it was not made after the death.
    """
    up = _uptime()
    before, now = died_at - died_up, time.time() - up
    return died_up + min(before, now), up + max(before, now)


def _since_boot() -> "tuple[float, float]":
    """The same, for an owner of an earlier boot.

    When its clock was is not known: a time that is still to come may be that of either boot.
    """
    return time.time() - _uptime(), float("inf")


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
