"""What to do with several failures at once: lose none of them, and do not change how the program ends."""

from lastly._scope.reason import fail
from lastly.errors import CleanupFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


# What wants the program to end, as opposed to what went wrong: sys.exit() in a hook, Ctrl-C, a signal.
def _exits(failures: "Sequence[BaseException]") -> "list[BaseException]":
    return [exc for exc in failures if not isinstance(exc, Exception)]


def _ordinary(failures: "Sequence[BaseException]") -> "list[Exception]":
    return [exc for exc in failures if isinstance(exc, Exception)]


def grouped(where: str, failures: "Sequence[BaseException]") -> BaseException:
    """Return the one exception that stands for all *failures*, of which there is at least one.

    That is a :class:`~lastly.errors.CleanupFailed` with all of them. Where one of them was a request to end
    the program, such as ``sys.exit(5)`` in a hook, it is that one, with the others as its notes.
    """
    exits, ordinary = _exits(failures), _ordinary(failures)
    if exits:
        attach(exits[0], ordinary)
        return exits[0]
    count = len(ordinary)
    return CleanupFailed(f"{count} cleanup{'s' if count > 1 else ''} failed in {where}", ordinary)


def flattened(exc: BaseException) -> "list[BaseException]":
    """Return the failures that a closed scope raised, one by one."""
    return list(exc.exceptions) if isinstance(exc, CleanupFailed) else [exc]


def raise_failures(where: str, failures: "Sequence[BaseException]") -> None:
    """Raise what :func:`grouped` returns; does nothing when nothing failed."""
    if failures:
        raise grouped(where, failures)


def attach(exc: BaseException, failures: "Sequence[BaseException]") -> None:
    """Name *failures* on *exc*, which goes on as it is.

    The notes of an exception are printed with its traceback. A SystemExit has none printed: there the
    failures are printed at once, and a status that would have said success becomes 1.
    """
    if not failures:
        return
    for failure in failures:
        exc.add_note(f"cleanup failed: {type(failure).__name__}: {failure}")
    if isinstance(exc, SystemExit):
        show(failures)
        fail(exc)


def show(failures: "Sequence[BaseException]") -> None:
    """Print the tracebacks of *failures* to standard error."""
    import traceback

    for failure in failures:
        traceback.print_exception(failure)
