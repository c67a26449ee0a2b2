"""Signals as people write them: which are meant, and what each is called."""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum

from lastly._words import pythons

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, TypeAlias

    # What type checkers know: capitals, and the signals that end programs. At run time "term" will do, and so
    # will the names of all others that can be caught; checkers take these as numbers, like signal.SIGWINCH.
    SignalName: TypeAlias = Literal[
        "ALRM", "HUP", "INT", "IO", "PIPE", "PROF", "PWR", "QUIT", "TERM", "USR1", "USR2", "VTALRM", "XCPU",
        "XFSZ", "SIGALRM", "SIGHUP", "SIGINT", "SIGIO", "SIGPIPE", "SIGPROF", "SIGPWR", "SIGQUIT", "SIGTERM",
        "SIGUSR1", "SIGUSR2", "SIGVTALRM", "SIGXCPU", "SIGXFSZ",
    ]  # fmt: skip


def signal_name(signum: int) -> str:
    """``SIGTERM`` for 15; without `signal`, whose enum costs more than the rest of this package."""
    for name in (
        "SIGINT",
        "SIGTERM",
        "SIGHUP",
        "SIGQUIT",
        "SIGUSR1",
        "SIGUSR2",
        "SIGALRM",
        "SIGPIPE",
        "SIGXCPU",
    ):
        if getattr(_signal, name, None) == signum:
            return name
    for name in dir(_signal):
        if name.startswith("SIG") and name[3] != "_" and getattr(_signal, name) == signum:
            return name
    return f"signal {signum}"


def numbers(signals: "Any") -> list[int]:
    """Return the numbers of signals given by name or by number: several, or just one.

    Raises:
        ValueError: there is no such signal, or it cannot be caught.
        TypeError: neither names nor numbers.
    """
    if signals is None or isinstance(signals, (bytes, float)):
        raise TypeError(f"signals must be names like 'TERM', or numbers, not {signals!r}")
    return [_number(signal) for signal in ((signals,) if isinstance(signals, (int, str)) else signals)]


def _number(signal: "int | str") -> int:
    if isinstance(signal, str):
        name = signal.upper().removeprefix("SIG")
        number = None if name.startswith("_") else getattr(_signal, f"SIG{name}", None)
    else:
        number = int(signal)
    if number is None:
        raise ValueError(f"{signal!r} is not the name of a signal")
    if number not in _signal.valid_signals() - {pythons.number("SIGKILL"), pythons.number("SIGSTOP")}:
        raise ValueError(f"{signal!r} cannot be caught")
    return int(number)
