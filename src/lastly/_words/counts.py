"""How people write how many there are of something."""


def counted(number: int, one: str) -> str:
    """Return "1 cleanup", "2 cleanups", "1,000 cleanups"."""
    return f"{number:,} {one}{'s' * (number != 1)}"
