"""`lastly doctor` on who else may write into the home: what stands there is executed."""

import json
import os
import struct
import sys

import pytest

from lastly._cli import trust
from lastly._journal import home as place

OTHER = 65534
ELSEWHERE = trust._elsewhere
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")


def only_processes(monkeypatch, *pids):
    """Of other mount namespaces those of these processes alone: what else runs on the machine is no part of a test."""
    monkeypatch.setattr(trust, "_elsewhere", lambda: ((pid, mount) for pid, mount in ELSEWHERE() if pid in pids))


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    only_processes(monkeypatch)


@pytest.fixture
def state(home, tmp_path, monkeypatch):
    """A home with a journal in it, in a folder of ours."""
    path = tmp_path / "state"
    monkeypatch.setenv("LASTLY_HOME", str(path))
    folder = place.owners_dir("host", "boot")
    with open(os.path.join(folder, "1.2.abc.j"), "w", opener=lambda name, flags: os.open(name, flags, 0o600)):
        pass
    return path


def levels(found):
    return {finding.level for finding in found}


def only(found):
    (finding,) = found
    return finding


def journal(state):
    (path,) = state.glob("owners/*/*.j")
    return path


def test_a_home_of_ones_own(state):
    assert levels(trust.examine()) == {"ok"}


def test_a_home_that_is_not_made_yet(monkeypatch, tmp_path):
    monkeypatch.setenv("LASTLY_HOME", str(tmp_path / "a" / "b"))
    assert levels(trust.examine()) == {"ok"}


@pytest.mark.parametrize("which", ["state", "owners", "folder", "journal"])
def test_others_may_write(state, which):
    path = {"state": state, "owners": state / "owners", "folder": journal(state).parent, "journal": journal(state)}[which]
    path.chmod(0o777)
    finding = only(trust.examine())
    assert finding.level == "wrong"
    assert f"others may write to {path} (mode 0777)" in finding.what
    assert "chmod go-w" in finding.fix


def test_a_list_that_lets_somebody_write(state):
    """The mode says that the group may; the list says who it is."""
    entries = [(1, 7, -1), (2, 7, 12345), (4, 0, -1), (0x10, 7, -1), (0x20, 0, -1)]
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, rights, who & 0xFFFFFFFF) for tag, rights, who in entries)
    try:
        os.setxattr(state / "owners", "system.posix_acl_access", raw)
    except OSError:
        pytest.skip("this file system has no access control lists")
    finding = only(trust.examine())
    assert "getfacl" in finding.what
    with pytest.raises(place.NotRecorded, match="others may write"):
        place.owners_dir("host", "boot")


@pytest.mark.root
@as_root
def test_a_file_of_another_user(state):
    os.chown(journal(state), OTHER, OTHER)
    assert f"belongs to user {OTHER}" in only(trust.examine()).what


def test_a_hard_link_and_a_soft_one(state, tmp_path):
    os.link(journal(state), tmp_path / "elsewhere")
    assert "has 2 names" in only(trust.examine()).what
    (tmp_path / "elsewhere").unlink()
    (state / "owners" / "x").symlink_to(tmp_path)
    assert "is a link to" in only(trust.examine()).what


def test_many_are_a_few_and_a_number(state):
    for n in range(20):
        os.symlink("x", journal(state).parent / f"{n}")
    found = trust.examine()
    assert len(found) == 5
    assert "15 more like it" in found[-1].what


@pytest.mark.parametrize(("mode", "level"), [(0o777, "unprotected"), (0o775, "unprotected"), (0o1777, "ok"), (0o755, "ok")])
def test_a_folder_above(state, tmp_path, mode, level):
    """Whoever may rename what is in it may exchange the home; in a folder like /tmp only the owner may."""
    tmp_path.chmod(mode)
    assert levels(trust.examine()) == {level}


@pytest.mark.root
@as_root
def test_a_folder_above_of_another_user(state, tmp_path):
    os.chown(tmp_path, OTHER, OTHER)
    finding = only(trust.examine())
    assert f"belongs to user {OTHER}" in finding.what


@pytest.mark.root
@as_root
def test_a_sandbox_that_has_the_home_too(programs, state, tmp_path, monkeypatch):
    """Seen by its mounts, from outside and from inside."""
    (tmp_path / "in side").mkdir()
    script = 'mount --bind "$1" "$2" && echo mounted && exec sleep 600'
    program = programs.start_command(["unshare", "--mount", "sh", "-c", script, "sh", str(state), str(tmp_path / "in side")])
    program.line("mounted")
    only_processes(monkeypatch, program.pid)
    finding = only(trust.examine())
    assert f"process {program.pid}" in finding.what
    assert f"at {tmp_path / 'in side'}" in finding.what
    code = "import json, sys; from lastly._cli import trust; print(json.dumps([f.what for f in trust.examine()]))"

    inside = programs.run_command(
        ["nsenter", f"--mount=/proc/{program.pid}/ns/mnt", "env", f"LASTLY_HOME={tmp_path / 'in side'}", sys.executable, "-c", code]
    )
    (what,) = [what for what in json.loads(inside.out) if "volume" in what]
    assert str(state) in what


def test_in_the_command(programs, home):
    """`lastly doctor` says it, and ends with 1."""
    done = programs.run("import lastly; lastly.temp_dir()")
    assert done.status == 0
    (home / "owners").chmod(0o777)
    said = programs.run_command(["lastly", "doctor", "--json"])
    found = [finding for finding in json.loads(said.out)["findings"] if finding["name"] == "trust"]
    assert "wrong" in [finding["level"] for finding in found]
    assert said.status == 1
