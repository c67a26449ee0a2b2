"""A model of the shared journal's functions, a seeded simulation on it, and the replay of its traces on PostgreSQL.

    python tests/reach/model.py [steps [seed]]      make model: 1,000,000 steps, the invariants after each

The simulation has hosts that plan, report, fall silent, are judged and come back, and workers that claim, are frozen,
and step with claims that are no longer theirs. Messages are late: what an actor does next it chose on what it knew.
The model has no clock: "for a whole ttl" and "the claim has run out" are steps of their own, in any order.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from typing import Any

OWED = {"planned", "active", "running", "failed"}
RETRIES = 1
KNOWN = ("cloud:destroy", "cloud:other")


@dataclass
class Cleanup:
    action: str
    state: str = "planned"
    attempts: int = 0
    claim: int = 0


@dataclass
class Owner:
    epoch: int
    journal: str
    state: str = "live"
    claim: int = 0
    held: bool = False
    cleanups: dict[int, Cleanup] = field(default_factory=dict)

    @property
    def owes(self) -> bool:
        return any(cleanup.state in OWED for cleanup in self.cleanups.values())


@dataclass
class Host:
    state: str = "alive"
    beat: int = 0
    silent: bool = False  # for a whole ttl, by the database's clock


class Model:
    """What the functions of `0001.sql` do, without time."""

    def __init__(self) -> None:
        self.hosts: dict[int, Host] = {}
        self.owners: dict[int, Owner] = {}
        self.claims = self.last_owner = 0

    def find(self, journal: str, epoch: int) -> int | None:
        return next((n for n, o in self.owners.items() if (o.journal, o.epoch) == (journal, epoch)), None)

    def join(self) -> int:
        epoch = len(self.hosts) + 1
        self.hosts[epoch] = Host()
        return epoch

    def flush(self, epoch: int, plans: list[tuple[str, int, str]], words: list[tuple[str, int, str]]) -> bool:
        host = self.hosts[epoch]
        if host.state != "alive":
            return False
        host.beat, host.silent = host.beat + 1, False
        for journal, number, action in sorted(plans):  # so new owners are numbered
            owner = self.find(journal, epoch)
            if owner is None:
                self.last_owner += 1
                owner = self.last_owner
                self.owners[owner] = Owner(epoch, journal)
            self.owners[owner].cleanups.setdefault(number, Cleanup(action))
        for journal, number, state in words:
            owner = self.find(journal, epoch)
            if owner is not None and self.owners[owner].state == "live":
                cleanup = self.owners[owner].cleanups.get(number)
                if cleanup is not None and cleanup.state in OWED:
                    cleanup.state = state
        return True

    def silence(self, epoch: int) -> int:
        self.hosts[epoch].silent = True
        return self.hosts[epoch].beat

    def judge(self, epoch: int, beat: int) -> list[int]:
        host = self.hosts[epoch]
        if not (host.state == "alive" and host.beat == beat and host.silent):
            return []
        host.state = "dead"
        found = []
        for number, owner in self.owners.items():
            if owner.epoch == epoch and owner.state == "live":
                owner.state = "orphan" if owner.owes else "settled"
                if owner.owes:
                    found.append(number)
        return sorted(found)

    def reclaim(self, epoch: int, journals: list[str]) -> list[tuple[str, bool]]:
        if self.hosts[epoch].state != "alive":
            return []
        for number, owner in sorted(self.owners.items(), reverse=True):
            free = owner.state == "live" or (owner.state == "orphan" and not owner.claim)
            if owner.journal not in journals or owner.epoch == epoch or not free:
                continue
            kept = self.find(owner.journal, epoch)
            if kept is None:
                owner.epoch, owner.state = epoch, "live"
            else:
                self.owners[kept].cleanups = {**owner.cleanups, **self.owners[kept].cleanups}
                self.owners[kept].state = "live"
                del self.owners[number]
        return sorted((o.journal, o.epoch != epoch) for o in self.owners.values() if o.journal in journals)

    def expire(self, number: int) -> None:
        self.owners[number].held = False

    def claim(self, number: int, known: list[str]) -> tuple[int, list[int]] | None:
        owner = self.owners[number]
        if owner.state != "orphan" or owner.held:
            return None
        self.claims += 1
        owner.claim, owner.held = self.claims, True
        for cleanup in owner.cleanups.values():
            if cleanup.state == "running":
                self._failed(cleanup)
        due = sorted((n for n, c in owner.cleanups.items() if c.state in OWED and c.action in known), reverse=True)
        if not due:
            self._finish(owner)
            return None
        self._begin(owner.cleanups[due[0]], owner.claim)
        return owner.claim, due

    def step(self, number: int, claim: int, ended: int | None, outcome: str | None, begin: int | None) -> str | None:
        owner = self.owners[number]
        if owner.claim != claim or owner.state != "orphan":
            return None
        owner.held = True
        if ended is not None:
            cleanup = owner.cleanups[ended]
            if cleanup.state == "running" and cleanup.claim == claim:
                if outcome == "done":
                    cleanup.state = "done"
                else:
                    self._failed(cleanup, final=outcome == "abandoned")
        if begin is not None:
            if owner.cleanups[begin].state not in OWED:
                return "skip"
            self._begin(owner.cleanups[begin], claim)
            return "held"
        return self._finish(owner)

    def _begin(self, cleanup: Cleanup, claim: int) -> None:
        cleanup.attempts += not (cleanup.state == "running" and cleanup.claim == claim)
        cleanup.state, cleanup.claim = "running", claim

    def _failed(self, cleanup: Cleanup, *, final: bool = False) -> None:
        cleanup.state = "abandoned" if final or cleanup.attempts > RETRIES else "failed"

    def _finish(self, owner: Owner) -> str:
        owner.held = False
        if not owner.owes:
            owner.state = "settled"
        return owner.state

    def retry(self, number: int, cleanup: int) -> bool:
        return self._people(number, cleanup, "failed")

    def forget(self, number: int, cleanup: int) -> bool:
        return self._people(number, cleanup, "released")

    def _people(self, number: int, cleanup: int, state: str) -> bool:
        owner = self.owners[number]
        if owner.state == "live" or owner.cleanups[cleanup].state not in ("planned", "active", "failed", "abandoned"):
            return False
        owner.cleanups[cleanup].state = state
        owner.state = "orphan" if owner.owes else "settled"
        return True

    def seen(self) -> tuple[Any, ...]:
        """All of it that people could tell apart."""
        owners = {
            n: (o.epoch, o.journal, o.state, o.claim, {k: (c.action, c.state, c.attempts) for k, c in o.cleanups.items()})
            for n, o in self.owners.items()
        }  # fmt: skip
        return {n: (h.state, h.beat) for n, h in self.hosts.items()}, owners


class Simulation:
    """Actors that act on what they knew; yields each call as a function's name and its arguments."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self.model = Model()
        self.believed: dict[str, int] = {}  # by journal: the epoch that its host believes to hold
        self.seen_beats: list[tuple[int, int]] = []  # what judges have seen, some of it long ago
        self.held: list[tuple[int, int, list[int]]] = []  # what workers believe to hold: owner, claim, waiting
        self.acknowledged: set[tuple[str, int]] = set()
        self.numbers = 0

    def next(self) -> tuple[str, tuple[Any, ...]]:
        dice, model = self.dice, self.model
        if not model.hosts or dice.random() < 0.02:
            return "join", ()
        way = dice.random()
        epochs = sorted(model.hosts)[-6:]
        self.held = [one for one in self.held if one[0] in model.owners]
        orphans = [n for n, o in list(model.owners.items())[-12:] if o.state != "live"]
        if way < 0.35:
            return "flush", self._flush(dice.choice(epochs))
        if way < 0.41:
            return "silence", (dice.choice(epochs),)
        if way < 0.50 and self.seen_beats:
            return "judge", dice.choice(self.seen_beats[-4:])
        if way < 0.54 and self.believed:
            mine = dice.sample(sorted(self.believed)[-8:], k=min(3, len(self.believed)))
            return "reclaim", (dice.choice(epochs), mine)
        if way < 0.58 and orphans:
            return "expire", (dice.choice(orphans),)
        if way < 0.72 and orphans:
            return "claim", (dice.choice(orphans), list(KNOWN[: dice.choice((1, 2))]))
        if way < 0.95 and self.held:
            return "step", self._step()
        if orphans:
            owner = dice.choice(orphans)
            return dice.choice(("retry", "forget")), (owner, dice.choice(sorted(model.owners[owner].cleanups)))
        return "flush", self._flush(dice.choice(epochs))

    def _flush(self, epoch: int) -> tuple[Any, ...]:
        dice = self.dice
        plans, words = [], []
        for _ in range(dice.randrange(3)):
            self.numbers += 1
            journal = f"h{epoch % 3}-b/{self.numbers // 6}.j"
            plans.append((journal, self.numbers, dice.choice(KNOWN)))
        known = sorted(self.acknowledged)[-10:]
        if known and dice.random() < 0.5:
            journal, number = dice.choice(known)
            words.append((journal, number, dice.choice(("done", "released", "failed", "abandoned"))))
        return epoch, plans, words

    def _step(self) -> tuple[Any, ...]:
        place = self.dice.randrange(len(self.held))
        owner, claim, waiting = self.held.pop(place)
        ended, *rest = waiting
        begin = rest[0] if rest and self.dice.random() < 0.8 else None
        if begin is not None:
            self.held.append((owner, claim, rest))
        if self.dice.random() < 0.1:  # it is sent a second time: the answer was lost, or it was frozen
            self.held.append((owner, claim, waiting))
        return owner, claim, ended, self.dice.choice(("done", "done", "failed", "abandoned")), begin

    def do(self, name: str, args: tuple[Any, ...]) -> Any:
        """Apply it to the model, let the actors learn of it, and check what must hold always."""
        model, before = self.model, self._before(name, args)
        result = getattr(model, name)(*args)
        if name == "silence":
            self.seen_beats = [*self.seen_beats[-20:], (args[0], result)]
        elif name == "claim" and result is not None:
            self.held = [*self.held[-20:], (args[0], *result)]
        elif name == "flush" and result:
            for journal, number, _ in args[1]:
                self.acknowledged.add((journal, number))
                self.believed[journal] = args[0]
        self._check(name, args, result, before)
        return result

    def _before(self, name: str, args: tuple[Any, ...]) -> Any:
        if name == "flush":
            return self.model.hosts[args[0]].state
        if name in ("claim", "step"):
            owner = self.model.owners[args[0]]
            return owner.state, owner.claim, {n: (c.action, c.state, c.attempts) for n, c in owner.cleanups.items()}
        return None

    def _check(self, name: str, args: tuple[Any, ...], result: Any, before: Any) -> None:
        model = self.model
        if name == "flush":
            assert result == (before == "alive"), "I14: a judged host plans nothing"
            for journal, number, _ in args[1] if result else ():
                owner = model.find(journal, args[0])
                assert owner is not None, "I12: what was acknowledged is a row"
                assert number in model.owners[owner].cleanups, "I12"
        if name in ("claim", "step"):
            state, claim, cleanups = before
            owner = model.owners[args[0]]
            now = {n: (c.action, c.state, c.attempts) for n, c in owner.cleanups.items()}
            if name == "step" and claim != args[1]:
                assert result is None, "I15: a lost claim is fenced"
                assert now == cleanups, "I15: and changes nothing"
            if state == "live":
                assert now == cleanups, "I18: what a living host owes no worker touches"
            assert {n: c[0] for n, c in now.items()} == {n: c[0] for n, c in cleanups.items()}, "I17: no action changes"
            for number, (_, old, _) in cleanups.items():
                assert old in OWED or now[number][1] == old, "a last word stays"
            if owner.state == "settled":
                assert not owner.owes, "I16: nothing is settled that is owed"
        if name == "judge" and result:
            assert model.hosts[args[0]].beat == args[1], "I13: a host that beat meanwhile is not judged"


def main() -> int:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1] else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2] else random.randrange(1 << 30)  # noqa: S311
    print(f"seed {seed}", flush=True)
    done: dict[str, int] = {}
    simulation = Simulation(seed)
    for step in range(steps):
        if step % 1000 == 0:  # what is long over only costs time
            simulation = Simulation(seed + step)
        name, args = simulation.next()
        result = simulation.do(name, args)
        done[name] = done.get(name, 0) + 1
        if name == "step" and result is None:
            done["fenced"] = done.get("fenced", 0) + 1
    print(f"{steps} steps, all invariants after each: {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
