"""What the resources share: the removal that is owed before a file exists, and bound to it afterwards."""

from lastly import actions
from lastly._durable import seam
from lastly._exit.root import root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly._scope.scope import Scope


def planned_removal(path: str, scope: "Scope | None") -> "seam.DurableCleanup":
    """Owe the removal of a path that is not there yet."""
    return seam.deferred(root if scope is None else scope, actions.remove, path, expect={})


def confirm_file(cleanup: "seam.DurableCleanup", path: str) -> None:
    """Tell the journal which file the planned path has become."""
    try:
        cleanup.confirm(seam.file_identity(path))
    except OSError:
        pass  # a full disk, or no descriptor to look with: the name, which nobody else can guess, has to do
