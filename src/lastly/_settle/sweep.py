"""Settle all dead owners here and now, in this process: for ``lastly reap``, timers and tests.

Needs no reaper and disturbs none: each journal is worked on by the process that holds its lease.
"""

import os
from time import sleep

from lastly._journal import home, locks, replay
from lastly._settle import history
from lastly._settle.settle import Outcome, not_dead, settle
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["WAIT", "Outcome", "sweep"]

WAIT = 60.0  # seconds to wait for another process that has a lease


def sweep(
    *,
    dry_run: bool = False,
    only: str | None = None,
    force: bool = True,
    by: str = "sweep",
    elsewhere: bool = False,
    wait: float = WAIT,
    progress: "Callable[[Outcome], None] | None" = None,
) -> list[Outcome]:
    """Run what dead owners owe; a second call runs what is still owed.

    What another process is working on (the reaper, for one) is waited for, after all the rest is done.

    Args:
        dry_run: run nothing; the outcomes say what would be run (state ``due``), and what not, and why.
        only: a cleanup's reference, as in ``lastly ls``; or the part before its dot: all of one owner.
        force: also run what waits for its next attempt. Default True.
        by: which tool does this, for the history.
        elsewhere: also what owners of other machines and pid namespaces owe, whose journal is not held.
            Nothing here can tell whether they live: the caller guarantees that they do not.
        wait: seconds to wait for another process. Default 60. What is not done by then has the state
            ``busy``.
        progress: called with each outcome as soon as it is there.

    Returns:
        one outcome for each journal whose owner does not live and, with a number in ``only``, owes that one.

    Raises:
        NotRecorded: the home belongs to another user.
    """
    if not os.path.lexists(home.state_path()):
        return []
    home.state_dir(create=False)
    chosen = ("", None) if only is None else parts(only)
    if chosen is None:
        return []
    wanted, number = chosen
    found: list[Outcome] = []
    paths = [path for path in home.journals() if reference(path).startswith(wanted)]
    for outcome in _each(
        paths, lambda path: _one(path, dry_run, number, force, by, elsewhere=elsewhere), wait
    ):
        found.append(outcome)
        if progress is not None:
            progress(outcome)
    if not dry_run:
        final = [{"path": outcome.path} for outcome in found if outcome.state == "final"]
        for start in range(0, len(final), 200):
            history.archive(final[start : start + 200])
    return found


def _each(paths: list[str], one: "Callable[[str], Outcome | None]", wait: float) -> "Iterator[Outcome]":
    """What becomes of each journal; those that another process works on come last."""
    busy = []
    for path in paths:
        outcome = one(path)
        if outcome is not None and outcome.state == "busy":
            busy.append(path)
        elif outcome is not None:
            yield outcome
    for last in looks(wait if busy else 0.0):
        for path in list(busy):
            outcome = one(path) or Outcome(path, "gone", "another process has settled it")
            if last or outcome.state != "busy":
                busy.remove(path)
                yield outcome
        if not busy:
            return


def looks(wait: float) -> "Iterator[bool]":
    """Yield now, and with growing pauses until ``wait`` seconds are over; True for the last time."""
    until, pause = monotonic() + wait, 0.02
    while (rest := until - monotonic()) > 0:
        yield False
        sleep(min(pause, rest))
        pause = min(pause * 1.5, 0.5)
    yield True


def reference(path: str) -> str:
    """What people call a journal: the first eight digits of the random part of its name."""
    return os.path.basename(path).split(".")[-2][:8]


def parts(ref: str) -> tuple[str, int | None] | None:
    """Return the beginning of an owner's reference, and the cleanup's number if it has one; None if not one.

    Fewer than four digits are not one either: they would match too many.
    """
    owner, dot, number = ref.partition(".")
    if len(owner) < 4 or (dot and not (number.isascii() and number.isdecimal() and len(number) < 19)):
        return None
    return owner, int(number) if dot else None


def _one(
    path: str, dry_run: bool, number: int | None, force: bool, by: str, *, elsewhere: bool
) -> Outcome | None:
    if locks.held(path) is not None:
        return None  # this very process's; to open and close it would drop its lock
    try:
        seen = replay.read(path, trusted=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Outcome(path, "kept", str(error))
    if number is not None and (number not in seen.items or seen.items[number].final):
        return None
    refusal = not_dead(seen, elsewhere=elsewhere)
    if refusal is not None:
        return None if refusal.why == "its owner lives" else refusal
    if not dry_run:
        outcome = settle(path, by=by, force=force, only=number, elsewhere=elsewhere)
        if outcome.state == "busy" and seen.identity is not None and seen.identity.alive() is None:
            # Not to be waited for: the owner holds it as long as it lives.
            return Outcome(path, "alive", "its owner lives elsewhere, or a process there works on it")
        return None if outcome.state == "gone" else outcome
    outcome = Outcome(path, "due")
    outcome.ran = [
        {
            "id": item.id,
            "action": item.action,
            "what": item.called(),
            "state": item.state,
            "error": item.error,
            "seconds": None,
        }
        for item in seen.items.owed()
        if number is None or item.id == number
    ]
    return outcome
