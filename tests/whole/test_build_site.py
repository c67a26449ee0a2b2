"""The example deployment: however it ends, nothing is left; looked up on the disk, in the process table, at the cloud."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import ROOT, Program, Programs, reaper_of, wait_process_gone, wait_until

sys.path.insert(0, str(ROOT / "examples"))
from leftovers import Left, Watched, with_environment

EXAMPLES = ROOT / "examples"
GIT = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
NOT_GIT = dict.fromkeys(
    (name for name in os.environ if name.startswith("GIT_")), None
)  # a hook's, when one runs us


def git(folder: Path, *words: str) -> str:
    env = {name: value for name, value in os.environ.items() if name not in NOT_GIT} | GIT
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main")
    return subprocess.run(
        ("git", *identity, "-C", folder, *words), env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits of a small documentation."""
    folder = tmp_path / "repository"
    (folder / "docs").mkdir(parents=True)
    git(folder, "init", "--quiet")
    for words in ("first", "second"):
        (folder / "README.md").write_text(f"# The {words}\n\nSee [the guide](docs/guide.md#a).\n")
        (folder / "docs" / "guide.md").write_text("# Guide\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", words)
    return folder


class Cloud(NamedTuple):
    address: str
    process: Program

    def ask(self, method: str, path: str) -> tuple[int, object]:
        request = urllib.request.Request(self.address + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


def start_cloud(programs: Programs, tmp_path: Path, *options: str) -> Cloud:
    argv = ["python", str(EXAMPLES / "cloud.py"), "serve", str(tmp_path / "cloud"), *options]
    process = programs.start_command(argv)
    return Cloud(process.line("http"), process)


@pytest.fixture
def cloud(programs: Programs, tmp_path: Path):
    running = start_cloud(programs, tmp_path)
    yield running
    running.process.send(signal.SIGTERM)
    assert running.process.wait().status == 0


class Deployment:
    """Runs the example on one site and tells what it left there."""

    def __init__(self, programs: Programs, folder: Path, repository: Path, cloud: Cloud) -> None:
        self.programs, self.repository, self.cloud = programs, repository, cloud
        self.site, self.mark = folder / "site", f"SITE_RUN={os.getpid()}-{folder.name}"
        self.tmp = folder / "site-tmp"
        self.tmp.mkdir()
        before = self.site / "releases" / "before"
        before.mkdir(parents=True)
        (before / "index.html").write_text("before")
        (self.site / "current").symlink_to("releases/before")

    def start(
        self, commit: str = "HEAD", failpoint: str = "", cleanup: str = "lastly", patience: float = 20
    ) -> Program:
        argv = [
            "python",
            str(EXAMPLES / "build_site.py"),
            str(self.repository),
            commit,
            "--site",
            str(self.site),
        ]
        argv += ["--cloud", self.cloud.address, "--cleanup", cleanup, "--patience", str(patience)]
        mark = self.mark.partition("=")[2]
        env = {**NOT_GIT, **GIT, "FAILPOINT": failpoint, "SITE_RUN": mark, "TMPDIR": str(self.tmp)}
        return self.programs.start_command(argv, env=env)

    def watched(self, program: Program) -> Watched:
        build = next((line.split()[1] for line in program.out.splitlines() if line.startswith("start")), "")
        return Watched(str(self.site), str(self.tmp), self.mark, self.cloud.address, build)

    def left(self, program: Program, *, owed: bool = True) -> Left:
        return self.watched(program).settled(lambda: owed)[0]

    @property
    def served(self) -> str:
        return (self.site / "current" / "index.html").read_text()


@pytest.fixture
def deployment(programs: Programs, tmp_path: Path, repository: Path, cloud: Cloud):
    made = Deployment(programs, tmp_path, repository, cloud)
    yield made
    for program in programs.started:
        made.watched(program).end()


def test_a_deployment_publishes_the_pages_and_leaves_nothing_else(deployment: Deployment) -> None:
    program = deployment.start()
    assert program.wait().status == 0, program.err
    assert deployment.left(program) == Left()
    assert "<title>The second</title>" in deployment.served
    assert 'href="docs/guide.html#a"' in deployment.served
    assert "<table>" in (deployment.site / "current" / "docs" / "guide.html").read_text()
    assert os.listdir(deployment.site / "releases") == [
        os.path.basename(os.readlink(deployment.site / "current"))
    ]


@pytest.mark.parametrize(
    ("failpoint", "status"),
    [
        ("verify=exception", 1),
        ("build=SIGINT", -signal.SIGINT),
        ("upload=SIGTERM", -signal.SIGTERM),
        ("verify=SIGHUP", -signal.SIGHUP),
        ("lock=SIGKILL", -signal.SIGKILL),
        ("clone=SIGKILL", -signal.SIGKILL),
        ("rent=SIGKILL", -signal.SIGKILL),
        ("upload=SIGKILL", -signal.SIGKILL),
        ("publish=SIGKILL", -signal.SIGKILL),
        ("build=segfault", -signal.SIGSEGV),
        ("upload=os._exit", 70),
    ],
)
@pytest.mark.slow(keep=3)
def test_however_it_ends_nothing_is_left(deployment: Deployment, failpoint: str, status: int) -> None:
    """...and the parent sees the truth, and the site is the old one, whole."""
    program = deployment.start(failpoint=failpoint)
    assert program.wait().status == status, program.err
    assert deployment.left(program) == Left()
    assert deployment.served == "before"
    assert os.listdir(deployment.site / "releases") == ["before"]


def test_the_count_finds_what_atexit_leaves(deployment: Deployment) -> None:
    """The test of the tests: what they count with does see files, processes, machines and locks."""
    program = deployment.start(failpoint="upload=SIGKILL", cleanup="handlers")
    assert program.wait().status == -signal.SIGKILL
    left = deployment.left(program, owed=False)
    assert left.files > 10
    assert left[1:] == (1, 1, 1)
    deployment.watched(program).end()
    assert deployment.watched(program).left()[1:3] == (0, 0)


@pytest.mark.parametrize("place", ["clone", "upload"])
@pytest.mark.slow(keep=1)
def test_a_newer_build_takes_over(deployment: Deployment, place: str) -> None:
    older = deployment.start("HEAD~1", failpoint=f"{place}=pause")
    older.line("paused")
    newer = deployment.start("HEAD")
    assert older.wait().status == -signal.SIGTERM
    assert newer.wait().status == 0, newer.out + newer.err
    assert "asked to end" in newer.out
    assert "<title>The second</title>" in deployment.served
    assert deployment.left(older) == Left()
    assert deployment.left(newer) == Left()


@pytest.mark.slow
def test_a_build_waits_for_what_a_killed_one_left(deployment: Deployment) -> None:
    """The lock of the dead is released by the reaper, last of all that it owed: so the next finds a clean place."""
    older = deployment.start("HEAD~1", failpoint="upload=SIGKILL")
    newer = deployment.start("HEAD") if older.wait() else None
    assert newer.wait().status == 0, newer.out + newer.err
    assert deployment.left(older) == Left()
    assert "<title>The second</title>" in deployment.served


def test_killed_together_with_the_reaper_the_next_build_finds_a_clean_place(
    deployment: Deployment, home: Path
) -> None:
    """The journal is the only truth: the reaper that the next build starts settles what the two have left."""
    older = deployment.start("HEAD~1", failpoint="upload=pause")
    older.line("paused")
    reaper = wait_until(lambda: reaper_of(home), what="a reaper is there")
    os.kill(reaper, signal.SIGKILL)  # ours: it serves this test's home only
    wait_process_gone(reaper)
    older.send(signal.SIGKILL)
    older.wait()
    assert deployment.watched(older).left()[1:] == (1, 1, 1)
    newer = deployment.start("HEAD")
    assert newer.wait().status == 0, newer.out + newer.err
    assert deployment.left(older) == Left()
    assert deployment.left(newer) == Left()


@pytest.mark.slow
def test_of_many_builds_the_newest_is_published(deployment: Deployment) -> None:
    """Each asks the one before it to end, or finds that a newer one has overtaken it."""
    builds = []
    for _ in range(5):
        builds.append(deployment.start())
        builds[-1].line("lock")
    *older, newest = builds
    assert newest.wait().status == 0, newest.out + newest.err
    assert {program.wait().status for program in older} <= {-signal.SIGTERM, 1}
    assert [deployment.left(program) for program in builds] == [Left()] * 5
    assert os.readlink(deployment.site / "current") == f"releases/{newest.out.split()[1]}"


def test_a_newer_build_has_the_right_of_way(deployment: Deployment) -> None:
    lock = deployment.site / "deploy.lock"
    lock.symlink_to("99999999999999999999-1 boot pid:[1] 1 1")
    program = deployment.start()
    assert program.wait().status == 1
    assert "a newer build is under way" in program.err
    assert os.readlink(lock).startswith("99999999999999999999-1 ")


def test_a_process_that_only_has_the_number_is_left_alone(deployment: Deployment, programs: Programs) -> None:
    """The holder of a lock is a process, not a number: one that was recycled is not asked to end."""
    innocent = programs.start("import signal; print('here', flush=True); signal.pause()")
    innocent.line("here")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    lock = deployment.site / "deploy.lock"
    lock.symlink_to(f"1-1 {boot} {os.readlink('/proc/self/ns/pid')} {innocent.pid} 12345")
    program = deployment.start(patience=0.2)
    assert program.wait().status == 1
    assert "still held by build 1-1" in program.err
    assert innocent.popen.poll() is None
    assert lock.is_symlink()


def test_a_cloud_that_is_full_is_asked_again(programs: Programs, tmp_path: Path, repository: Path) -> None:
    cloud = start_cloud(programs, tmp_path, "--failures", "2")
    deployment = Deployment(programs, tmp_path, repository, cloud)
    program = deployment.start()
    assert program.wait().status == 0, program.err
    assert deployment.left(program) == Left()


def test_a_cloud_that_stays_full_ends_it_without_a_trace(
    programs: Programs, tmp_path: Path, repository: Path
) -> None:
    cloud = start_cloud(programs, tmp_path, "--failures", "99")
    deployment = Deployment(programs, tmp_path, repository, cloud)
    program = deployment.start()
    assert program.wait().status == 1
    assert "the cloud has no machine for us: 503" in program.err
    assert deployment.left(program) == Left()


@pytest.mark.slow
def test_a_shallow_repository_will_do(deployment: Deployment, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{deployment.repository}", str(shallow))
    git(shallow, "checkout", "--quiet", "--detach", "HEAD")
    deployment.repository = shallow
    program = deployment.start(git(shallow, "rev-parse", "HEAD"))
    assert program.wait().status == 0, program.err
    assert "<title>The second</title>" in deployment.served


def test_a_machine_is_rented_once_for_each_token(cloud: Cloud) -> None:
    status, machine = cloud.ask("PUT", "/machines/one")
    again = cloud.ask("PUT", "/machines/one")[1]
    assert status == 200
    assert (again["pid"], again["port"]) == (machine["pid"], machine["port"])
    assert [one["token"] for one in cloud.ask("GET", "/machines")[1]] == ["one"]
    assert again["dollars"] > 0


def test_a_machine_is_given_back_once_or_twice_or_before_it_is_there(cloud: Cloud) -> None:
    assert cloud.ask("DELETE", "/machines/early")[0] == 200
    assert cloud.ask("PUT", "/machines/early")[0] == 410
    token = f"one-of-{os.getpid()}"  # looked for among all processes, where a test beside this one may have its own
    cloud.ask("PUT", f"/machines/{token}")
    assert with_environment(f"RENTED_MACHINE={token}")
    assert [cloud.ask("DELETE", f"/machines/{token}")[0] for _ in range(2)] == [200, 200]
    assert not with_environment(f"RENTED_MACHINE={token}")
    assert cloud.ask("GET", "/machines")[1] == []


def test_a_machine_outlives_who_rented_it(cloud: Cloud, programs: Programs) -> None:
    """It is no child of the renter, and comes into being even when the renter dies while it waits for it."""
    renter = programs.start(
        """
        import http.client, os, sys
        connection = http.client.HTTPConnection(sys.argv[1])
        connection.request("PUT", "/machines/orphan")
        os._exit(9)
        """,
        cloud.address.partition("//")[2],
    )
    assert renter.wait().status == 9
    machines = wait_until(lambda: cloud.ask("GET", "/machines")[1], what="the machine is there")
    assert machines[0]["token"] == "orphan"
