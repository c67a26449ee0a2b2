"""What resources share: a handle; and a removal that is owed before a file exists, then bound to it."""

from lastly import actions
from lastly._durable import seam
from lastly._exit.root import root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from lastly._durable.handle import DurableCleanup
    from lastly._scope.handle import Cleanup
    from lastly._scope.scope import Scope


class Handle:
    """Something that is undone however the program ends; what undoes it is its `cleanup`."""

    __slots__ = ("cleanup",)

    cleanup: "Cleanup"

    def close(self) -> None:
        """Remove it now, or give it back. A second call does nothing. Raises what the removal raises."""
        self.cleanup.run()

    def detach(self) -> bool:
        """Keep it: it is yours from here on. Returns False when it was kept or undone before."""
        return self.cleanup.detach()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self)!r}{'' if self.cleanup.pending else ' gone'}>"


def planned_removal(path: str, scope: "Scope | None") -> "DurableCleanup":
    """Owe the removal of a path that is not there yet."""
    return seam.deferred(root if scope is None else scope, actions.remove, path, expect={})


def confirm_file(cleanup: "DurableCleanup", path: str) -> None:
    """Tell the journal which file the planned path has become."""
    try:
        cleanup.confirm(seam.file_identity(path))
    except OSError:
        pass  # a full disk, or no descriptor to look with: the unguessable name has to do
