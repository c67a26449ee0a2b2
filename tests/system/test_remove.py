"""Safe removal: what was planned goes, whatever it is called; what was not planned stays, whatever it pretends to be."""

import errno
import os
import subprocess
import sys

import pytest
from harness import SRC

from lastly import actions
from lastly._system import remove as _remove
from lastly._system.remove import canonical, identity, remove
from lastly.errors import NotOurs


def tree(top, folders=3, files=3):
    """A folder with folders with files."""
    top.mkdir()
    for i in range(folders):
        (top / f"d{i}").mkdir()
        for j in range(files):
            (top / f"d{i}" / f"f{j}").write_text("x")
    (top / "link").symlink_to("/etc/passwd")
    os.mkfifo(top / "pipe")
    return str(top)


def exists(path):
    return os.path.lexists(path)


def test_a_tree_goes_and_twice_is_fine(tmp_path):
    path = tree(tmp_path / "t")
    remove(path, expect=identity(path))
    assert not exists(path)
    remove(path)
    assert identity(path) is None


def test_a_file_and_a_link_go_and_the_link_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_text("kept")
    link = tmp_path / "link"
    link.symlink_to(target)
    remove(str(link), expect=identity(link))
    assert not exists(link)
    assert target.read_text() == "kept"
    remove(os.fsencode(target))
    assert not exists(target)


def test_nothing_at_the_parent_either_is_success(tmp_path):
    remove(str(tmp_path / "never" / "was" / "here"))
    (tmp_path / "file").write_text("")
    remove(str(tmp_path / "file" / "below"))
    assert exists(tmp_path / "file")


@pytest.mark.parametrize(
    "name", [b"n" * 255, b"a\nb", b"\xff\xfe\x80", b"-rf", b" ", "ünïcödé".encode(), b"a\"b'c\\", b"\x01"]
)
def test_hostile_names(tmp_path, name):
    top = os.path.join(os.fsencode(tmp_path), name)
    os.mkdir(top)
    os.mkdir(os.path.join(top, name))
    with open(os.path.join(top, name, name), "wb"):
        pass
    remove(canonical(top), expect=identity(top))
    assert not exists(top)


@pytest.mark.slow
def test_ten_thousand_files(tmp_path):
    top = tmp_path / "many"
    top.mkdir()
    for i in range(10_000):
        os.close(os.open(top / str(i), os.O_CREAT | os.O_WRONLY))
    remove(str(top))
    assert not exists(top)


@pytest.mark.parametrize("depth", [100, 1500])
def test_deep_trees_need_few_descriptors(tmp_path, depth):
    """Deeper than PATH_MAX, than recursion goes, and than there are descriptors."""
    code = f"""
import os, resource, sys
sys.path.insert(0, {str(SRC)!r})
os.chdir({str(tmp_path)!r})
os.mkdir("deep")
here = os.open("deep", os.O_RDONLY)
for _ in range({depth}):
    os.mkdir("d", dir_fd=here)
    os.close(os.open("f", os.O_CREAT, dir_fd=here))
    below = os.open("d", os.O_RDONLY, dir_fd=here)
    os.close(here)
    here = below
os.close(here)
from lastly._system.remove import remove
import ctypes, pwd
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
os.chdir("/")
remove({str(tmp_path / "deep")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert not exists(tmp_path / "deep")


def test_read_only_folders(tmp_path):
    path = tree(tmp_path / "t")
    for name in ("d0", "d1", "d2"):
        os.chmod(os.path.join(path, name), 0o500)
    os.chmod(path, 0o500)
    remove(path)
    assert not exists(path)


@pytest.mark.root
def test_unreadable_folders_of_an_ordinary_user(home):
    """As somebody whom modes concern: folders without r, w and x."""
    tmp_path = home  # directly below /tmp: pytest's own folders are closed to other users
    top = tmp_path / "t"
    tree(top)
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), 65534, 65534, follow_symlinks=False)
    os.chown(top, 65534, 65534)
    for name, mode in (("d0", 0o000), ("d1", 0o300), ("d2", 0o400)):
        os.chmod(top / name, mode)
    os.chmod(top, 0o500)
    os.chmod(tmp_path, 0o777)
    as_nobody(f"remove({str(top)!r})")
    assert not exists(top)


def as_nobody(code):
    """Run code as uid 65534; what it needs is imported before, as the interpreter may be out of that user's reach."""
    program = f"""
import os, sys
sys.path.insert(0, {str(SRC)!r})
import pwd
from lastly._system.remove import remove, identity
identity("/tmp")
os.environ["HOME"] = "/nonexistent"
os.setgroups([]); os.setgid(65534); os.setuid(65534)
{code}
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd="/")


# ---- what was not planned


def test_a_reused_inode_is_left_alone(tmp_path):
    """A new folder gets the inode of the one removed a moment ago: the birth time tells them apart."""
    path = tmp_path / "t"
    for _ in range(50):
        path.mkdir()
        planned = identity(path)
        path.rmdir()
        path.mkdir()
        (path / "precious").write_text("x")
        again = identity(path)
        if (planned["dev"], planned["ino"]) == (again["dev"], again["ino"]):
            break
        (path / "precious").unlink()
        path.rmdir()
    else:
        pytest.skip("this file system does not use inodes again")
    if planned["btime"] is None:
        pytest.skip("this file system has no birth times")
    with pytest.raises(NotOurs, match="birth time"):
        remove(str(path), expect=planned)
    assert (path / "precious").exists()


def test_something_else_at_the_path_is_left_alone(tmp_path):
    path = tmp_path / "t"
    path.mkdir()
    planned = identity(path)
    path.rename(tmp_path / "moved")
    path.write_text("precious")
    with pytest.raises(NotOurs):
        remove(str(path), expect=planned)
    assert path.read_text() == "precious"


def test_a_link_planted_at_the_planned_path(tmp_path):
    victim = tmp_path / "victim"
    tree(victim)
    path = tmp_path / "t"
    path.mkdir()
    planned = identity(path)
    path.rmdir()
    path.symlink_to(victim)
    with pytest.raises(NotOurs):
        remove(str(path), expect=planned)
    assert exists(path)
    remove(str(path))  # nothing is known of it but its name: then the link goes, and only the link
    assert not exists(path)
    assert (victim / "d0" / "f0").exists()


def test_a_link_planted_inside(tmp_path):
    victim = tmp_path / "victim"
    tree(victim)
    path = tmp_path / "t"
    path.mkdir()
    (path / "inside").symlink_to(victim)
    remove(str(path))
    assert not exists(path)
    assert (victim / "d0" / "f0").exists()


def test_a_parent_swapped_for_a_link(tmp_path):
    """The planned path now leads through a link into somebody's folder."""
    (tmp_path / "parent").mkdir()
    path = canonical(tmp_path / "parent" / "t")
    home = tmp_path / "home"
    home.mkdir()
    (home / "t").write_text("precious")
    (tmp_path / "parent").rmdir()
    (tmp_path / "parent").symlink_to(home)
    with pytest.raises(NotOurs, match="symbolic link"):
        remove(path)
    assert (home / "t").exists()


def test_a_parent_swapped_for_another_folder(tmp_path):
    (tmp_path / "parent").mkdir()
    path = tmp_path / "parent" / "t"
    path.mkdir()
    planned = identity(path)
    (tmp_path / "parent").rename(tmp_path / "away")
    (tmp_path / "parent").mkdir()
    path.mkdir()
    with pytest.raises(NotOurs):
        remove(str(path), expect=planned)
    assert path.is_dir()
    assert (tmp_path / "away" / "t").is_dir()


def test_the_top_exchanged_while_it_is_looked_at(tmp_path, monkeypatch):
    path = tree(tmp_path / "t")
    other = tree(tmp_path / "other")
    real = _remove._open_folder

    def swap(parent, name):
        os.rename(path, f"{path}.away")
        os.rename(other, path)
        return real(parent, name)

    monkeypatch.setattr(_remove, "_open_folder", swap)
    with pytest.raises(NotOurs, match="replaced while"):
        remove(path)
    assert (tmp_path / "t" / "d0" / "f0").exists()
    assert (tmp_path / "t.away" / "d0" / "f0").exists()


def test_a_hard_link_loses_one_name(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("precious")
    os.chmod(kept, 0o400)
    top = tmp_path / "t"
    top.mkdir()
    os.link(kept, top / "name")
    remove(str(top))
    assert not exists(top)
    assert kept.read_text() == "precious"
    assert kept.stat().st_mode & 0o777 == 0o400


@pytest.mark.root
def test_another_user_s_is_left_alone(tmp_path):
    path = tree(tmp_path / "t")
    os.chown(path, 12345, 12345)
    with pytest.raises(NotOurs, match="uid 12345"):
        remove(path)
    assert exists(os.path.join(path, "d0", "f0"))


def test_born_after_its_owner_s_death(tmp_path):
    path = tree(tmp_path / "t")
    born = identity(path)["btime"]
    if born is None:
        pytest.skip("this file system has no birth times")
    born /= 1e9
    with pytest.raises(NotOurs, match="after its owner"):
        remove(path, not_born=(born - 2, born))
    assert exists(path)
    remove(path, not_born=(born, born + 60))
    assert not exists(path)


def test_born_when_the_clock_was_ahead(tmp_path):
    """Its time is still to come: it was made before the clock was set back, and so before the death."""
    path = tree(tmp_path / "t")
    born = identity(path)["btime"]
    if born is None:
        pytest.skip("this file system has no birth times")
    remove(path, not_born=(born / 1e9 - 60, born / 1e9 - 59))
    assert not exists(path)


@pytest.mark.parametrize("path", ["/", "/tmp/..", "//", "/tmp/."])
def test_never_the_root(path):
    with pytest.raises(NotOurs):
        remove(path)


def test_never_the_home_nor_what_contains_it(tmp_path, monkeypatch):
    home = tmp_path / "above" / "home"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for path in (home, home.parent):
        with pytest.raises(NotOurs, match="never removed"):
            remove(str(path))
        with pytest.raises(ValueError, match="refusing"):
            actions.remove.prepare((path,), {})
    assert home.is_dir()


def test_never_the_working_directory_nor_what_contains_it(tmp_path, monkeypatch):
    here = tmp_path / "above" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    for path in (here, here.parent):
        with pytest.raises(NotOurs, match="never removed"):
            remove(str(path))
    with pytest.raises(ValueError, match="refusing"):
        actions.remove.prepare((".",), {})
    remove(str(here), expect=identity(here))  # made by us, and the program went into it: that is our own
    assert not here.exists()


def test_a_relative_path_is_refused():
    with pytest.raises(NotOurs):
        remove("relative")


def test_what_cannot_be_removed_is_named_and_the_rest_goes(tmp_path, monkeypatch):
    path = tree(tmp_path / "t")
    real = os.unlink

    def fail(name, *, dir_fd=None):
        if name == "f1":
            raise OSError(errno.EIO, "Input/output error", name)
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(_remove.os, "unlink", fail)
    with pytest.raises(OSError, match=r"removed only in part.*and 2 more") as caught:
        remove(path)
    assert caught.value.errno == errno.EIO
    assert caught.value.filename.endswith("/f1")
    monkeypatch.undo()
    left = sorted(name for _, _, names in os.walk(path) for name in names)
    assert left == ["f1", "f1", "f1"]


def test_somebody_keeps_filling_it(tmp_path, monkeypatch):
    """What appears between the emptying and the rmdir is removed as well, some rounds long."""
    path = tree(tmp_path / "t")
    real = _remove._rmdir
    late = iter(range(3))

    def rmdir(above, name, level):
        if os.fsdecode(name) == "t" and next(late, None) is not None:
            (tmp_path / "t" / "late").write_text("")
        real(above, name, level)

    monkeypatch.setattr(_remove, "_rmdir", rmdir)
    remove(path)
    assert not exists(path)


# ---- mounts

_MOUNTS = """
import os, subprocess, sys
sys.path.insert(0, {src!r})
from lastly._system.remove import remove, identity
from lastly.errors import NotOurs
base = {base!r}
def mount(what, where): subprocess.run(["mount", "--bind", what, where], check=True)
"""


def in_a_mount_namespace(code, tmp_path):
    program = _MOUNTS.format(src=str(SRC), base=str(tmp_path)) + code
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", sys.executable, "-c", program],
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )
    if "unshare" in done.stderr and "not permitted" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.root
def test_a_bind_mount_inside_is_not_entered(tmp_path):
    """st_dev is equal on both sides of a bind mount: shutil.rmtree empties the other side."""
    tree(tmp_path / "host")
    tree(tmp_path / "t")
    out = in_a_mount_namespace(
        """
mount(f"{base}/host", f"{base}/t/d0")
try:
    remove(f"{base}/t")
except OSError as error:
    print(error)
""",
        tmp_path,
    )
    assert "mount point" in out
    assert (tmp_path / "host" / "d0" / "f0").exists()
    assert not (tmp_path / "t" / "d1").exists()


@pytest.mark.root
def test_a_mount_at_the_planned_path_is_left_alone(tmp_path):
    tree(tmp_path / "host")
    tree(tmp_path / "t")
    out = in_a_mount_namespace(
        """
planned = identity(f"{base}/t")
mount(f"{base}/host", f"{base}/t")
for expect in (None, planned, identity(f"{base}/host")):
    try:
        remove(f"{base}/t", expect=expect)
    except NotOurs as error:
        print(error)
""",
        tmp_path,
    )
    assert out.count("mount point") == 3
    assert (tmp_path / "host" / "d0" / "f0").exists()


@pytest.mark.root
def test_a_file_bind_mounted_inside(tmp_path):
    (tmp_path / "host").write_text("precious")
    tree(tmp_path / "t")
    out = in_a_mount_namespace(
        """
mount(f"{base}/host", f"{base}/t/d0/f0")
try:
    remove(f"{base}/t")
except OSError as error:
    print(error)
""",
        tmp_path,
    )
    assert "removed only in part" in out
    assert (tmp_path / "host").read_text() == "precious"


# ---- the action


def test_deferring_records_an_absolute_path_and_what_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, kwargs = actions.remove.prepare(("later",), {})
    assert (args, kwargs) == ([str(tmp_path / "later")], {"expect": {}})
    (tmp_path / "there").mkdir()
    args, kwargs = actions.remove.prepare((b"there",), {})
    assert kwargs == {"expect": identity("there")}


def test_calling_it_removes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    actions.remove("x")
    assert not (tmp_path / "x").exists()
    actions.remove(tmp_path / "x")


def test_links_of_the_parents_are_resolved_when_deferred(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to("real")
    args, _ = actions.remove.prepare((tmp_path / "alias" / "t",), {})
    assert args == [str(tmp_path / "real" / "t")]


def test_what_is_kept_is_known_anew_when_home_or_the_working_directory_change(tmp_path, monkeypatch):
    """The folders that are never removed are remembered: not beyond what they follow from."""
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    for way in ("cwd", "HOME"):
        for kept in folders:
            if way == "cwd":
                monkeypatch.chdir(kept)
            else:
                monkeypatch.chdir("/")
                monkeypatch.setenv("HOME", str(kept))
            for path in (kept, tmp_path):
                with pytest.raises(NotOurs, match="never removed"):
                    remove(str(path))
                with pytest.raises(ValueError, match="kept"):
                    _remove.check_allowed(str(path))
            for other in set(folders) - {kept}:
                remove(str(other))
                assert not exists(other)
                other.mkdir()
