"""The steps of all slots of a worker, in as few trips to the database as possible.

A step ends one cleanup and begins the next, and no cleanup is run before its begin is on record. So every one
of them costs a trip, and a commit; but not one each. While one trip is under way the slots whose cleanups
have ended meanwhile wait; the next trip takes the steps of all of them along.
"""

import json
import threading
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Step:
    __slots__ = ("answer", "error", "said", "taken")

    def __init__(self, said: "dict[str, Any]") -> None:
        self.said, self.taken = said, False
        self.answer: dict[str, Any] | None = None
        self.error: BaseException | None = None


class Steps:
    """Takes steps for slots; call it with one."""

    def __init__(self, ask: "Callable[[str, list[Any]], Any]", hold: float) -> None:
        """Begin.

        Args:
            ask: runs one query and returns its one value. Never called twice at a time.
            hold: seconds that a claim holds after a step.
        """
        self._ask, self._hold = ask, hold
        self._turn = threading.Lock()
        self._waiting: deque[_Step] = deque()

    def __call__(self, said: "dict[str, Any]") -> "dict[str, Any] | None":
        """Take one step.

        Args:
            said: owner, claim; ended, outcome and error of what has ended; begin: what begins; finish:
                whether the owner is let go.

        Returns:
            its state (held, skip, settled, orphan); None when the claim is lost.
        """
        mine = _Step(said)
        self._waiting.append(mine)
        with self._turn:  # whoever has it makes the trip, for all that wait
            if not mine.taken:
                self._trip()
        if mine.error is not None:
            raise mine.error
        return mine.answer

    def _trip(self) -> None:
        going = [self._waiting.popleft() for _ in range(len(self._waiting))]
        # In the order of their owners: two workers that step each other's never wait crosswise.
        going.sort(key=lambda step: step.said["owner"])
        try:
            answers = self._ask(
                "SELECT lastly.steps(%s, %s::jsonb)", [self._hold, json.dumps([step.said for step in going])]
            )
            for step, answer in zip(going, answers, strict=True):
                step.answer = answer
        except BaseException as error:
            for step in going:
                step.error = error
        for step in going:
            step.taken = True
