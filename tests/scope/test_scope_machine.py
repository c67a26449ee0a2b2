"""Scope against a model: a list. Hypothesis looks for a sequence of calls after which the two differ."""

from __future__ import annotations

import pytest
from harness import examples
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from lastly import Scope
from lastly.errors import CleanupFailed, ScopeClosed


class Failed(Exception):
    pass


class Model:
    """Entries (number, fails, adds), newest last; a pool or inner scope is an entry with its own model."""

    def __init__(self):
        self.entries = []

    def close(self):
        """Return what runs, in order, with pools as sets, and how many fail on this level."""
        log, failures = [], 0
        while self.entries:
            entry = self.entries.pop()
            if isinstance(entry, tuple) and isinstance(entry[0], Model):
                inner, kind = entry
                inner_log, inner_failures = inner.close()
                log.append(("together", sorted(inner_log)) if kind == "pool" else ("inner", inner_log))
                failures += bool(inner_failures)
                continue
            number, fails, adds = entry
            log.append(number)
            failures += fails
            if adds:
                self.entries.append((-number, False, False))
        return log, failures


def flat(log):
    for item in log:
        if isinstance(item, tuple):
            yield from flat(item[1])
        else:
            yield item


class ScopeMachine(RuleBasedStateMachine):
    handles = Bundle("handles")

    def __init__(self):
        super().__init__()
        self.fresh()

    def fresh(self):
        self.scope, self.model = Scope("machine"), Model()
        self.places = [(self.scope, self.model)]
        self.ran, self.count = [], 0

    def teardown(self):
        self.scope.detach_all()
        for scope, _ in self.places:
            scope.detach_all()

    def cleanup(self, scope, number, fails, adds):
        def run():
            self.ran.append(number)
            if adds:
                scope.defer(self.ran.append, -number)
            if fails:
                raise Failed(number)

        return run

    @rule(target=handles, place=st.integers(0, 9), fails=st.booleans(), adds=st.booleans())
    def defer(self, place, fails, adds):
        scope, model = self.places[place % len(self.places)]
        self.count += 1
        pooled = type(scope).__name__ == "Parallel"
        entry = (self.count, fails, adds and not pooled)
        model.entries.append(entry)
        return scope.defer(self.cleanup(scope, *entry)), model, entry

    @rule(what=handles)
    def detach(self, what):
        handle, model, entry = what
        expected = entry in model.entries
        assert handle.detach() is expected
        if expected:
            model.entries.remove(entry)

    @rule(what=handles)
    def run(self, what):
        handle, model, entry = what
        number, fails, adds = entry
        before = len(self.ran)
        if entry not in model.entries:
            assert handle.run() is None
            assert len(self.ran) == before
            return
        model.entries.remove(entry)
        if fails:
            with pytest.raises(Failed):
                handle.run()
        else:
            handle.run()
        assert self.ran.pop() == number
        if adds:
            model.entries.append((-number, False, False))

    @precondition(lambda self: len(self.places) < 4)
    @rule(pool=st.booleans())
    def nest(self, pool):
        inner = self.scope.parallel() if pool else self.scope.enter(Scope())
        model = Model()
        self.model.entries.append((model, "pool" if pool else "scope"))
        self.places.append((inner, model))

    @rule(body=st.sampled_from([None, KeyError]))
    def close(self, body):
        expected, failures = self.model.close()
        error = body("body") if body else None
        try:
            with self.scope:
                if error is not None:
                    raise error
        except CleanupFailed as group:
            assert error is None
            assert len(group.exceptions) == failures
        except KeyError as caught:
            assert caught is error
            assert len(getattr(error, "__notes__", [])) == failures
        else:
            assert error is None
            assert failures == 0
        assert sorted(self.ran) == sorted(flat(expected))
        self.check_order(expected)
        for scope, _ in self.places:
            assert scope.closed
            with pytest.raises(ScopeClosed):
                scope.defer(print)
        self.fresh()

    def check_order(self, expected):
        at = 0
        for item in expected:
            if not isinstance(item, tuple):
                assert self.ran[at] == item
                at += 1
                continue
            kind, inner = item
            part = self.ran[at : at + len(inner)]
            assert (sorted(part) if kind == "together" else part) == inner
            at += len(inner)

    @invariant()
    def as_many_as_expected(self):
        for scope, model in self.places:
            assert len(scope) == len(model.entries)


ScopeMachine.TestCase.settings = settings(
    max_examples=examples(60), stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestScope = ScopeMachine.TestCase
