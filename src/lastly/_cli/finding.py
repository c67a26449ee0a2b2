"""What the doctor answers with."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


# Where the pages are, for people who have only the wheel.
PAGES = "https://github.com/lastly-py/lastly/blob/main/docs"


class Finding:
    """One answer of the doctor.

    Attributes:
        name: short, stable, for tools.
        level: ``ok``, ``unprotected`` (works, and some death leaves something) or ``wrong``.
        what: a sentence.
        fix: what to do, or empty.
    """

    __slots__ = ("fix", "level", "name", "what")

    def __init__(self, name: str, level: str, what: str, fix: str = "") -> None:
        self.name = name
        self.level = level
        self.what = what
        self.fix = fix

    def to_mapping(self) -> "dict[str, Any]":
        """The same as JSON."""
        return {name: getattr(self, name) for name in self.__slots__}
