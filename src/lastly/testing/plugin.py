"""The pytest plugin: a scope per test, class, module and session, closed however the run ends.

pytest loads this file in every run where lastly is installed, used or not. So it imports nothing that is not
loaded anyway, and does nothing until a fixture is asked for. What then becomes of signals: stopping.py.
"""

import sys
from weakref import WeakSet

import pytest

from lastly import Scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = [
    "lastly_class_scope", "lastly_module_scope", "lastly_scope", "lastly_session_scope", "pytest_addoption",
    "pytest_configure", "pytest_sessionfinish", "pytest_sessionstart", "pytest_terminal_summary",
    "pytest_testnodedown",
]  # fmt: skip
__dir__ = __all__.copy  # what pytest looks for

# In words that pytest 6 has, too: it loads this as well, and must not fail where it is not used.
_used: "WeakSet[pytest.Config]" = WeakSet()


# ── fixtures ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def lastly_scope(request: "pytest.FixtureRequest") -> "Iterator[Scope]":
    """A lastly.Scope that closes after the test, however the run ends.

    .. versionadded:: 0.1
    """
    yield from _opened(request)


@pytest.fixture(scope="class")
def lastly_class_scope(request: "pytest.FixtureRequest") -> "Iterator[Scope]":
    """A lastly.Scope that closes after the last test of the class, however the run ends.

    .. versionadded:: 0.1
    """
    yield from _opened(request)


@pytest.fixture(scope="module")
def lastly_module_scope(request: "pytest.FixtureRequest") -> "Iterator[Scope]":
    """A lastly.Scope that closes after the last test of the module, however the run ends.

    .. versionadded:: 0.1
    """
    yield from _opened(request)


@pytest.fixture(scope="session")
def lastly_session_scope(request: "pytest.FixtureRequest") -> "Iterator[Scope]":
    """A lastly.Scope that closes at the end of the run (with xdist: of the worker), however it ends.

    .. versionadded:: 0.1
    """
    yield from _opened(request)


def _opened(request: "pytest.FixtureRequest") -> "Iterator[Scope]":
    config = request.config
    if config not in _used:
        _used.add(config)
        _use(request.session)
    # The name says, in the journal and in what is told later, whose it was.
    with Scope(f"{_prefix(config)}{request.node.nodeid}") as scope:
        yield scope


def _use(session: "pytest.Session") -> None:
    from lastly.testing._pytest import stopping

    stopping.begin(session)


def _prefix(config: "pytest.Config") -> str:
    return f"pytest:{config.rootpath}/"


def pytest_sessionstart(session: "pytest.Session") -> None:
    """Under ``lastly run`` signals are caught from the start: they must end this run in order as well."""
    state = sys.modules.get("lastly._exit.state")
    if state is not None and state.end.previous:
        _use(session)


# ── leaks ────────────────────────────────────────────────────────────────────────────────────────────────


def pytest_addoption(parser: "pytest.Parser") -> None:
    """Add --lastly-leaks."""
    parser.getgroup("lastly").addoption(
        "--lastly-leaks",
        action="store_true",
        help="fail tests that leave children, threads, temp files or open scopes, and name their lines",
    )


def pytest_configure(config: "pytest.Config") -> None:
    """Add the mark; the rest only when it is asked for."""
    config.addinivalue_line(
        "markers",
        "lastly_may_leave(*kinds): children, threads, files, scopes (default: all) are no --lastly-leaks",
    )
    if config.getoption("lastly_leaks"):
        if getattr(pytest, "version_tuple", (6,)) < (8,):
            raise pytest.UsageError("--lastly-leaks needs pytest 8 or later: pip install -U pytest")
        from lastly.testing._pytest.leaks import Leaks

        config.pluginmanager.register(Leaks(config), "lastly-leaks")


# ── what earlier runs have left ──────────────────────────────────────────────────────────────────────────


def pytest_sessionfinish(session: "pytest.Session") -> None:
    """In a worker of xdist: tell the process that prints the summary that fixtures were used."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None and session.config in _used:
        output["lastly"] = True


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: "Any") -> None:
    """Hear it."""
    if getattr(node, "workeroutput", {}).get("lastly"):
        _used.add(node.config)


def pytest_terminal_summary(terminalreporter: "Any", config: "pytest.Config") -> None:
    """Say in one line what had to be reaped, once; only where fixtures of ours are used."""
    # A worker of xdist has a summary as well, which is not shown.
    if config in _used and not hasattr(config, "workerinput"):
        from lastly.testing._pytest import earlier_runs

        if line := earlier_runs.line(_prefix(config), getattr(config, "cache", None)):
            terminalreporter.write_line(f"lastly: {line}")
