"""A Python that is not Linux: ``another_system.py win32|darwin -c CODE …`` or ``… FILE.py …`` runs it without the names that
Windows or macOS do not have.

An approximation: modules of the standard library that need those names themselves are loaded first, then the names
are deleted, and /proc is hidden. It found the first failure of the real Windows exactly.
"""

# ruff: noqa: F401
import _signal
import argparse
import asyncio
import builtins
import concurrent.futures
import configparser
import contextlib
import ctypes
import importlib.metadata
import inspect
import json
import logging
import multiprocessing
import multiprocessing.util
import os
import pathlib
import posix
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
import warnings

NO_DARWIN = (
    "pidfd_open memfd_create sched_getaffinity eventfd pipe2 posix_fallocate waitid copy_file_range splice setns unshare"
    " getrandom O_TMPFILE O_PATH P_PIDFD fdatasync getresuid"
)
NO_WINDOWS = NO_DARWIN + (
    " fork forkpty register_at_fork geteuid getuid getgid getegid getgroups setsid setpgid getpgid getpgrp killpg uname chown"
    " lchown fchown fchmod fchdir mkfifo statvfs fstatvfs posix_spawn posix_spawnp posix_fadvise lockf pread pwrite preadv nice"
    " WNOHANG wait wait3 wait4 WIFEXITED WEXITSTATUS WIFSIGNALED WTERMSIG O_CLOEXEC O_NOFOLLOW O_DIRECTORY O_NONBLOCK sync"
    " tcgetpgrp ctermid ttyname getsid confstr sysconf"
)
NO_DARWIN_SIGNAL = "pidfd_send_signal SIGPWR SIGSTKFLT SIGRTMIN SIGRTMAX SIGPOLL sigtimedwait sigwaitinfo SIGCLD"
NO_WINDOWS_SIGNAL = NO_DARWIN_SIGNAL + (
    " SIGHUP SIGQUIT SIGKILL SIGALRM SIGCHLD SIGUSR1 SIGUSR2 SIGPIPE SIGTTIN SIGTTOU SIGTSTP SIGSTOP SIGCONT SIGBUS SIGURG"
    " SIGSYS SIGWINCH SIGIO SIGPROF SIGVTALRM SIGTRAP SIGXCPU SIGXFSZ pthread_sigmask pthread_kill setitimer getitimer alarm"
    " pause siginterrupt sigpending sigwait ITIMER_REAL ITIMER_VIRTUAL ITIMER_PROF SIG_BLOCK SIG_UNBLOCK SIG_SETMASK ItimerError"
)
NO_MODULES = {
    "win32": {"fcntl", "posix", "pwd", "grp", "resource", "termios", "tty", "pty", "_posixsubprocess", "_posixshmem", "readline",
              "curses"},
    "darwin": set(),
}  # fmt: skip
NO_SOCKET = {
    "win32": "AF_UNIX SO_PEERCRED SOCK_SEQPACKET SCM_RIGHTS SO_PEERPIDFD",
    "darwin": "SO_PEERCRED SO_PEERPIDFD SOCK_CLOEXEC SOCK_NONBLOCK",
}
KILL = int(signal.SIGKILL)
NO_CLOCK = {"darwin": "CLOCK_BOOTTIME", "win32": "CLOCK_BOOTTIME CLOCK_MONOTONIC CLOCK_REALTIME clock_gettime"}


class Missing:
    """An import hook for modules that are not there."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def drop(module, names):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)


def without_proc(function):
    def look(path=".", *args, **kwargs):
        if isinstance(path, (str, bytes)) and os.fsdecode(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *args, **kwargs)

    return look


def become(system):
    asyncio.new_event_loop().close()
    windows = system == "win32"
    for module in (os, posix):
        drop(module, NO_WINDOWS if windows else NO_DARWIN)
    for module in (_signal, signal):
        drop(module, NO_WINDOWS_SIGNAL if windows else NO_DARWIN_SIGNAL)
    drop(sys.modules["_socket"], NO_SOCKET[system])
    drop(time, NO_CLOCK[system])
    if windows:
        os.name = "nt"
        # asyncio and subprocess stay the Unix ones; what they look up late is made now, or done without.
        subprocess._USE_POSIX_SPAWN = shutil._use_fd_functions = False
        for kind in (subprocess.Popen, asyncio.base_subprocess.BaseSubprocessTransport):
            kind.kill = lambda self, number=KILL: self.send_signal(number)
        if hasattr(shutil, "_rmtree_impl"):
            shutil._rmtree_impl = shutil._rmtree_unsafe
    else:
        drop(socket, NO_SOCKET[system])
    sys.platform = system
    gone = NO_MODULES[system]
    for name in [name for name in sys.modules if name.partition(".")[0] in gone]:
        del sys.modules[name]
    sys.meta_path.insert(0, Missing(gone))
    sys.builtin_module_names = tuple(name for name in sys.builtin_module_names if name not in gone)
    for name in ("open", "readlink", "stat", "lstat", "listdir", "scandir"):
        setattr(os, name, without_proc(getattr(os, name)))
    builtins.open = without_proc(builtins.open)


def main():
    system, what = sys.argv[1], sys.argv[2]
    if what == "-c":
        source, file, sys.argv = sys.argv[3], "<string>", ["-c", *sys.argv[4:]]
    else:
        source, file, sys.argv = pathlib.Path(what).read_text(encoding="utf-8"), what, sys.argv[2:]
    become(system)
    module = types.ModuleType("__main__")
    module.__file__ = file
    sys.modules["__main__"] = module
    exec(compile(source, file, "exec"), module.__dict__)


main()
