"""What serves on this system: the module for each thing that is not done everywhere in the same way."""

from lastly._system import probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def removal() -> "Any":
    """Return the module that removes files here: `remove`, or `remove_here` on systems without a reaper."""
    if probe.no_reaper():
        from lastly._system import remove_here

        return remove_here
    from lastly._system import remove

    return remove
