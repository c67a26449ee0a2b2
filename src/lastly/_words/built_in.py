"""The actions that lastly brings: one table, which the program that defers them and the reaper both read.

A new one is an entry here, what the program calls in actions.py, and what the reaper calls in
_settle/execute.py, ``_do_NAME``, which is found by its name.
"""

PREFIX = "lastly.actions:"  # of what the journal calls them
REMOVE, KILL, KILL_TOKEN, RUN = f"{PREFIX}remove", f"{PREFIX}kill", f"{PREFIX}kill_token", f"{PREFIX}run"

CHILDREN = "kill its children"  # what people call the killing of all that a run has started


class BuiltIn:
    """What has to be known of one, beside how it is done.

    Attributes:
        kills: it ends processes, which a boot that is over has ended already.
        harmless: it may be run any number of times, also where none of them can be written down.
        contained: it needs nothing of the program: no folder, no environment.
        blocks: it waits for processes: in a program with an event loop a thread does it.
        usual: arguments that are always recorded, and tell people nothing.
    """

    __slots__ = ("blocks", "contained", "harmless", "kills", "usual")

    def __init__(
        self,
        *,
        kills: bool = False,
        harmless: bool = False,
        contained: bool = False,
        blocks: bool = False,
        usual: tuple[str, ...] = (),
    ) -> None:
        self.kills = kills
        self.harmless = harmless
        self.contained = contained
        self.blocks = blocks
        self.usual = usual


_NOT_OURS = BuiltIn()
TABLE = {
    REMOVE: BuiltIn(harmless=True, contained=True),
    KILL: BuiltIn(kills=True, harmless=True, contained=True, blocks=True),
    KILL_TOKEN: BuiltIn(kills=True, harmless=True, contained=True, blocks=True),
    RUN: BuiltIn(blocks=True, usual=("cwd", "timeout", "ok")),
}


def facts(action: str) -> BuiltIn:
    """Return what is to be known of an action; of one that is not ours, that nothing is so."""
    return TABLE.get(action, _NOT_OURS)


def is_later(action: str) -> bool:
    """Whether it is one of a later version: neither run nor dropped."""
    return action.startswith(PREFIX) and action not in TABLE
