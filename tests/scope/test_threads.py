"""Threads for cleanups that may have to be left behind."""

from __future__ import annotations

import threading

from harness import wait_until

from lastly._scope import threads as _workers
from lastly._scope.handle import Cleanup


def cleanup(fn):
    made = Cleanup()
    made.func, made.args, made._keywords = fn, (), None
    return made


def test_an_idle_thread_that_was_counted_on_stays(monkeypatch):
    """At exit, from 3.12 on, no other could be started in its place."""
    monkeypatch.setattr(_workers, "_idle", [])
    monkeypatch.setattr(_workers, "_linger", 0.05)
    job = _workers.start(cleanup(lambda: None))
    assert job is not None
    job.done.acquire()
    wait_until(lambda: _workers._idle, what="it waits for the next one")
    _workers.reserve(1)
    reserved = list(_workers._idle)
    threading.Event().wait(0.2)
    assert _workers._idle == reserved
    assert len(reserved) == 1
