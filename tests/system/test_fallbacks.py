"""Old kernels, sandboxes, strange containers: what is missing there is done without, or said before anything is made.

Each fallback is switched on by LASTLY_PRETEND_NO, or for real by a seccomp filter or a namespace where this machine
allows that.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from harness import SRC, Programs, gone, wait_until

from lastly._system import proc

MISSING = ["nothing", "pidfd", "statx", "memfd", "sh", "pidfd,statx,memfd,sh"]
OWES = """
import os, subprocess, sys, time, lastly
from lastly import actions, defer
made = os.fspath(lastly.temp_dir())
os.makedirs(made + "/a/b"); open(made + "/a/f", "w").close()
defer(actions.run, [sys.executable, "-S", "-c", "open('ran', 'w').close()"])
child = lastly.Popen([sys.executable, "-S", "-c", '''if True:
    import subprocess, time
    print("grandchild", subprocess.Popen(["sleep", "600"], start_new_session=True).pid, flush=True)
    time.sleep(600)'''], grace=1)
print("made", child.pid, made, flush=True)
time.sleep(600)
"""


def owes(programs: Programs, tmp_path: Path, before: str = "", **env: str) -> tuple[object, list[tuple[int, int]], str]:
    program = programs.start(before + OWES, cwd=tmp_path, env=env, flags=("-W", "error"))
    lines = sorted(program.line() for _ in range(2))
    assert lines[0].startswith("grandchild"), lines
    _, child, made = lines[1].split(" ", 2)
    pids = [int(child), int(lines[0].split()[1])]
    return program, [(pid, proc.start_time(pid) or 0) for pid in pids], made


def all_gone(tmp_path: Path, tree: list[tuple[int, int]], made: str) -> bool:
    return gone(made) and (tmp_path / "ran").exists() and not any(proc.lives(*key) for key in tree)


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.slow(keep=2)
def test_killed(programs: Programs, tmp_path: Path, missing: str) -> None:
    program, tree, made = owes(programs, tmp_path, LASTLY_PRETEND_NO=missing)
    program.send(signal.SIGKILL)
    program.wait()
    wait_until(lambda: all_gone(tmp_path, tree, made), what=f"all is gone: {made}, {tree}, ran")
    assert "error" not in (programs.home / "reaper.log").read_text()


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.slow(keep=2)
def test_killed_and_reaped_by_hand(programs: Programs, tmp_path: Path, missing: str) -> None:
    env = {"LASTLY_PRETEND_NO": missing}
    program, tree, made = owes(programs, tmp_path, **env, LASTLY_REAPER="later")
    program.send(signal.SIGKILL)
    program.wait()
    result = programs.run_command(["lastly", "reap"], env=env, cwd=tmp_path)
    assert result.status == 0, result.err
    assert all_gone(tmp_path, tree, made)


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.slow(keep=2)
def test_ended_by_a_signal(programs: Programs, tmp_path: Path, missing: str) -> None:
    program, tree, made = owes(programs, tmp_path, "import lastly; lastly.install()\n", LASTLY_PRETEND_NO=missing)
    program.send(signal.SIGTERM)
    assert program.wait().status == -signal.SIGTERM
    assert all_gone(tmp_path, tree, made)


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.slow(keep=2)
def test_run_killed(programs: Programs, tmp_path: Path, missing: str) -> None:
    code = """
import subprocess, tempfile, time
made = tempfile.mkdtemp()
child = subprocess.Popen(["sleep", "600"], env={}, start_new_session=True)
print("made", child.pid, made, flush=True)
time.sleep(600)
"""
    env = {"LASTLY_PRETEND_NO": missing, "LASTLY_HOME": str(programs.home)}
    program = programs.start_command(["lastly", "run", "--grace", "1", "-c", code], env=env)
    _, child, made = program.line("made").split(" ", 2)
    key = (int(child), proc.start_time(int(child)) or 0)
    seen = "from lastly._reaper import desk; import sys; sys.exit(not (desk.status() or {}).get('children'))"
    wait_until(lambda: programs.run_command(["python", "-c", seen]).status == 0, what="the child was seen")
    program.send(signal.SIGKILL)
    program.wait()
    wait_until(lambda: gone(made) and not proc.lives(*key), what="all is gone")


def test_the_reaper_without_pidfds_is_quiet_and_leaves(programs: Programs, tmp_path: Path) -> None:
    """Nothing is written again and again while it polls, and an owner that ended well is forgotten."""
    env = {"LASTLY_PRETEND_NO": "pidfd", "LASTLY_REAPER_IDLE": "0.1"}
    program = programs.start("import lastly; lastly.temp_dir(); print('up', flush=True); input()", env=env, stdin=-1)
    program.line("up")
    log = programs.home / "reaper.log"
    wait_until(lambda: log.exists() and " own " in log.read_text(), what="it is watched")
    program.write("\n")
    assert program.wait().status == 0
    wait_until(lambda: " exit " in log.read_text(), what="the reaper leaves")
    assert log.read_text().count(" own ") == 1


IN_PROCESS = """
import os, subprocess, sys, time
import lastly
from lastly import actions, defer
ends = "import signal, sys; signal.signal(15, lambda *_: sys.exit(open(sys.argv[1], 'w').close())); print('up', flush=True); signal.pause()"
made = [lastly.temp_dir(dir="."), lastly.temp_file(dir="."), lastly.pid_file("it.pid"), lastly.lock_file("it.lock")]
os.makedirs(made[0] / "a/b")
for start in (lastly.Popen, subprocess.Popen):
    child = start([sys.executable, "-c", ends, "told by " + start.__module__], stdout=subprocess.PIPE)
    child.stdout.readline()
    defer(lambda child=child: print("ended", child.wait()))
    if start is subprocess.Popen:
        defer(actions.kill, child)
        defer(actions.kill, child)
    else:
        defer(child.close)
defer(actions.run, [sys.executable, "-c", "open('ran', 'w').close()"])
print("made", all(os.path.exists(each) for each in made), flush=True)
"""


def in_process(result: object, work: Path) -> None:
    """What IN_PROCESS does where nothing durable can be promised: all is made and ended, with one warning."""
    assert result.status == 0, result.err
    assert result.err.count("Warning") == result.err.count("in this process only, kill -9 leaves them: ") == 1, result.err
    assert "made True" in result.lines
    assert result.lines.count("ended 0") == 2, result.lines
    assert len(told := sorted(os.listdir(work))) == 3, told
    assert told[0] == "ran"
    assert all(name.startswith("told by ") for name in told[1:])


def test_without_proc_cleanups_run_in_the_process(programs: Programs, tmp_path: Path) -> None:
    (work := tmp_path / "work").mkdir()
    result = programs.run(IN_PROCESS, cwd=work, env={"LASTLY_PRETEND_NO": "proc"}, flags=("-W", "always::RuntimeWarning"))
    in_process(result, work)
    assert "/proc is not mounted" in result.err


@pytest.mark.parametrize("way", ["LASTLY_DURABLE=require", "remote"])
def test_without_proc_what_must_survive_is_refused(programs: Programs, way: str) -> None:
    code = """
    import os, sys, lastly
    from lastly.errors import NotRecorded, UnsupportedPlatform
    @lastly.action(remote=True)
    def destroy(name): print("destroyed")
    for make in (lastly.temp_dir, lambda: lastly.Popen(["sleep", "600"])) if sys.argv[1] != "remote" else (lambda: lastly.defer(destroy, "x"),):
        try:
            make()
        except UnsupportedPlatform as error:
            print(isinstance(error, NotRecorded), error)
    print(os.listdir(os.environ["TMPDIR"]))
    """
    env = {"LASTLY_PRETEND_NO": "proc"} | ({"LASTLY_DURABLE": "require"} if way != "remote" else {})
    result = programs.run(code, way, env=env, flags=("-W", "error"))
    assert result.status == 0, result.err
    assert len(result.lines) == (2 if way == "remote" else 3), result
    assert all(line.startswith("True cleanups run in this process only") and way in line for line in result.lines[:-1])
    assert "tmp" not in result.lines[-1]


@pytest.mark.root
def test_the_proc_of_another_pid_namespace(programs: Programs, tmp_path: Path) -> None:
    """Its numbers are strangers: what this process holds is ended, what is passed by number is never signalled."""
    numbers = """
import sys
from lastly.errors import NotOurs, UnsupportedPlatform
child = subprocess.Popen(["sleep", "600"])
for target in ({"pid": child.pid, "start": 1, "boot": sys.argv[1], "pidns": None}, child.pid):
    try:
        actions.kill(target)
    except (NotOurs, OSError) as error:
        print(error)
try:
    defer(actions.kill, child.pid)
except UnsupportedPlatform as error:
    print(error)
print("lives", child.poll())
child.kill()
"""
    from lastly._system.identity import boot_id

    (work := tmp_path / "work").mkdir()
    (tmp_path / "program.py").write_text(IN_PROCESS + numbers)
    result = programs.run_command(
        ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-W", "always::RuntimeWarning",
         str(tmp_path / "program.py"), boot_id()],
        cwd=work,
    )  # fmt: skip
    in_process(result, work)
    assert "shows the processes of another pid namespace" in result.err
    assert sum("no process is ended by its number alone" in line for line in result.lines) == 3, result.lines
    assert "lives None" in result.lines


@pytest.mark.root
@pytest.mark.parametrize("then", ["exec", "stay"])
def test_a_time_namespace(programs: Programs, tmp_path: Path, then: str) -> None:
    """Start times are shown with the reader's own offset: whoever looks from outside cannot prove a death."""
    code = f"""
import lastly, os, sys, time
print("made", os.getpid(), lastly.temp_dir(), flush=True)
if {then!r} == "exec": os.execvp("sleep", ["sleep", "600"])
time.sleep(600)
"""
    (tmp_path / "inside.py").write_text(code)
    offset = ["--boottime", "100000", "--monotonic", "100000"]
    if subprocess.run(["unshare", "-T", *offset, "--fork", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no time namespaces here")
    program = programs.start_command(
        ["unshare", "-T", *offset, "--fork", sys.executable, str(tmp_path / "inside.py")], env={"LASTLY_REAPER": "later"}
    )
    _, pid, made = program.line("made").split(" ", 2)
    try:
        wait_until(lambda: then != "exec" or proc.command(int(pid))[:1] == [b"sleep"], what="exec")
        programs.run_command(["lastly", "reap"])
        assert os.path.isdir(made)
    finally:
        os.kill(int(pid), signal.SIGKILL)
    program.wait()
    programs.run_command(["lastly", "reap", "--elsewhere"])


@pytest.mark.root
@pytest.mark.parametrize("missing", ["nothing", "statx"])
def test_a_mount_inside_is_not_entered(programs: Programs, tmp_path: Path, missing: str) -> None:
    """Also where its id must be read from /proc; a folder on the same disk has the same device."""
    for name in ("host", "made/inside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "host" / "precious").touch()
    code = f"from lastly import actions\\ntry: actions.remove({str(tmp_path / 'made')!r})\\nexcept OSError as error: print(error)"
    (tmp_path / "remove.py").write_text(code.replace("\\n", "\n"))
    result = programs.run_command(
        ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" "$2" && exec "$3" "$4"', "sh", str(tmp_path / "host"),
         str(tmp_path / "made" / "inside"), sys.executable, str(tmp_path / "remove.py")],
        env={"LASTLY_PRETEND_NO": missing},
    )  # fmt: skip
    assert "a mount point is inside" in result.out, result
    assert (tmp_path / "host" / "precious").exists()


# A seccomp filter that answers some system calls with an error; the reaper inherits it.
SECCOMP = """
import ctypes, platform, struct
def without(calls, number):
    steps = [(0x20, 0, 0, 0), *((0x15, len(calls) - i, 0, call) for i, call in enumerate(calls)),
             (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | number)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0
CALLS = {"x86_64": {"prctl": 157, "pidfd_open": 434, "statx": 332, "memfd_create": 319, "socket": 41, "socketpair": 53,
                    "unlinkat": 263, "pidfd_send_signal": 424, "readlink": 89},
         "aarch64": {"prctl": 167, "pidfd_open": 434, "statx": 291, "memfd_create": 279, "socket": 198,
                     "socketpair": 199, "unlinkat": 35, "pidfd_send_signal": 424, "readlink": 78}}[platform.machine()]
"""


@pytest.mark.parametrize(
    ("calls", "error"),
    [("pidfd_open", 38), ("pidfd_open", 1), ("statx", 38), ("statx", 1), ("memfd_create", 1), ("prctl", 1),
     ("pidfd_open statx memfd_create prctl", 1)],
)  # fmt: skip
@pytest.mark.slow(keep=2)
def test_a_sandbox_that_refuses(programs: Programs, tmp_path: Path, calls: str, error: int) -> None:
    refused = SECCOMP + f"without([CALLS[call] for call in {calls.split()!r}], {error})\n"
    program, tree, made = owes(programs, tmp_path, refused)
    program.send(signal.SIGKILL)
    program.wait()
    wait_until(lambda: all_gone(tmp_path, tree, made), what=f"all is gone: {made}, {tree}, ran")


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ("pidfd_open statx memfd_create prctl", ""),
        ("socket socketpair", ""),
        ("unlinkat", "was removed only in part: Operation not permitted"),
        ("pidfd_send_signal", "it cannot be ended"),
        ("readlink", "no process is ended by its number alone here: /proc "),
    ],
)
@pytest.mark.parametrize("end", ["normal", "killed"])
@pytest.mark.slow(keep=4)
def test_a_kernel_that_refuses_in_the_middle(programs: Programs, tmp_path: Path, end: str, calls: str, said: str) -> None:
    """What the program can no longer do is said, and done by its reaper, which nobody refuses anything."""
    code = SECCOMP + f"""
import os, lastly, signal, subprocess, sys
from lastly import actions, defer
lastly.install()
def make():
    made = os.fspath(lastly.temp_dir())
    os.makedirs(made + "/a/b")
    return made, lastly.Popen(["sleep", "600"], grace=1).pid
first = make()
other = subprocess.Popen(["sleep", "600"])
defer(actions.kill, other)
without([CALLS[call] for call in {calls.split()!r}], 1)
print(other.pid, *first, *(make() if {calls != "readlink"} else first), flush=True)
sys.stdin.readline()
"""
    program = programs.start(code, cwd=tmp_path, stdin=-1, flags=("-W", "error"))
    other, made, pid, also_made, also_pid = program.line().split()
    tree = [(int(each), proc.start_time(int(each)) or 0) for each in (other, pid, also_pid)]
    if end == "killed":
        program.send(signal.SIGKILL)
    else:
        program.write("\n")
    result = program.wait()
    if end == "normal":
        assert result.status == (1 if said else 0), result.err
        assert said in result.err
    wait_until(lambda: gone(made) and gone(also_made) and not any(proc.lives(*key) for key in tree), what="all is gone")


def test_a_sandbox_without_unix_sockets(programs: Programs, tmp_path: Path) -> None:
    """No reaper can be reached: one warning, and what the program ends itself is ended."""
    code = SECCOMP + "without([CALLS['socket'], CALLS['socketpair']], 97)\n" + """
import lastly, warnings
made = lastly.temp_dir()
other = lastly.temp_dir()
print(made)
"""
    result = programs.run(code, flags=("-W", "always"))
    assert result.status == 0
    assert result.err.count("Warning") == 1, result.err
    assert "no reaper could be started" in result.err
    assert gone(result.lines[0])


@pytest.mark.root
@pytest.mark.parametrize("home", ["/", None], ids=["HOME=/", "no HOME"])
def test_a_user_without_an_account(programs: Programs, tmp_path: Path, home: str | None) -> None:
    """OpenShift's default: no place of its own. The thing is made, its cleanup is in-process, and one line says so."""
    os.chmod(tmp_path, 0o777)
    code = """
import os, sys, zlib, tempfile, subprocess, shutil, warnings, mmap, _posixsubprocess, json, struct, fcntl, select
import lastly, lastly.resources._temporary, lastly.actions, lastly._durable.seam, lastly._journal.file, lastly._durable.own
import lastly._system.remove, lastly.resources._child, linecache, tracemalloc
os.setgroups([]); os.setgid(0); os.setuid(1000770000)
made = lastly.temp_dir(dir=sys.argv[1])
other = lastly.temp_dir(dir=sys.argv[1])
print(made, os.path.isdir(made), flush=True)
"""
    env = {"HOME": home, "LASTLY_HOME": None, "XDG_STATE_HOME": None, "XDG_RUNTIME_DIR": None}
    result = programs.run(code, str(tmp_path), env=env, flags=("-W", "always::RuntimeWarning"))
    assert result.status == 0, result.err
    assert result.lines[0].endswith(" True")
    assert result.err.count("Warning") == result.err.count("in this process only, kill -9 leaves them") == 1, result.err
    assert gone(result.lines[0].split()[0])


@pytest.mark.root
def test_a_read_only_root(programs: Programs, tmp_path: Path) -> None:
    code = "import lastly\nprint(lastly.temp_dir(dir='/dev/shm'))\n"
    (tmp_path / "program.py").write_text(code)
    result = programs.run_command(
        ["unshare", "--mount", "sh", "-c", 'mount -o remount,ro,bind / && exec "$0" -W always "$1"', sys.executable,
         str(tmp_path / "program.py")],
        env={"LASTLY_HOME": None, "HOME": "/usr/nobody", "XDG_STATE_HOME": None, "XDG_RUNTIME_DIR": None,
             "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    if "mount:" in result.err and "lastly" not in result.err:
        pytest.skip("the root of this machine cannot be made read-only: " + result.err.strip())
    assert result.status == 0, result.err
    assert result.err.count("Warning") == result.err.count("in this process only, kill -9 leaves them") == 1, result.err
    assert gone(result.lines[0])


@pytest.mark.parametrize(
    ("missing", "name", "level", "word"),
    [
        ("nothing", "pidfd", "ok", "at once"),
        ("pidfd", "pidfd", "ok", "0.25 s"),
        ("statx", "statx", "unprotected", "inode"),
        ("memfd", "memfd", "ok", "on disk"),
        ("sh", "sh", "ok", "a Python starts the reaper"),
        ("proc", "proc", "wrong", "not mounted"),
    ],
)
def test_the_doctor_says_what_it_found(programs: Programs, missing: str, name: str, level: str, word: str) -> None:
    result = programs.run_command(["lastly", "doctor", "--json"], env={"LASTLY_PRETEND_NO": missing})
    found = {finding["name"]: finding for finding in json.loads(result.out)["findings"]}
    assert found[name]["level"] == level, found
    assert word in found[name]["what"]


def test_the_doctor_names_a_sandbox(programs: Programs) -> None:
    code = SECCOMP + "without([CALLS['prctl'], CALLS['statx'], CALLS['pidfd_open']], 1)\n" + """
from lastly._cli.doctor import kernel
for finding in kernel(): print(finding.name, finding.level)
"""
    result = programs.run(code)
    assert result.lines == ["pidfd ok", "statx unprotected", "prctl unprotected"], result.err


# Pythons that were built without something.
def python_without(folder: Path, module: str) -> str:
    """A copy of this Python that has everything but one module of C."""
    real = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    standard, dynamic = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_config_var("DESTSHARED"))
    if module in sys.builtin_module_names or not dynamic.is_dir():
        pytest.skip(f"{module} is a part of {real}")
    (folder / "bin").mkdir(parents=True)
    lib = folder / "lib" / standard.name
    (lib / "lib-dynload").mkdir(parents=True)
    for path in standard.iterdir():
        if path.name not in ("lib-dynload", "site-packages", "dist-packages", "__pycache__"):
            (lib / path.name).symlink_to(path)
    for path in dynamic.iterdir():
        if path.name.partition(".")[0] != module:
            (lib / "lib-dynload" / path.name).symlink_to(path)
    made = shutil.copy2(real, folder / "bin" / real.name)
    refused = subprocess.run([made, "-c", f"import {module}"], capture_output=True, text=True)
    assert f"No module named '{module}'" in refused.stderr, refused
    return os.fspath(made)


@pytest.mark.parametrize("module", ["_ctypes", "_ssl"])
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_python_built_without(programs: Programs, tmp_path: Path, module: str, signum: int) -> None:
    (work := tmp_path / "work").mkdir()
    (tmp_path / "program.py").write_text("import lastly; lastly.install()\n" + OWES)
    python = python_without(tmp_path / "python", module)
    program = programs.start_command([python, "-W", "error", str(tmp_path / "program.py")], cwd=work, env={"PYTHONPATH": str(SRC)})
    lines = sorted(program.line() for _ in range(2))
    _, child, made = lines[1].split(" ", 2)
    tree = [(pid, proc.start_time(pid) or 0) for pid in (int(child), int(lines[0].split()[1]))]
    program.send(signum)
    assert program.wait().status == -signum
    wait_until(lambda: all_gone(work, tree, made), what=f"all is gone: {made}, {tree}, ran")
    found = programs.run_command([python, "-m", "lastly", "doctor", "--json"], env={"PYTHONPATH": str(SRC)})
    fixes = {finding["name"]: finding["fix"] for finding in json.loads(found.out)["findings"] if finding["name"] in ("statx", "prctl")}
    assert fixes == ({} if module == "_ssl" else dict.fromkeys(("statx", "prctl"), "use a Python that was built with ctypes"))


def test_a_python_built_without_sqlite3(programs: Programs, tmp_path: Path) -> None:
    """Its reaper could not start: cleanups run in the process, and each command that needs it says so in one line."""
    (work := tmp_path / "work").mkdir()
    (tmp_path / "program.py").write_text(IN_PROCESS)
    python, env = python_without(tmp_path / "python", "_sqlite3"), {"PYTHONPATH": str(SRC)}
    words = [python, "-W", "always::RuntimeWarning", str(tmp_path / "program.py")]
    result = programs.run_command(words, cwd=work, env=env)
    in_process(result, work)
    why = "this Python was built without sqlite3, which the reaper needs"
    assert why in result.err
    for command in ("ls", "reap", "history", "why 1234.1", "forget 1234.1", "retry 1234.1"):
        said = programs.run_command([python, "-m", "lastly", *command.split()], env=env)
        assert (said.status, said.out, said.err) == (1, "", f"lastly: {why}; use another one: {python}\n")
    found = programs.run_command([python, "-m", "lastly", "doctor", "--json"], env=env)
    wrong = [finding for finding in json.loads(found.out)["findings"] if finding["level"] == "wrong"]
    assert [(finding["name"], why in finding["what"]) for finding in wrong] == [("sqlite3", True)]


def test_a_python_that_is_too_old(programs: Programs) -> None:
    """One line, whatever would fail first; those that are here, and this one, which says that it is 3.10."""
    emulated = [sys.executable, "-c", "import sys; sys.version_info = (3, 10, 0, 'final', 0); import lastly"]
    old = [found for minor in range(6, 11) if (found := shutil.which(f"python3.{minor}"))]
    real = [[found, "-c", "import lastly"] for found in old if subprocess.run([found, "-c", ""], capture_output=True).returncode == 0]
    for words in (emulated, *real):
        result = programs.run_command(words, env={"PYTHONPATH": str(SRC)})
        assert result.status == 1
        assert result.err.splitlines()[-1].startswith("ImportError: lastly needs Python 3.11 or later, and "), result
