"""The program of the kill matrix. It makes four kinds of things, then ends in the way that it is told.

    python kill_matrix_program.py SYSTEM WAY FOLDER

Systems: atexit, ExitStack, handlers (atexit and a handler for each signal), lastly. In FOLDER it makes a directory with
files, a pid file, a "machine" (a name at a provider), and it starts a child with a child of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import faulthandler
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from lastly import action

CHILD = ["sh", "-c", "sleep 1000 & exec sleep 1000"]
SIGNALS = {
    name: getattr(signal, f"SIG{name}") for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "ALRM", "XCPU")
}


class Way(NamedTuple):
    """One way to end: what the program does, what is done to it when it is ready, and the honest status."""

    name: str
    run: Callable[[], None]
    status: int
    send: tuple[str, ...] = ()


WAYS: dict[str, Way] = {}
extra: list[Callable[[], None]] = []  # cleanups that a way adds: deferred last, so run first


def way(name: str, status: int, *send: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def add(run: Callable[[], None]) -> Callable[[], None]:
        WAYS[name] = Way(name, run, status, send)
        return run

    return add


# ── the things, and who remembers them ──


@action(remote=True)
def destroy_machine(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def fill(folder: str) -> None:
    for number in range(10):
        with open(os.path.join(folder, str(number)), "w") as file:
            file.write("content")


def write(path: str) -> None:
    with open(path, "w") as file:
        file.write(str(os.getpid()))


def end_child(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def make_plainly(folder: str, owe: Callable[..., object]) -> None:
    work = tempfile.mkdtemp(dir=folder)
    owe(shutil.rmtree, work)
    fill(work)
    owe(os.unlink, os.path.join(folder, "program.pid"))
    write(os.path.join(folder, "program.pid"))
    owe(destroy_machine, os.path.join(folder, "machine"))
    write(os.path.join(folder, "machine"))
    child = subprocess.Popen(CHILD, start_new_session=True, stdout=subprocess.DEVNULL)
    owe(end_child, child)


def make_with_lastly(folder: str) -> None:
    import lastly

    lastly.install()
    fill(os.fspath(lastly.temp_dir(dir=folder)))
    lastly.defer(lastly.actions.remove, os.path.join(folder, "program.pid"))
    write(os.path.join(folder, "program.pid"))
    lastly.defer(destroy_machine, os.path.join(folder, "machine"))
    write(os.path.join(folder, "machine"))
    lastly.Popen(CHILD, stdout=subprocess.DEVNULL)


def handle_signals() -> None:
    def signal_handler(signum: int, _: object) -> None:
        sys.exit(128 + signum)

    for name in ("HUP", "INT", "QUIT", "PIPE", "TERM"):
        signal.signal(getattr(signal, f"SIG{name}"), signal_handler)


# ── by itself ──


@way("return", 0)
def _return() -> None:
    pass


@way("uncaught exception", 1)
def _exception() -> None:
    raise ValueError("on purpose")


@way("sys.exit(3)", 3)
def _exit() -> None:
    sys.exit(3)


@way("SystemExit in a thread", 0)
def _exit_in_thread() -> None:
    thread = threading.Thread(target=sys.exit, args=(4,))
    thread.start()
    thread.join()


@way("exception in a thread", 0)
def _exception_in_thread() -> None:
    thread = threading.Thread(target=_exception)
    thread.start()
    thread.join()


@way("raise KeyboardInterrupt", -signal.SIGINT)
def _interrupt() -> None:
    raise KeyboardInterrupt


@way("BrokenPipeError", 1)
def _broken_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.write(writing, b"x")


@way("a cleanup fails", 1)
def _failing() -> None:
    extra.append(_exception)


@way("os.abort()", -signal.SIGABRT)
def _abort() -> None:
    os.abort()


@way("segmentation fault", -signal.SIGSEGV)
def _segfault() -> None:
    ctypes.string_at(0)


@way("bus error", -signal.SIGBUS)
def _bus() -> None:
    os.kill(os.getpid(), signal.SIGBUS)


@way("C stack overflow", -signal.SIGSEGV)
def _overflow() -> None:
    faulthandler._stack_overflow()


@way("os._exit(0)", 0)
def _hard_exit() -> None:
    os._exit(0)


@way("os._exit(0) in a thread pool", 0)
def _hard_exit_in_pool() -> None:
    with ThreadPoolExecutor(2) as pool:
        pool.submit(os._exit, 0).result()


@way("exec of another program, until that ends", 0, "line")
def _exec() -> None:
    os.execv("/bin/sh", ["sh", "-c", "echo ready; read line"])


@way("killed in the middle of a cleanup", -signal.SIGKILL)
def _killed_in_cleanup() -> None:
    extra.append(lambda: os.kill(os.getpid(), signal.SIGKILL))


@way("killed in the middle of a record", -signal.SIGKILL)
def _killed_in_record() -> None:
    whole = os.write

    def half(fd: int, data: bytes) -> int:
        whole(fd, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    os.write = half
    import lastly

    lastly.defer(lastly.actions.remove, "/tmp/never-made")
    os.kill(os.getpid(), signal.SIGKILL)  # nothing was written, or not by os.write


@way("killed after half a gigabyte", -signal.SIGKILL)
def _killed_big() -> None:
    extra.append(bytearray(b"x" * (1 << 29)).clear)
    os.kill(os.getpid(), signal.SIGKILL)


@way("killed in a thread pool", -signal.SIGKILL)
def _killed_in_pool() -> None:
    with ThreadPoolExecutor(2) as pool:
        pool.submit(os.kill, os.getpid(), signal.SIGKILL).result()


def in_forked_child(work: Callable[[], None]) -> None:
    before = count_things()
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(0)
    os.waitpid(pid, 0)
    if count_things() != before:
        print("LOST", flush=True)


def count_things() -> int:
    return len(os.listdir(sys.argv[3]))


@way("a forked child calls sys.exit", 0)
def _fork_exit() -> None:
    in_forked_child(lambda: None)


@way("a forked child is killed", 0)
def _fork_killed() -> None:
    in_forked_child(lambda: os.kill(os.getpid(), signal.SIGKILL))


# ── by others ──


def wait_for_ever() -> None:
    print("ready", flush=True)
    while True:
        time.sleep(60)


for _name, _signum in SIGNALS.items():
    way(f"SIG{_name}", -_signum, _name)(wait_for_ever)
way("SIGPIPE (ignored), then SIGTERM", -signal.SIGTERM, "PIPE", "TERM")(wait_for_ever)
way("SIGKILL", -signal.SIGKILL, "KILL")(wait_for_ever)
way("SIGKILL of the process group", -signal.SIGKILL, "group")(wait_for_ever)
way("SIGKILL of the session", -signal.SIGKILL, "session")(wait_for_ever)
way("SIGKILL of the reaper, then of the program", -signal.SIGKILL, "reaper", "KILL")(wait_for_ever)
way("SIGKILL of both together", -signal.SIGKILL, "both")(wait_for_ever)
way("SIGTERM to a thread left over", -signal.SIGTERM, "TERM")(
    lambda: threading.Thread(target=wait_for_ever).start()
)


def slow() -> None:
    print("closing", flush=True)
    time.sleep(0.4)


@way("SIGTERM, again during cleanup", -signal.SIGTERM, "TERM", "closing", "TERM")
def _twice_terminated() -> None:
    extra.append(slow)
    wait_for_ever()


@way("SIGINT, again during cleanup", -signal.SIGINT, "INT", "closing", "INT")
def _twice_interrupted() -> None:
    extra.append(slow)
    wait_for_ever()


async def wait_in_a_loop() -> None:
    print("ready", flush=True)
    await asyncio.sleep(60)


@way("SIGTERM in asyncio.run", -signal.SIGTERM, "TERM")
def _asyncio_terminated() -> None:
    asyncio.run(wait_in_a_loop())


@way("SIGINT in asyncio.run", -signal.SIGINT, "INT")
def _asyncio_interrupted() -> None:
    asyncio.run(wait_in_a_loop())


@way("SIGTERM in a ctypes loop", -signal.SIGTERM, "TERM")
def _ctypes() -> None:
    print("ready", flush=True)
    while True:
        ctypes.CDLL(None).usleep(1000)


@way("SIGTERM in a C call, GIL free", -signal.SIGTERM, "TERM")
def _c_call() -> None:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1_500_000)
    wait_for_ever()


@way("SIGTERM in a C call, GIL held", -signal.SIGTERM, "TERM")
def _c_call_held() -> None:
    print("ready", flush=True)
    sum(itertools.repeat(1, 30_000_000))
    wait_for_ever()


@way("SIGTERM while a child is waited for", -signal.SIGTERM, "TERM")
def _waiting() -> None:
    child = subprocess.Popen(["sleep", "1"])
    print("ready", flush=True)
    child.wait()
    wait_for_ever()


@way("SIGHUP under nohup (lives on), then SIGTERM", -signal.SIGTERM, "HUP", "TERM")
def _nohup() -> None:
    wait_for_ever()


def run(system: str, chosen: Way, folder: str) -> None:
    if system == "ExitStack":
        with contextlib.ExitStack() as stack:
            make_plainly(folder, stack.callback)
            stack.callback(lambda: [work() for work in extra])
            chosen.run()
        return
    if system == "handlers":
        handle_signals()
    if system == "lastly":
        from lastly import defer as owe

        make_with_lastly(folder)
    else:
        owe = atexit.register
        make_plainly(folder, owe)
    owe(lambda: [work() for work in extra])
    chosen.run()


if __name__ == "__main__":
    run(sys.argv[1], WAYS[sys.argv[2]], sys.argv[3])
