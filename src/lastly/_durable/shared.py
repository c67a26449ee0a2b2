"""A plan that must outlive this machine: the program tells the relay, which answers when PostgreSQL has it.

Imported when a remote action is deferred and there is a shared journal; never without one. No driver, no
password and no connection to the database is in the program: only a socket to the relay, one per concurrent
call, so that neither threads nor signal handlers read each other's answer. A forked child leaves its parent's
connections alone.
"""

import os
import select
import sys

from lastly import errors
from lastly._journal import home, relay_line
from lastly._journal.shared_url import SharedUrl
from lastly._system import frozen
from lastly._words.clock import monotonic
from lastly._words.warn import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any

    from lastly._journal.file import Journal

START = 20.0  # seconds that a relay may take to start, with its driver and its first connection
_LATE = 0.5  # seconds beyond `wait` for the relay to say why
_PAUSE, _LONGEST_PAUSE = 0.005, 0.1
_AGAIN = 0.25  # seconds between two requests for a relay

_configured = ""
_url: SharedUrl | None = None
# Connections that nobody uses: the process whose they are, the socket's inode, the socket.
_idle: "list[tuple[int, int, _socket.socket]]" = []
_warned: set[str] = set()


def configure(journal: str) -> None:
    """Use this shared journal from here on, in place of LASTLY_JOURNAL's; see `lastly.configure`."""
    global _configured
    _configured = SharedUrl(journal).text if journal else ""


def url() -> SharedUrl | None:
    """The shared journal of this program, if it has one.

    Raises:
        NotRecorded: its address is wrong.
    """
    global _url
    text = _configured or os.environ.get("LASTLY_JOURNAL", "")
    if not text:
        return None
    if _url is None or _url.text != text:
        try:
            _url = SharedUrl(text)
        except ValueError as error:
            raise errors.NotRecorded(f"cannot record a cleanup: {error}; see LASTLY_JOURNAL") from None
    return _url


def check(where: SharedUrl, recorded: str) -> None:
    """Refuse an action that no worker could import.

    Raises:
        TypeError: it is a function of a script.
    """
    if where.scripts == "refuse" and recorded.partition(":")[0] == "__main__":
        raise TypeError(
            f"cannot defer {recorded.partition(':')[2]}() with a shared journal: it is in the script itself, "
            "and no worker on another machine could import it; put it into a module, or add scripts=allow to "
            "the journal's address"
        )


def record(where: SharedUrl, journal: "Journal", number: int, plan: "dict[str, Any]") -> None:
    """Have a plan committed that stands in the journal; then note that it is.

    Raises:
        NotRecorded: nobody else can see it, so the thing must not be created. The plan is released.
        LeaseLost: this machine was taken for dead, and what this program had was undone elsewhere.
    """
    name = home.journal_name(journal.path)
    keep = where.on_unreachable == "local"
    message = {
        "op": "plan", "journal": name, "token": journal.token, "about": _about(), "wait": where.wait,
        "keep": keep,
        "cleanup": {"id": number, **plan},
    }  # fmt: skip
    try:
        answer = _ask(where, message)
        if "lost" in answer:
            _lost(journal, answer["lost"])
        if "no" in answer and not keep:
            _refuse(answer)
        if "ok" in answer:
            journal.adopt(number, epoch=answer["ok"], shared=where.key)
    except BaseException:
        # Whatever the relay does with it: the thing is not created, and nobody is to look for it.
        if number in journal.live:
            journal.release(number, reason="not in the shared journal")
        relay_line.tell(where.key, {"op": "word", "journal": name, "id": number, "state": "released"})
        raise
    if "ok" in answer:
        _warn_unserved(where, str(plan["action"]), answer)
        return
    journal.sync(number)
    _warn_once(f"{answer['no']}; until it is back, this machine alone knows what is owed")


def say(where_key: str, journal: "Journal", number: int, state: str, error: str = "") -> None:
    """Tell what became of a cleanup; what is lost on the way is an undo that runs once more."""
    name = home.journal_name(journal.path)
    relay_line.tell(where_key, {"op": "word", "journal": name, "id": number, "state": state, "error": error})


def confirm(journal: "Journal", number: int, known: "dict[str, Any]") -> None:
    """Have facts committed: a worker elsewhere needs them.

    Raises:
        NotRecorded: they are not. The plan stays as it was.
    """
    where = url()
    if where is None:
        return
    name = home.journal_name(journal.path)
    answer = _ask(where, {"op": "confirm", "journal": name, "id": number, "known": known, "wait": where.wait})
    if "ok" not in answer and where.on_unreachable != "local":
        why = answer.get("no", "this machine was taken for dead")
        raise errors.NotRecorded(f"cannot record what is known of a cleanup: {why}")


def settled_elsewhere(where_key: str, journal: "Journal", number: int) -> str:
    """Which worker has settled it on another machine; empty: none, or it is unknown."""
    answer = relay_line.may(where_key, home.journal_name(journal.path), number, 1.0)
    return str(answer["settled"]) if answer is not None and "settled" in answer else ""


# ---- the socket


def _ask(where: SharedUrl, message: "dict[str, Any]") -> "dict[str, Any]":
    raw = relay_line.encode(message)
    if len(raw) > relay_line.LIMIT:
        raise TypeError(
            f"{len(raw)} bytes are too many for a shared plan: put it into a file and pass its path"
        )
    until = 0.0
    while True:  # the relay may be killed and started again; a dying one still takes connections for a moment
        taken = _take(where, monotonic() + START)
        if isinstance(taken, str):
            return {"no": taken}
        until = until or monotonic() + where.wait + _LATE
        try:
            answer = relay_line.ask(taken, raw, until)
        except (OSError, ValueError):
            taken.close()
            if monotonic() >= until:
                break
            select.select([], [], [], _PAUSE)
            continue
        except BaseException:  # a signal's exception: the answer to come is nobody's
            taken.close()
            raise
        if answer is None:
            taken.close()
            break
        _idle.append((os.getpid(), os.fstat(taken.fileno()).st_ino, taken))
        return answer
    return {"no": f"shared journal {where.label}: no answer within {where.wait:g} s"}


def _take(where: SharedUrl, until: float) -> "_socket.socket | str":
    """A connection that nobody uses, or a new one; a relay is started when there is none. A text: why not."""
    while _idle:
        try:
            pid, inode, found = _idle.pop()
        except IndexError:  # another thread was faster
            break
        if not _is_ours(found, inode):
            found.detach()
            continue
        if pid == os.getpid() and _is_open(found):
            return found
        found.close()
    pause, asked = _PAUSE, 0.0
    while True:
        try:
            return relay_line.connect(where.key)
        except OSError:
            pass
        now = monotonic()
        if now >= until:
            return f"shared journal {where.label}: its relay does not start; see reaper.log in the home"
        if now >= asked + _AGAIN:
            asked = now
            if why := _start(where):
                return why
        select.select([], [], [], min(pause, max(until - now, 0.0)))
        pause = min(pause * 2, _LONGEST_PAUSE)


def _is_ours(found: "_socket.socket", inode: int) -> bool:
    """A program that closes all descriptors gives the number to another file."""
    try:
        return os.fstat(found.fileno()).st_ino == inode
    except OSError:
        return False


def _is_open(found: "_socket.socket") -> bool:
    """Whether the relay still holds the other end; it says nothing unasked."""
    try:
        found.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _start(where: SharedUrl) -> str:
    """Ask the reaper for a relay; why that cannot be."""
    if frozen.is_open:
        return "a frozen program cannot start the relay of a shared journal: run `lastly reaper` on this host"
    from lastly._reaper import client

    return client.share(where.text, where.key)


def _about() -> "dict[str, Any]":
    found: dict[str, Any] = {"pid": os.getpid(), "uid": os.geteuid(), "argv0": (sys.argv or [""])[0]}
    if version := os.environ.get("LASTLY_VERSION"):
        found["version"] = version
    return found


def _refuse(answer: "dict[str, Any]") -> None:
    raise errors.NotRecorded(f"cannot record a cleanup: {answer['no']}")


def _lost(journal: "Journal", settled: "dict[str, str]") -> None:
    """Note what was settled elsewhere, then say so.

    Raises:
        LeaseLost: always.
    """
    gone = [int(number) for number in settled if int(number) in journal.live]
    for number in gone:
        journal.done(number, by=settled[str(number)])
    raise errors.LeaseLost(
        f"this machine was silent for longer than its lease, and workers have undone {len(settled)} "
        "things of this program; what it defers from here on is recorded again"
    )


def _warn_unserved(where: SharedUrl, action: str, answer: "dict[str, Any]") -> None:
    if answer.get("unserved"):
        _warn_once(
            f"no worker of queue {where.queue!r} knows {action}: what this machine owes waits for one "
            f"after its death; start `lastly worker --queue {where.queue} "
            f"--actions {action.partition(':')[0]}`"
        )


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        warn(text)
