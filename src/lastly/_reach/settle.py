"""Settle one orphan of the shared journal: run what it owes, each step fenced by the claim.

A claim is a number that only rises. Whatever is written names it; once somebody else has claimed the owner,
it matches no row, and this worker stops before it begins anything further. What is in flight in that moment
may run twice: actions are idempotent.
"""

from lastly._reach.hands import Fenced, Hand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

HOLD = 15.0  # seconds that a claim holds without being renewed


def _storable(text: str) -> str:
    """PostgreSQL takes neither NUL nor bytes that are no text."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


class Settling:
    """One claimed owner.

    Attributes:
        again: seconds until its next attempt, when something is still owed. fenced: the claim was lost.
            broken: the last executor has died.
        ran: how many cleanups were run.
    """

    def __init__(
        self,
        claimed: "dict[str, Any]",
        step: "Callable[[dict[str, Any]], dict[str, Any] | None]",
        hand: "Callable[[], Hand]",
        *,
        hold: float = HOLD,
        tell: "Callable[..., None]" = lambda *_a, **_k: None,
    ) -> None:
        """Begin.

        Args:
            claimed: what `claim` returned; its first cleanup is begun.
            step: takes one step under the claim; returns None when that is lost. See `Steps`.
            hand: gives an executor that works.
            hold: seconds that the claim holds without being renewed.
            tell: called with the outcome of each.
        """
        self.claimed, self.step, self.hand, self.hold, self.tell = claimed, step, hand, hold, tell
        self.again: float | None = None
        self.fenced = False
        self.broken = False
        self.ran = 0

    def run(self, stopping: "Callable[[], bool]") -> None:
        """Run them, as long as the claim holds and nobody stops."""
        waiting = list(self.claimed["cleanups"])
        now = waiting.pop(0)
        while True:
            try:
                outcome = self._do(now)
            except Fenced:
                self.fenced = True
                return
            self.ran += 1
            self.tell(outcome["state"], self.claimed, now, outcome["error"])
            answer = self._step(now["id"], outcome, waiting, stop=stopping())
            while answer is not None and answer["state"] == "skip":  # a person has forgotten it meanwhile
                answer = self._step(None, None, waiting, stop=stopping())
            if answer is None:
                self.fenced = True
                return
            if answer["state"] != "held":
                self.again = answer.get("next")
                return
            now = self.begun

    def _do(self, cleanup: "dict[str, Any]") -> "dict[str, Any]":
        request = {
            "action": cleanup["action"], "args": cleanup["args"], "kwargs": cleanup["kwargs"],
            "attempt": cleanup["attempts"] + 1, "token": f"{self.claimed['token']}.{cleanup['id']}",
            "confirmed": cleanup["known"], "timeout": cleanup["timeout"], "fresh": not self.ran,
        }  # fmt: skip
        answer = self.hand().run(request, self.hold / 3, self._renew)
        self.broken = answer is None
        return answer or {"state": "failed", "error": "the process that ran it was killed", "output": ""}

    def _renew(self) -> bool:
        return self._ask() is not None

    def _step(
        self,
        ended: "int | None",
        outcome: "dict[str, Any] | None",
        waiting: "list[dict[str, Any]]",
        *,
        stop: bool,
    ) -> "dict[str, Any] | None":
        begin = None
        if waiting and not stop:
            self.begun = waiting.pop(0)
            begin = self.begun["id"]
        said: dict[str, Any] = {"ended": ended, "begin": begin, "finish": begin is None}
        if outcome is not None:
            said |= {"outcome": outcome["state"], "error": _storable(outcome["error"][:4000])}
        return self._ask(**said)

    def _ask(self, **said: "Any") -> "dict[str, Any] | None":
        return self.step({"owner": self.claimed["owner"], "claim": self.claimed["claim"], **said})
