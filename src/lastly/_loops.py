"""Event loops in the main thread: end them by cancelling the main task."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


def cancel(_signum: int, _frame: "FrameType | None") -> bool:
    """Cancel the main task of the running loop; False when there is none."""
    return False


def cancelling() -> bool:
    """Whether a cancelled main task has still to end."""
    return False
