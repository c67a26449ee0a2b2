"""What can go wrong, as a tree; each error keeps the base class that the standard library would use.

::

    LastlyError (Exception)
    ├── NotRecorded    (OSError)       it could not be written down: do not create the resource
    │   ├── LeaseLost                  this machine was taken for dead, and workers undid what it had
    │   └── UnsupportedPlatform       and never can be on this system
    ├── ScopeClosed    (RuntimeError)  deferred to a scope that takes no more
    ├── CleanupTimeout (TimeoutError)  a cleanup did not end in time, or was not begun
    ├── CorruptJournal (ValueError)    a journal that cannot be understood
    ├── UnknownAction  (LookupError)   an action that cannot be imported
    ├── NotOurs                        what is there is not what was planned
    └── FrameworkError                 an App was given something that it cannot use
    CleanupFailed (ExceptionGroup)     the body was fine, these cleanups were not
    CaughtSignal  (SystemExit)         a signal, unwinding the program; code is 128 + its number
    └── CaughtInterrupt (KeyboardInterrupt)  SIGINT

The names say what happened; hence no suffix "Error" (N818), as in trio and concurrent.futures.
"""

__all__ = [
    "CaughtInterrupt", "CaughtSignal", "CleanupFailed", "CleanupTimeout", "CorruptJournal", "FrameworkError",
    "LastlyError", "LeaseLost", "NotOurs", "NotRecorded", "ScopeClosed", "UnknownAction",
]  # fmt: skip
__dir__ = __all__.copy  # dir() shows what is public


class LastlyError(Exception):
    """The base of the library's own errors.

    .. versionadded:: 0.1
    """


class NotRecorded(LastlyError, OSError):  # noqa: N818
    """A durable cleanup could not be written down, so what it would undo must not be created.

    ``errno`` is the system's reason, where it gave one.

    .. versionadded:: 0.1
    """


class UnsupportedPlatform(NotRecorded):
    """No journal can be kept here at all, and this cleanup must not rely on its process alone.

    Raised for actions with ``remote=True``, and for all durable ones under ``LASTLY_DURABLE=require``. The
    others run in the process, after one warning.

    .. versionadded:: 0.1
    """


class LeaseLost(NotRecorded):
    """The machine was silent for longer than its lease: workers on others have undone what was owed.

    Raised once, by the next `defer` of a remote action. It was not recorded; what is deferred after it is.

    .. versionadded:: 0.1
    """


class ScopeClosed(LastlyError, RuntimeError):  # noqa: N818
    """A cleanup was deferred to a scope that is closed, or closes and takes no more: it would not run.

    .. versionadded:: 0.1
    """


class CleanupTimeout(LastlyError, TimeoutError):  # noqa: N818
    """A cleanup was given up: it did not end within its time, or no time was left to begin it.

    One that is durable stays in the journal, and the reaper runs it.

    .. versionadded:: 0.1
    """


class CorruptJournal(LastlyError, ValueError):  # noqa: N818
    """A journal, or a part of one, cannot be understood.

    .. versionadded:: 0.1
    """


class UnknownAction(LastlyError, LookupError):  # noqa: N818
    """An action's name leads to no function.

    .. versionadded:: 0.1
    """


class NotOurs(LastlyError):  # noqa: N818
    """What is there is not what was planned: it was not touched, and trying again will not help.

    .. versionadded:: 0.1
    """


class FrameworkError(LastlyError):
    """An application, or its label, configuration, extension or plugin, is not as it has to be.

    .. versionadded:: 0.1
    """

    @property
    def msg(self) -> str:
        """The message, by the name that programs written for Cement use."""
        return str(self)


class CleanupFailed(ExceptionGroup[Exception]):
    """Cleanups failed after a body that did not; every other cleanup has been run.

    ``exceptions`` holds the errors in the order in which the cleanups ran; each has a note with the name.

    .. versionadded:: 0.1
    """

    def derive(self, excs: "list[Exception]", /) -> "CleanupFailed":  # type: ignore[override]  # same kind
        """Keep the kind when ``except*`` or `split` take a part."""
        return CleanupFailed(self.message, excs)


class CaughtSignal(SystemExit):
    """A signal, on its way out through ``finally``, ``with`` and the scopes.

    A `SystemExit`, so that ``except Exception`` does not stop it, with the shells' code: 128 + number.

    Attributes:
        signum: the signal's number.
        frame: where the program was, or None.

    .. versionadded:: 0.1
    """

    def __init__(self, signum: int, frame: object = None) -> None:
        super().__init__(128 + signum)
        self.signum = int(signum)
        self.frame = frame

    def __str__(self) -> str:
        from lastly._words.signal_names import signal_name

        return f"Caught signal {self.signum} ({signal_name(self.signum)})"

    @property
    def msg(self) -> str:
        """The message, by the name that programs written for Cement use."""
        return str(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.signum})"

    def __reduce__(self) -> "tuple[object, ...]":
        return type(self), (self.signum,)  # a frame cannot be pickled


class CaughtInterrupt(CaughtSignal, KeyboardInterrupt):
    """SIGINT: still what ``except KeyboardInterrupt`` expects.

    .. versionadded:: 0.1
    """
