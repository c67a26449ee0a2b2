"""The judge: a host is dead when this judge has watched the same beat for a whole ttl, and not before."""

from __future__ import annotations

import pytest

from lastly._reach.judge import Judge

TTL = 6.0


class Watch:
    """A judge on a clock of the test's own, which looks each quarter of a second at one host."""

    def __init__(self) -> None:
        self.now = 0.0
        self.judge = Judge(lambda: self.now)
        self.beat = 1

    def look(self, took: float = 0.0) -> bool:
        """Whether the host is dead, after a look that took so long."""
        began = self.now
        self.now += took
        return bool(self.judge.silent([(1, self.beat, TTL)], began))

    def watch(self, seconds: float) -> bool:
        """Look for so long; whether it was dead at any of the looks."""
        found = []
        for _ in range(int(seconds * 4)):
            self.now += 0.25
            found.append(self.look())
        return any(found)


def test_a_whole_ttl_of_silence_and_no_less() -> None:
    watch = Watch()
    watch.look()
    assert not watch.watch(TTL - 0.25)
    assert watch.watch(0.25)


def test_a_beat_begins_it_again() -> None:
    watch = Watch()
    watch.look()
    assert not watch.watch(TTL - 0.5)
    watch.beat += 1
    assert not watch.watch(TTL)
    assert watch.watch(0.5)


def test_a_beat_that_goes_back_is_one() -> None:
    """A standby that had not heard of the last ones has taken over."""
    watch = Watch()
    watch.look()
    watch.watch(TTL - 0.5)
    watch.beat -= 1
    assert not watch.watch(TTL)


@pytest.mark.parametrize("what", ["an error of the database", "a pause of this process", "a look that took long"])
def test_what_was_not_watched_does_not_count(what: str) -> None:
    """Whatever the clocks say: a server that was away, a worker that was frozen, or a server that was."""
    watch = Watch()
    watch.look()
    assert not watch.watch(TTL - 0.5)
    if what == "an error of the database":
        watch.judge.reset()
    elif what == "a pause of this process":
        watch.now += 2 * TTL
    else:
        assert not watch.look(took=2 * TTL)
    assert not watch.watch(TTL - 0.25)
    assert watch.watch(0.75)


def test_a_judge_that_has_just_started_knows_nothing() -> None:
    """By the database's clock every host may have been silent for years: that clock may have jumped."""
    assert not Watch().look()


def test_few_may_die_at_once() -> None:
    """The breaker is for many: of five hosts one, and all of four."""
    for hosts, dead in ((5, 1), (4, 4)):
        now = 0.0
        judge = Judge(lambda: now)  # noqa: B023 - used in this turn alone
        judged: set[int] = set()
        for tick in range(40):
            now = tick * 0.25
            rows = [(host, 1 if host < dead else tick, TTL) for host in range(hosts)]
            judged |= {epoch for epoch, _ in judge.silent(rows, now)}
        assert (judged, judge.open) == (set(range(dead)), "")
