"""Write a journal: one `os.write` per record.

A program dies between any two instructions, and a signal's exception may come between any two bytecodes. So
the order is the same everywhere: first the file, then our own tables; the file alone is believed afterwards.
A record is one write to a file open with O_APPEND, and another thread's record never falls into the middle of
it.

The lock is re-entrant because a signal handler or a ``__del__`` may defer or detach while this very thread is
in here. What such a nested call may find half done is noted at each place.

**Compaction.** A program that defers and detaches for ever would grow its file for ever. When most of it is
history, the living records are copied to a second file, which is renamed over the first one: a reader sees
the old one or the new one, both whole. A nested call that writes meanwhile writes to both (`_mirror`). In
memory there is no copy of what is owed, only its numbers.
"""

import os
from _thread import RLock
from time import time

from lastly._journal import disk, home, locks
from lastly._journal.record import LIMIT, VERSION, encode
from lastly._system.identity import Identity
from lastly.errors import NotRecorded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._journal.replay import Replay

# Reading (replay, index) is imported where it is done: a program that only writes does without.

ROOM = 1 << 16  # bytes of history that are not worth a compaction


class Journal:
    """An open journal, locked by this process: its own (`create`) or a dead owner's (`take`)."""

    def __init__(self, path: str, fd: int, header: "dict[str, Any]", next_n: int) -> None:
        self.path = path
        self.fd = fd
        self.key = disk.key(fd)
        self.pid, self.uid = os.getpid(), os.geteuid()
        self.header = header
        self.token: str = str(header.get("token", ""))
        self.live: set[int] = set()  # what is owed, by id: the records of the others a compaction leaves out
        self._remote: set[int] = set()
        self._lock = RLock()
        self._ids = iter(range(1, 1 << 62))  # one step, whatever comes between; itertools is an import
        self._n = next_n
        self._torn = False
        self._whole = 0  # records that the last write left whole in the file
        self._mirror = -1
        self._appending = False
        self._spoiled = False
        self._own = False
        self._synced = False
        self._size = 0
        self._limit = ROOM
        self.taken: Replay | None = None  # what `take` found in it

    # ---- opening and closing

    @classmethod
    def create(cls, identity: Identity | None = None) -> "Journal":
        """Make this process's journal.

        It is written under another name and renamed: a file whose name ends in ``.j`` always has a whole
        header.

        Args:
            identity: the process that the cleanups belong to, when it is not this one (the main program of
                `lastly run`, for what its workers make). The lock is this process's in any case.

        Raises:
            NotRecorded: the home cannot be used, the disk is full, no descriptors are left, …
        """
        directory = home.state_path()
        try:
            identity = identity or Identity.current()
            directory = home.owners_dir(identity.host, identity.boot)
            stem = os.path.join(directory, f"{identity.pid}.{identity.start}.{os.urandom(8).hex()}")
            path, header = f"{stem}.j", _header(identity)
            fd = disk.new_file(f"{stem}.tmp", encode(header))
            try:
                locks.take(fd)
                os.rename(f"{stem}.tmp", path)
            except BaseException:
                disk.discard(fd, f"{stem}.tmp")
                raise
        except NotRecorded:
            raise
        except OSError as error:
            raise home.unusable(directory, error) from error
        made = cls(path, fd, header, 1)
        made._own = True
        return made

    @classmethod
    def take(cls, path: str) -> "Journal | None":
        """Open and lock the journal of a dead owner, to write down what becomes of its cleanups.

        The caller knows that the owner is dead. Never call it on a journal of this process.

        Returns:
            None when it has gone, or another process holds it.

        Raises:
            PermissionError: it is not a plain file of this user, with one name and no rights for others.
        """
        from lastly._journal.replay import Replay

        try:
            fd = os.open(path, disk.OPEN | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            disk.check_ours(fd, path)
            found = os.fstat(fd)
            if not locks.take(fd):
                os.close(fd)
                return None
            # Between open and lock it may have been dropped, or replaced by a compaction.
            now = os.stat(path, follow_symlinks=False)
            if (now.st_dev, now.st_ino) != (found.st_dev, found.st_ino):
                raise FileNotFoundError  # noqa: TRY301  # closed below
            taken = cls(path, fd, {}, 1)
            # As long as it is open, what it says of a cleanup is read when it is asked for.
            taken.taken = seen = Replay(path, taken._pread)
        except FileNotFoundError:
            disk.close(fd)
            return None
        except BaseException:
            disk.close(fd)
            raise
        taken.header, taken.token = seen.header or {}, seen.token
        taken._n, taken._torn = seen.next_n, seen.torn
        return taken

    def _pread(self, offset: int, size: int) -> bytes:
        return os.pread(self.fd, size, offset)

    def read(self) -> "Replay":
        """What stands in it now."""
        from lastly._journal import replay

        return replay.replay(replay.contents(self.fd), self.path)

    def close(self, *, unlink: bool = False) -> None:
        """Close it, and remove the file first if `unlink`. A second call does nothing."""
        with self._lock:
            fd, self.fd = self.fd, -1
            if fd < 0:
                return
            self.taken = None  # it reads through this journal, and a million cleanups take 30 MB in it
            if unlink and self.pid == os.getpid():
                disk.remove(self.path)
            if disk.key(fd) == self.key:
                disk.close(fd)
            else:
                locks.drop(fd)  # the program has closed it for us; the number may be another file's by now

    # ---- the owner's records

    def plan(
        self,
        action: str,
        args: "list[Any]",
        kwargs: "dict[str, Any]",
        *,
        remote: bool = False,
        sync: bool = True,
        **more: "Any",
    ) -> int:
        """Write that a cleanup is owed, before the thing exists that it undoes.

        Args:
            action: the name by which another process finds the function.
            args: positional arguments, JSON.
            kwargs: keyword arguments, JSON.
            remote: what it undoes outlives this machine.
            sync: if so, the plan is on the disk before this returns. False where a shared journal gets it
                next.
            more: further fields of the record (scope, phase, retries, timeout, backoff, context, known).

        Returns:
            the id of the cleanup, unique in this journal.

        Raises:
            NotRecorded: it could not be written; the thing must not be created.
            TypeError: it is not JSON, or too large.
        """
        with self._lock:
            names = self._find()
            if self._own and not self._appending and not names:
                self._rewrite()  # the home was emptied: what we write must be where it is looked for
            number = next(self._ids)
            record: dict[str, Any] = {"id": number, "action": action}
            if args:
                record["args"] = args
            if kwargs:
                record["kwargs"] = kwargs
            if remote:
                record["remote"] = True
            record.update(more)
            self._append("plan", number, record, found=True)
            if remote and sync:
                self._remote.add(number)
                self._sync(number)
            return number

    def adopt(self, number: int, **more: "Any") -> None:
        """Write that a shared journal has it (epoch=, shared=). Raises as `plan`."""
        self._append("adopt", number, {"id": number, **more})

    def sync(self, number: int) -> None:
        """See to it that its plan is on the disk, and what is confirmed of it.

        Raises:
            NotRecorded: it is not, and was released.
        """
        with self._lock:
            self._remote.add(number)
            self._sync(number)

    def confirm(self, number: int, known: "dict[str, Any]") -> None:
        """Write what is known of the thing now that it exists. Raises as `plan`."""
        self._append("confirm", number, {"id": number, "known": known})
        if number in self._remote:
            self._sync(None)

    def named(self, number: int, name: str) -> None:
        """Write what people call the cleanup; it says nothing of the thing. Raises as `plan`."""
        self._append("confirm", number, {"id": number, "what": name})

    def context(self, context: "dict[str, Any]") -> int:
        """Write what a child needs to run the actions that follow; their plans name the number returned."""
        with self._lock:
            number = next(self._ids)
            self._append("context", 0, {"id": number, **context})
            return number

    def run(self, number: int, **more: "Any") -> None:
        """Write that the cleanup is being run (attempt=, by=)."""
        self._append("run", number, {"id": number, **more})

    def fail(self, number: int, error: str, **more: "Any") -> None:
        """Write that an attempt failed; it stays owed (attempt=, next=)."""
        self._append("fail", number, {"id": number, "error": error[:4000], **more})

    # ---- last words

    def done(self, number: int, **more: "Any") -> None:
        """Write that it has been run."""
        self._last("done", number, more)

    def release(self, number: int, **more: "Any") -> None:
        """Write that it is no longer owed, although it did not run (reason=)."""
        self._last("release", number, more)

    def abandon(self, number: int, reason: str, **more: "Any") -> None:
        """Write that it is given up, and why."""
        self._last("abandon", number, {"reason": reason, **more})

    def note(self, records: "list[dict[str, Any]]") -> OSError | None:
        """Write what became of a dead owner's cleanups, all with one write.

        Args:
            records: kind, id and fields of each. Those that stand in the file afterwards are taken out of
                the list, and have their number and time.

        Returns:
            why the others do not (a full disk, say), or None.
        """
        now = round(time(), 3)
        lines = [
            encode({"kind": record["kind"], "n": n, "t": now, **record})
            for n, record in enumerate(records, self._n)
        ]
        failed = None
        try:
            self._write(self.fd, b"".join(lines))
        except NotRecorded as error:
            failed = error
        written = records[: self._whole]
        for record in written:
            record["n"], record["t"] = self._n, now
            self._n += 1
        del records[: self._whole]
        return failed

    def _last(self, kind: str, number: int, more: "dict[str, Any]") -> None:
        with self._lock:
            self._append(kind, number, {"id": number, **more})
            self.live.discard(number)
            self._remote.discard(number)
            if self._own and self._size > self._limit and not self._appending:
                self._compact()

    # ---- the one place that writes

    def _append(self, kind: str, number: int, record: "dict[str, Any]", *, found: bool = False) -> None:
        with self._lock:
            if self.pid != os.getpid():
                raise NotRecorded(
                    f"{self.path!r} is the journal of process {self.pid}, not of its forked child"
                )
            if not found:
                self._find()
            n = self._n
            try:
                line = encode({"kind": kind, "n": n, "t": round(time(), 3), **record})
            except (TypeError, ValueError, RecursionError) as error:
                raise TypeError(f"not JSON: {error}") from error
            if len(line) > LIMIT:
                raise TypeError(
                    f"{len(line)} bytes are too many for one record: put it into a file and pass its path"
                )
            # A nested call must not put another file under the one that this is written to.
            nested, self._appending = self._appending, True
            planned = kind == "plan" and self._own
            if planned:
                self.live.add(number)  # also when an exception comes just after the write
            try:
                if self._mirror >= 0:
                    self._write(self._mirror, line)
                self._write(self.fd, line)
            except NotRecorded:
                self._spoiled = True
                if planned:
                    self.live.discard(number)
                raise
            finally:
                self._appending = nested
            # A signal's exception just before this line gives the number to the next record too. That does no
            # harm; a gap would.
            self._n = n + 1

    def _find(self) -> int:
        """See that the descriptor still is this file's; returns how many names it has.

        A program that becomes a daemon closes all descriptors, and the next file it opens gets our number: a
        record must not go there. The lock has gone with the descriptor; the identity kept us alive meanwhile.
        """
        try:
            seen = os.fstat(self.fd)
        except OSError:
            pass
        else:
            if (seen.st_dev, seen.st_ino) == self.key:
                return seen.st_nlink
        if self.pid != os.getpid() or self.fd < 0:
            return 1
        locks.drop(self.fd)
        try:
            fd = disk.open_same(self.path, self.key)
        except OSError as error:
            raise home.unusable(self.path, error) from error
        locks.take(fd)
        self.fd = fd
        return 1

    def _write(self, fd: int, line: bytes) -> None:
        if self._torn:
            line = b"\n" + line
        empty = int(self._torn)
        self._whole = 0
        try:
            written = os.write(fd, line)
        except OSError as error:
            raise home.unusable(self.path, error) from error
        self._size += written
        self._whole = max(line.count(b"\n", 0, written) - empty, 0)
        self._torn = written != len(line)
        if self._torn:
            # A part of it went out: the disk (or the allowed size of files) ended here.
            raise home.unusable(self.path, disk.full())

    def _sync(self, planned: int | None) -> None:
        try:
            os.fdatasync(self.fd)
            if not self._synced:
                # A file whose name is not on the disk is not there after a power cut: its directory, and
                # those that were made on the way to it.
                path = self.path
                for _ in range(3):
                    path = os.path.dirname(path)
                    disk.sync_directory(path)
                self._synced = True
        except OSError as error:
            if planned is not None:
                self._last("release", planned, {"reason": "not on the disk"})
            raise home.unusable(self.path, error) from error

    # ---- compaction

    def _compact(self) -> None:
        try:
            self._rewrite()
        except OSError:
            self._limit = 2 * self._size  # no room to write it again: later
        else:
            self._limit = max(ROOM, 4 * self._size)

    def _rewrite(self) -> None:
        """Replace the file by one that holds only what is owed."""
        if self._mirror >= 0:
            return  # nested in one
        try:
            from lastly._journal.index import about
        except ImportError as error:  # in a chroot, say, or without descriptors
            raise NotRecorded(f"cannot write {self.path!r} again: {error}") from error
        temporary = f"{self.path[:-2]}.tmp"
        home.make(os.path.dirname(self.path))
        fd = disk.new_file(temporary, encode({**self.header, "next": self._n}))
        try:
            # From here on a nested call writes to both files; what came before it is copied.
            self._spoiled = False
            self._mirror = fd
            for lines in about(self._pread, self.live):
                if os.write(fd, lines) != len(lines):
                    raise home.unusable(temporary, disk.full())
            if self._spoiled:
                raise home.unusable(temporary, disk.full())
            if self._remote:
                os.fdatasync(fd)
            locks.take(fd)
            os.rename(temporary, self.path)
        finally:
            # Also reached by a signal's exception, which may come just after the rename: ask the file, not a
            # variable.
            if locks.is_at(fd, self.path):
                old, self.fd, self._mirror = self.fd, fd, -1
                self.key = disk.key(fd)
                self._synced = self._torn = False
                self._size = os.fstat(fd).st_size
                disk.close(old)
            else:
                self._mirror = -1
                disk.discard(fd, temporary)
        if self._remote:
            self._sync(None)


def _header(identity: Identity) -> "dict[str, Any]":
    import sys

    return {
        "kind": "owner", "v": VERSION, **identity.to_mapping(), "t": round(time(), 3), "next": 1,
        "exe": sys.executable or "", "argv0": (getattr(sys, "argv", None) or [""])[0],
        "token": os.urandom(12).hex(), "parent": os.environ.get("LASTLY_TOKEN", ""),
        **({"ppid": os.getppid()} if identity.pid == os.getpid() else {}),
    }  # fmt: skip
