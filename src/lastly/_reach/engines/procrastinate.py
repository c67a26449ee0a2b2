"""The usual engine: one job of procrastinate's per orphan, in the transaction that makes it one.

Distribution, waking and rescue are procrastinate's. Truth and fences are not: a job only says "look at this
owner", and one too many or too few costs a moment, never a cleanup. Retries are ours, too: an owner that is
to be looked at again gets a further job for that time.

A job that finds its owner claimed is not done: the worker that holds the claim may be dead. It is deferred
again for when that claim ends.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import procrastinate
from procrastinate.exceptions import AlreadyEnqueued

from lastly._reach.database import driver
from lastly._reach.migrate import QUEUE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._reach.worker import Slot, Worker

TASK = "lastly.settle"
_RESCUE = 10.0  # seconds between two looks for jobs whose worker has died
_DEAD = 30.0  # seconds without a heartbeat after which a worker of procrastinate's has died
_AGAIN = 1.0  # seconds until a job looks again at an owner that somebody else holds
_POLL = 1.0  # seconds between two looks for jobs, when no notification comes


class Engine:
    """A worker of procrastinate's, and what puts jobs into its queue."""

    name = "procrastinate"

    def __init__(self, worker: "Worker") -> None:
        self.worker = worker
        self.app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())

    def enqueue(self, connection: "Any", orphans: "list[tuple[int, str]]", *, after: float = 0.0) -> None:
        """Put a job for each into the queue, in this connection's transaction; never two that wait."""
        psycopg = driver()
        if not orphans:
            return
        waiting = {
            lock
            for (lock,) in connection.execute(
                "SELECT queueing_lock FROM procrastinate_jobs"
                " WHERE status = 'todo' AND queueing_lock = ANY(%s)",
                [[_lock(owner) for owner, _ in orphans]],
            ).fetchall()
        }
        at = datetime.now(UTC) + timedelta(seconds=after) if after else None
        for owner, queue in orphans:
            if _lock(owner) in waiting:
                continue
            try:
                with connection.transaction():
                    self.app.configure_task(
                        TASK, connection=connection, queue=queue, queueing_lock=_lock(owner), schedule_at=at
                    ).defer(owner=owner)
            except (AlreadyEnqueued, psycopg.errors.UniqueViolation):
                pass  # another worker was faster

    def serve(self) -> None:
        """Settle until the worker stops."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        worker = self.worker
        slots: asyncio.Queue[Slot] = asyncio.Queue()
        for _ in range(worker.slots):
            slots.put_nowait(worker.slot())
        pool = ThreadPoolExecutor(worker.slots + 1, "slot")
        # Its commits do not wait for the disk. A crash of the server may forget that a job was begun or has
        # ended: then that owner is looked at once more, and the claim decides.
        connector = procrastinate.PsycopgConnector(
            conninfo=worker.url.database,
            kwargs={"options": f"-c search_path={QUEUE} -c synchronous_commit=off"},
            min_size=1,
            max_size=4,
        )
        app = procrastinate.App(connector=connector)
        loop = asyncio.get_running_loop()

        async def settle(owner: int) -> None:
            slot = await slots.get()
            try:
                await loop.run_in_executor(pool, self._settle, slot, owner)
            finally:
                slots.put_nowait(slot)

        app.task(name=TASK)(settle)
        while not worker.stopping.is_set():  # run_worker returns, as if all were well, when PostgreSQL goes
            try:
                async with app.open_async():
                    await self._run(app)
            except Exception as error:
                worker.log(f"procrastinate: {type(error).__name__}: {error}")
            if worker.once:
                break
            await loop.run_in_executor(pool, worker.stopping.wait, 0.0 if worker.stopping.is_set() else 1.0)
        while not slots.empty():
            slots.get_nowait().close()
        pool.shutdown()

    async def _run(self, app: "procrastinate.App") -> None:
        worker = self.worker
        running: Any = asyncio.ensure_future(
            app.run_worker_async(
                queues=[worker.queue], concurrency=worker.slots, name=worker.name, wait=not worker.once,
                install_signal_handlers=False, delete_jobs="successful", fetch_job_polling_interval=_POLL,
                listen_notify=True,
            )
        )  # fmt: skip
        stopped: Any = asyncio.get_running_loop().run_in_executor(None, worker.stopping.wait)
        rescue = asyncio.ensure_future(self._rescue(app))
        await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
        rescue.cancel()
        if worker.stopping.is_set():
            running.cancel()  # it lets running jobs end
        try:
            await running
        except asyncio.CancelledError:
            pass
        if worker.once:
            worker.stopping.set()

    async def _rescue(self, app: "procrastinate.App") -> None:
        """Jobs that a dead worker was at, again."""
        while True:
            for job in await app.job_manager.get_stalled_jobs(
                queue=self.worker.queue, seconds_since_heartbeat=_DEAD
            ):
                await app.job_manager.retry_job(job)
            await asyncio.sleep(_RESCUE)

    def _settle(self, slot: "Slot", owner: int) -> None:
        """In a thread: what one job does."""
        claimed = slot.claim(owner)
        after = slot.settle(claimed) if claimed is not None else slot.held_for(owner)  # busy is not success
        if after is not None:
            slot.enqueue([(owner, self.worker.queue)], after=max(after, _AGAIN if claimed is None else 0.05))


def _lock(owner: int) -> str:
    return f"lastly:{owner}"
