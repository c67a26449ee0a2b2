"""Where this program keeps what must outlive its machine."""

import os
import sys


def is_shared() -> bool:
    """Whether remote actions go into a shared journal, so that another machine may run them."""
    if "lastly._durable.shared" in sys.modules:
        from lastly._durable import shared

        return shared.url() is not None
    return bool(os.environ.get("LASTLY_JOURNAL"))


def configure(*, journal: str) -> None:
    """Use a shared journal from here on: what remote actions undo is then undone when this machine dies, too.

    The same as the variable LASTLY_JOURNAL, and stronger. A second call replaces the first; what is recorded
    already stays where it is. Nothing is connected until a remote action is deferred.

    Args:
        journal: ``postgresql://user@host/database?queue=shop&ttl=30``; "" for LASTLY_JOURNAL's again.

    Raises:
        ValueError: it is not such an address.

    .. versionadded:: 0.1
    """
    from lastly._durable import shared

    shared.configure(journal)
