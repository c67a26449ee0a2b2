"""The leases of 10,000 hosts on a real PostgreSQL: some die; it is restarted, frozen, and a standby takes over.

Nobody else is judged.

    python tests/reach/leases.py [hosts]            make leases

No host is started: one driver beats for all of them, over 8 connections, as relays do; the judge is the worker's.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1] / "support")]

from sharing import Shared, new_database, new_folder, new_server, psycopg  # noqa: E402 - found by the line above

from lastly._reach.judge import Judge  # noqa: E402

CONNECTIONS = 8


class Hosts:
    """The hosts of the driver: who lives beats every sixth of the ttl, as far as the server keeps up."""

    def __init__(self, shared: Shared, count: int, ttl: float) -> None:
        self.shared, self.ttl = shared, ttl
        with psycopg.connect(shared.url("web1"), autocommit=True) as connection:
            rows = connection.execute(
                "SELECT lastly.join_host('h' || n, 'b', %s) FROM generate_series(1, %s) AS n", [ttl, count]
            ).fetchall()
        self.living = [epoch for (epoch,) in rows]
        self.flushes = 0
        self.refused: list[int] = []
        self.stop = False
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._beat, args=(n,), daemon=True) for n in range(CONNECTIONS)]
        for thread in self.threads:
            thread.start()

    def kill(self, count: int) -> set[int]:
        with self.lock:
            dead, self.living = self.living[:count], self.living[count:]
        return set(dead)

    def _beat(self, part: int) -> None:
        connection: Any = None
        while not self.stop:
            began = time.monotonic()
            with self.lock:
                mine = self.living[part::CONNECTIONS]
            for epoch in mine:
                try:
                    if connection is None:
                        connection = psycopg.connect(self.shared.url("web1"), autocommit=True, connect_timeout=5)
                        connection.prepare_threshold = 1
                    if not connection.execute("SELECT lastly.flush(%s)", [epoch]).fetchone()[0]:
                        self.refused.append(epoch)
                    self.flushes += 1
                except psycopg.Error:  # away: a relay tries again, too
                    if connection is not None:
                        connection.close()
                    connection = None
                    time.sleep(0.2)
                if self.stop:
                    break
            time.sleep(max(0.0, self.ttl / 6 - (time.monotonic() - began)))
        if connection is not None:
            connection.close()


class Watching:
    """A worker's judge, on a thread of its own."""

    def __init__(self, shared: Shared) -> None:
        self.shared, self.judge = shared, Judge()
        self.judged: dict[int, float] = {}
        self.longest = 0.0
        self.stop = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        connection: Any = None
        while not self.stop:
            time.sleep(self.judge.every)
            try:
                if connection is None:
                    connection = psycopg.connect(self.shared.url("hand1"), autocommit=True, connect_timeout=5)
                began = time.monotonic()
                sql = "SELECT epoch, beat, ttl FROM lastly.hosts WHERE state = 'alive'"
                rows = connection.execute(sql).fetchall()
                self.longest = max(self.longest, time.monotonic() - began)
                for epoch, beat in self.judge.silent(rows, began):
                    connection.execute("SELECT * FROM lastly.judge(%s, %s)", [epoch, beat])
                    self.judged.setdefault(epoch, time.monotonic())
            except psycopg.Error:
                self.judge.reset()
                if connection is not None:
                    connection.close()
                connection = None
        if connection is not None:
            connection.close()


def wait_for(condition: Any, seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.2)


def caught_up(shared: Shared) -> bool:
    """Whether the standby has all that is judged: what happens after a moment is on its way a moment later."""
    now = shared.one("SELECT pg_current_wal_lsn()::text")
    return bool(shared.one("SELECT replay_lsn >= %s::pg_lsn FROM pg_stat_replication", now) or shared.one("SELECT count(*) > 0 FROM pg_stat_replication WHERE replay_lag < '1 s'"))


def dead_in(shared: Shared) -> set[int]:
    return {epoch for (epoch,) in shared.all("SELECT epoch FROM lastly.hosts WHERE state = 'dead'")}


def run(count: int, ttl: float, say: Any = print) -> None:
    """Assert it all, and say what was measured."""
    server, folder = new_server("-c", "synchronous_commit=on")
    standby_folder = new_folder()
    standby = None
    try:
        shared = new_database(server)
        standby = server.standby(standby_folder)
        hosts, judge = Hosts(shared, count, ttl), Watching(shared)
        dead: set[int] = set()
        for few in (1, max(2, count // 100)):
            killed, at = hosts.kill(few), time.monotonic()
            dead |= killed
            wait_for(lambda: dead_in(shared) >= dead, 3 * ttl + 60, f"{few} dead hosts are judged")
            late = max(judge.judged[epoch] for epoch in killed) - at
            say(f"{few} of {count} hosts die: judged after at most {late:.1f} s (ttl {ttl:g})")
        server.stop()
        time.sleep(5)
        server.start()
        say("restarted after a crash and 5 s")
        server.freeze()
        time.sleep(2 * ttl)  # what is tested is that so long a silence means nothing
        server.thaw()
        say(f"frozen for {2 * ttl:g} s")
        time.sleep(2 * ttl)  # a judge that is wrong judges within one
        assert dead_in(shared) == dead, "a living host was judged"
        rate = shared.one("SELECT n_tup_hot_upd::float8 / n_tup_upd FROM pg_stat_user_tables WHERE relname = 'hosts'")
        size = shared.one("SELECT pg_total_relation_size('lastly.hosts') / 1e6")
        say(f"{hosts.flushes} beats, {rate:.1%} of them HOT updates; the table has {size:.1f} MB; a look took {judge.longest * 1e3:.0f} ms at most")
        wait_for(lambda: caught_up(shared), 60 + ttl, "the standby has what was written")
        server.stop()
        standby.promote()
        beats = "SELECT sum(beat) FROM lastly.hosts WHERE state = 'alive'"
        before = shared.one(beats)
        time.sleep(2 * ttl)  # a judge that is wrong judges within one
        assert dead_in(shared) == dead, "a living host was judged after the standby had taken over"
        assert shared.one(beats) > before, "nobody beats there"
        say("a standby has taken over")
        many = count * 4 // 10
        hosts.kill(many)
        wait_for(lambda: judge.judge.open, 4 * ttl + 60, "the breaker opens")
        assert dead_in(shared) == dead, "somebody was judged although the breaker is open"
        say(f"{many} fall silent at once: {judge.judge.open}")
        assert hosts.refused == []
        hosts.stop = judge.stop = True
        for thread in (*hosts.threads, judge.thread):
            thread.join()
    finally:
        server.thaw()
        server.stop()
        if standby is not None:
            standby.stop()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(standby_folder, ignore_errors=True)


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, 30.0)
