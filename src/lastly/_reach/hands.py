"""The processes that run the actions of a worker.

    worker ── forkserver ── hand ── child
              (has imported the modules)   └─ (a session of its own; killed when it is late)

The worker itself, which holds connections and claims, imports nobody's code: what crashes, hangs or fills
the memory is a child. A hand is forked once per slot. It forks a child per owner, which costs a
millisecond, for the modules are there already; and another one after a cleanup that failed, was late, or
left something running.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import traceback

from lastly._reach import catalog, fork
from lastly._settle.runner import await_result
from lastly._system import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lastly._action import Action

_START = "import sys; from lastly._reach.hands import serve; serve(sys.argv[1:])"
_LIMIT = 1 << 18  # bytes in one request


class Unservable(Exception):  # noqa: N818 - as in errors.py: the name says what happened
    """The modules of a worker cannot be served; the message is one line."""


class Fenced(Exception):  # noqa: N818 - as in errors.py: the name says what happened
    """The claim was lost while the action ran: it was ended."""


# ---- in the worker


class Forkserver:
    """The process that has imported the modules; `hand` gives another executor.

    Attributes:
        actions: the names that it serves.
    """

    def __init__(self, modules: list[str]) -> None:
        """Start it.

        Raises:
            Unservable: a module cannot be imported, or has no remote action.
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(its.fileno()), *modules], pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
        self.socket = ours
        raw = ours.recv(_LIMIT)
        said: dict[str, Any] = json.loads(raw) if raw else {"no": "its process ended while it imported them"}
        if "no" in said:
            self.close()
            raise Unservable(f"the actions of {', '.join(modules)} cannot be served: {said['no']}")
        self.actions: list[str] = said["actions"]

    def hand(self) -> "Hand":
        """Start another executor."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            socket.send_fds(self.socket, [b"hand"], [its.fileno()])
        return Hand(ours)

    def close(self) -> None:
        """End it, and all hands with it."""
        self.socket.close()
        self.process.kill()
        self.process.wait()


class Hand:
    """One executor."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket, self.room = sock, bytearray(_LIMIT)

    def run(
        self, request: "dict[str, Any]", every: float, still: "Callable[[], bool]"
    ) -> "dict[str, Any] | None":
        """Run one cleanup.

        Args:
            request: action, args, kwargs, attempt, token, confirmed, timeout; fresh: in a process that has
                run nothing yet.
            every: seconds between two calls of `still` while it runs.
            still: whether the caller still may.

        Returns:
            its state (done, failed, abandoned), error and output; None: the hand has died.

        Raises:
            Fenced: the caller may not any more. The child is killed, and this hand is of no further use.
        """
        try:
            self.socket.settimeout(every)
            self.socket.send(json.dumps(request).encode("ascii"))
            while True:
                try:
                    size = self.socket.recv_into(self.room)
                except TimeoutError:
                    if still():
                        continue
                    raise Fenced from None
                return json.loads(self.room[:size]) if size else None
        except OSError:
            return None

    def close(self) -> None:
        """End it, with the child that it runs."""
        self.socket.close()


# ---- in the forkserver


def serve(argv: list[str]) -> None:
    """Import the modules, say what they serve, and fork a hand for each descriptor that comes."""
    libc.die_with_parent(signal.SIGKILL)
    control = socket.socket(fileno=int(argv[0]))
    os.set_inheritable(control.fileno(), False)
    for signum in (signal.SIGINT, signal.SIGTERM):  # for the worker, which lets what began come to its end
        signal.signal(signum, signal.SIG_IGN)
    try:
        served = catalog.load(argv[1:])
    except BaseException as error:
        traceback.print_exc()
        control.send(json.dumps({"no": f"{type(error).__name__}: {error}"[:2000]}).encode("ascii"))
        sys.exit(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # hands are waited for by nobody
    control.send(json.dumps({"actions": sorted(served)}).encode("ascii"))
    while True:
        raw, fds, _, _ = socket.recv_fds(control, 16, 1)
        if not raw:
            return
        parent = os.getpid()
        if os.fork() == 0:
            control.close()
            _hand(socket.socket(fileno=fds[0]), served, parent)
        os.close(fds[0])


def _hand(line: socket.socket, served: "dict[str, Action[Any, Any]]", parent: int) -> None:
    """Run what is asked for, one after the other. Never returns."""
    try:
        libc.die_with_parent(signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        libc.adopt_orphans()
        runner = fork.Runner(lambda request: _call(served[request["action"]], request))
        room = bytearray(_LIMIT)  # a new one for each request would be mapped and unmapped
        while os.getppid() == parent and (size := line.recv_into(room)):
            raw = bytes(room[:size])
            request = json.loads(raw)
            if request["action"] not in served:
                answer = fork.Outcome("failed", f"no worker knows {request['action']}")
            else:
                limit = max(request["timeout"], 0.1)
                found = runner.run(raw, limit, line.fileno(), fresh=request["fresh"])
                if found is None:
                    break
                answer = found
            line.send(json.dumps(answer.to_mapping()).encode("ascii"))
        runner.end()
    finally:
        os._exit(0)


def _call(action: "Action[Any, Any]", request: "dict[str, Any]") -> None:
    """In the child: call it, as the reaper's runner would."""
    sys.argv = ["lastly worker"]
    offered = {name: request[name] for name in ("attempt", "token", "confirmed")}
    await_result(action.call(request["args"], request["kwargs"], **offered))
