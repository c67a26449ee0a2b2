"""Event loops in the main thread: end them by cancelling the main task.

What we want: after SIGTERM the main task is cancelled, its ``async with`` and ``finally`` blocks finish, with
everything they await, and then `CaughtSignal` leaves ``asyncio.run()`` as an exception leaves any other call.
An exception out of the handler would hit whichever coroutine is running at that moment, and cancel all others
at once.

asyncio does this for Ctrl-C alone, and only when it finds Python's own handler. It does not say which
task is the main one, but the stack does: `Runner.run` and `run_until_complete` stand in it, with the task in
a variable. While a runner closes, that is the sum of the cancelled tasks, which must be waited for and not be
cancelled again. In ``run_forever`` there is no main task; there the exception comes out of the loop's own
turn.

In trio the main task is alone in the innermost nursery of the root task. What cancelled it must not be seen
by the caller of ``trio.run``; the run's outcome is replaced when the task exits.

Twisted's reactor logs whatever comes out of its callbacks, `CaughtSignal` too, and turns on. It is told to
stop; its shutdown triggers run, and the signal is raised where `reactor.run` has returned to.

A task can swallow its cancellation as any code can swallow an exception (swallowed.py). A cancelled task
deals with it as long as one of the coroutines that it stands in handles the `CancelledError`. As long as one
cancelled task does, all is well, for the others may wait for that one. If none does, they go on as if nothing
had been. Some programs clean up so, behind the ``except``; they get `PATIENCE` seconds for it, unless a
second signal comes. Then the tasks are cancelled again, and at last named. trio cancels by itself at every
step, so there the steps are counted.

A loop may stand in another greenlet (the synchronous API of playwright): asyncio says that it runs, but it
does not turn, and would never deliver what it is told. So with greenlets around the loop must stand in the
interrupted stack, or in that of a parent, which is where it goes on. Otherwise the code is ordinary code.

None of these packages is imported here: where one runs, it has been.
"""

import sys

from lastly._exit import c_loops, ending, stack, swallowed
from lastly._exit.state import end
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType
    from typing import Any

_CLOSING = ("_cancel_all_tasks", "close")
# Seconds after which a second signal interrupts a callback that keeps the loop from turning.
STUCK_AFTER = 2.0
# Seconds for tasks that have caught their cancellation and go on; with a grace no more than half of it.
PATIENCE = 5.0
# Cancelled so often, a task swallows it: anyio cancels at every turn of the loop.
_OFTEN = 100

# The loop that was told to end.
_asked: "_Asyncio | _Trio | _Twisted | c_loops.Loops | None" = None


def cancel(frame: "FrameType | None") -> bool:
    """Have the loop that runs in this stack end; False when there is none."""
    global _asked
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    if getattr(reactor, "running", False) and _stands(frame, type(reactor).run):
        _asked = _Twisted(reactor)
        return True
    events: Any = sys.modules.get("asyncio.events")
    loop = events._get_running_loop() if events is not None else None
    if loop is not None and _turns(frame, type(loop).run_forever):
        return _cancel_asyncio(loop, frame)
    if "trio" in sys.modules and _cancel_trio(frame):
        return True
    _asked = c_loops.ask(frame)
    return _asked is not None


def cancelling() -> bool:
    """Whether a loop that was told to end has still to do so."""
    return _asked is not None and _asked.runs()


def fate() -> str:
    """Return UNDER_WAY or SWALLOWED: what has become of the cancellation. Nothing: no loop has one."""
    if _asked is None or not _asked.runs():
        return ""
    return swallowed.UNDER_WAY if _asked.deals() else swallowed.SWALLOWED


def cancel_again() -> bool:
    """Cancel once more what swallowed it; False: there is no loop."""
    return _asked is not None and _asked.runs() and _asked.again()


def marked() -> bool:
    """Whether a signal that has come is a mark left for the end of a loop, and none from outside."""
    return isinstance(_asked, c_loops.Loops) and _asked.marked()


def insist() -> bool:
    """Whether a second signal is to be raised here: the loop could not even turn since the first."""
    return isinstance(_asked, _Asyncio) and not _asked.turned and monotonic() - _asked.at >= STUCK_AFTER


def where() -> str:
    """Return what swallowed the cancellation, for a message."""
    return _asked.where() if _asked is not None and _asked.runs() else ""


def forget() -> None:
    """Know of no loop: a forked child has its parent's, but does not run it."""
    global _asked
    _asked = None


def _turns(frame: "FrameType | None", run: "Any") -> bool:
    return "greenlet" not in sys.modules or not hasattr(run, "__code__") or _stands(frame, run)


def _stands(frame: "FrameType | None", run: "Any") -> bool:
    """Whether a function stands in this stack, or in that of a parent greenlet."""
    greenlet: Any = sys.modules.get("greenlet")
    fiber = greenlet.getcurrent() if greenlet is not None else None
    while True:
        while frame is not None:
            if frame.f_code is run.__code__:
                return True
            frame = frame.f_back
        fiber = fiber and fiber.parent
        if fiber is None:
            return False
        frame = fiber.gr_frame


def _raise() -> None:
    if end.signum:
        raise swallowed.make(end.signum, None)


# ── whether a task deals with its cancellation ────────────────────────────────────────────────────


def _deals(coro: "Any") -> bool:
    """Whether one of the coroutines that stand in each other handles a cancellation."""
    import gc

    for each, frame in _awaited(coro):
        if frame is None:
            return True
        errors = [thing for thing in gc.get_referents(each) if issubclass(type(thing), BaseException)]
        for value in frame.f_locals.values():  # in a variable it is not being handled
            errors = _without(errors, value)
        if any(type(error).__name__ in ("CancelledError", "Cancelled") for error in swallowed.chain(errors)):
            return True
    return False


def _without(errors: "list[Any]", value: object) -> "list[Any]":
    found = [at for at, error in enumerate(errors) if error is value]
    return errors[: found[0]] + errors[found[0] + 1 :] if found else errors


def _awaited(coro: "Any") -> "Iterable[tuple[Any, FrameType | None]]":
    """Yield a coroutine, what it awaits, and so on; each with its frame."""
    import gc

    while coro is not None:
        for kind, following in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            if hasattr(coro, f"{kind}_frame"):
                yield coro, getattr(coro, f"{kind}_frame")
                coro = getattr(coro, following)
                break
        else:  # one step of an asynchronous generator knows it, and does not tell
            coro = next((thing for thing in gc.get_referents(coro) if hasattr(type(thing), "ag_frame")), None)


def _place(coro: "Any") -> str:
    """Return where a coroutine waits: the innermost frame that is not asyncio's or trio's."""
    found = ""
    for _, frame in _awaited(coro):
        if frame is not None and not frame.f_globals.get("__name__", "").startswith(
            ("asyncio.", "trio.", "anyio.")
        ):
            found = f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"
    return found


# ── asyncio ──────────────────────────────────────────────────────────────────────────────────────────────


def _cancel_asyncio(loop: "Any", frame: "FrameType | None") -> bool:
    global _asked
    task, closing = _main_task(frame)
    if task is None:
        loop.call_soon_threadsafe(_raise)
        return True
    _asked = _Asyncio(loop, task)
    if not closing:
        task.cancel()
    return True


def _main_task(frame: "FrameType | None") -> "tuple[Any, bool]":
    """Find what the loop runs until it is complete, and whether that is the end of a runner already."""
    task: Any = None
    closing = False
    while frame is not None:
        name, module = frame.f_code.co_name, frame.f_globals.get("__name__")
        if module == "asyncio.runners" and name in _CLOSING:
            closing = True
        elif module == "asyncio.runners" and name == "run":
            task = task or frame.f_locals.get("task")
        elif module == "asyncio.base_events" and name == "run_until_complete":
            task = task or frame.f_locals.get("future")
        frame = frame.f_back
    usable = hasattr(task, "add_done_callback") and not task.done()
    return (task if usable else None), closing


class _Asyncio:
    """A main task that was cancelled, and then those that a runner cancels when it closes."""

    def __init__(self, loop: "Any", task: "Any") -> None:
        self.loop, self.task = loop, task
        self.at, self.turned = monotonic(), False
        self.idle: float | None = None  # since when no task deals with its cancellation
        task.add_done_callback(self._ended)
        loop.call_soon_threadsafe(self._turn)  # the loop may sleep in select

    def _turn(self) -> None:
        self.turned = True

    def _ended(self, task: "Any") -> None:
        """Let CaughtSignal out of the loop; an error of the task's own goes its way instead."""
        error = None if task.cancelled() else task.exception()
        if error is None or type(error).__name__ == "CancelledError":
            _raise()

    def runs(self) -> bool:
        """Whether the main task runs, or a runner waits for the others to end."""
        if not self.task.done():
            return True
        frame = sys._current_frames().get(stack.main_ident) if self.loop.is_running() else None
        while frame is not None:
            if frame.f_code.co_name == _CLOSING[0] and frame.f_globals.get("__name__") == "asyncio.runners":
                return True
            frame = frame.f_back
        return False

    def _tasks(self) -> "list[Any]":
        """Return those that were cancelled and have not ended."""
        every = sys.modules["asyncio"].all_tasks(self.loop)
        return [task for task in every if task is self.task or task.cancelling()]

    def deals(self) -> bool:
        tasks = self._tasks()
        found = {_task_deals(task) for task in tasks}
        if True in found or not tasks:
            self.idle = None
        if found != {False}:
            return True
        if any(task.cancelling() > _OFTEN for task in tasks):
            return False
        now = monotonic()
        self.idle = self.idle or now
        patience = PATIENCE if end.grace is None else min(PATIENCE, end.grace / 2)
        return end.count == 1 and not end.tries and now - self.idle < patience

    def again(self) -> bool:
        for task in self._tasks():
            task.cancel()
        self.loop.call_soon_threadsafe(bool)
        return True

    def where(self) -> str:
        return max([_place(task.get_coro()) for task in self._tasks()], default="")


def _task_deals(task: "Any") -> "bool | None":
    """Whether a task deals with its cancellation, or is about to see it; None: it runs right now."""
    if task.cancelling() > _OFTEN:
        return False
    coro, waits_for = task.get_coro(), getattr(task, "_fut_waiter", None)
    if getattr(coro, "cr_running", False):
        return None
    arrives = getattr(task, "_must_cancel", False) if waits_for is None else waits_for.done()
    return arrives or _deals(coro)


# ── trio ─────────────────────────────────────────────────────────────────────────────────────────────────


def _cancel_trio(frame: "FrameType | None") -> bool:
    global _asked
    trio: Any = sys.modules["trio"]
    try:
        token = trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    if not _turns(frame, trio.run):
        return False
    _asked = _Trio()
    token.run_sync_soon(_asked.cancel)
    return True


class _Trio:
    """An instrument: gives the run CaughtSignal as its outcome, where it would be trio's own Cancelled."""

    def __init__(self) -> None:
        self.main: Any = None
        self.steps: dict[Any, int] = {}
        self.last: Any = None

    def cancel(self) -> None:
        """Called by trio, between two steps."""
        global _asked
        trio: Any = sys.modules["trio"]
        root = trio.lowlevel.current_root_task()
        nurseries = root.child_nurseries if root is not None else []
        self.main = next(iter(nurseries[-1].child_tasks), None) if nurseries else None
        if self.main is None:
            _asked = None
            return
        trio.lowlevel.add_instrument(self)
        nurseries[-1].cancel_scope.cancel()

    def before_task_step(self, task: "Any") -> None:
        """Called by trio: count the steps that a task takes without dealing with its cancellation."""
        status = getattr(task, "_cancel_status", None)
        if status is None or not status.effectively_cancelled or _deals(task.coro):
            return
        self.last = task
        self.steps[task] = self.steps.get(task, 0) + 1
        if self.steps[task] > 1:  # the first one brings it
            end.tries = self.steps[task] - 2
            ending.count_try(where)

    def task_exited(self, task: "Any") -> None:
        """Called by trio for every task that has ended."""
        global _asked
        if task is not self.main:
            return
        _asked = None
        trio: Any = sys.modules["trio"]
        # Private: else the caller sees Cancelled.
        runner = sys.modules["trio._core._run"].GLOBAL_RUN_CONTEXT.runner
        result = runner.main_task_outcome
        error = getattr(result, "error", None)
        if isinstance(error, BaseExceptionGroup):
            error = error.split(trio.Cancelled)[1]
        elif isinstance(error, trio.Cancelled):
            error = None
        if error is None:
            try:
                _raise()
            except BaseException as caught:
                runner.main_task_outcome = sys.modules["outcome"].Error(caught)

    def runs(self) -> bool:
        return _asked is self

    def deals(self) -> bool:
        return True  # else its step is counted

    def again(self) -> bool:
        return True

    def where(self) -> str:
        return "" if self.last is None else _place(self.last.coro)


# ── Twisted ──────────────────────────────────────────────────────────────────────────────────────────────


class _Twisted:
    """A reactor that was told to stop."""

    def __init__(self, reactor: "Any") -> None:
        self.reactor = reactor
        reactor.callFromThread(self._stop)

    def _stop(self) -> None:
        try:
            self.reactor.stop()
        except RuntimeError:  # it stops already
            return

    def runs(self) -> bool:
        frame = sys._current_frames().get(stack.main_ident)
        return self.reactor.running or _stands(frame, type(self.reactor).run)

    def deals(self) -> bool:
        return True  # its triggers have the time that they need

    def again(self) -> bool:
        return True

    def where(self) -> str:
        return ""
