"""Whether this process is still the one that it was: forks that Python does not see.

A C library that forks, and uWSGI that makes its workers so, run none of the functions of
`os.register_at_fork`. Such a child has its parent's cleanups, and would run them. So code that is about to
run or to take a cleanup looks first. Comparing pids takes as long as deferring does, and takes the first
process of a new pid namespace for its parent, where that was a first one too. The kernel has something
better: a page of memory that a child finds wiped (Linux 4.14). Until that page is made, and where it cannot
be, pids are compared.
"""

from lastly._words.pythons import getpid, register_at_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_WIPE_ON_FORK = 18  # MADV_WIPEONFORK, which the module mmap names from 3.13 on


class _Pid:
    """Looks like the page; as slow as a system call."""

    def __init__(self) -> None:
        self.pid = getpid()

    def __getitem__(self, index: int) -> bool:
        return index == 0 and self.pid == getpid()


# page[0] is true in the process that made it; all other items are always false.
page: "Any" = _Pid()
_hooks: "list[Callable[[], object]]" = []


def arm() -> None:
    """Have the look at the page made cheap; a second call does nothing."""
    global page
    if type(page) is not _Pid or not page[0]:
        return
    try:
        import mmap

        made = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        made.madvise(_WIPE_ON_FORK)
    # An old kernel, another system, or no descriptor left.
    except (OSError, ImportError, AttributeError, TypeError):
        return
    made[0] = 1
    page = made


def in_child(function: "Callable[[], object]") -> None:
    """Have a function called in each forked child, whoever forks: `look` notices what Python does not."""
    _hooks.append(function)
    register_at_fork(after_in_child=function)


def look() -> None:
    """Call those functions when this is a child that has not come by yet."""
    if page[0]:
        return
    _here()
    for hook in _hooks:
        try:
            hook()
        except Exception:  # noqa: S110  # as at a fork that Python sees: one does not stop the others
            pass


def _here() -> None:
    if type(page) is _Pid:
        page.pid = getpid()
    else:
        page[0] = 1


register_at_fork(after_in_child=_here)
