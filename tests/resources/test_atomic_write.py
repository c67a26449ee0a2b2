"""atomic_write: who may read the new content, and from when on; what the new file has of the old one."""

import errno
import gc
import os
import socket
import stat
import struct
import subprocess
import sys
import textwrap

import pytest
from harness import wait_until

import lastly
from lastly.resources import _replace

OTHER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs files of another user")


@pytest.fixture
def where(tmp_path, home):
    folder = tmp_path / "where"
    folder.mkdir()
    return folder


def write(path, text="new", **options):
    with lastly.atomic_write(path, **options) as file:
        file.write(text)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def acl(*entries):
    """An access control list, as the kernel keeps it: (tag, rights, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, rights, who & 0xFFFFFFFF) for tag, rights, who in entries)


# user::rw-, user:12345:rw-, group::---, mask::rw-, other::---
LIST = acl((1, 6, -1), (2, 6, 12345), (4, 0, -1), (0x10, 6, -1), (0x20, 0, -1))
# The same as a folder's default, for what is made in it; x for folders.
DEFAULT = acl((1, 7, -1), (2, 7, 12345), (4, 0, -1), (0x10, 7, -1), (0x20, 0, -1))


@pytest.fixture
def lists(where):
    """A folder whose file system keeps lists."""
    (where / "probe").touch()
    try:
        os.setxattr(where / "probe", "system.posix_acl_access", LIST)
    except OSError:
        pytest.skip("this file system has no access control lists")
    (where / "probe").unlink()
    return where


# ---- who may read it


LOOK = """
    import os, sys, lastly
    folder, path, umask, old = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    os.umask(umask)
    if old:
        open(path, "w").close()
        os.chmod(path, old)
    worst = 0
    def look(*_):
        global worst
        for entry in os.scandir(folder):
            try: found = entry.stat(follow_symlinks=False)
            except OSError: continue
            if entry.name.startswith(".lastly-"): worst |= found.st_mode & 0o777
    sys.setprofile(look)  # whenever a function, of C too, is called or returns
    with lastly.atomic_write(path) as file:
        file.write("secret"); file.flush()
        print(oct(worst))
    sys.setprofile(None)
    print(oct(os.stat(path).st_mode & 0o777))
"""


@pytest.mark.parametrize("old", [0, 0o644, 0o600], ids=["new", "open", "secret"])
@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
@pytest.mark.slow(keep=3)
def test_while_it_is_written_it_is_ours_alone(programs, where, old, umask):
    done = programs.run(LOOK, str(where), str(where / "x"), str(umask), str(old))
    assert done.lines == ["0o600", oct(old or 0o666 & ~umask)], done.err


def test_at_no_step_more_than_the_old_one_allows(where, monkeypatch):
    """Looked at after each system call that changes rights; an old one of 0600 is never more than that."""
    (where / "x").touch(0o600)
    seen = []
    for name in "open", "fchmod", "fchown", "setxattr", "fsync", "rename":
        plain = getattr(os, name)

        def called(*args, plain=plain, **options):
            result = plain(*args, **options)
            seen.extend(entry.stat(follow_symlinks=False).st_mode & 0o777 for entry in os.scandir(where))
            return result

        monkeypatch.setattr(_replace.os, name, called)
    write(where / "x")
    monkeypatch.undo()
    assert seen
    assert set(seen) == {0o600}


def test_a_default_list_of_the_folder(programs, lists):
    """A file made in it has the list at once; while it is written the list allows nobody anything."""
    os.setxattr(lists, "system.posix_acl_default", DEFAULT)
    with lastly.atomic_write(lists / "x") as file:
        file.write("secret")
        file.flush()
        (new,) = lists.iterdir()
        assert mode(new) & 0o077 == 0  # the mask, with a list
    with open(lists / "made", "w"):
        pass
    for name in "x", "made":  # as open() would make it
        assert os.getxattr(lists / name, "system.posix_acl_access") == os.getxattr(lists / "made", "system.posix_acl_access")
    assert mode(lists / "x") == mode(lists / "made") == 0o660


def test_an_old_file_without_a_list_in_a_folder_with_one(lists):
    (lists / "x").touch()
    (lists / "x").chmod(0o640)
    os.setxattr(lists, "system.posix_acl_default", DEFAULT)
    write(lists / "x")
    assert mode(lists / "x") == 0o640
    assert "system.posix_acl_access" not in os.listxattr(lists / "x")


# ---- what is kept


def test_list_and_attributes_are_kept(lists):
    (lists / "x").touch()
    os.setxattr(lists / "x", "user.colour", b"red")
    os.setxattr(lists / "x", "system.posix_acl_access", LIST)
    write(lists / "x")
    assert (lists / "x").read_text() == "new"
    assert os.getxattr(lists / "x", "user.colour") == b"red"
    assert os.getxattr(lists / "x", "system.posix_acl_access") == LIST


@pytest.mark.root
@as_root
def test_the_owner_is_kept(where):
    """root rewrites a service's file: the service can still read it."""
    (where / "x").touch()
    os.chmod(where / "x", 0o640)
    os.chown(where / "x", OTHER, 12345)
    write(where / "x")
    found = os.stat(where / "x")
    assert (found.st_uid, found.st_gid, mode(where / "x")) == (OTHER, 12345, 0o640)


@pytest.mark.root
@as_root
def test_what_gives_rights_to_whoever_wrote_it_is_dropped(where):
    """Set-user-ID, set-group-ID and file capabilities, as the kernel does on a write."""
    (where / "x").touch()
    os.setxattr(where / "x", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.chmod(where / "x", 0o6755)
    write(where / "x")
    assert mode(where / "x") == 0o755
    assert os.listxattr(where / "x") == []


@pytest.mark.root
@as_root
@pytest.mark.parametrize(("old", "new"), [(0o660, 0o600), (0o664, 0o644), (0o666, 0o666), (0o640, 0o600)])
def test_a_group_that_cannot_be_kept(where, monkeypatch, old, new):
    """It is said, and what the old group could do our own one cannot."""
    (where / "x").touch()
    os.chown(where / "x", -1, 12345)
    os.chmod(where / "x", old)

    def refused(*_):
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(_replace.os, "fchown", refused)
    with pytest.warns(RuntimeWarning, match=r"belongs to group 0, the old one to 12345: not permitted"):
        write(where / "x")
    assert mode(where / "x") == new


@pytest.mark.root
@as_root
def test_a_list_and_a_group_that_cannot_be_kept(lists, monkeypatch):
    """The list says what the old group may: it is not our group's."""
    (lists / "x").touch()
    os.chown(lists / "x", -1, 12345)
    os.setxattr(lists / "x", "system.posix_acl_access", LIST)

    def refused(*_):
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(_replace.os, "fchown", refused)
    with pytest.warns(RuntimeWarning) as told:
        write(lists / "x")
    assert any("access control list" in str(warning.message) for warning in told)
    assert mode(lists / "x") == 0o600
    assert os.listxattr(lists / "x") == []


def test_attributes_that_cannot_be_kept(where, monkeypatch):
    (where / "x").touch()
    try:
        os.setxattr(where / "x", "user.colour", b"red")
    except OSError:
        pytest.skip("this file system has no extended attributes")

    def refused(*_):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(_replace.os, "setxattr", refused)
    with pytest.warns(RuntimeWarning, match=r"has lost the attribute user.colour: no room"):
        write(where / "x")


def test_a_warning_that_is_an_error_leaves_the_old_file(where, monkeypatch):
    """-W error: who must not lose the owner learns it before anything is replaced."""
    (where / "x").write_text("old")
    monkeypatch.setattr(_replace, "_owner", lambda *_: ["belongs to user 1, the old one to 2: not permitted"])
    with pytest.raises(RuntimeWarning, match="belongs to user"):
        write(where / "x")
    assert (where / "x").read_text() == "old"
    assert len(os.listdir(where)) == 1


# ---- what is no regular file


def test_a_pipe_is_written_into(where):
    os.mkfifo(where / "x")
    fd = os.open(where / "x", os.O_RDONLY | os.O_NONBLOCK)
    write(where / "x", "through")
    assert os.read(fd, 99) == b"through"
    os.close(fd)
    assert stat.S_ISFIFO(os.stat(where / "x").st_mode)


def test_dev_null_stays_what_it_is(where):
    write("/dev/null")
    os.symlink("/dev/null", where / "x")
    write(where / "x", b"new", mode="wb")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.listdir(where) == ["x"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("to", ["pipe", "file"])
@pytest.mark.slow(keep=3)
def test_standard_output(programs, where, name, to):
    """`tool -o /dev/stdout > file`: between what was printed before and after, in the file that is open."""
    code = f"""
        import lastly, os
        os.write(1, b"one ")
        with lastly.atomic_write({name!r}) as file: file.write("two ")
        os.write(1, b"three")
    """
    if to == "pipe":
        assert programs.run(code).out == "one two three"
        return
    script = where / "script.py"
    script.write_text(textwrap.dedent(code))
    with open(where / "out", "w") as out:
        subprocess.run([sys.executable, str(script)], stdout=out, check=True, timeout=60)
        assert os.fstat(out.fileno()).st_ino == os.stat(where / "out").st_ino
    assert (where / "out").read_text() == "one two three"


def test_a_socket_is_refused(where):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(where / "x"))
        with pytest.raises(OSError, match="a socket"):
            lastly.atomic_write(where / "x")
    assert os.listdir(where) == ["x"]


def test_a_folder_is_refused_before_anything_is_written(where):
    with pytest.raises(IsADirectoryError):
        lastly.atomic_write(where)
    assert os.listdir(where) == []


def test_a_file_that_becomes_something_else_meanwhile(where):
    (where / "x").touch()
    with pytest.raises(FileExistsError, match="not a file any more"), lastly.atomic_write(where / "x") as file:
        file.write("new")
        (where / "x").unlink()
        os.mkfifo(where / "x")
    assert os.listdir(where) == ["x"]
    assert stat.S_ISFIFO(os.stat(where / "x").st_mode)


def test_options_that_open_refuses(where):
    """Nothing is left, in the folder or in the table of descriptors."""
    os.mkfifo(where / "pipe")
    reader = os.open(where / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    gc.collect()  # what other tests have left closes now
    before = len(os.listdir("/proc/self/fd"))
    for name in "x", "pipe":
        with pytest.raises(LookupError):  # refused by what `open` has opened already
            lastly.atomic_write(where / name, encoding="klingon")
        with pytest.raises(ValueError, match="binary"):  # and before
            lastly.atomic_write(where / name, "wb", encoding="utf-8")
    assert os.listdir(where) == ["pipe"]
    assert len(os.listdir("/proc/self/fd")) <= before
    os.close(reader)


# ---- links


def test_links_are_followed(where):
    """Relative, absolute, one after the other, dangling; the link stays."""
    (where / "deep").mkdir()
    (where / "a").symlink_to("deep/b")
    (where / "deep" / "b").symlink_to(where / "c")
    (where / "dangling").symlink_to("made")
    write(where / "a", "one")
    write(where / "dangling", "two")
    assert ((where / "c").read_text(), (where / "made").read_text()) == ("one", "two")
    assert (where / "a").is_symlink() and (where / "deep" / "b").is_symlink() and (where / "dangling").is_symlink()


def test_links_in_a_circle(where):
    (where / "a").symlink_to("b")
    (where / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links") as caught:
        lastly.atomic_write(where / "a")
    assert caught.value.errno == errno.ELOOP


@pytest.mark.root
@as_root
@pytest.mark.parametrize("what", ["link", "pipe"])
@pytest.mark.parametrize("folder", [0o1777, 0o777])
def test_a_trap_in_a_shared_folder(where, what, folder):
    """Somebody else's link would choose which file of ours is replaced; their pipe would take what we write."""
    where.chmod(folder)
    precious = where.parent / "precious"
    precious.write_text("old")
    if what == "link":
        (where / "x").symlink_to(precious)
        os.lchown(where / "x", OTHER, OTHER)
    else:
        os.mkfifo(where / "x")
        os.chown(where / "x", OTHER, OTHER)
    with pytest.raises(PermissionError, match=f"of user {OTHER} in a shared folder"):
        lastly.atomic_write(where / "x")
    assert precious.read_text() == "old"
    os.lchown(where / "x", 0, 0)
    if what == "link":  # our own is followed there
        write(where / "x")
        assert precious.read_text() == "new"


def test_a_folder_that_is_exchanged_meanwhile(where):
    """What was opened is what is replaced."""
    (where / "real").mkdir()
    (where / "other").mkdir()
    with lastly.atomic_write(where / "real" / "x") as file:
        file.write("new")
        os.rename(where / "real", where / "moved")
        os.rename(where / "other", where / "real")
    assert os.listdir(where / "moved") == ["x"]
    assert os.listdir(where / "real") == []


def test_killed_before_it_is_in_place(programs, where):
    """By its recorded identity, also when it has the old one's owner already."""
    done = programs.run(
        """
        import os, sys, lastly
        os.chdir(sys.argv[1])
        open("x", "w").close()
        if os.geteuid() == 0: os.chown("x", 65534, 65534)
        plain = os.rename
        def killed(old, new, **options):
            if new != "x": return plain(old, new, **options)
            print(len(os.listdir()), flush=True)
            os.kill(os.getpid(), 9)
        os.rename = killed
        with lastly.atomic_write("x") as file: file.write("new")
        """,
        str(where),
    )
    assert done.out == "2\n", done.err
    wait_until(lambda: os.listdir(where) == ["x"])
