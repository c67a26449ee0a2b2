"""Which signals are meant, and which of them C code has taken."""

import _signal  # type: ignore[import-not-found]  # no stub; `signal` itself costs an enum


def number(signal: "int | str") -> int:
    """Return the number of a signal that is given by name or by number."""
    if isinstance(signal, str):
        name = signal.upper().removeprefix("SIG")
        number = getattr(_signal, f"SIG{name}", None)
        if not isinstance(number, int) or name.startswith("_"):
            raise ValueError(f"{signal!r} is not the name of a signal")
        return number
    return int(signal)


def caught() -> int:
    """Return the mask of the signals that have a handler, as the kernel knows them."""
    try:
        with open("/proc/self/status", "rb") as status:
            line = next(line for line in status if line.startswith(b"SigCgt:"))
        return int(line.split()[1], 16)
    except (OSError, StopIteration, ValueError):
        return 0
