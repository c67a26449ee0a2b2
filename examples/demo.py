"""Deploy this repository's own commits, end the deployment in every way there is, and count what stays behind.

    make demo        or: python examples/demo.py [--markdown] [--ways SIGKILL,SIGTERM] [--into README.md]

The program is build_site.py. It runs with atexit, with atexit and the signal handlers that one writes for it, and with
lastly, on a site that is being served already. The status is 0 when lastly's column is all zeros, every program ended
as it was told to, and the site was whole at the end of every run.

The demo is itself built with lastly: killed with SIGKILL, it leaves neither its folder nor its cloud, nor a program.
"""

from __future__ import annotations

import argparse
import fcntl
import glob
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

import lastly
import two_hosts
from leftovers import Left, Watched

HERE = os.path.dirname(os.path.abspath(__file__))
STRATEGIES = {"atexit": "atexit", "handlers": "atexit + handlers", "lastly": "lastly"}
AT_ONCE = 6  # most of the time a run waits: for a machine, or for things to stay as they are
PATIENCE = 120  # seconds for a program that takes two on a quiet machine


class Way(NamedTuple):
    """A way to end: where, how, and the status that the parent of the program is to see with lastly."""

    name: str
    place: str
    status: int

    def __str__(self) -> str:
        return f"{self.name + f' in {self.place}' * bool(self.place):<22}"


WAYS = (
    Way("runs to the end", "", 0),
    Way("exception", "verify", 1),
    Way("SIGINT", "build", -signal.SIGINT),
    Way("SIGTERM", "upload", -signal.SIGTERM),
    Way("SIGHUP", "verify", -signal.SIGHUP),
    Way("SIGKILL", "clone", -signal.SIGKILL),
    Way("SIGKILL", "rent", -signal.SIGKILL),
    Way("SIGKILL", "publish", -signal.SIGKILL),
    Way("segfault", "build", -signal.SIGSEGV),
    Way("os._exit", "upload", 70),
    Way("newer build", "upload", -signal.SIGTERM),
)


class Result(NamedTuple):
    way: Way
    strategy: str
    left: Left
    seconds: float  # from the death until nothing changed any more
    faults: list[str]  # what else is wrong


class Deployment:
    """One run of build_site.py on a site of its own."""

    def __init__(self, stage: Stage, way: Way, strategy: str, number: int) -> None:
        self.stage, self.way, self.strategy = stage, way, strategy
        self.scope = lastly.Scope(f"run {number}")
        self.name = f"{os.getpid()}-{number}"
        self.commits = [
            stage.commits[(number // len(STRATEGIES) + later) % len(stage.commits)] for later in range(2)
        ]
        self.folder = os.path.join(stage.folder, f"run-{number}")
        self.site = os.path.join(self.folder, "site")
        os.makedirs(os.path.join(self.folder, "tmp"))
        os.makedirs(os.path.join(self.site, "releases", "before"))
        with open(os.path.join(self.site, "releases", "before", "index.html"), "w") as file:
            file.write("the release that is served before this one")
        os.symlink("releases/before", os.path.join(self.site, "current"))

    def start(self, commit: str, output: str, failpoint: str = "") -> subprocess.Popen[bytes]:
        environment = self.stage.environment | {
            "FAILPOINT": failpoint,
            "SITE_RUN": self.name,
            "TMPDIR": os.path.join(self.folder, "tmp"),
        }
        options = {
            "--site": self.site,
            "--cloud": self.stage.cloud,
            "--cleanup": self.strategy,
            # With atexit the lock of a killed build stays: there, waiting longer changes nothing.
            "--patience": PATIENCE if self.strategy == "lastly" else 3,
        }
        argv = [sys.executable, os.path.join(HERE, "build_site.py"), self.stage.repository, commit]
        argv += [str(word) for option in options.items() for word in option]
        with open(output, "wb") as file:
            streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
            return lastly.Popen(argv, scope=self.scope, grace=0, env=environment, **streams)

    def run(self) -> Result:
        """Run, end, wait, count; then end what was left behind."""
        with self.scope:
            return self.count()

    def count(self) -> Result:
        output, faults = os.path.join(self.folder, "output"), []
        if self.way.name == "newer build":
            program = self.start(self.commits[1], output, "upload=pause")
            wait_for_line(output, "paused", program)
            newer = self.start(self.commits[0], os.path.join(self.folder, "output of the newer"))
            program.wait(timeout=PATIENCE)
            if newer.wait(timeout=PATIENCE) != 0:
                faults.append("the newer build did not come to its turn")
        else:
            program = self.start(
                self.commits[0], output, f"{self.way.place}={self.way.name}" * bool(self.way.place)
            )
            program.wait(timeout=PATIENCE)
        watched = Watched(
            self.site,
            os.path.join(self.folder, "tmp"),
            f"SITE_RUN={self.name}",
            self.stage.cloud,
            first_word(output, "start"),
        )
        nobody = self.strategy != "lastly"
        left, seconds = watched.settled(*([] if nobody else [self.stage.owed]))
        if program.returncode != self.way.status:
            faults.append(f"the parent saw {program.returncode}, not {self.way.status}")
        if not os.path.exists(os.path.join(self.site, "current", "index.html")):
            faults.append("the site is not whole")
        if os.readlink(os.path.join(self.site, "current")) == "releases/before" and self.way.status == 0:
            faults.append("the new release is not served")
        if any(left):
            watched.end()
        return Result(self.way, self.strategy, left, seconds, faults)


class Stage:
    """What all runs share: the cloud, the repository, and the environment they start in."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        # Nothing of the caller's git: a hook's GIT_DIR, a configuration, a repository that belongs to somebody else.
        with open(os.path.join(folder, "gitconfig"), "w") as file:
            file.write("[safe]\n\tdirectory = *\n[user]\n\tname = demo\n\temail = demo@example.org\n")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        self.environment |= {"LASTLY_HOME": os.path.join(folder, "lastly"), "LASTLY_REAPER_IDLE": "1"}
        self.environment |= {
            "GIT_CONFIG_GLOBAL": os.path.join(folder, "gitconfig"),
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        self.repository, self.commits = self.history(os.path.dirname(HERE))

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ("git", *arguments), env=self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def history(self, repository: str) -> tuple[str, list[str]]:
        """The newest commits that have something to publish. A tree that came without its history gets one commit."""
        if os.path.realpath(
            self.git("-C", repository, "rev-parse", "--show-toplevel") or "/"
        ) != os.path.realpath(repository):
            plain, repository = repository, os.path.join(self.folder, "repository")
            self.git("init", "--quiet", repository)
            self.git("-C", repository, "--work-tree", plain, "add", "README.md", "docs")
            self.git("-C", repository, "commit", "--quiet", "--message", "Everything")
        commits = self.git("-C", repository, "rev-list", "--max-count=12", "HEAD", "--", "README.md", "docs")
        return repository, commits.split()

    def start_cloud(self) -> None:
        argv = [sys.executable, os.path.join(HERE, "cloud.py"), "serve", os.path.join(self.folder, "cloud")]
        # It ends with its machines, which are its children in sessions of their own.
        process = lastly.Popen(
            argv, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        self.cloud = process.stdout.readline().decode().strip()

    def owed(self) -> bool:
        """Whether a program with lastly still owes something: its journal is there until all is done."""
        return bool(glob.glob(os.path.join(self.environment["LASTLY_HOME"], "owners", "*", "*.j")))

    def leftovers(self) -> list[str]:
        """What lastly itself has left, once its reaper had the time to see that nobody needs it any more."""
        home = self.environment["LASTLY_HOME"]
        deadline = time.monotonic() + PATIENCE
        while not reaper_gone(home) and time.monotonic() < deadline:
            time.sleep(0.05)
        found = ["lastly's reaper is still there"] * (not reaper_gone(home))
        return found + ["a journal is still there"] * self.owed()


def reaper_gone(home: str) -> bool:
    """Whether nobody holds the lock that a reaper holds as long as it lives."""
    try:
        with open(os.path.join(home, "reaper.run"), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def wait_for_line(path: str, start: str, program: subprocess.Popen[bytes]) -> None:
    """Wait until the program has printed a line that starts so."""
    deadline = time.monotonic() + PATIENCE
    while not first_word(path, start):
        if program.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no line {start!r} from {program.args}")
        time.sleep(0.01)


def first_word(path: str, start: str) -> str:
    """The word after `start` in the first line that begins with it."""
    with open(path) as file:
        return next((line.split()[1] for line in file if line.startswith(start) and line.endswith("\n")), "")


def perform(stage: Stage, ways: list[Way]) -> list[Result]:
    """Run everything, a few at a time, and say what is happening."""
    runs = [(way, strategy) for way in ways for strategy in STRATEGIES]
    results: dict[tuple[Way, str], Result] = {}
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        pending = [pool.submit(Deployment(stage, *run, number).run) for number, run in enumerate(runs)]
        for done in as_completed(pending):
            result = done.result()
            results[result.way, result.strategy] = result
            left = f"{sum(result.left)} things left" if any(result.left) else "nothing left"
            title = STRATEGIES[result.strategy]
            say(f"[{len(results):>2}/{len(runs)}] {result.way} {title:<18}{left}, after {result.seconds:.1f} s")
    finally:  # interrupted, too: those that run come to their end, and end what they left
        pool.shutdown(cancel_futures=True)
    return [results[run] for run in runs]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def table(results: list[Result]) -> str:
    """For a terminal of 80 columns: files, processes, machines and locks that are left."""
    lines = [
        f"{'left behind':<22}" + "".join(f"{title:>19}" for title in STRATEGIES.values()),
        f"{'it ends by':<22}" + f"{'files':>7}{'proc':>5}{'vm':>3}{'lck':>4}" * len(STRATEGIES),
    ]
    for row in rows(results):
        cells = "".join("{:>7}{:>5}{:>3}{:>4}".format(*result.left) for result in row)
        lines.append(f"{row[0].way}{cells}")
    return "\n".join(lines)


def markdown(results: list[Result]) -> str:
    """For a README."""
    lines = [
        "| how it ends | during | " + " | ".join(STRATEGIES.values()) + " |",
        "|---|---|" + "---|" * len(STRATEGIES),
    ]
    for row in rows(results):
        cells = " | ".join(str(result.left) for result in row)
        lines.append(f"| {row[0].way.name} | {row[0].way.place or '-'} | {cells} |")
    return "\n".join(lines)


def rows(results: list[Result]) -> list[list[Result]]:
    width = len(STRATEGIES)
    return [results[begin : begin + width] for begin in range(0, len(results), width)]


def judge(results: list[Result]) -> list[str]:
    """What is not as it is promised for lastly."""
    wrong = []
    for result in results:
        if result.strategy == "lastly":
            problems = [f"left {result.left}"] * any(result.left) + result.faults
            wrong += [f"lastly, {result.way.name} {result.way.place}: {problem}" for problem in problems]
    return wrong


def insert(path: str, text: str) -> None:
    """Put the table between the markers of a Markdown file."""
    with open(path) as file:
        head, begin, rest = file.read().partition("<!-- demo-table -->\n")
        _, end, tail = rest.partition("<!-- /demo-table -->")
    if not end:
        sys.exit(f"{path} has no lines <!-- demo-table --> and <!-- /demo-table --> to put the table between")
    with open(path, "w") as file:
        file.write(head + begin + text + "\n" + end + tail)


def main() -> None:
    parser = argparse.ArgumentParser(description="Count what a deployment leaves behind, however it ends.")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument(
        "--into",
        metavar="FILE",
        help="and put it there, between <!-- demo-table --> and <!-- /demo-table -->",
    )
    parser.add_argument("--ways", help="only these ways to end, separated by commas", default="")
    options = parser.parse_args()
    ways = [way for way in WAYS if not options.ways or way.name in options.ways.split(",")]
    for signum in (signal.SIGINT, signal.SIGHUP):
        if (
            signal.getsignal(signum) is signal.SIG_IGN
        ):  # in the background, under nohup: our programs are to die of them
            signal.signal(signum, signal.SIG_DFL)
    resource.setrlimit(
        resource.RLIMIT_CORE, (0, 0)
    )  # a core dump of each segmentation fault is not what we count

    begin = time.monotonic()
    lastly.install()
    stage = Stage(os.fspath(lastly.temp_dir(prefix="lastly-demo-")))
    stage.start_cloud()
    say(f"A deployment, ended in {len(ways)} ways, with {len(STRATEGIES)} ways to clean up:\n")
    results = perform(stage, ways)
    print("\n" + (markdown if options.markdown or options.into else table)(results))
    if options.into:
        insert(options.into, markdown(results))
    if not options.ways:
        print("\n" + two_hosts.part(stage.folder, stage.environment, stage.cloud, stage.repository, stage.commits[0]))
    slowest = max((result.seconds for result in results if result.strategy == "lastly"), default=0)
    wrong = judge(results) + stage.leftovers()
    for line in wrong:
        print(f"NOT AS PROMISED: {line}")
    say(f"\n{time.monotonic() - begin:.0f} s. With lastly all was gone {slowest:.2f} s after the end at the latest.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
