"""Deferring an action: from scripts, modules and prompts; and where no journal can be kept."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

import lastly
from lastly import errors
from lastly._action import action
from lastly._durable import own, portable
from lastly._durable import seam as _durable
from lastly._journal.replay import read
from lastly._scope.scope import Scope

calls: list = []


@pytest.fixture(autouse=True)
def _own_journal(home, monkeypatch):
    """A journal of this test's own, no reaper, no warning."""
    monkeypatch.setattr(own, "_journal", None)
    monkeypatch.setattr(_durable, "_warned", True)
    monkeypatch.setattr(_durable, "_degraded", "")
    monkeypatch.setenv("LASTLY_REAPER", "0")
    monkeypatch.setattr(_durable, "_ensure", lambda path: None)
    calls.clear()
    yield
    if own.peek() is not None:
        own.peek().close(unlink=True)


@action
def note(*args, **kwargs):
    calls.append((args, kwargs))


@action(remote=True)
def told(name):
    calls.append(name)


def states():
    return [item.state for item in read(own.peek().path).items.values()]


# ---- the script's own functions


def child(code, *flags, stdin=None, cwd=None):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, *flags] if code is None else [sys.executable, *flags, code],
        input=stdin, capture_output=True, text=True, env=env, cwd=cwd, check=False,
    )  # fmt: skip


SCRIPT = textwrap.dedent("""
    import warnings; warnings.simplefilter("ignore")
    import lastly
    from lastly._durable import own
    from lastly._journal import replay
    @lastly.action
    def mine(): pass
    if __name__ == "__main__":
        lastly.defer(mine)
        found = replay.read(own.peek().path)
        print([item.action for item in found.items.values()], found.contexts.newest()["main"])
""")


def test_a_script(tmp_path):
    """Recorded as the script's own, with its path."""
    path = tmp_path / "job.py"
    path.write_text(SCRIPT)
    assert child(str(path)).stdout == f"['__main__:mine'] {path}\n"


def test_a_module_run_by_name(tmp_path):
    """python -m: the module's real name."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").touch()
    (tmp_path / "pkg" / "__main__.py").write_text(SCRIPT)
    (tmp_path / "pkg" / "job.py").write_text(SCRIPT)
    assert child(None, "-m", "pkg.job", cwd=tmp_path).stdout.startswith("['pkg.job:mine']")
    assert child(None, "-m", "pkg", cwd=tmp_path).stdout.startswith("['pkg.__main__:mine']")


def test_an_archive(tmp_path):
    """python app.zip: the archive's path."""
    import zipfile

    path = tmp_path / "app.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("__main__.py", SCRIPT)
    assert child(str(path)).stdout == f"['__main__:mine'] {path}\n"


@pytest.mark.parametrize("how", ["-c", "stdin"])
def test_a_prompt(how):
    """Nothing to load the function from: refused."""
    done = child(SCRIPT, "-c") if how == "-c" else child(None, "-", stdin=SCRIPT)
    assert "typed at a prompt or into a notebook, comes from -c or standard input" in done.stderr


# ---- without a journal


def test_no_reaper_says_what_is_lost(monkeypatch):
    """LASTLY_REAPER=0: one warning, and the journal is kept for a later reap."""
    monkeypatch.setattr(_durable, "_warned", False)
    scope = Scope()
    with pytest.warns(RuntimeWarning, match=r"LASTLY_REAPER=0.*kill -9.*lastly reap"):
        scope.defer(note)
    scope.defer(note)  # no second warning: they are errors here
    assert states() == ["planned", "planned"]
    scope.close()


@pytest.mark.parametrize("reaper", ["0", None])
def test_no_home_at_all(monkeypatch, tmp_path, reaper):
    """In-process behaviour, one warning; but not for what outlives the machine."""
    monkeypatch.setattr(_durable, "_warned", False)
    (tmp_path / "file").touch()
    if reaper is None:
        monkeypatch.delenv("LASTLY_REAPER")
    monkeypatch.delenv("LASTLY_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file" / "x"))
    with Scope() as scope:
        with pytest.raises(errors.UnsupportedPlatform, match="in this process only.*remote"):
            scope.defer(told, "x")
        with pytest.warns(RuntimeWarning, match="in this process only, kill -9 leaves them: cannot use the home"):
            handle = scope.defer(note, 1)
        assert not handle.durable
        with pytest.raises(errors.UnsupportedPlatform, match="remote"):
            scope.defer(told, "x")
        other = scope.defer(note, 2)
        assert other.detach()
        handle.confirm({"a": 1})
    assert calls == [((1,), {})]


def test_a_home_that_is_required(monkeypatch, tmp_path):
    """LASTLY_DURABLE=require: an error before anything exists, and no warning."""
    monkeypatch.delenv("LASTLY_HOME")
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "x"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("LASTLY_DURABLE", "require")
    for make in (lambda: lastly.temp_dir(dir=tmp_path), lambda: lastly.Popen(["true"])):
        with pytest.raises(errors.UnsupportedPlatform, match="kill -9 leaves them: .*LASTLY_DURABLE=require"):
            make()
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["file", "others", "foreign", "missing"])
def test_an_unusable_home(monkeypatch, tmp_path, kind):
    """One clear line, before anything exists."""
    monkeypatch.delenv("LASTLY_REAPER")
    path = tmp_path / "h"
    if kind == "file":
        path.touch()
    elif kind == "missing":
        path = pathlib.Path("/proc/nowhere/h")
    else:
        path.mkdir()
        path.chmod(0o777 if kind == "others" else 0o700)
    if kind == "foreign":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setenv("LASTLY_HOME", str(path))
    with pytest.raises(errors.NotRecorded, match=r"^cannot use the home") as caught:
        lastly.temp_dir(dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("lastly-*"))


def test_a_network_home(monkeypatch):
    """NFS: one warning that says what is lost, and in-process cleanup."""
    from lastly._journal import home as journal_home

    monkeypatch.delenv("LASTLY_REAPER")
    monkeypatch.setattr(_durable, "_warned", False)
    monkeypatch.setattr(journal_home.mounts, "kind_at", lambda path: "nfs4")
    with (
        Scope() as scope,
        pytest.warns(RuntimeWarning, match=r"in this process only.*network file system \(nfs4\)"),
    ):
        scope.defer(note)
    assert len(calls) == 1


def test_a_read_only_home(monkeypatch):
    """The default one: as above. One that somebody named: an error."""
    import errno

    from lastly._journal import home as journal_home

    def read_only(path, mode=0o777, **_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.delenv("LASTLY_REAPER")
    monkeypatch.setattr(_durable, "_warned", False)
    monkeypatch.setattr(journal_home.os, "mkdir", read_only)
    with pytest.raises(errors.NotRecorded, match=r"Read-only file system; set LASTLY_HOME"):
        Scope().defer(note)
    monkeypatch.delenv("LASTLY_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/x")
    with Scope() as scope, pytest.warns(RuntimeWarning, match="Read-only"):
        scope.defer(note)


def test_the_allow_list_holds_no_secret():
    """By name."""
    assert not [
        name for name in portable.ENVIRONMENT if "KEY" in name or "SECRET" in name or "TOKEN" in name
    ]


# ---- a name of one's own


MACHINES = """
import pathlib
import lastly

@lastly.action(remote=True, name="shop_cloud:destroy")
def destroy(path):
    pathlib.Path(path).unlink(missing_ok=True)
"""


def test_an_action_keeps_its_name_when_its_function_moves(programs, tmp_path):
    """What is recorded is the name, by which the reaper finds it after a kill."""
    (programs.folder / "shop_machines.py").write_text(MACHINES)
    (programs.folder / "shop_cloud.py").write_text("from shop_machines import destroy\n")
    thing = tmp_path / "thing"
    thing.touch()
    code = """
    import os, sys
    sys.path.insert(0, os.getcwd())
    import lastly, shop_cloud
    lastly.defer(shop_cloud.destroy, sys.argv[1])
    os.kill(os.getpid(), 9)
    """
    env = {"LASTLY_REAPER": "0", "PYTHONPATH": str(programs.folder)}
    assert programs.run(code, str(thing), env=env).status == -9
    assert '"action": "shop_cloud:destroy"' in programs.run_command(["lastly", "ls", "--json"]).out
    assert programs.run_command(["lastly", "reap"]).status == 0
    assert not thing.exists()


def test_a_name_that_leads_elsewhere_is_refused_when_it_is_deferred(programs):
    (programs.folder / "shop_machines.py").write_text(MACHINES)
    (programs.folder / "shop_cloud.py").write_text("")
    code = "import lastly, shop_cloud, shop_machines\nlastly.defer(shop_machines.destroy, 'x')"
    result = programs.run(code, env={"PYTHONPATH": str(programs.folder)})
    assert "TypeError: cannot defer destroy() durably as shop_cloud:destroy: " in result.err
    assert "Have that module import it under that name, or leave name= out" in result.err


@pytest.mark.parametrize("name", ["destroy", "shop:", ":destroy", "a b:c", "shop:a-b", 7, ""])
def test_a_name_that_none_can_be(name):
    with pytest.raises(TypeError, match="module:qualname"):
        action(name=name)
