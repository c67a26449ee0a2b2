"""What is protected on this machine, what is not, and what would change that."""

import os
import sys

from lastly._cli.finding import PAGES, Finding
from lastly._system import probe
from lastly._words.counts import counted
from lastly.errors import NotRecorded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lastly._journal.shared_url import SharedUrl


def examine(group: str, grace: "float | None" = None) -> list[Finding]:
    """Look at everything; a check that fails to look says so and the others go on.

    Args:
        group: the folder of this process's control group, or empty.
        grace: seconds that all cleanups of a program here may take; None: what the running ones have said.
    """
    found: list[Finding] = cgroup(group)
    located = _tried(home)
    found += located
    checks = python, trust, file_system, socket_path, reaper, shared, owed, kernel, processes, container
    for check in checks:
        found += [new for new in _tried(check) if located[0].what not in new.what]  # said once
    return found + _tried(systemd, grace)


def _tried(check: "Callable[..., list[Finding]]", *args: "Any") -> list[Finding]:
    try:
        return check(*args)
    except NotRecorded as error:  # by each check that looks into the home
        what, _, fix = str(error).partition("; ")
        return [Finding(check.__name__, "wrong", what, fix)]
    except Exception as error:
        if isinstance(error, ImportError) and error.name == "_sqlite3":
            return []  # said once, by `python`
        return [Finding(check.__name__, "wrong", f"cannot be looked at: {type(error).__name__}: {error}")]


def home() -> list[Finding]:
    """The state directory can be used."""
    from lastly._journal import home as where

    where.check()
    path = where.state_path()
    if not os.path.lexists(path):
        return [Finding("home", "ok", f"the home {path} is not made yet, the first cleanup makes it")]
    where.state_dir()
    probe = os.path.join(path, f".doctor-{os.getpid()}")
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
    except OSError as error:
        fix = "make it writable, or set LASTLY_HOME"
        return [Finding("home", "wrong", f"the home {path} cannot be written: {error.strerror}", fix)]
    return [Finding("home", "ok", f"the home {path} is yours, private, writable")]


def python() -> list[Finding]:
    """Whether this Python was built with all that is needed."""
    if not probe.has_sqlite():
        what = f"{probe.NO_SQLITE}: nothing durable can be promised"
        return [Finding("sqlite3", "wrong", what, f"use another one than {sys.executable}")]
    return []


def trust() -> list[Finding]:
    """Only this user writes into the home."""
    from lastly._cli import trust as others

    return others.examine()


def file_system() -> list[Finding]:
    """The home is on a disk of this machine."""
    from lastly._journal import home as where
    from lastly._system import mounts

    path = where.state_path()
    while not os.path.exists(path):
        path = os.path.dirname(path)
    kind = mounts.kind_at(path)
    if kind in where.NETWORK:
        fix = "set LASTLY_HOME to a directory on a local disk"
        what = f"the home is on {kind}: locks and appends of other machines mean nothing there"
        return [Finding("file_system", "unprotected", what, fix)]
    if kind in ("tmpfs", "ramfs"):
        fix = "set LASTLY_HOME to a directory that survives a reboot, for cleanups with remote=True"
        return [Finding("file_system", "unprotected", f"the home is on {kind}: a reboot forgets all", fix)]
    return [Finding("file_system", "ok", f"the home is on {kind or 'a local file system'}")]


def socket_path() -> list[Finding]:
    """Where the reaper's socket is."""
    from lastly._journal import home as where
    from lastly._reaper import protocol

    path = os.path.join(where.runtime_path(), protocol.SOCKET)
    return [Finding("socket", "ok", f"the reaper's socket is {path}")]


def reaper() -> list[Finding]:
    """A reaper runs, or will."""
    from lastly._reaper import desk

    if (setting := os.environ.get("LASTLY_REAPER")) in ("0", "later"):
        what = (
            f"LASTLY_REAPER={setting}: what a killed program owes waits for `lastly reap` or the next reaper"
        )
        return [Finding("reaper", "unprotected", what, "unset LASTLY_REAPER")]
    running = desk.status()
    if running is None:
        return [Finding("reaper", "ok", "no reaper runs; the first durable cleanup starts one")]
    return [Finding("reaper", "ok", f"the reaper runs (pid {running['pid']})")]


def shared() -> list[Finding]:
    """The journal that is shared with other machines."""
    text = os.environ.get("LASTLY_JOURNAL")
    if not text:
        return []
    from lastly._journal import relay_line
    from lastly._journal.shared_url import SharedUrl
    from lastly._words.clock import monotonic

    try:
        url = SharedUrl(text)
    except ValueError as error:
        return [Finding("shared_journal", "wrong", str(error), "see docs/reference/shared-journal.md")]
    found = []
    try:
        relay = relay_line.connect(url.key)
    except OSError:
        found.append(
            Finding("shared_journal", "ok", f"{url.label}: the first remote action starts its relay")
        )
    else:
        said = relay_line.ask(relay, relay_line.encode({"op": "status"}), monotonic() + 5.0) or {}
        relay.close()
        if said.get("good"):
            what = f"{url.label}: lease {said['ok']} holds, {said['owed']} cleanups are shared"
            found.append(Finding("shared_journal", "ok", what))
        else:
            what = f"{url.label}: the lease is not renewed: {said.get('why') or 'its relay does not answer'}"
            found.append(
                Finding("shared_journal", "wrong", what, "see that PostgreSQL can be reached from here")
            )
    return found + _serving(url) + _kept()


def _serving(url: "SharedUrl") -> list[Finding]:
    """Whether there are workers that would undo what this machine owes."""
    from lastly._reach import desk
    from lastly._reach.database import Unusable

    fix = f"start `lastly worker --queue {url.queue} --actions MODULE` on machines that do not die together"
    try:
        now = desk.serving(url)
    except Unusable as error:
        what, _, fix = str(error).partition("; ")
        return [Finding("workers", "wrong", f"which workers there are cannot be seen: {what}", fix)]
    found = []
    if not now["workers"]:
        what = f"no worker serves queue {url.queue!r}: what a dead machine owes waits for one"
        found.append(Finding("workers", "unprotected", what, fix))
    elif now["machines"] == 1:
        what = f"all workers of queue {url.queue!r} are on one machine: when that one dies, nothing is undone"
        found.append(Finding("workers", "unprotected", what, fix))
    else:
        what = f"{now['workers']} workers on {now['machines']} machines serve queue {url.queue!r}"
        found.append(Finding("workers", "ok", what))
    if now["blocked"]:
        what = f"{counted(now['blocked'], 'cleanup')} of dead machines: no worker knows the action"
        found.append(Finding("blocked", "wrong", what, "lastly ls --all-hosts; then serve its module"))
    return found


def _kept() -> list[Finding]:
    """Whether something keeps the reaper, on which the lease hangs."""
    from lastly._reaper import desk

    running = desk.status()
    if running is None:
        return []
    if running["idle"] is None:
        return [
            Finding("lease", "ok", "the reaper, on which the lease hangs, was started by `lastly reaper`")
        ]
    what = "the lease hangs on a reaper that a program has started: nothing restarts both it and its relay"
    fix = f"run `lastly reaper` as a service: {PAGES}/how-to/shared-journal.md"
    return [Finding("lease", "unprotected", what, fix)]


def owed() -> list[Finding]:
    """Nothing of the dead is left over."""
    from lastly._reaper import desk

    now = desk.totals()
    found = []
    if now["dead"]:
        what = f"{counted(now['dead'], 'cleanup')} of dead owners: not run yet"
        found.append(Finding("owed", "unprotected", what, "lastly reap"))
    if now["elsewhere"]:
        what = f"{counted(now['elsewhere'], 'cleanup')} of another machine or pid namespace"
        fix = "run `lastly reap` there; or, when that is gone for good, `lastly reap --elsewhere` here"
        found.append(Finding("owed", "unprotected", what, fix))
    if now["abandoned"]:
        fix = "lastly ls; then `lastly retry ID` or `lastly forget ID`"
        what = f"{counted(now['abandoned'], 'cleanup')} given up (abandoned)"
        found.append(Finding("abandoned", "wrong", what, fix))
    found += [Finding("journal", "wrong", f"{path}: damaged", "lastly ls") for path in now["damaged"]]
    return found or [Finding("owed", "ok", "no dead owner owes anything")]


def kernel() -> list[Finding]:
    """Whether the kernel reports deaths at once."""
    import socket

    from lastly._reaper import spawn
    from lastly._system import file, libc, wait

    if probe.has_pidfd():
        found = [Finding("pidfd", "ok", "deaths are seen at once (pidfd)")]
    else:
        what = f"no pidfds: deaths are seen within {wait.POLL:g} s, by polling start times"
        found = [Finding("pidfd", "ok", what, "Linux 5.3, or allow it in the container's seccomp profile")]
    of_python = "" if libc.is_there() else "use a Python that was built with ctypes"
    if not file.has_statx():
        what = "no statx: a file that got the inode of a removed one cannot be told from it"
        fix = "Linux 4.11 and glibc 2.28 or musl 1.2.5, or allow it in the container's seccomp profile"
        found.append(Finding("statx", "unprotected", what, of_python or fix))
    if why := libc.refuses_prctl():
        what = f"no prctl ({why}): what an action starts may outlive it"
        fix = "allow it in the container's seccomp profile"
        found.append(Finding("prctl", "unprotected", what, of_python or fix))
    if not probe.has_memfd():
        what = "no memfd_create: what an action is told is kept on disk, in an unnamed file"
        found.append(Finding("memfd", "ok", what))
    if probe.missing("sh") or not os.access(spawn.SHELL, os.X_OK):
        found.append(Finding("sh", "ok", f"no {spawn.SHELL}: a Python starts the reaper, a little later"))
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        try:
            fd = one.getsockopt(socket.SOL_SOCKET, 77)  # SO_PEERPIDFD
            os.close(fd)
        except OSError:
            what = "the reaper names peers by pid and start time (SO_PEERPIDFD needs Linux 6.5)"
            found.append(Finding("peerpidfd", "ok", what))
    return found


def processes() -> list[Finding]:
    """Children can be found by their token."""
    from lastly._system.mounts import mounts

    if why := probe.wrong_proc():
        return [Finding("proc", "wrong", f"{why}: nothing durable can be promised", "mount /proc")]
    try:
        options = [option for mount in mounts() if mount.point == "/proc" for option in mount.options]
    except OSError as error:
        return [Finding("proc", "wrong", f"/proc cannot be read: {error.strerror}", "mount /proc")]
    if any(option.startswith("hidepid=") and option[8:] not in ("0", "off") for option in options):
        return [Finding("proc", "ok", "/proc hides other users' processes (hidepid); your own are seen")]
    return [Finding("proc", "ok", "/proc shows your processes and their environments")]


def container() -> list[Finding]:
    """Whether a container's end takes the reaper along."""
    from lastly._system import proc

    marks = [mark for mark in ("/.dockerenv", "/run/.containerenv") if os.path.exists(mark)]
    marks += ["pid 1"] if any(line.startswith(b"container=") for line in proc.environment(1)) else []
    marks += ["Kubernetes"] if os.environ.get("KUBERNETES_SERVICE_HOST") and not marks else []
    if not marks and os.getpid() != 1:
        return [Finding("container", "ok", "no container")]
    what = f"in a container ({marks[0] if marks else 'this is PID 1'}): the reaper ends with it"
    pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    page = f"{PAGES}/how-to/{'kubernetes' if pod else 'docker'}.md"
    fix = f"LASTLY_HOME on a volume, `lastly reap --elsewhere` before the start: {page}"
    found = [Finding("container", "unprotected", what, fix)]
    if pod:
        what = "in a pod: how long it is waited for stands in its manifest, and cannot be seen from here"
        found.append(Finding("pod", "unprotected", what, "lastly doctor --grace SECONDS MANIFEST"))
    return found


def cgroup(path: str) -> list[Finding]:
    """Whether --supervise gets a control group."""
    if path and os.access(os.path.join(path, "cgroup.procs"), os.W_OK):
        return [Finding("cgroup", "ok", "`lastly run --supervise` gets a control group of its own")]
    fix = "systemd-run --user --scope -p Delegate=yes lastly run --supervise …"
    what = "no control group to write to: --supervise works as a subreaper alone"
    return [Finding("cgroup", "ok", what, fix)]


def systemd(grace: "float | None") -> list[Finding]:
    """Whether a unit's stop kills the reaper together with the program, and whether it waits long enough."""
    if unit := own_unit():
        from lastly._cli import budgets

        what = f"in {unit}: KillMode=control-group ends the reaper with the service"
        fix = f"ExecStopPost=lastly reap, or the timer in {PAGES}/how-to/systemd.md"
        known = budgets.here(unit, announced() if grace is None else grace)
        return known or [Finding("systemd", "unprotected", what, fix)]
    if not sys.stdin.isatty() and os.environ.get("CI"):
        what = "in a CI job: the runner may kill the reaper with the job"
        return [Finding("ci", "unprotected", what, "run `lastly reap` as the first step of the next job")]
    return [Finding("systemd", "ok", "not in a service")]


def own_unit() -> str:
    """Return the system's service that this process is part of, or nothing."""
    from lastly._system import cgroup

    paths = [path for _, path in cgroup.paths()]
    unit = next((path for path in paths if path.endswith(".service") and "user@" not in path), "")
    return unit.rpartition("/")[2]


def announced() -> "float | None":
    """The longest grace that a program of this user, running now, has given itself; None: none has said."""
    from lastly._reaper import desk

    running = desk.status()
    graces = [] if running is None else running.get("graces", [])
    return max(graces, default=None)
