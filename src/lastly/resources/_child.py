"""Popen: a child that does not outlive the program, and neither do its own children.

The journal owes the end of the child *before* it starts, so it cannot know a pid yet: it knows a token, which
the child gets in its environment and passes on to whatever it starts. The variable ``LASTLY_TOKEN`` is a list
joined by colons: a child of a child carries both tokens, and can be found by either.
"""

import os
import subprocess
from contextlib import suppress

from lastly import actions
from lastly._durable import seam
from lastly._durable.handle import Making
from lastly._exit.root import root
from lastly._system import children, probe
from lastly._words.clock import monotonic, seconds
from lastly.errors import NotRecorded, ScopeClosed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import timedelta
    from types import TracebackType
    from typing import IO, Any, AnyStr, Literal, TypeAlias, TypedDict, Unpack, overload

    from lastly._durable.handle import DurableCleanup
    from lastly._scope.scope import Scope

    Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
    Command: TypeAlias = Path | Sequence[Path]
    File: TypeAlias = int | IO[Any] | None
    Environment: TypeAlias = Mapping[str, str | os.PathLike[str]] | Mapping[bytes, bytes | os.PathLike[bytes]]

    Place: TypeAlias = int | str | os.PathLike[str] | tuple[str, int] | Callable[[], object]

    class Options(TypedDict, total=False):
        """What `subprocess.Popen` takes besides what decides between text and bytes."""

        bufsize: int
        executable: Path | None
        stdin: File
        stdout: File
        stderr: File
        preexec_fn: Callable[[], object] | None
        close_fds: bool
        shell: bool
        cwd: Path | None
        env: Environment | None
        startupinfo: Any
        creationflags: int
        restore_signals: bool
        start_new_session: bool
        pass_fds: Collection[int]
        user: str | int | None
        group: str | int | None
        extra_groups: Iterable[str | int] | None
        umask: int
        pipesize: int
        process_group: int | None
else:
    AnyStr = bytes  # what stands in a class's brackets is for type checkers

GRACE = 5.0
_ENV = 9  # where `env` stands among subprocess.Popen's positional parameters, after args


class Popen(subprocess.Popen[AnyStr]):
    """Start a child as `subprocess.Popen` does, and end it with its whole tree when the scope closes.

    The end is: SIGTERM to all, `grace` seconds, SIGKILL until none is left. It comes however this program
    ends, also for a child that has ended itself but left children of its own. As a context manager it waits
    for the child, as subprocess does, then ends what remains; left by an exception, it does not wait.

    Args:
        args, …: as for `subprocess.Popen`. An `env` is used with one variable added, ``LASTLY_TOKEN``.
        scope: the scope at whose close it is ended; default: the program's end.
        grace: seconds (or a timedelta) between SIGTERM and SIGKILL. Default 5; 0 kills at once.

    Raises:
        NotRecorded: the journal cannot be written; nothing was started.
        what subprocess.Popen raises: nothing was started, nothing is owed.

    .. versionadded:: 0.1
    """

    cleanup: "DurableCleanup | None" = None
    _detached = False

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: "Popen[str]", args: Command, *positional: Any, text: Literal[True],
            encoding: str | None = None, errors: str | None = None, universal_newlines: bool | None = None,
            scope: Scope | None = None, grace: float | timedelta = GRACE, **options: Unpack[Options],
        ) -> None: ...  # fmt: skip

        @overload
        def __init__(
            self: "Popen[str]", args: Command, *positional: Any, encoding: str,
            text: bool | None = None, errors: str | None = None, universal_newlines: bool | None = None,
            scope: Scope | None = None, grace: float | timedelta = GRACE, **options: Unpack[Options],
        ) -> None: ...  # fmt: skip

        @overload
        def __init__(
            self: "Popen[bytes]", args: Command, *positional: Any, text: Literal[False] | None = None,
            encoding: None = None, errors: None = None, universal_newlines: Literal[False] | None = None,
            scope: Scope | None = None, grace: float | timedelta = GRACE, **options: Unpack[Options],
        ) -> None: ...  # fmt: skip

        @overload
        def __init__(
            self: "Popen[Any]", args: Command, *positional: Any, text: bool | None = None,
            encoding: str | None = None, errors: str | None = None, universal_newlines: bool | None = None,
            scope: Scope | None = None, grace: float | timedelta = GRACE, **options: Unpack[Options],
        ) -> None: ...  # fmt: skip

    def __init__(
        self,
        args: "Any",
        *positional: "Any",
        scope: "Scope | None" = None,
        grace: "float | timedelta" = GRACE,
        **options: "Any",
    ) -> None:
        before = list(positional)
        env = before[_ENV] if len(before) > _ENV else options.get("env")
        self.cleanup, env = plan_child(scope, seconds(grace, "grace"), env)
        if len(before) > _ENV:
            before[_ENV] = env
        else:
            options["env"] = env
        waits = not self.cleanup.durable and children.suspend(before, options)
        try:
            with Making(self.cleanup):
                try:
                    super().__init__(args, *before, **options)
                except Exception:
                    # subprocess has waited for the child that could not become the program. A signal's
                    # exception (no Exception) may come after the start: then it stays owed.
                    self.cleanup.detach()
                    raise
                try:
                    child_started(self.cleanup, self)
                finally:
                    if waits:
                        children.resume(self.pid)
        except ScopeClosed:
            if hasattr(self, "pid"):  # it was started, and has been ended
                super().__exit__(None, None, None)
            raise

    def close(self) -> None:
        """End the child and all below it now, and wait for it. A second call does nothing.

        Its standard input is closed; what it has written can still be read. A child that was detached keeps
        running.
        """
        try:
            if self.cleanup is not None:
                self.cleanup.run()
            if self.returncode is None and not self._detached:
                self.wait()
        finally:
            if self.stdin is not None:
                with suppress(BrokenPipeError):  # what it has not read, it never will
                    self.stdin.close()

    def detach(self) -> bool:
        """Let it live: it is yours from here on. Returns False when that was done before, or it was ended.

        Neither `close` nor a ``with`` block waits for it then.
        """
        done = self.cleanup is not None and self.cleanup.detach()
        self._detached = self._detached or done
        return done

    def __del__(self) -> None:
        """Do not warn of a child that still runs when its end is owed: it is not lost."""
        owed = self.cleanup is not None and self.cleanup.pending
        super().__del__(**({"_warn": _silent} if owed else {}))

    def __exit__(
        self,
        kind: "type[BaseException] | None",
        value: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        try:
            if value is not None or self._detached:
                self.close()
            if not self._detached:
                super().__exit__(kind, value, traceback)
        finally:
            self.close()
            for pipe in (self.stdout, self.stderr):
                if pipe is not None:
                    pipe.close()


if TYPE_CHECKING:

    @overload
    def server(
        argv: Command, *, ready: Place, timeout: float | timedelta = 30.0, text: Literal[True],
        encoding: str | None = None, errors: str | None = None, universal_newlines: bool | None = None,
        scope: Scope | None = None, grace: float | timedelta = GRACE, **options: Unpack[Options],
    ) -> Popen[str]: ...  # fmt: skip

    @overload
    def server(
        argv: Command, *, ready: Place, timeout: float | timedelta = 30.0, text: Literal[False] | None = None,
        encoding: None = None, errors: None = None, universal_newlines: Literal[False] | None = None,
        scope: Scope | None = None, grace: float | timedelta = GRACE, **options: Unpack[Options],
    ) -> Popen[bytes]: ...  # fmt: skip

    @overload
    def server(
        argv: Command, *, ready: Place, timeout: float | timedelta = 30.0, text: bool | None = None,
        encoding: str | None = None, errors: str | None = None, universal_newlines: bool | None = None,
        scope: Scope | None = None, grace: float | timedelta = GRACE, **options: Unpack[Options],
    ) -> Popen[Any]: ...  # fmt: skip


def server(
    argv: "Any",
    *,
    ready: "int | str | os.PathLike[str] | tuple[str, int] | Callable[[], object]",
    timeout: "float | timedelta" = 30.0,
    scope: "Scope | None" = None,
    grace: "float | timedelta" = GRACE,
    **options: "Any",
) -> "Popen[Any]":
    """Start a child that listens, and wait until it does; it ends with its whole tree when the scope closes.

    Args:
        argv: as for `subprocess.Popen`.
        ready: where it will listen: a port on loopback, ``(host, port)``, or the path of a Unix socket; or a
            function that is called until it returns something true. A place where something listens already
            is refused: it would be taken for the child.
        timeout: seconds (or a timedelta) until it must be ready. Default 30.
        scope: the scope at whose close it is ended; default: the program's end.
        grace: seconds (or a timedelta) between SIGTERM and SIGKILL. Default 5.
        options: further ones of `subprocess.Popen`.

    Raises:
        ChildProcessError: it ended before it was ready.
        OSError: another process listens there (``EADDRINUSE``); nothing was started.
        TimeoutError: it was not ready in time; it has been ended.
        ValueError: `ready` is not such a place; nothing was started.
        NotRecorded: the journal cannot be written; nothing was started.

    .. versionadded:: 0.1
    """
    probe = ready if callable(ready) else _at(ready)
    until = monotonic() + seconds(timeout, "timeout")
    child = Popen(argv, scope=scope, grace=grace, **options)
    try:
        while not probe():
            # Waits for the child's end, which is also the pause between two looks.
            if children.child_ends(child, 0.01):
                raise ChildProcessError(f"{argv!r} ended with status {child.returncode} before it was ready")  # noqa: TRY301  # closed below
            if monotonic() > until:
                raise TimeoutError(f"{argv!r} was not ready within {seconds(timeout, 'timeout'):g} s")  # noqa: TRY301  # closed below
    except BaseException:
        child.close()
        raise
    return child


def _at(place: "int | str | os.PathLike[str] | tuple[str, int]") -> "Callable[[], bool]":
    """Return a function that tells whether something listens there. Raises OSError when it does already."""
    import errno

    match place:
        case str() | os.PathLike() if os.fspath(place):
            address: Any = os.path.abspath(place)
        case int() if 0 < place < 1 << 16:
            address = ("localhost", place)
        case (str(), int()) if 0 < place[1] < 1 << 16:
            address = place
        case _:
            raise ValueError(
                f"ready must be a port, (host, port), the path of a socket or a function, not {place!r}"
            )
    if _listens(address):
        raise OSError(
            errno.EADDRINUSE,
            "another process listens there already: end it, or choose another address",
            place,
        )
    return lambda: _listens(address)


def _listens(address: "Any") -> bool:
    import socket

    from lastly._system.sockets import Address

    try:
        if isinstance(address, str):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, Address(address) as name:
                probe.connect(name)
        else:
            socket.create_connection(address, timeout=1.0).close()
    except OSError:
        return False
    return True


def plan_child(
    scope: "Scope | None", grace: float, env: "Environment | None"
) -> "tuple[DurableCleanup, dict[Any, Any]]":
    """Owe the end of a child that is about to start; return that, and the environment to start it with.

    Args:
        scope: at whose close it is to end; None: the program's end.
        grace: seconds between SIGTERM and SIGKILL.
        env: the environment that it is to have; None: this process's.

    Raises:
        NotRecorded: the journal cannot be written: the child must not be started.
    """
    token = os.urandom(12).hex()
    env = _with_token(env, token)
    cleanup = seam.deferred(root if scope is None else scope, actions.kill, None, token=token, grace=grace)
    return cleanup, env


def child_started(cleanup: "DurableCleanup", child: "Any") -> None:
    """Write down which process the planned child has become; keep it where no journal can name it."""
    if not cleanup.durable and (why := probe.unsupported()):
        children.keep(child, why, cleanup.keywords["token"])
        return
    from lastly._system import kill

    try:
        cleanup.confirm(kill.identity(child.pid))
    except (ProcessLookupError, NotRecorded):
        pass  # gone already, or a full disk: the token finds what there is
    seam.child_started(cleanup)


def _silent(*_: object, **__: object) -> None:
    """Instead of `warnings.warn`."""


def _with_token(env: "Mapping[Any, Any] | None", token: str) -> "dict[Any, Any]":
    made = dict(os.environ if env is None else env)
    outer = made.get("LASTLY_TOKEN") or made.pop(b"LASTLY_TOKEN", b"").decode("ascii", "replace")
    # An environment made from nothing keeps the chain all the same: the outer owner must find the child too.
    outer = outer or os.environ.get("LASTLY_TOKEN", "")
    made["LASTLY_TOKEN"] = f"{outer}:{token}" if outer else token
    return made
