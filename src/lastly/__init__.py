"""Cleanup that runs, however your Python program ends.

    defer(print, "bye")                  at exit, newest first; every cleanup is tried
    defer(actions.remove, "build-42")    an action is durable: it runs after kill -9, too
    @action                              an undo of your own that another process can run
    with Scope("deploy") as scope: ...   the same for a part of the program; AsyncScope for coroutines
    install()                            signals run all cleanups; then the program dies of them
    temp_dir() temp_file() Popen()       ready-made: planned before they exist; also server, pid_file,
                                         lock_file, unix_socket and atomic_write
    await open_process([...])            Popen for asyncio, trio and anyio
    register() unregister()              what atexit promises
    exit_reason() report()               why it ends; what ran, how long, and how it went
    App                                  an application with setup, run, close, hooks, config and log

Errors are in lastly.errors, one module per framework in lastly.integrations. The commands: python -m lastly.

For pytest, which would rewrite our assertions because we bring a plugin, and warns when `lastly run` has
imported us before it could: PYTEST_DONT_REWRITE.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  # copied, or on sys.path: no installer has refused it
    raise ImportError(f"lastly needs Python 3.11 or later, and {sys.executable} is {sys.version.split()[0]}")

# Names only. What `defer` needs is imported at once; the rest when it is first asked for, by the table below.

from lastly._exit.root import defer as defer
from lastly._exit.root import defer_early as defer_early
from lastly._exit.root import exit_reason as exit_reason
from lastly._exit.root import register as register
from lastly._exit.root import report as report
from lastly._exit.root import unregister as unregister
from lastly._scope.handle import Cleanup as Cleanup
from lastly._scope.scope import Scope as Scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lastly import actions as actions
    from lastly import app as app
    from lastly import errors as errors
    from lastly import integrations as integrations
    from lastly import resources as resources
    from lastly import testing as testing
    from lastly._action import Action as Action
    from lastly._action import action as action
    from lastly._durable.configure import configure as configure
    from lastly._durable.handle import Plan as Plan
    from lastly._durable.lease import Lease as Lease
    from lastly._durable.lease import lease as lease
    from lastly._exit.signals import Installation as Installation
    from lastly._exit.signals import install as install
    from lastly._exit.signals import uninstall as uninstall
    from lastly._scope.aio import AsyncParallel as AsyncParallel
    from lastly._scope.aio import AsyncScope as AsyncScope
    from lastly._scope.reason import ExitReason as ExitReason
    from lastly._scope.report import Report as Report
    from lastly._scope.report import ReportEntry as ReportEntry
    from lastly._scope.scope import Parallel as Parallel
    from lastly.app import App as App
    from lastly.app import TestApp as TestApp
    from lastly.app import init_defaults as init_defaults
    from lastly.errors import CaughtSignal as CaughtSignal
    from lastly.errors import CleanupFailed as CleanupFailed
    from lastly.errors import CleanupTimeout as CleanupTimeout
    from lastly.errors import CorruptJournal as CorruptJournal
    from lastly.errors import FrameworkError as FrameworkError
    from lastly.errors import LastlyError as LastlyError
    from lastly.errors import LeaseLost as LeaseLost
    from lastly.errors import NotOurs as NotOurs
    from lastly.errors import NotRecorded as NotRecorded
    from lastly.errors import ScopeClosed as ScopeClosed
    from lastly.errors import UnknownAction as UnknownAction
    from lastly.resources import AtomicFile as AtomicFile
    from lastly.resources import Popen as Popen
    from lastly.resources import Process as Process
    from lastly.resources import Temporary as Temporary
    from lastly.resources import UnixSocket as UnixSocket
    from lastly.resources import atomic_write as atomic_write
    from lastly.resources import lock_file as lock_file
    from lastly.resources import open_process as open_process
    from lastly.resources import pid_file as pid_file
    from lastly.resources import server as server
    from lastly.resources import temp_dir as temp_dir
    from lastly.resources import temp_file as temp_file
    from lastly.resources import unix_socket as unix_socket

__version__ = "0.1.0"

__all__ = [
    "Action", "App", "AsyncParallel", "AsyncScope", "AtomicFile", "CaughtSignal", "Cleanup",
    "CleanupFailed", "CleanupTimeout", "CorruptJournal", "ExitReason", "FrameworkError", "Installation",
    "LastlyError", "Lease", "LeaseLost", "NotOurs", "NotRecorded", "Parallel", "Plan", "Popen", "Process",
    "Report", "ReportEntry", "Scope", "ScopeClosed", "Temporary", "TestApp", "UnixSocket", "UnknownAction",
    "action", "actions", "atomic_write", "configure", "defer", "defer_early", "exit_reason", "init_defaults",
    "install", "lease", "lock_file", "open_process", "pid_file", "register", "report", "server", "temp_dir",
    "temp_file", "uninstall", "unix_socket", "unregister",
]  # fmt: skip

# PEP 562: where each of the other names is. A module of the same name is the name itself.
_WHERE = {
    "Action": "_action",
    "App": "app",
    "AsyncParallel": "_scope.aio",
    "AsyncScope": "_scope.aio",
    "AtomicFile": "resources",
    "CaughtSignal": "errors",
    "CleanupFailed": "errors",
    "CleanupTimeout": "errors",
    "CorruptJournal": "errors",
    "ExitReason": "_scope.reason",
    "FrameworkError": "errors",
    "Installation": "_exit.signals",
    "LastlyError": "errors",
    "Lease": "_durable.lease",
    "LeaseLost": "errors",
    "NotOurs": "errors",
    "NotRecorded": "errors",
    "Parallel": "_scope.scope",
    "Plan": "_durable.seam",
    "Popen": "resources",
    "Process": "resources",
    "Report": "_scope.report",
    "ReportEntry": "_scope.report",
    "ScopeClosed": "errors",
    "Temporary": "resources",
    "TestApp": "app",
    "UnixSocket": "resources",
    "UnknownAction": "errors",
    "action": "_action",
    "actions": "actions",
    "atomic_write": "resources",
    "configure": "_durable.configure",
    "init_defaults": "app",
    "install": "_exit.signals",
    "lease": "_durable.lease",
    "lock_file": "resources",
    "open_process": "resources",
    "pid_file": "resources",
    "server": "resources",
    "temp_dir": "resources",
    "temp_file": "resources",
    "uninstall": "_exit.signals",
    "unix_socket": "resources",
}

# These are public, too; "from lastly import *" leaves them out, for `app` and `testing` are anybody's names.
_MODULES = ("app", "errors", "integrations", "resources", "testing")


def __getattr__(name: str) -> object:
    where = name if name in _MODULES else _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'lastly' has no attribute {name!r}")
    # Not "*", which would load all that a package offers.
    module = __import__(f"lastly.{where}", fromlist=["__name__"])
    value: object = module if where == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *_MODULES, "__version__"]
