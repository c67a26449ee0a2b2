"""No room, no descriptors, no processes, a clock that goes back, strange things where the reaper's files belong:
nothing that was promised is lost, and what cannot be promised is refused in one line before anything is made."""

from __future__ import annotations

import _socket
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
import warnings
from pathlib import Path

import pytest
from harness import SRC, Programs, gone, reaper_of, wait_until

from lastly import actions
from lastly._journal import home as homes
from lastly._journal.file import Journal
from lastly._reaper import client, desk
from lastly._settle.sweep import sweep
from lastly._system.identity import Identity

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts")

# Makes folders until that is refused (at most so many), says how many and why, and is killed.
MAKES = """
import os, resource, signal, sys, warnings
import lastly, lastly.resources._temporary, tempfile
from lastly.errors import NotRecorded
tmp = tempfile.gettempdir()

def make(most):
    made, why = 0, ""
    try:
        while made < most:
            lastly.temp_dir()
            made += 1
    except NotRecorded as error:
        why = str(error)
    left = len(os.listdir(tmp))
    print(made, left, why, flush=True)

"""
KILLED = "\nos.kill(os.getpid(), signal.SIGKILL)\n"


def swept(programs: Programs, folder: Path) -> None:
    """A sweep, or the reaper that may be at it just now, and nothing is left."""
    result = programs.run_command(["lastly", "reap"])
    assert "Traceback" not in result.err, result.err
    wait_until(lambda: not os.listdir(folder), what="nothing is left")
    wait_until(lambda: not homes.journals(), what="no journal is left")


def test_no_standard_error(programs: Programs, tmp_path: Path) -> None:
    """What a C library then writes to descriptor 2 spoils no record."""
    code = """
    import contextlib, os, sys, lastly
    for name in sys.argv[1:]:
        lastly.defer(lastly.actions.remove, name)
        open(name, "w").close()
        with contextlib.suppress(OSError):  # as a C library does, which does not look whether it can
            os.write(2, b"library: something is deprecated")
    os.kill(os.getpid(), 9)
    """
    names = [str(tmp_path / name) for name in ("one", "two", "three")]
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", textwrap.dedent(code), *names]
    assert programs.run_command(shell).status == -signal.SIGKILL
    programs.run_command(["lastly", "reap"])
    wait_until(lambda: not any(map(os.path.exists, names)), what="nothing is left")


@pytest.mark.parametrize("most", [5, 6, 7, 8, 9, 12, 16])
@pytest.mark.slow(keep=3)
def test_hardly_any_descriptors(most: int, programs: Programs) -> None:
    """Whatever could be made was planned first and is removed; there is a warning when nobody watches."""
    limit = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most}))\n"
    program = programs.start(MAKES + limit + "make(3)" + KILLED)
    result = program.wait()
    assert result.status == -signal.SIGKILL, result.err
    made, left, _, why = (*result.lines[0].split(" ", 2)[:2], None, result.lines[0].split(" ", 2)[2])
    assert made == left, result.lines
    assert made == "3" or "no file descriptors left" in why
    assert "Traceback" not in result.err
    swept(programs, program.tmp)


@pytest.mark.parametrize("hold", [0, 1, 2, 3, 4, 5])
@pytest.mark.slow(keep=3)
def test_descriptors_run_out_on_the_way(hold: int, programs: Programs) -> None:
    """All are taken but a few: refused or made, never half; and when some are closed it goes on."""
    code = f"""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for _ in range({hold}):
        os.close(taken.pop())
    try:
        make(2)
    except OSError as error:  # Python itself cannot import anything any more
        assert error.errno == 24, error
        os.close(taken.pop())
        print(0, len(os.listdir(tmp)), "", flush=True)
    for fd in taken:
        os.close(fd)
    before = len(os.listdir(tmp))
    make(2)
    assert len(os.listdir(tmp)) == before + 2
    """
    program = programs.start(MAKES + textwrap.dedent(code) + KILLED)
    result = program.wait()
    assert result.status == -signal.SIGKILL, result.err
    made, left, _ = result.lines[0].split(" ", 2)
    assert made == left, result.lines
    assert result.lines[1].startswith("2 "), result.lines
    swept(programs, program.tmp)


def test_without_descriptors_nobody_is_taken_for_dead(programs: Programs) -> None:
    """I4: who cannot read the boot's id says so, and does not judge by an empty one."""
    code = """
    import os, resource
    from lastly._system import identity as owner
    from lastly._system.identity import Identity
    me = Identity.current()
    owner._constant.clear()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        print("judged:", me.alive())
    except OSError as error:
        print(error.errno)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    owner._constant["/proc/sys/kernel/random/boot_id"] = ""
    print(me.alive(), Identity.from_mapping({**me.to_mapping(), "boot": ""}).alive())
    """
    assert programs.run(code).lines == ["24", "None None"]


def test_files_may_not_grow(programs: Programs) -> None:
    """A full disk for those who may not fill one (RLIMIT_FSIZE): refused before the folder is made."""
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, -1))\n"
    program = programs.start(MAKES + limit + "make(10_000)" + KILLED)
    result = program.wait()
    made, left, why = result.lines[0].split(" ", 2)
    assert result.err == ""
    assert int(made) > 20
    assert made == left
    assert why.startswith("cannot record a cleanup")
    # Its reaper has lifted the limit for itself.
    swept(programs, program.tmp)


def test_no_more_processes(programs: Programs, tmp_path: Path) -> None:
    """RLIMIT_NPROC: no reaper, one warning; what was planned is removed later. A child that cannot start is not owed."""
    open_to_all = Path(tempfile.mkdtemp(prefix="lt-", dir="/tmp"))
    open_to_all.chmod(0o777)
    (open_to_all / "tmp").mkdir()
    (open_to_all / "tmp").chmod(0o777)
    shutil.copytree(SRC, open_to_all / "src")  # which may be below a folder that only its owner may enter
    # The kernel does not count root's. Afterwards the standard library may be out of reach, too.
    other = (
        f"import encodings.ascii, lastly._durable.seam, lastly.actions, lastly._reaper.client, lastly.resources._child, ctypes, json\n"
        f"import lastly._system.remove; lastly._system.remove.identity('/')\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        if os.geteuid() == 0
        else ""
    )
    limit = """
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    make(3)
    try:
        lastly.Popen(["sleep", "1001"])
    except BlockingIOError:
        print("no child", len(said), "no reaper could be started" in str(said[0].message), flush=True)
"""
    env: dict[str, str | None] = {
        "LASTLY_HOME": str(open_to_all / "home"),
        "TMPDIR": str(open_to_all / "tmp"),
        "PYTHONPATH": str(open_to_all / "src"),
    }
    try:
        result = programs.run(MAKES + other + limit + KILLED, env=env)
        assert result.status == -signal.SIGKILL, result.err
        assert result.lines == ["3 3 ", "no child 1 True"], result.err
        reaps = "import lastly._settle.sweep as s, lastly._settle.history\n" + other
        reaps = MAKES + reaps + "print([ran['state'] for o in s.sweep() for ran in o.ran], len(os.listdir(tmp)))"
        result = programs.run(reaps, env=env)
        assert result.lines == ["['done', 'done', 'done'] 0"], result.err
    finally:
        shutil.rmtree(open_to_all, ignore_errors=True)


@pytest.mark.root
@as_root
def test_the_disk_is_full_at_the_end(programs: Programs, tmp_path: Path) -> None:
    """Nothing can be written down, and everything is removed all the same; settled as soon as there is room."""
    code = """
    make(5)
    home = os.environ["LASTLY_HOME"]
    with open(home + "/fill", "wb", buffering=0) as file:
        try:
            while file.write(bytes(1000)):
                pass
        except OSError:
            pass
    """
    script = tmp_path / "owes.py"
    script.write_text(MAKES + textwrap.dedent(code) + KILLED)
    (tmp_path / "tmp").mkdir()
    shell = (
        'mount -t tmpfs -o size=256k,mode=700 none "$LASTLY_HOME"; "$@"; "$0" -m lastly reap; ls "$TMPDIR" | wc -l;'
        'rm "$LASTLY_HOME/fill"; "$0" -m lastly reap; find "$LASTLY_HOME" -name "*.j" | wc -l'
    )
    result = programs.run_command(
        ["unshare", "--mount", "sh", "-c", shell, sys.executable, sys.executable, str(script)],
        env={"TMPDIR": str(tmp_path / "tmp"), "LASTLY_REAPER": "0"},
    )
    assert "Traceback" not in result.err
    assert result.lines[0].startswith("5 5")
    assert result.lines[-2:] == ["0", "0"] or result.lines[-1] == "0", (result.out, result.err)
    assert os.listdir(tmp_path / "tmp") == []


FULL_DISK = """
import glob, os, subprocess, sys, time
from lastly._reaper import desk, client

home, log = os.environ["LASTLY_HOME"], sys.argv[1]
OWNER = """ + "'''" + r"""
import glob, os, sys, time
from lastly import actions, defer
log = sys.argv[1]
defer(actions.run, ["sh", "-c", 'echo x >> "$1"', "sh", log])
defer(actions.run, ["sh", "-c", 'echo x >> "$1"; exit 1', "sh", log + ".fails"])
size = lambda: os.path.getsize(glob.glob(f"{os.environ['LASTLY_HOME']}/owners/*/{os.getpid()}.*.j")[0])
before = size(); defer(actions.remove, "/nonexistent/b"); one = size() - before
# Not even a short record fits behind this one.
defer(actions.remove, "/nonexistent/b" + "/".join(["x" * 100] * 40)[: 4096 - 20 - (size() + one) % 4096])
print("ready", flush=True)
time.sleep(1000)
""" + "'''" + """

def until(true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)

def runs(path):
    return len(open(path).readlines()) if os.path.exists(path) else 0

def waits():
    return (desk.status() or {}).get("owners") == {"waiting": 1}

reaper = subprocess.Popen([sys.executable, "-m", "lastly", "reaper", "--idle", "1"])
until(desk.status)
owner = subprocess.Popen([sys.executable, "-c", OWNER, log], stdout=subprocess.PIPE)
owner.stdout.readline()
until(lambda: desk.status()["owners"] == {"watched": 1})
with open(home + "/fill", "wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
owner.kill()
owner.wait()
until(lambda: runs(log) and waits())
for _ in range(3):
    before = runs(log + ".fails")
    client.ask("sweep", force=True)
    until(lambda: runs(log + ".fails") > before and waits())
print(runs(log))
os.unlink(home + "/fill")
client.ask("sweep", force=True)
until(lambda: reaper.poll() is not None or not client.ask("sweep", force=True) or not glob.glob(home + "/owners/*/*.j"))
print(runs(log), runs(log + ".fails"))
for row in desk.past():
    print(row["state"], row["attempts"])
"""


@pytest.mark.root
@as_root
def test_the_disk_is_full_while_the_reaper_works(programs: Programs, tmp_path: Path) -> None:
    """What was run is not run again; what fails is not tried for ever."""
    script = tmp_path / "full.py"
    script.write_text(FULL_DISK)
    shell = 'mount -t tmpfs -o size=1m,mode=700 none "$LASTLY_HOME" && exec "$@"'
    result = programs.run_command(
        ["unshare", "--mount", "sh", "-c", shell, "sh", sys.executable, str(script), str(tmp_path / "log")],
    )
    assert result.status == 0, (result.out, result.err)
    assert result.lines[:2] == ["1", "1 6"]
    assert sorted(result.lines[2:]) == ["abandoned 6", "done 1", "done 1", "done 1"]


# ---- the clock is set back: what was written bears times of the future


def orphan(path: Path, *, next_try: float | None = None, known: dict[str, object] | None = None) -> None:
    """A journal whose owner is dead; written by a clock that was ahead by years."""
    pid = os.fork()
    if not pid:
        try:
            ahead = time.time() + 10 * 365 * 86400.0
            from lastly._journal import file

            file.time = lambda: ahead  # type: ignore[attr-defined]  # imported there by name
            journal = Journal.create(Identity.current())
            args, kwargs = actions.remove.prepare((str(path),), {})  # type: ignore[misc]  # it has one
            number = journal.plan("lastly.actions:remove", list(args), kwargs, known=known)
            if next_try is not None:
                journal.run(number, attempt=1, by="reaper")
                journal.fail(number, "it was busy", attempt=1, next=next_try, by="reaper")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_a_sweep_after_the_clock_was_set_back(home: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    orphan(made)
    assert [outcome.state for outcome in sweep(force=False)] == ["final"]
    assert gone(made)


def test_the_next_attempt_lies_years_ahead(home: Path, tmp_path: Path) -> None:
    """No backoff is that long: it is due."""
    made = tmp_path / "made"
    made.mkdir()
    orphan(made, next_try=time.time() + 5 * 365 * 86400.0)
    assert [outcome.state for outcome in sweep(force=False)] == ["final"]
    assert gone(made)


def test_the_next_attempt_lies_a_minute_ahead(home: Path, tmp_path: Path) -> None:
    """...while one that is in order is waited for."""
    made = tmp_path / "made"
    made.mkdir()
    orphan(made, next_try=time.time() + 60)
    assert [outcome.state for outcome in sweep(force=False)] == ["wait"]
    assert made.is_dir()


def test_a_reaper_with_a_clock_that_was_set_back(programs: Programs, home: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    orphan(made, next_try=time.time() + 5 * 365 * 86400.0)
    programs.run("import lastly; lastly.temp_dir()")  # whoever comes next starts the reaper
    wait_until(lambda: gone(made))


# ---- something else stands where the reaper's files belong


@pytest.mark.parametrize("kind", ["folder", "full folder", "fifo", "link", "dangling link"])
@pytest.mark.parametrize("name", ["reaper.sock", "reaper.lock", "reaper.run", "reaper.log"])
@pytest.mark.slow(keep=5)
def test_strange_things_in_the_home(name: str, kind: str, programs: Programs, home: Path, tmp_path: Path) -> None:
    """Put aside, not followed, not removed; the reaper comes."""
    place, precious = home / name, tmp_path / "precious"
    precious.write_text("precious")
    if kind == "fifo":
        os.mkfifo(place)
    elif kind.endswith("link"):
        place.symlink_to(precious if kind == "link" else tmp_path / "nothing")
    else:
        place.mkdir()
        if kind == "full folder":
            (place / "file").write_text("theirs")
    program = programs.start("import lastly, signal; print(lastly.temp_dir(), flush=True); signal.pause()")
    made = program.line()
    wait_until(lambda: (desk.status() or {}).get("owners", {}).get("watched") or reaper_of(home), what="a reaper")
    program.send(signal.SIGKILL)
    program.wait()
    wait_until(lambda: gone(made))
    assert precious.read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


def test_the_reaper_dies_between_connect_and_send(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is started at once, without a word."""
    ours, its = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    its.close()
    started: list[object] = []
    monkeypatch.setattr(client, "_connect", lambda: ours)
    monkeypatch.setattr(client, "_start_for", lambda *what: started.append(what))
    monkeypatch.setattr(client, "_line", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.ensure("host-boot/1.1.0123456789abcdef.j")
    assert len(started) == 1
