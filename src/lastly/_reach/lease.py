"""One host's lease: joins, beats, and commits what programs say, many of them with one `flush`.

A thread of its own talks to the database, so that a server that hangs stops nobody from hearing why. Plans
that arrive while one flush is under way go with the next: the more programs, the larger the batch.

**Time** is what this host measures: seconds since its boot, suspended or not. The lease counts from the
moment in which the last successful flush was *sent*; the database's judge counts from when it saw that
beat, which is later. So this host stops believing in its lease before anybody else does.
"""

import os
import threading
from collections import deque
from signal import SIGKILL, SIGTERM
from time import CLOCK_BOOTTIME, clock_gettime

from lastly._journal.replay import FINAL
from lastly._reach import local
from lastly._reach.database import Unusable, connect, driver, unusable
from lastly._system import wait
from lastly._system.identity import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lastly._journal.shared_url import SharedUrl

BATCH = 500  # plans and words in one flush
_FIRST, _LONGEST = 0.1, 2.0  # seconds between two attempts to connect
_SERVED = 10.0  # seconds that the list of what workers know is believed


def now() -> float:
    """Seconds since the boot of this machine."""
    return clock_gettime(CLOCK_BOOTTIME)


class Plan:
    """A plan or a confirmation that somebody waits for."""

    __slots__ = ("answer", "keep", "row", "until", "word")

    def __init__(
        self,
        row: "dict[str, Any]",
        answer: "Callable[[dict[str, Any]], bool]",
        until: float,
        *,
        keep: bool,
        word: bool,
    ) -> None:
        self.row, self.answer, self.until, self.keep, self.word = row, answer, until, keep, word


class Lease:
    """The lease of this host, and the thread that keeps it.

    Attributes:
        epoch: its number; 0 before the first joining. why: what is wrong with the database, if something is.
        lasting: asking again will not help. sent: when the last successful flush was sent.
        owed: by journal, the numbers of what is owed and committed. lost: by journal, what workers have
            settled, or are about to: number → (state, by).
        untold: journals whose owners have not heard yet that workers settled something of theirs.
    """

    def __init__(self, url: "SharedUrl", log: "Callable[..., None]") -> None:
        self.url, self.log = url, log
        self.epoch = 0
        self.why, self.lasting = "", False
        self.sent = 0.0
        self.owed: dict[str, set[int]] = {}
        self.lost: dict[str, dict[int, tuple[str, str]]] = {}
        self.untold: set[str] = set()
        self.known: set[str] = set()
        self.flushes = self.flushed = 0
        self.told: dict[str, float] = {}  # what it measures of itself, for the view lastly.metrics
        self.stop = False
        self._plans: deque[Plan] = deque()
        self._flying: list[Plan] = []  # in the flush that is under way
        self._words: dict[tuple[str, int], dict[str, Any]] = {}
        self._wake = threading.Condition()
        self._connection: Any = None
        self._known_at = self._looked_at = -_SERVED
        self._pause = _FIRST
        self._since = 0.0  # when the oldest arrived of what waits to be committed; 0: nothing does
        self._punished = False
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Begin to keep it."""
        self._thread.start()

    @property
    def good(self) -> bool:
        """Whether nobody can have taken this host for dead yet."""
        return bool(self.epoch) and now() < self.sent + self.url.ttl * 2 / 3

    # ---- what programs say

    def put(self, plan: Plan) -> None:
        """Have a plan committed, and answered then."""
        with self._wake:
            self._wake.notify()
            self._since = self._since or now()
            if not self.lasting:
                self._plans.append(plan)
                return
        plan.answer({"no": self.why, "lasting": True})

    def word(self, journal: str, number: int, **said: "Any") -> None:
        """Have it written what became of a cleanup, with the next flush."""
        with self._wake:
            before = self._words.pop((journal, number), {})
            known = {**before.get("known", {}), **said.get("known", {})}
            merged = {**before, **{k: v for k, v in said.items() if v is not None}}
            if known:
                merged["known"] = known
            self._words[journal, number] = {**merged, "journal": journal, "id": number}
            if said.get("state") not in (None, "failed"):
                self._settled(journal, number)
            self._since = self._since or now()
            self._wake.notify()

    def _settled(self, journal: str, number: int) -> None:
        left = self.owed.get(journal)
        if left is not None:
            left.discard(number)
            if not left:
                del self.owed[journal]

    def expire(self) -> None:
        """Answer those whose time is over, and say why."""
        with self._wake:
            late = [plan for plan in (*self._plans, *self._flying) if plan.until <= now()]
            for plan in late:
                if not plan.keep and plan in self._plans:
                    self._plans.remove(plan)
        why = (
            self.why
            or f"shared journal {self.url.label}: no answer from PostgreSQL within {self.url.wait:g} s"
        )
        for plan in late:
            plan.answer({"no": why, "lasting": self.lasting})
            plan.answer, plan.until = _gave_up, float("inf")

    def verdict(self, journal: str, number: int) -> "dict[str, Any]":
        """Whether this host may run a cleanup: `ok`, `settled` with who did, or `wait`."""
        state, by = self.lost.get(journal, {}).get(number, ("", ""))
        if state in FINAL:
            return {"settled": by or "a person", "state": state}
        if state:
            return {"wait": f"{by} has it"}
        return {"ok": self.epoch} if self.good else {"wait": self.why or "the lease is not renewed"}

    # ---- the thread

    def _run(self) -> None:
        while not self.stop:
            try:
                if self._connection is None:
                    self._join()
                self._beat()
            except Unusable as error:
                self._broken(str(error), lasting=error.lasting)
            except Exception as error:
                psycopg = driver()
                if not isinstance(error, psycopg.Error):
                    self.log("error", why=f"{type(error).__name__}: {error}", where="lease")
                self._broken(
                    str(unusable(self.url, error)) if isinstance(error, psycopg.Error) else str(error)
                )

    def _broken(self, why: str, *, lasting: bool = False) -> None:
        if why != self.why:
            self.log("error", why=why)
        self.why, self.lasting = why, lasting
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        with self._wake:
            self._wake.wait(self._pause)
        self._pause = min(self._pause * 2, _LONGEST)

    def _join(self) -> None:
        """Connect; under the lease that there is, if the database still knows it, else under a new one."""
        self._connection = made = connect(self.url, timeout=max(1.0, self.url.ttl / 3))
        made.prepare_threshold = 1
        if not (self.epoch and self._flush([], [])):
            self._join_anew()
        self._publish()
        self.why, self.lasting, self._pause = "", False, _FIRST

    def _join_anew(self) -> None:
        """Join under a new epoch, and take back what was this host's."""
        who = Identity.current()
        sent = now()
        (self.epoch,) = self._connection.execute(
            "SELECT lastly.join_host(%s, %s, %s)", [who.host, who.boot, self.url.ttl]
        ).fetchone()
        self.sent, self._punished = sent, False
        self.log("joined", epoch=self.epoch)

    def _publish(self) -> None:
        """Commit again all that is owed on this host: a server may have lost its last moments."""
        here = local.owed(self.url.key, self.url.queue)
        names = sorted({*here, *self.owed, *self.lost})
        self._reclaim(names, {name: {plan["id"] for plan in plans} for name, plans in here.items()})
        rows = [
            plan
            for name, plans in here.items()
            for plan in plans
            if plan["id"] not in self.lost.get(name, {})
        ]
        for start in range(0, len(rows), BATCH):
            if not self._flush(rows[start : start + BATCH], [], again=True):
                raise Unusable("the lease was lost while it was taken")
        with self._wake:
            self.owed = {}
            for row in rows:
                self.owed.setdefault(row["journal"], set()).add(row["id"])

    def _reclaim(self, names: "list[str]", owed: "dict[str, set[int]]") -> None:
        """Take back what no worker has claimed, and learn what became of the rest.

        Args:
            names: of journals.
            owed: by journal, what its owner believes to owe. Only that can have been taken from it: what else
                is settled under an earlier lease it has settled itself.
        """
        rows = self._connection.execute(
            "SELECT journal, lost, cleanups FROM lastly.reclaim(%s, %s)", [self.epoch, names]
        ).fetchall()
        for name, lost, cleanups in rows if names else ():
            if not lost:
                continue
            found = {one["id"]: (one["state"], one["by"] or "") for one in cleanups or ()}
            if name not in self.lost and not owed.get(name, set()).isdisjoint(found):
                self.untold.add(name)
                self.log("lost", journal=name, cleanups=len(found))
            self.lost.setdefault(name, {}).update(found)

    def _beat(self) -> None:
        """Wait for something to say or for the time of the next beat, and flush."""
        with self._wake:
            due = self.sent + self.url.ttl / 6
            while not (self._plans or self._words or self.stop) and now() < due:
                self._wake.wait(due - now())
            self._flying = plans = [self._plans.popleft() for _ in range(min(len(self._plans), BATCH))]
            words = [self._words.pop(key) for key in list(self._words)[:BATCH]]
            since, self._since = self._since, now() if self._plans or self._words else 0.0
        try:
            self._commit(self._without_lost(plans), words)
        except BaseException:
            with self._wake:  # nobody knows what was committed: all of it is said again
                self._flying, self._since = [], since
                self._plans.extendleft(
                    plan for plan in reversed(plans) if plan.keep or plan.answer is not _gave_up
                )
                for word in words:
                    self._words.setdefault((word["journal"], word["id"]), word)
            raise
        self._flying = []
        self.told["relay_lag_seconds"] = round(now() - since, 6) if since else 0.0
        if now() >= self._looked_at + 1.0:
            self._looked_at = now()
            self._look()

    def _without_lost(self, plans: "list[Plan]") -> "list[Plan]":
        """Tell owners once that workers have settled something of theirs: that plan is not taken."""
        left = []
        for plan in plans:
            name = plan.row["journal"]
            if plan.word or name not in self.untold:
                left.append(plan)
                continue
            self.untold.discard(name)
            plan.answer({"lost": {n: by for n, (state, by) in self.lost[name].items() if state == "done"}})
            plan.answer, plan.keep = _gave_up, False
        return left

    def _commit(self, plans: "list[Plan]", words: "list[dict[str, Any]]") -> None:
        psycopg = driver()
        rows = [plan.row for plan in plans if not plan.word]
        try:
            good = self._flush(rows, words + [plan.row for plan in plans if plan.word])
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            self._one_by_one(plans, words, str(unusable(self.url, error)))
            return
        if not good:
            self.log("error", why="this host was taken for dead: it joins anew", epoch=self.epoch)
            self._join_anew()
            self._publish()
            raise Unusable("this host was taken for dead; it has joined anew")
        with self._wake:
            for row in rows:
                self.owed.setdefault(row["journal"], set()).add(row["id"])
        if any(row["action"] not in self.known for row in rows):
            self._ask_what_is_served()
        for plan in plans:
            self._acknowledge(plan)

    def _one_by_one(self, plans: "list[Plan]", words: "list[dict[str, Any]]", why: str) -> None:
        """There is one among them that the database does not take: the others must not suffer."""
        if len(plans) + len(words) > 1:
            for plan in plans:
                self._commit([plan], [])
            for word in words:
                self._commit([], [word])
        for plan in plans if len(plans) + len(words) == 1 else ():
            plan.answer({"no": why, "lasting": True})

    def _acknowledge(self, plan: Plan) -> None:
        answer: dict[str, Any] = {"ok": self.epoch}
        if not plan.word and plan.row["action"] not in self.known:
            answer["unserved"] = True
        if not plan.answer(answer) and not plan.keep and not plan.word:
            # Whoever asked has given up: the thing was not created.
            self.word(plan.row["journal"], plan.row["id"], state="released")

    def _flush(
        self, plans: "list[dict[str, Any]]", words: "list[dict[str, Any]]", *, again: bool = False
    ) -> bool:
        """Commit; `again`: they are owed already, and are told once more."""
        as_json = driver().types.json.Jsonb
        sent = now()
        (good,) = self._connection.execute(
            "SELECT lastly.flush(%s, %s, %s, %s, %s)",
            [self.epoch, as_json(plans), as_json(words), again, as_json(self.told)],
        ).fetchone()
        self.flushes += 1
        self.flushed += len(plans)
        self.told["flush_seconds"] = round(now() - sent, 6)
        self.told["flush_batch"] = len(plans) + len(words)
        if good:
            self.sent, self.why = sent, ""
        return bool(good)

    def _look(self) -> None:
        """Between two flushes: what nobody says."""
        with self._wake:
            names = list(self.owed)
        for name in names:
            if not os.path.lexists(local.path_of(name)):
                with self._wake:
                    self.owed.pop(name, None)
                self.word(name, 0, state="ended")
        open_ones = [
            name
            for name, found in self.lost.items()
            if any(state not in FINAL for state, _ in found.values())
        ]
        if open_ones:
            self._reclaim(open_ones, {})
        for name in [name for name in self.lost if not os.path.lexists(local.path_of(name))]:
            del self.lost[name]
            self.untold.discard(name)

    def _ask_what_is_served(self) -> None:
        if now() >= self._known_at + _SERVED:
            self._known_at = now()
            (known,) = self._connection.execute("SELECT lastly.served(%s)", [self.url.queue]).fetchone()
            self.known = set(known)

    def punish(self) -> None:
        """End the programs here before others undo what they have, where they want it so."""
        if self.url.on_lease_lost == "notify" or self._punished or now() < self.sent + self.url.ttl * 5 / 6:
            return
        self._punished = True
        with self._wake:
            names = list(self.owed)
        for name in names:
            pid, start, *_ = os.path.basename(name).split(".")
            if local.alive(name):
                try:
                    wait.send(int(pid), int(start), SIGKILL if self.url.on_lease_lost == "kill" else SIGTERM)
                except OSError as error:
                    self.log("error", why=f"process {pid} cannot be ended: {error}")
        self.log("error", why=f"the lease was not renewed: {self.url.on_lease_lost}", owners=len(names))

    def leave(self) -> bool:
        """Give the lease back; whether nothing was owed any more."""
        try:
            with connect(self.url, check=False) as connection:
                return bool(connection.execute("SELECT lastly.leave(%s)", [self.epoch]).fetchone()[0])
        except Exception:  # PostgreSQL is away: its judge ends the lease after the ttl
            return False


def _gave_up(_answer: "dict[str, Any]") -> bool:
    return False
