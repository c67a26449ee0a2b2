"""Fixtures for all tests: a private home, child programs, interpreters. The tools are in support/harness.py."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
from harness import Programs, end_all_of, now_in_ticks, pythons

# A test run started in the background or under nohup hands SIG_IGN on to every child; the tests are about programs
# that somebody can interrupt. (Ignored on purpose is a case of its own, with tests of its own.)
for _signum, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, _usual)


def pytest_configure(config: pytest.Config) -> None:
    """Before the tests are imported, whose decorators ask."""
    harness.first_tier = "not slow" in config.option.markexpr


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start processes; of `slow(keep=3)` let three of the cases be in the default tier."""
    cases: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        if "programs" in getattr(item, "fixturenames", ()):
            item.add_marker("process")
        mark = item.get_closest_marker("slow")
        if mark is not None and "keep" in mark.kwargs:
            cases.setdefault((str(item.path), item.nodeid.partition("[")[0]), []).append(item)
    for several in cases.values():
        keep = several[0].get_closest_marker("slow").kwargs["keep"]
        for place in harness.kept([item.callspec.indices for item in several], keep):
            several[place].own_markers = [mark for mark in several[place].own_markers if mark.name != "slow"]


@pytest.fixture(scope="session", autouse=True)
def _never_the_real_home() -> Iterator[None]:
    """A test that forgets the fixture ``home`` still does not write into the home of who runs the tests."""
    born, folder = now_in_ticks(), tempfile.mkdtemp(prefix="lt-")
    before = os.environ.get("LASTLY_HOME")
    os.environ["LASTLY_HOME"] = folder
    yield
    end_all_of(folder, born)
    shutil.rmtree(folder, ignore_errors=True)
    if before is None:
        del os.environ["LASTLY_HOME"]
    else:
        os.environ["LASTLY_HOME"] = before


def _short_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="lt-", dir="/tmp"))


def _remove(folder: Path) -> None:
    if str(folder) in Path("/proc/self/mountinfo").read_text():
        return  # a test has left something mounted in it: what would go is somebody else's
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """pytest's, but short: multiprocessing puts sockets below TMPDIR, and a socket's name has 107 bytes."""
    folder = _short_folder()
    yield folder
    _remove(folder)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A LASTLY_HOME of this test's own; afterwards its reaper, and whatever else runs under it, is ended."""
    born, folder = now_in_ticks(), _short_folder()
    monkeypatch.setenv("LASTLY_HOME", str(folder))
    yield folder
    end_all_of(folder, born)
    _remove(folder)


@pytest.fixture
def programs(home: Path, tmp_path: Path) -> Iterator[Programs]:
    """Starts child programs under the test's home: ``programs.run(code)``, ``programs.start(code)``."""
    started = Programs(home, tmp_path)
    yield started
    started.end()


@pytest.fixture(params=pythons(), ids=lambda path: f"{Path(path).parent.parent.name}-{Path(path).name}")
def python(request: pytest.FixtureRequest) -> str:
    """Each interpreter to test with; see LASTLY_TEST_PYTHONS."""
    return str(request.param)
