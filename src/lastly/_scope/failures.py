"""Several cleanups failed: lose no failure, and do not change how the program ends. One rule for all."""

import os
import sys

from lastly._scope.reason import fail
from lastly._words.warn import message_of, repr_of
from lastly.errors import CaughtSignal, CleanupFailed, CleanupTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lastly._scope.handle import Cleanup
    from lastly._scope.scope import Scope

    Failure = tuple[Cleanup | None, BaseException]


def raise_failures(scope: "Scope", failures: "list[Failure]", body: "BaseException | None") -> None:
    """Decide what leaves the scope: see `conclude`. Returns when the body's own exception is to go on."""
    if failures:
        conclude(scope._title, [(named(cleanup), error) for cleanup, error in failures], body)


def named(cleanup: "Cleanup | None") -> str:
    """Return what messages call a cleanup; None: none was running."""
    return "between two cleanups" if cleanup is None else f"cleanup {cleanup.name}"


def conclude(of: str, failures: "Sequence[tuple[str, BaseException]]", body: "BaseException | None") -> None:
    """Decide how something ends whose cleanups failed; returns when the body's own exception is to go on.

    1. A request to stop from outside that cut a cleanup (Ctrl-C, a signal) goes on, unless the body already
       ends by something that no ``except Exception`` stops: the program must not run on after it was
       asked to stop.
    2. The body's exception goes on, with a note per failed cleanup.
    3. After a clean body: what ``sys.exit()`` or another such exception in a cleanup asked for, with notes.
    4. After a clean body: `CleanupFailed` with all of them.

    The notes of a `SystemExit` are never printed: what failed under one is printed here; code 0 becomes 1.

    Args:
        of: what closed, as messages call it: "scope 'demo'".
        failures: what failed, by its name, in the order in which it did.
        body: what ends it anyway; None: its end was reached.
    """
    if not failures:
        return
    errors = [error for _, error in failures]
    winner = _winner(errors, body)
    target = winner or body
    for name, error in failures:
        if error is winner or error is body:
            continue
        note(error, f"in {name} of {of}")
        if target is not None:
            note(target, f"{name} of {of} failed: {message_of(error)}", again=True)
        if isinstance(target, SystemExit):
            fail(target)
            complain(name if name.startswith("cleanup ") else f"{name} of {of}", error)
    if winner is not None:
        raise winner
    if body is None:
        from lastly._words.counts import counted

        raise CleanupFailed(f"{counted(len(errors), 'cleanup')} of {of} failed", errors)  # type: ignore[arg-type]  # Exceptions: 3. took the others


def unnamed(errors: "Iterable[BaseException]") -> "list[tuple[str, BaseException]]":
    """Return failures without names, for `conclude`."""
    return [("cleanup", error) for error in errors]


def flattened(error: BaseException) -> "list[BaseException]":
    """Return the failures that `conclude` has raised, one by one."""
    return list(error.exceptions) if isinstance(error, CleanupFailed) else [error]


def _winner(errors: "list[BaseException]", body: "BaseException | None") -> "BaseException | None":
    """Return the failure that takes the place of what ends the body; None: none does."""
    stop = next((e for e in errors if isinstance(e, (KeyboardInterrupt, CaughtSignal))), None)
    if body is None:
        exits = next((e for e in errors if isinstance(e, SystemExit)), None)
        return stop or exits or next((e for e in errors if not isinstance(e, Exception)), None)
    return stop if isinstance(body, Exception) else None


def complain(name: str, error: BaseException) -> None:
    """Print what failed and would not be printed otherwise: as atexit does, with its name. Never raises."""
    try:
        import traceback

        text = "".join(traceback.format_exception(error))
        sys.stderr.write(f"Exception in {name}:\n{text}")
        sys.stderr.flush()
    except Exception:
        try:
            os.write(2, f"Exception in {name}: {repr_of(error)}\n".encode(errors="backslashreplace"))
        except OSError:
            pass


def note(error: BaseException, text: str, *, again: bool = False) -> None:
    """Add a note; nothing happens when the exception does not take one.

    Args:
        error: takes the note.
        text: the note.
        again: also when it has one like it: two cleanups may fail alike.
    """
    try:
        if again or text not in getattr(error, "__notes__", ()):
            error.add_note(text)
    except Exception:  # noqa: S110  # it has spoilt its ``__notes__``, or nothing can be set on it
        pass


def without_us(error: BaseException) -> BaseException:
    """Take this library's frames off the top of a traceback: it begins in the cleanup, as atexit's does."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("lastly._"):
        trace = trace.tb_next
    BaseException.with_traceback(error, trace)  # its own class may have another method of that name
    return error


def outcome_of(error: BaseException) -> str:
    """Return the report's word for it."""
    if isinstance(error, Exception):
        outcome: str = getattr(error, "outcome", "failed") if isinstance(error, CleanupTimeout) else "failed"
        return outcome
    return "interrupted"
