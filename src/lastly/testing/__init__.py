"""For tests: crash a program everywhere, and see what is left. The pytest plugin is found by pytest itself.

Names only, imported when first asked for: the plugin, and so this, is loaded by every run of pytest.

May use: resources, _exit, _scope, _reaper, _settle, _system, __init__.
Used by: users, _cli.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly.testing._crash.campaign import CannotCrash as CannotCrash
    from lastly.testing._crash.everywhere import crash_everywhere as crash_everywhere
    from lastly.testing._crash.report import Report as Report
    from lastly.testing._crash.report import Run as Run

__all__ = ["CannotCrash", "Report", "Run", "crash_everywhere"]
__dir__ = __all__.copy  # dir() shows what is public

_WHERE = {
    "CannotCrash": "_crash.campaign",
    "Report": "_crash.report",
    "Run": "_crash.report",
    "crash_everywhere": "_crash.everywhere",
}


def __getattr__(name: str) -> object:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'lastly.testing' has no attribute {name!r}")
    value: object = getattr(__import__(f"lastly.testing.{where}", fromlist=["*"]), name)
    globals()[name] = value
    return value
