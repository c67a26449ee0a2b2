"""Several cleanups failed: lose no failure, and do not change how the program ends. One rule for all."""

import os
import sys

from lastly._scope.reason import fail
from lastly.errors import CaughtSignal, CleanupFailed, CleanupTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly._scope.handle import Cleanup
    from lastly._scope.scope import Scope

    Failure = tuple[Cleanup | None, BaseException]


def settle(scope: "Scope", failures: "list[Failure]", body: "BaseException | None") -> None:
    """Decide what leaves the scope; returns when the body's own exception is to go on.

    1. A request to stop from outside that cut a cleanup (Ctrl-C, a signal) goes on, unless the body already
       ends by something that no ``except Exception`` stops: who asked to stop must not find the program
       running on.
    2. The body's exception goes on, with a note per failed cleanup.
    3. After a clean body: what ``sys.exit()`` or another such exception in a cleanup asked for, with notes.
    4. After a clean body: `CleanupFailed` with all of them.

    Nobody prints the notes of a `SystemExit`: what failed under one is printed here; its code 0 becomes 1.
    """
    if not failures:
        return
    errors = [error for _, error in failures]
    stop = next((e for e in errors if isinstance(e, (KeyboardInterrupt, CaughtSignal))), None)
    winner: BaseException | None = None
    if body is None:
        exits = next((e for e in errors if isinstance(e, SystemExit)), None)
        winner = stop or exits or next((e for e in errors if not isinstance(e, Exception)), None)
    elif stop is not None and isinstance(body, Exception):
        winner = stop
    for cleanup, error in failures:
        name = "between two cleanups" if cleanup is None else f"cleanup {cleanup.name}"
        if error is not winner and error is not body:
            note(error, f"in {name} of {scope._title}")
            target = winner or body
            if target is not None:
                note(target, f"{name} of {scope._title} failed: {type(error).__name__}: {error}")
            if isinstance(target, SystemExit):
                tell(target, cleanup, error)
    if winner is not None:
        raise winner
    if body is None:
        word = "cleanup" if len(errors) == 1 else "cleanups"
        raise CleanupFailed(f"{len(errors)} {word} of {scope._title} failed", errors)  # type: ignore[arg-type]  # Exceptions: 3. took the others


def tell(ending: SystemExit, cleanup: "Cleanup | None", error: BaseException) -> None:
    """Print what failed while the program ends without a traceback."""
    fail(ending)
    complain(cleanup, error)


def complain(cleanup: "Cleanup | None", error: BaseException) -> None:
    """Print a failure at exit: what atexit prints, with the cleanup's name. Never raises."""
    name = "(between two cleanups)" if cleanup is None else cleanup.name
    try:
        import traceback

        text = "".join(traceback.format_exception(error))
        sys.stderr.write(f"Exception in cleanup {name}:\n{text}")
        sys.stderr.flush()
    except Exception:
        try:
            os.write(2, f"Exception in cleanup {name}: {error!r}\n".encode(errors="backslashreplace"))
        except OSError:
            pass


def note(error: BaseException, text: str) -> None:
    """Add a note; an exception may have spoilt its own ``__notes__``."""
    try:
        error.add_note(text)
    except TypeError:
        pass


def without_us(error: BaseException) -> BaseException:
    """Take this library's frames off the top of a traceback: it begins in the cleanup, as atexit's does."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("lastly._"):
        trace = trace.tb_next
    return error.with_traceback(trace)


def outcome_of(error: BaseException) -> str:
    """Return the report's word for it."""
    if isinstance(error, Exception):
        outcome: str = getattr(error, "outcome", "failed") if isinstance(error, CleanupTimeout) else "failed"
        return outcome
    return "interrupted"
