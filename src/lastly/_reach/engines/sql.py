"""The plain engine: workers look for orphans themselves, and are woken by NOTIFY.

The reference that tests compare with; it needs nothing but PostgreSQL.
"""

import threading

from lastly._reach.database import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._reach.worker import Worker

POLL = 1.0  # seconds between two looks, when no notification comes


class Engine:
    """Slots that claim what is due."""

    name = "sql"

    def __init__(self, worker: "Worker") -> None:
        self.worker = worker
        self.wake = threading.Event()

    def enqueue(self, connection: "Any", orphans: "list[tuple[int, str]]", *, after: float = 0.0) -> None:
        """Let the workers know; the rows themselves are the queue, and say when."""
        if orphans and not after:
            connection.execute("NOTIFY lastly_orphan")
            self.wake.set()

    def serve(self) -> None:
        """Settle until the worker stops."""
        threads = [
            threading.Thread(target=self._slot, name=f"slot-{number}", daemon=True)
            for number in range(self.worker.slots)
        ]
        if not self.worker.once:
            threading.Thread(target=self._listen, name="listen", daemon=True).start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _slot(self) -> None:
        worker = self.worker
        with worker.slot() as slot:
            while not worker.stopping.is_set():
                self.wake.clear()
                try:
                    claimed = slot.claim_due()
                    if claimed is not None:
                        slot.settle(claimed)
                except Exception as error:  # a slot must outlive what nobody foresaw
                    worker.log(f"slot: {type(error).__name__}: {error}")
                    slot.close()
                    claimed = None
                if claimed is None:
                    if worker.once:
                        return
                    self.wake.wait(POLL)

    def _listen(self) -> None:
        worker = self.worker
        while not worker.stopping.is_set():
            try:
                with connect(worker.url) as connection:
                    connection.execute("LISTEN lastly_orphan")
                    while not worker.stopping.is_set():
                        for _ in connection.notifies(timeout=POLL):
                            self.wake.set()
            except Exception:  # it is back sooner or later; until then the slots look by themselves
                worker.stopping.wait(POLL)
