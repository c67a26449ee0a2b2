"""The model's traces, on the real functions: the same answers and the same rows after each step."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from sharing import Shared, needs_server

pytestmark = [needs_server, pytest.mark.xdist_group("reach-model")]

_spec = importlib.util.spec_from_file_location("reach_model", Path(__file__).with_name("model.py"))
model = importlib.util.module_from_spec(_spec)
__import__("sys").modules["reach_model"] = model  # dataclasses look there
_spec.loader.exec_module(model)


class Real:
    """The functions of a database, called as the model's are."""

    def __init__(self, shared: Shared) -> None:
        self.boss, self.web, self.hand = (shared.as_(user) for user in ("boss", "web1", "hand1"))
        self.root = shared.as_("postgres")

    @staticmethod
    def one(connection: Any, sql: str, *args: Any) -> Any:
        return connection.execute(sql, args).fetchone()[0]

    def join(self) -> int:
        return self.one(self.web, "SELECT lastly.join_host('h', 'b', 30)")

    def flush(self, epoch: int, plans: list[Any], words: list[Any]) -> bool:
        rows = [
            {"journal": j, "id": n, "action": a, "queue": "q", "token": "t", "retries": model.RETRIES, "backoff": 0}
            for j, n, a in plans
        ]  # fmt: skip
        said = [{"journal": j, "id": n, "state": s} for j, n, s in words]
        return self.one(self.web, "SELECT lastly.flush(%s, %s, %s)", epoch, json.dumps(rows), json.dumps(said))

    def silence(self, epoch: int) -> int:
        return self.one(self.root, "UPDATE lastly.hosts SET beat_at = '2000-01-01' WHERE epoch = %s RETURNING beat", epoch)

    def judge(self, epoch: int, beat: int) -> list[int]:
        return sorted(o for o, _ in self.hand.execute("SELECT * FROM lastly.judge(%s, %s)", [epoch, beat]))

    def reclaim(self, epoch: int, journals: list[str]) -> list[tuple[str, bool]]:
        sql = "SELECT journal, lost FROM lastly.reclaim(%s, %s)"
        return sorted(self.web.execute(sql, [epoch, journals]).fetchall())

    def expire(self, owner: int) -> None:
        self.root.execute("UPDATE lastly.owners SET claimed_until = NULL WHERE owner = %s", [owner])

    def claim(self, owner: int, known: list[str]) -> Any:
        got = self.one(self.hand, "SELECT lastly.claim(%s, 'w', 3600, %s)", owner, known)
        return got and (got["claim"], [cleanup["id"] for cleanup in got["cleanups"]])

    def step(self, owner: int, claim: int, ended: Any, outcome: Any, begin: Any) -> Any:
        said = {
            "owner": owner, "claim": claim, "ended": ended, "outcome": outcome, "error": "e", "begin": begin, "finish": begin is None
        }  # fmt: skip
        (got,) = self.one(self.hand, "SELECT lastly.steps(3600, %s)", json.dumps([said]))
        return got and got["state"]

    def retry(self, owner: int, cleanup: int) -> bool:
        return self.one(self.boss, "SELECT lastly.retry(%s, %s)", owner, cleanup)

    def forget(self, owner: int, cleanup: int) -> bool:
        return self.one(self.boss, "SELECT lastly.forget(%s, %s)", owner, cleanup)

    def seen(self) -> tuple[Any, ...]:
        hosts = {e: (s, b) for e, s, b in self.root.execute("SELECT epoch, state, beat FROM lastly.hosts")}
        owners: dict[int, Any] = {
            o: (e, j, s, c, {}) for o, e, j, s, c in self.root.execute("SELECT owner, epoch, journal, state, claim FROM lastly.owners")
        }
        for owner, number, *rest in self.root.execute("SELECT owner, id, action, state, attempts FROM lastly.cleanups"):
            owners[owner][4][number] = tuple(rest)
        return hosts, owners


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.slow(keep=2)
def test_the_functions_do_what_the_model_does(shared: Shared, seed: int) -> None:
    """I12 and I14 to I18 after each step."""
    simulation, real = model.Simulation(seed), Real(shared)
    for step in range(400):
        name, args = simulation.next()
        expected = simulation.do(name, args)
        found = getattr(real, name)(*args)
        assert found == expected, (step, name, args)
        hosts, owners = real.seen()
        assert (hosts, owners) == simulation.model.seen(), (step, name, args)


def test_many_steps_of_the_model() -> None:
    """`make model`: a million."""
    for seed in range(20):
        simulation = model.Simulation(seed)
        for _ in range(1000):
            simulation.do(*simulation.next())
