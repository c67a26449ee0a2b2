"""open_process: a child of asyncio, trio or anyio that ends with the program, and its own children as well.

The journal owes its end before it starts, as for `Popen`; the library whose event loop runs starts it, and
reads and writes its pipes. Three things are different from a child of ordinary code:

* A start can be cancelled. It goes on to its end, which is near, and then the child is ended.
* Ending a tree takes up to `grace` seconds. A thread does it, so that the loop turns: the child may want
  to write its last words. A cancellation that comes meanwhile is raised afterwards.
* asyncio kills a child whose transport is no longer referred to, with SIGKILL, or prints a traceback once
  the loop is closed. So the cleanup refers to it until the child has ended.
"""

import os
import sys
from contextlib import suppress

from lastly._durable.handle import Making, too_late
from lastly._exit import loop_children
from lastly._scope.backends import Asyncio
from lastly._scope.handle import UNLIMITED
from lastly._system import probe, proc
from lastly._words.clock import seconds
from lastly.resources import _child

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Coroutine
    from datetime import timedelta
    from types import TracebackType
    from typing import Any, Literal, Self, TypeAlias

    from lastly._durable.handle import DurableCleanup
    from lastly._scope.scope import Scope
    from lastly.resources._child import Command, Environment, File

    Library: TypeAlias = Literal["asyncio", "trio", "anyio"]
else:
    import _signal as signal  # without the enums of `signal`

_LIMIT = 1 << 16  # bytes that an asyncio.StreamReader holds, as in asyncio


class Process:
    """A child that `open_process` has started. It ends with its whole tree when its scope closes.

    ``async with`` closes the pipes and waits for the child, as `subprocess.Popen` does. Then it ends what is
    left of the tree. Left by an exception or a cancellation, it does not wait.

    Attributes:
        pid: its number.
        stdin, stdout, stderr: the streams of its library where ``PIPE`` was asked for, else None: an
            `asyncio.StreamWriter` and `asyncio.StreamReader`; or trio's, or anyio's, byte streams.
        cleanup: the handle of its end.

    .. versionadded:: 0.1
    """

    __slots__ = ("_detached", "_named", "_native", "_start", "cleanup", "pid", "stderr", "stdin", "stdout")

    def __init__(self, native: "_Native", cleanup: "DurableCleanup") -> None:
        self._native = native
        self._detached = False
        self.cleanup = cleanup
        self.pid: int = native.child.pid
        # Where a number names no process for ever, the library's own object reaches this child alone.
        self._named = not probe.unsupported()
        self._start = proc.start_time(self.pid) if self._named else None
        self.stdin: Any = native.child.stdin
        self.stdout: Any = native.child.stdout
        self.stderr: Any = native.child.stderr

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative after a signal; None while it runs, or was not waited for yet."""
        return self._native.returncode()

    def send_signal(self, signum: int) -> None:
        """Send it a signal; nothing happens when it has ended, or another process has its number."""
        if self._start is not None:
            from lastly._system import wait

            wait.send(self.pid, self._start, signum)
        elif not self._named:
            self._by_library("send_signal", signum)

    def terminate(self) -> None:
        """Send it SIGTERM, and nothing to its children."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL, and nothing to its children: `aclose` ends them all."""
        if self._named:
            self.send_signal(signal.SIGKILL)
        else:
            self._by_library("kill")

    def _by_library(self, name: str, *args: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has ended, and the loop has not heard of that yet
                getattr(self._native.child, name)(*args)

    async def wait(self) -> int:
        """Wait until it has ended; return its exit status, negative after a signal.

        A timeout of the library (`asyncio.timeout`, `trio.fail_after`, `anyio.fail_after`) ends the waiting,
        not the child.
        """
        code: int = await self._native.child.wait()
        return code

    async def communicate(
        self,
        input: bytes | None = None,  # noqa: A002  # as all of them call it
    ) -> "tuple[bytes | None, bytes | None]":
        """Write `input` to its standard input and close that, read its output to the end, wait for it.

        Args:
            input: bytes; default: none.

        Returns:
            what it wrote to its standard output and error; None for what is not a pipe.

        Raises:
            ValueError: there is `input`, but its standard input is not a pipe.
        """
        if input is not None and self.stdin is None:
            raise ValueError("communicate(input): the process was started without stdin=PIPE")
        return await self._native.communicate(input)

    async def aclose(self) -> None:
        """End it and all below it now, wait for it, and close its pipes. A second call does nothing.

        SIGTERM to its tree, `grace` seconds, SIGKILL. A cancellation is raised after that. A child that
        was detached keeps running.

        Raises:
            TimeoutError, PermissionError: as `lastly.actions.kill`.
        """
        if self._detached:
            await self._native.close_streams()
        else:
            await self._native.finish(self.cleanup.run)

    def detach(self) -> bool:
        """Let it live: it is yours from here on. Returns False when that was done before, or it was ended.

        Its pipes break when this program ends, and asyncio's wait for it ends with the loop.
        """
        done = self.cleanup.detach()
        self._detached = self._detached or done
        return done

    async def __aenter__(self) -> "Self":
        return self

    async def __aexit__(
        self,
        kind: "type[BaseException] | None",
        error: BaseException | None,
        trace: "TracebackType | None",
    ) -> None:
        try:
            if error is None and not self._detached:
                await self._native.close_streams()
                await self.wait()
        finally:
            await self.aclose()

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"ended with {self.returncode}"
        return f"<{type(self).__name__} {self.pid} {state}>"


async def open_process(
    command: "Command",
    *,
    library: "Library | None" = None,
    scope: "Scope | None" = None,
    grace: "float | timedelta" = _child.GRACE,
    stdin: "File" = None,
    stdout: "File" = None,
    stderr: "File" = None,
    env: "Environment | None" = None,
    **options: "Any",
) -> Process:
    """Start a child from a coroutine; it ends with its whole tree when the scope closes, or the program ends.

    What `asyncio.create_subprocess_exec`, `trio.lowlevel.open_process` and `anyio.open_process` do, and
    durable. The end is SIGTERM, `grace` seconds, SIGKILL until none is left. It comes however this
    program ends (``kill -9`` included), also for a child that has ended itself but left children of its own.

    Args:
        command: the program and its arguments, a list; or a string (or bytes) for the shell.
        library: ``"asyncio"``, ``"trio"`` or ``"anyio"``: what starts it, and whose streams it gets. Default:
            the library whose event loop runs. ``"anyio"`` works in both.
        scope: the scope at whose close it is ended, an `AsyncScope` or a plain one; default: the program's
            end. A plain scope that closes inside a coroutine keeps the event loop waiting meanwhile.
        grace: seconds (or a timedelta) between SIGTERM and SIGKILL. Default 5; 0 kills at once.
        stdin: ``subprocess.PIPE``, ``DEVNULL`` or a file; default: this program's.
        stdout: likewise.
        stderr: likewise, or ``subprocess.STDOUT``.
        env: its environment, used with one variable added, ``LASTLY_TOKEN``; default: this program's.
        options: further ones of that library: ``cwd``, ``start_new_session``, ``pass_fds``, ``user``, …

    Raises:
        NotRecorded: the journal cannot be written; nothing was started.
        ScopeClosed: the scope is closed; nothing was started.
        what the library raises: nothing was started, or what was has been ended. So it is after a
            cancellation.

    .. versionadded:: 0.1
    """
    limit = seconds(grace, "grace")
    kind = _kind(library)
    if isinstance(command, os.PathLike):
        command = [command]
    cleanup, env = _child.plan_child(scope, limit, env)
    native = kind()
    Making(cleanup).__enter__()
    try:
        # Not to be cancelled half-way: asyncio waits for ever, then, in Python 3.11.
        await _to_its_end(
            native.start(command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, **options)
        )
    except GeneratorExit:  # the coroutine is not run any more: it stays owed
        raise
    except BaseException:
        cleanup.made()
        await native.finish(cleanup.run)
        raise
    cleanup.kept = native
    native.planned.add(native.child.pid)
    _child.child_started(cleanup, native.child)
    if cleanup.made():
        await native.finish(cleanup.run)
        raise too_late(cleanup)
    return Process(native, cleanup)


# ── the three libraries ──────────────────────────────────────────────────────────────────────────────────


def _kind(library: "Library | None") -> "type[_Native]":
    kinds: dict[str | None, type[_Native]] = {"asyncio": _Asyncio, "trio": _Trio, "anyio": _AnyIO}
    kinds[None] = _Trio if _in_trio() else _Asyncio
    if library not in kinds:
        raise ValueError(f"library must be 'asyncio', 'trio' or 'anyio', not {library!r}")
    return kinds[library]


def _in_trio() -> bool:
    trio: Any = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


async def _to_its_end(step: "Coroutine[Any, Any, None]") -> None:
    """Await a step whatever cancels us meanwhile; that is raised afterwards."""
    if _in_trio():
        trio: Any = sys.modules["trio"]
        with trio.CancelScope(shield=True):
            await step
        await trio.lowlevel.checkpoint_if_cancelled()
        return
    import asyncio

    waiting = Asyncio()
    with waiting.shield():
        task = asyncio.ensure_future(step)
        await waiting.wait(task, UNLIMITED)
        error = task.exception()
    if waiting.cancelled is not None:
        raise waiting.cancelled
    if error is not None:
        raise error
    if (anyio := sys.modules.get("anyio.lowlevel")) is not None:
        await anyio.checkpoint_if_cancelled()


class _Native:
    """A child in the hands of its library."""

    child: "Any" = None

    def __init__(self) -> None:
        self.planned = loop_children.planned

    async def start(self, command: "Any", **options: "Any") -> None:
        raise NotImplementedError

    async def communicate(self, given: bytes | None) -> "tuple[bytes | None, bytes | None]":
        raise NotImplementedError

    async def close_streams(self) -> None:
        raise NotImplementedError

    def returncode(self) -> int | None:
        """Return the exit status of the child; None while it runs, or was not waited for yet."""
        code: int | None = self.child.returncode
        return code

    async def finish(self, end: "Callable[[], object]") -> None:
        """Have a thread end it, wait for it, and close its pipes."""
        await _to_its_end(self._finish(end))

    async def _finish(self, end: "Callable[[], object]") -> None:
        try:
            if _in_trio():
                await sys.modules["trio"].to_thread.run_sync(end)
            else:
                job: Any = end  # is called as a cleanup is
                await Asyncio().in_thread(job, UNLIMITED)
            if self.child is not None:
                await self.child.wait()
        finally:
            if self.child is not None:
                await self.close_streams()

    def __del__(self) -> None:
        """Let the transport of a closed loop go: it would try to close its pipes in that loop, and fail."""
        if self.child is not None and self.returncode() is not None:
            self.planned.discard(self.child.pid)
        transport: Any = getattr(self.child, "_transport", None)
        loop = getattr(transport, "_loop", None)
        if loop is not None and loop.is_closed():
            transport._closed = True  # noqa: SLF001  # nothing public says so


class _Asyncio(_Native):
    transport: "Any" = None

    async def start(self, command: "Any", **options: "Any") -> None:
        import asyncio.subprocess

        loop = asyncio.get_running_loop()
        limit = options.pop("limit", _LIMIT)

        def protocol() -> asyncio.subprocess.SubprocessStreamProtocol:
            return asyncio.subprocess.SubprocessStreamProtocol(limit=limit, loop=loop)

        # What asyncio.create_subprocess_exec does, which keeps the transport to itself.
        made: Any
        if isinstance(command, (str, bytes)):
            self.transport, made = await loop.subprocess_shell(protocol, command, **options)
        else:
            self.transport, made = await loop.subprocess_exec(protocol, *command, **options)
        self.child = asyncio.subprocess.Process(self.transport, made, loop)

    async def communicate(self, given: bytes | None) -> "tuple[bytes | None, bytes | None]":
        # Without input 3.11 leaves its standard input open.
        given = b"" if given is None and self.child.stdin is not None else given
        out: bytes | None
        err: bytes | None
        out, err = await self.child.communicate(given)
        return out, err

    async def close_streams(self) -> None:
        for number in range(3):
            if (pipe := self.transport.get_pipe_transport(number)) is not None:
                pipe.close()


class _Trio(_Native):
    module, group, sends = "trio", "open_nursery", "send_all"

    def returncode(self) -> int | None:
        try:
            return super().returncode()
        except RuntimeError:  # it sees the end, and closes its pidfd in the loop, which is over
            own: Any = getattr(self.child, "_process", self.child)  # trio's, inside of anyio's
            code: int | None = own._proc.returncode  # noqa: SLF001  # no public name
            return code

    async def start(self, command: "Any", **options: "Any") -> None:
        import trio

        options.setdefault("shell", isinstance(command, (str, bytes)))
        self.child = await trio.lowlevel.open_process(command, **options)

    async def communicate(self, given: bytes | None) -> "tuple[bytes | None, bytes | None]":
        child, library = self.child, sys.modules[self.module]
        read: dict[int, bytes] = {}

        async def feed() -> None:
            try:
                await getattr(child.stdin, self.sends)(given or b"")
            except library.BrokenResourceError:
                pass  # it has ended, or wants no more
            finally:
                await child.stdin.aclose()

        async def drain(number: int, stream: "Any") -> None:
            read[number] = b"".join([chunk async for chunk in stream])

        async with getattr(library, self.group)() as tasks:
            for number, stream in ((1, child.stdout), (2, child.stderr)):
                if stream is not None:
                    tasks.start_soon(drain, number, stream)
            if child.stdin is not None:
                tasks.start_soon(feed)
        await child.wait()
        return read.get(1), read.get(2)

    async def close_streams(self) -> None:
        with sys.modules[self.module].CancelScope(shield=True):
            for stream in (self.child.stdin, self.child.stdout, self.child.stderr):
                if stream is not None:
                    await stream.aclose()


class _AnyIO(_Trio):
    module, group, sends = "anyio", "create_task_group", "send"

    async def start(self, command: "Any", **options: "Any") -> None:
        import anyio

        self.child = await anyio.open_process(command, **options)

    async def close_streams(self) -> None:
        await super().close_streams()
        # In asyncio the pipes are still open, as anyio's own Process.aclose knows.
        transport: Any = getattr(self.child, "_transport", None)
        for number in range(3 if transport is not None else 0):
            if (pipe := transport.get_pipe_transport(number)) is not None:
                pipe.close()
