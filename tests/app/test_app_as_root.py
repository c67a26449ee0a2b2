"""An App of root's in whose environment HOME is a user's (sudo -E, su -m): what that user wrote is not root's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from harness import Programs

OTHER = 12345
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user's folder")]

APP = """
import pwd, sys, types
pwd.getpwuid = lambda uid: types.SimpleNamespace(pw_dir={roots!r})  # not the real one, in a test
import lastly
class Backup(lastly.App):
    class Meta:
        label = "backup"
        config_defaults = {defaults!r}
with Backup(argv=[]) as app:
    print(app.config.get("backup", "who", fallback="nobody"))
    print(app.plugin.get_loaded_plugins())
    app.log.info("hello")
"""


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path]:
    """A user's, who has written into it what there is; and root's."""
    users, roots = tmp_path / "user", tmp_path / "root"
    for folder in users, roots:
        folder.mkdir()
    return users, roots


def write(home: Path, who: str, mark: Path) -> None:
    """Configuration, a folder of it, and a plugin, wherever an App looks for them."""
    for file in (".config/backup/backup.conf", ".backup/config/backup.conf", ".backup.conf", ".config/backup/ext.d/x.conf"):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text(f"[backup]\nwho = {who}\n[plugin.evil]\nenabled = true\n")
    for folder in (".config/backup/plugins", ".backup/plugins"):
        (home / folder).mkdir(parents=True, exist_ok=True)
        (home / folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\n")


def give(folder: Path) -> None:
    for at, _, files in os.walk(folder):
        for name in (".", *files):
            os.lchown(os.path.join(at, name), OTHER, OTHER)


def run(programs: Programs, homes: tuple[Path, Path], log: object = None, home: Path | None = None, **env: str):
    users, roots = homes
    defaults = {"log.logging": {"file": None if log is None else str(log)}}
    env |= {"HOME": str(home or users), "LASTLY_HOME": str(programs.home)}
    return programs.run(APP.format(roots=str(roots), defaults=defaults), env=env)


def test_what_a_user_wrote_is_neither_read_nor_run(programs: Programs, homes: tuple[Path, Path], tmp_path: Path) -> None:
    write(homes[0], "the user", tmp_path / "ran")
    give(homes[0])
    done = run(programs, homes)
    assert done.lines == ["nobody", "[]"], done.err
    assert not (tmp_path / "ran").exists()
    [line] = [line for line in done.err.splitlines() if "RuntimeWarning" in line]
    assert "root uses nothing from HOME, which is another user's" in line
    assert str(homes[0]) in line
    assert str(homes[1]) in line


def test_roots_own_is_read(programs: Programs, homes: tuple[Path, Path], tmp_path: Path) -> None:
    """Wherever HOME leads; where nothing is passed over, nothing is said."""
    write(homes[1], "root", tmp_path / "ran")
    give(homes[0])
    done = run(programs, homes)
    assert (done.lines, done.err.replace("INFO: hello\n", "")) == (["root", "['evil']"], "")
    assert (tmp_path / "ran").exists()
    assert run(programs, homes, home=homes[1]).lines == ["root", "['evil']"]


def test_a_log_in_a_home_is_in_roots(programs: Programs, homes: tuple[Path, Path]) -> None:
    give(homes[0])
    run(programs, homes, log="~/logs/deep/backup.log")
    assert os.listdir(homes[0]) == []
    assert "hello" in (homes[1] / "logs/deep/backup.log").read_text()


@pytest.mark.parametrize("rotate", ["0", "1"])
def test_a_log_in_a_users_folder_does_not_shut_the_user_out(
    programs: Programs, homes: tuple[Path, Path], rotate: str
) -> None:
    """Named in full, it is written there; what is made for it belongs to the user, as what is around it."""
    give(homes[0])
    log = homes[0] / "logs" / "deep" / "backup.log"
    for _ in range(2):
        run(programs, homes, log=log, LOG_LOGGING_ROTATE=rotate, BACKUP_LOG_LOGGING_ROTATE=rotate)
    assert log.read_text().count("hello") == 2
    for made in log, log.parent, log.parent.parent:
        assert (made.stat().st_uid, made.stat().st_gid) == (OTHER, OTHER)
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o755


def test_a_log_that_is_a_link_of_the_users(programs: Programs, homes: tuple[Path, Path], tmp_path: Path) -> None:
    """It would have root write wherever the user wants."""
    (homes[0] / "backup.log").symlink_to(tmp_path / "target")
    give(homes[0])
    done = run(programs, homes, log=homes[0] / "backup.log")
    assert f"a link in a folder of user {OTHER}" in done.err
    assert not (tmp_path / "target").exists()


def test_in_a_folder_of_roots_all_is_as_ever(programs: Programs, homes: tuple[Path, Path], tmp_path: Path) -> None:
    log = homes[1] / "new" / "backup.log"
    log.parent.mkdir()
    log.symlink_to(tmp_path / "target")
    run(programs, homes, log=log)
    assert "hello" in (tmp_path / "target").read_text()
    assert os.stat(tmp_path / "target").st_uid == 0
