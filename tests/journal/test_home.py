"""Where journals live, and who may write there."""

import os
import stat

import pytest

from lastly._journal import home as place
from lastly.errors import NotRecorded


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("LASTLY_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_the_order(monkeypatch, tmp_path):
    """LASTLY_HOME, then XDG, then the specification's default; relative XDG paths and empty ones do not count."""
    monkeypatch.setenv("HOME", "/h")
    assert place.state_path() == place.runtime_path() == "/h/.local/state/lastly"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("LASTLY_HOME", "")
    assert place.state_path() == "/h/.local/state/lastly"
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/r")
    assert (place.state_path(), place.runtime_path()) == ("/s/lastly", "/r/lastly")
    monkeypatch.setenv("LASTLY_HOME", "/l")
    assert (place.state_path(), place.runtime_path()) == ("/l", "/l")


def test_a_relative_home_is_refused(monkeypatch):
    """It would be another one after the program has changed its directory, and nobody would reap there."""
    monkeypatch.setenv("LASTLY_HOME", "state")
    for call in (place.state_path, place.runtime_path, place.state_dir, place.journals):
        with pytest.raises(NotRecorded, match="LASTLY_HOME='state' is not an absolute path"):
            call()


def test_made_for_its_user_alone(monkeypatch, tmp_path):
    """0700, parents too, whatever the umask; a second call finds it."""
    monkeypatch.setenv("LASTLY_HOME", str(tmp_path / "a" / "b"))
    before = os.umask(0)
    try:
        assert place.state_dir() == place.state_dir() == str(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_readable_by_others_is_fine(monkeypatch, tmp_path):
    """A folder that the user made with the usual umask: what is in it is closed."""
    (tmp_path / "h").mkdir(mode=0o755)
    monkeypatch.setenv("LASTLY_HOME", str(tmp_path / "h"))
    path = place.owners_dir("host", "boot")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o1777, 0o702])
def test_writable_by_others_is_refused(monkeypatch, tmp_path, mode):
    """What stands there is executed; the message says what to do."""
    (tmp_path / "h").mkdir()
    (tmp_path / "h").chmod(mode)
    monkeypatch.setenv("LASTLY_HOME", str(tmp_path / "h"))
    with pytest.raises(NotRecorded, match=r"others may write.*chmod 700"):
        place.state_dir()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_two_users_one_folder(monkeypatch, tmp_path):
    """The second one is told whose it is."""
    (tmp_path / "h").mkdir(mode=0o700)
    os.chown(tmp_path / "h", 12345, 12345)
    monkeypatch.setenv("LASTLY_HOME", str(tmp_path / "h"))
    with pytest.raises(NotRecorded, match=r"belongs to user 12345, and this is user 0; set LASTLY_HOME"):
        place.state_dir()


def test_no_home(monkeypatch):
    """A user whom nobody knows."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(NotRecorded, match="no home directory; set LASTLY_HOME"):
        place.state_path()


def test_nothing_is_made_when_looking(monkeypatch, tmp_path):
    """`lastly ls` on a new machine."""
    monkeypatch.setenv("LASTLY_HOME", str(tmp_path / "h"))
    assert place.journals() == []
    assert not (tmp_path / "h").exists()


def test_every_journal_of_every_boot(monkeypatch, tmp_path):
    """And no other file."""
    monkeypatch.setenv("LASTLY_HOME", str(tmp_path))
    for name in ("h-1/1.1.a.j", "h-2/2.2.b.j", "h-2/2.2.b.tmp"):
        path = tmp_path / "owners" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "owners" / "file").touch()
    assert [os.path.basename(path) for path in place.journals()] == ["1.1.a.j", "2.2.b.j"]
