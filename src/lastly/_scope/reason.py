"""Why the program, or the body of a scope, is ending."""

from lastly._words.warn import message_of
from lastly.errors import CaughtSignal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def status_of(code: object) -> int:
    """Return the status that the parent sees when the program exits with this code: 8 bits of it."""
    if isinstance(code, int):
        return code & 0xFF
    return 0 if code is None else 1


def fail(ending: SystemExit) -> None:
    """Let a program that is exiting tell its parent of a failure: a status 0 becomes 1."""
    if status_of(ending.code) == 0:
        ending.code = 1


def visible_code(code: int) -> int:
    """Return a code that says failure when this one does: of 256 the parent would see 0."""
    return code if status_of(code) else int(bool(code))


class ExitReason:
    """Why it ends; at most one of `signal` and `exception` is set.

    Attributes:
        signal: the number of the signal, or None.
        exception: the exception that ends it, or None.
        code: the exit status that follows, as far as it is known, or None.

    .. versionadded:: 0.1
    """

    __slots__ = ("code", "exception", "signal")

    def __init__(
        self,
        *,
        signal: "int | None" = None,
        exception: "BaseException | None" = None,
        code: "int | None" = None,
    ) -> None:
        self.signal = signal
        self.exception = exception
        self.code = code

    @classmethod
    def of(cls, error: "BaseException | None") -> "ExitReason":
        """Return the reason that an exception on its way up is; None: the end was reached."""
        if error is None:
            return cls()
        if isinstance(error, CaughtSignal):
            return cls(signal=error.signum, code=128 + error.signum)
        if isinstance(error, SystemExit):
            code: Any = error.code
            return cls(code=code if isinstance(code, int) else 0 if code is None else 1)
        if isinstance(error, KeyboardInterrupt):
            return cls(signal=2, code=130)
        return cls(exception=error, code=1)

    def __str__(self) -> str:
        if self.signal is not None:
            from lastly._words.signal_names import signal_name

            return f"signal {signal_name(self.signal)}"
        if self.exception is not None:
            return f"exception {message_of(self.exception)}"
        return "the end" if self.code is None else f"exit code {self.code}"

    def __repr__(self) -> str:
        return f"<ExitReason {self}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExitReason):
            return NotImplemented
        return (self.signal, self.exception, self.code) == (other.signal, other.exception, other.code)

    def __hash__(self) -> int:
        return hash((self.signal, self.code))
