"""Event loops in the main thread: end them by cancelling the main task.

What we want: after SIGTERM the main task is cancelled, its ``async with`` and ``finally`` blocks finish, with
everything they await, and then `CaughtSignal` leaves ``asyncio.run()`` as an exception leaves any other
call. An exception out of the handler would hit whichever coroutine is running at that moment, and cancel
all others at once.

asyncio does this for Ctrl-C alone, and only when it finds Python's own handler. Nobody is told which task
is the main one, but the stack knows: `Runner.run` and `run_until_complete` stand in it, with the task in a
variable. While a runner closes, that is the sum of the cancelled tasks, which must be waited for and not be
cancelled again. In ``run_forever`` there is no main task; there the exception comes out of the loop's own
turn.

In trio the main task is alone in the innermost nursery of the root task. What cancelled it must not be seen
by the caller of ``trio.run``; the run's outcome is replaced when the task exits.

Neither asyncio nor trio is imported here: where one runs, it has been.
"""

# ruff: noqa: SLF001  # asyncio tells which loop runs by a private name

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

_CLOSING = ("_cancel_all_tasks", "close")

_task: "Any" = None  # the main task that was cancelled and has not ended yet


def cancel(frame: "FrameType | None") -> bool:
    """Cancel the main task of the loop that runs in this thread; False when there is none."""
    events: Any = sys.modules.get("asyncio.events")
    loop = events._get_running_loop() if events is not None else None
    if loop is not None:
        return _cancel_asyncio(loop, frame)
    return "trio" in sys.modules and _cancel_trio()


def cancelling() -> bool:
    """Whether a cancelled main task has still to end."""
    return _task is not None


def forget() -> None:
    """Know of no loop: a forked child has its parent's, but does not run it."""
    global _task
    _task = None


# ── asyncio ──────────────────────────────────────────────────────────────────────────────────────────────


def _cancel_asyncio(loop: "Any", frame: "FrameType | None") -> bool:
    global _task
    task, closing = _main_task(frame)
    if task is None:
        loop.call_soon_threadsafe(_raise)
        return True
    _task = task
    task.add_done_callback(_ended)
    if not closing:
        task.cancel()
    loop.call_soon_threadsafe(bool)  # the loop may sleep in select
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


def _raise() -> None:
    from lastly import _signals

    if _signals.state.signum:
        raise _signals._watched(_signals.state.signum, None)


def _ended(task: "Any") -> None:
    """Let CaughtSignal out of the loop; an error of the task's own goes its way instead and is not lost."""
    global _task
    _task = None
    error = None if task.cancelled() else task.exception()
    if error is None or type(error).__name__ == "CancelledError":
        _raise()


# ── trio ─────────────────────────────────────────────────────────────────────────────────────────────────


def _cancel_trio() -> bool:
    global _task
    trio: Any = sys.modules["trio"]
    try:
        token = trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    _task = token
    token.run_sync_soon(_cancel_main)
    return True


def _cancel_main() -> None:
    global _task
    trio: Any = sys.modules["trio"]
    root = trio.lowlevel.current_root_task()
    nurseries = root.child_nurseries if root is not None else []
    main = next(iter(nurseries[-1].child_tasks), None) if nurseries else None
    if main is None:
        _task = None
        return
    trio.lowlevel.add_instrument(_Outcome(main))
    nurseries[-1].cancel_scope.cancel()


class _Outcome:
    """An instrument: gives the run CaughtSignal as its outcome, where it would be trio's own Cancelled."""

    def __init__(self, main: "Any") -> None:
        self.main = main

    def task_exited(self, task: "Any") -> None:
        """Called by trio for every task that has ended."""
        global _task
        if task is not self.main:
            return
        _task = None
        trio: Any = sys.modules["trio"]
        runner = trio._core._run.GLOBAL_RUN_CONTEXT.runner  # private: else the caller sees Cancelled
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
