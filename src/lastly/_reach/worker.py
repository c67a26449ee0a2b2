"""`lastly worker`: undoes what the programs of dead machines owe.

One thread keeps the house: it judges, says what this worker serves, and looks for what nobody would find by
itself. Slots settle; how an orphan reaches a slot is the engine's.
"""

import itertools
import os
import threading
from contextlib import nullcontext

from lastly import __version__
from lastly._reach import settle
from lastly._reach.database import Unusable, connect, driver, unusable
from lastly._reach.hands import Forkserver, Hand
from lastly._reach.judge import Judge
from lastly._reach.migrate import QUEUE
from lastly._reach.steps import Steps
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from lastly._journal.shared_url import SharedUrl

SEEN = 20.0  # seconds between two registrations of what this worker serves
RECONCILE = 60.0  # seconds between two looks for what was lost
TIDY_MOST = 1000  # settled owners that are removed at a time
_RECONCILING = 0x6C617374  # one reconciler at a time: an advisory lock
_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)  # seconds between two attempts to reach the database


class Worker:
    """One worker.

    Attributes:
        stopping: set when it is to end: what began comes to its end, the rest is given back.
        counts: what it did, by outcome. settlings: how often it has claimed an owner and settled what was due
            of it; settled_in: the seconds that these took together.
    """

    def __init__(
        self,
        url: "SharedUrl",
        modules: list[str],
        *,
        queue: str,
        slots: int,
        engine: str,
        once: bool = False,
        keep: float = 30.0,
        version: str | None = None,
        hold: float = settle.HOLD,
        log: "Callable[[str], None]" = lambda _text: None,
    ) -> None:
        """Import what it serves.

        Args:
            url: where.
            modules: whose remote actions to serve.
            queue: whose hosts' things.
            slots: cleanups at once.
            engine: "procrastinate" or "sql".
            once: end when nothing is due.
            keep: days that settled owners stay in the tables.
            version: serve only what programs of this LASTLY_VERSION owe; None: of any.
            hold: seconds that a claim holds without being renewed.
            log: called with each line that it says.

        Raises:
            Unservable: it cannot be imported.
        """
        self.url, self.queue, self.slots, self.once, self.keep, self.hold, self.log = (
            url, queue, slots, once, keep, hold, log
        )  # fmt: skip
        self.version = version
        self.name = f"{os.uname().nodename}:{os.getpid()}:{os.urandom(3).hex()}"
        self.stopping = threading.Event()
        self.counts: dict[str, int] = {}
        self.settlings, self.settled_in = 0, 0.0
        self._lock = threading.Lock()
        self.forkserver = Forkserver(modules)
        self.actions = self.forkserver.actions
        self.judge = Judge()
        self._line = Line(self)
        self.steps = Steps(self._line.ask, hold)
        if engine == "procrastinate":
            from lastly._reach.engines.procrastinate import Engine
        else:
            from lastly._reach.engines.sql import Engine  # type: ignore[assignment]  # the other one
        self.engine: Any = Engine(self)

    def connect(self) -> "Any":
        """Open a connection as a worker needs it."""
        made = connect(self.url, options=f"-c search_path={QUEUE}")
        made.prepare_threshold = 1
        return made

    def run(self) -> None:
        """Serve until told to stop; with `once`, until nothing is due.

        Raises:
            Unusable: the database cannot be used, now that it begins.
        """
        try:
            self._begin()
        except BaseException:
            self.forkserver.close()
            raise
        house = threading.Thread(target=self._keep_house, name="house", daemon=True)
        if not self.once:
            house.start()
        try:
            self.engine.serve()
        finally:
            self.stopping.set()
            if house.is_alive():
                house.join()
            try:
                with self.connect() as connection:
                    self._register(connection, stopped=True)
            except Unusable:
                pass
            self._line.hang_up()
            self.forkserver.close()

    def _begin(self) -> None:
        """Register, as soon as the database can be reached."""
        for attempt in itertools.count():
            try:
                with self.connect() as connection:
                    self._register(connection)
                    self._reconcile(connection)
            except (Unusable, driver().Error) as error:
                found = error if isinstance(error, Unusable) else unusable(self.url, error)
                if found.lasting or self.once:
                    raise found from None
                self.log(str(found))
                if self.stopping.wait(_PAUSES[min(attempt, len(_PAUSES) - 1)]):
                    return
            else:
                return

    def count(self, state: str, claimed: "dict[str, Any]", cleanup: "dict[str, Any]", error: str) -> None:
        """Take in how one cleanup went."""
        with self._lock:
            self.counts[state] = self.counts.get(state, 0) + 1
        self.log(
            f"s{claimed['owner']}.{cleanup['id']} {cleanup['action']}: {state}{f': {error}' if error else ''}"
        )

    def note_settling(self, seconds: float) -> None:
        """Take in how long one owner took."""
        with self._lock:
            self.settlings += 1
            self.settled_in += seconds

    def note_fenced(self) -> None:
        """Take in that a claim was lost while its owner was being settled."""
        with self._lock:
            self.counts["fenced"] = self.counts.get("fenced", 0) + 1

    def slot(self) -> "Slot":
        """One of its slots."""
        return Slot(self)

    # ---- the house

    def _keep_house(self) -> None:
        connection: Any = None
        said = reconciled = monotonic()
        pause = 0
        while not self.stopping.wait(self.judge.every):
            try:
                if connection is None:
                    connection = self.connect()
                    self._register(connection)
                self._judge(connection)
                if monotonic() >= said + SEEN:
                    said = monotonic()
                    self._register(connection)
                if monotonic() >= reconciled + RECONCILE:
                    reconciled = monotonic()
                    self._reconcile(connection)
                pause = 0
            except Exception as error:  # the database is away, mostly: the house must outlive whatever it is
                self.judge.reset()
                self.log(f"{type(error).__name__}: {' '.join(str(error).split())}")
                if connection is not None:
                    connection.close()
                    connection = None
                self.stopping.wait(_PAUSES[min(pause, len(_PAUSES) - 1)])
                pause += 1
        if connection is not None:
            connection.close()

    def _judge(self, connection: "Any") -> None:
        began, before = monotonic(), self.judge.open
        rows = connection.execute(
            "SELECT epoch, beat, ttl FROM lastly.hosts WHERE state = 'alive'"
        ).fetchall()
        dead = self.judge.silent(rows, began)
        if self.judge.open and not before:
            self.log(f"{self.judge.open}; see `lastly hosts`, then `lastly hosts --judge EPOCH`")
        for epoch, beat in dead:
            with connection.transaction():
                orphans = connection.execute("SELECT * FROM lastly.judge(%s, %s)", [epoch, beat]).fetchall()
                self.engine.enqueue(connection, orphans)
            self.log(f"host of epoch {epoch} is dead: {len(orphans)} owners")

    def _register(self, connection: "Any", *, stopped: bool = False) -> None:
        """Tell the database what this worker serves, or that it has stopped."""
        version = os.environ.get("LASTLY_VERSION", __version__)
        connection.execute(
            "SELECT lastly.worker_seen(%s, %s, %s, %s, %s, %s)",
            [self.name, self.queue, self.actions, version, stopped, self.version is not None],
        )

    def _reconcile(self, connection: "Any") -> None:
        with connection.transaction():
            if connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [_RECONCILING]).fetchone()[0]:
                self.engine.enqueue(
                    connection, connection.execute("SELECT * FROM lastly.reconcile()").fetchall()
                )
                connection.execute("SELECT lastly.tidy(%s, %s)", [self.keep, TIDY_MOST])


class Line:
    """A connection that is made again however often it breaks."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.connection: Any = None

    def hang_up(self) -> None:
        """Close it; the next question opens another."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def ask(self, sql: str, values: "Any") -> "Any":
        """Run a query and return its one value, however often the connection has to be made for that.

        While the database is away nothing is known of the claim; when it is back, the claim decides.
        """
        psycopg = driver()
        for attempt in range(1000):
            try:
                if self.connection is None:
                    self.connection = self.worker.connect()
                row = self.connection.execute(sql, values).fetchone()
                return row[0] if row is not None else None
            except (psycopg.OperationalError, Unusable) as error:
                if isinstance(error, Unusable) and error.lasting:
                    raise
                self.hang_up()
                if self.worker.once and attempt > 2:
                    raise
                self.worker.stopping.wait(_PAUSES[min(attempt, len(_PAUSES) - 1)])
                if self.worker.stopping.is_set() and attempt > 5:
                    raise
        raise Unusable("the database does not come back")


class Slot(Line):
    """One thing at a time: a connection and an executor."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self._hand: Hand | None = None

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give both back."""
        self.hang_up()
        self.drop_hand()

    def drop_hand(self) -> None:
        """End the executor; the next cleanup gets another."""
        if self._hand is not None:
            self._hand.close()
            self._hand = None

    def hand(self) -> Hand:
        """The executor."""
        if self._hand is None:
            self._hand = self.worker.forkserver.hand()
        return self._hand

    def claim(self, owner: int) -> "dict[str, Any] | None":
        """Claim one owner, if it is due and free."""
        worker = self.worker
        found: dict[str, Any] | None = self.ask(
            "SELECT lastly.claim(%s, %s, %s, %s, %s)",
            [owner, worker.name, worker.hold, worker.actions, worker.version],
        )
        return found

    def claim_due(self) -> "dict[str, Any] | None":
        """Claim one owner that is due."""
        worker = self.worker
        found: dict[str, Any] | None = self.ask(
            "SELECT lastly.claim_due(%s, %s, %s, %s, 1, %s)",
            [worker.queue, worker.name, worker.hold, worker.actions, worker.version],
        )
        return found

    def held_for(self, owner: int) -> float | None:
        """Seconds until an owner that could not be claimed may be; None: nothing is to be done there."""
        found: float | None = self.ask(
            "SELECT greatest(extract(epoch FROM greatest(claimed_until, next_at) - clock_timestamp()), 0)"
            "::float8"
            " FROM lastly.owners WHERE owner = %s AND state = 'orphan'",
            [owner],
        )
        return found

    def enqueue(self, orphans: "list[tuple[int, str]]", *, after: float) -> None:
        """Have owners looked at again."""
        with self.worker.connect() if self.connection is None else nullcontext(self.connection) as connection:
            self.worker.engine.enqueue(connection, orphans, after=after)

    def settle(self, claimed: "dict[str, Any]") -> float | None:
        """Settle what was claimed; returns the seconds until its next attempt, if one is due."""
        settling = settle.Settling(
            claimed, self.worker.steps, self.hand, hold=self.worker.hold, tell=self.worker.count
        )
        began = monotonic()
        try:
            settling.run(self.worker.stopping.is_set)
        finally:
            self.worker.note_settling(monotonic() - began)
            if settling.fenced or settling.broken:
                self.drop_hand()
        if settling.fenced:
            self.worker.note_fenced()
            self.worker.log(f"s{claimed['owner']}: somebody else has claimed it: stopped")
        return settling.again
