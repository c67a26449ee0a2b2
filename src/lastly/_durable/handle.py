"""The handles of durable cleanups: of a deferred action, and of a plan around the making of its thing."""

import os

from lastly import errors
from lastly._durable import own, portable
from lastly._scope.failures import note
from lastly._scope.handle import CALLS_ITSELF, Cleanup, name_of
from lastly._system import children
from lastly._words import naming
from lastly._words.warn import message_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from lastly._action import AnyAction, Args
    from lastly._journal.file import Journal


def description(action: "AnyAction", args: "Args", kwargs: "dict[str, Any]") -> str:
    """The description that an action brings; empty when it brings none."""
    if action.describe is None:
        return ""
    return naming.described(action.describe, action.fn, args, kwargs)


class DurableCleanup(Cleanup):
    """The handle of a deferred action.

    In this process it behaves like any other; what happens to it is also written to the journal. After a
    failure here it stays owed: the reaper tries again once this process has ended.
    """

    __slots__ = ("id", "journal", "keywords", "known")

    _keywords = CALLS_ITSELF
    keywords: "dict[str, Any]"
    journal: "Journal | None"
    id: int
    known: "dict[str, Any]"
    attempts: int = 0  # this and the next two have no slots: 32 bytes less for each of very many
    awaited: bool = False  # an AsyncScope has it
    shared: str = ""  # the shared journal that has it
    kept: object = None  # must not be finalized before this has run

    @property
    def durable(self) -> bool:  # type: ignore[override]  # a constant of the class in the base
        """Whether it survives this process; False only where no journal can be kept, after a warning."""
        return self.journal is not None

    @property
    def blocks(self) -> bool:  # type: ignore[override]  # a constant of the class in the base
        """Whether it waits for processes, and touches nothing else."""
        action: Any = self.func  # an Action
        return bool(action.blocks)

    @property
    def name(self) -> str:
        """What reports and messages call it: what it does, and to what."""
        if self._name:
            return self._name
        action: Any = self.func  # an Action
        return naming.cleanup({
            "action": action.recorded or action.name,
            "args": self.args,
            "kwargs": self.keywords,
            "known": self.known,
            "what": description(action, self.args, self.keywords),
        })  # fmt: skip

    @property
    def kind(self) -> str:
        """The action's name, whatever this one is called."""
        return name_of(self.func)

    def named(self, name: str) -> "Cleanup":
        """Give it a name, in the journal too: reports, `lastly ls` and the history use it."""
        super().named(name)
        if self.journal is not None and self.pending and not self._foreign():
            try:
                self.journal.named(self.id, naming.clip(name))
            except errors.NotRecorded:
                pass  # a full disk: it is owed all the same, under the name of its action
        return self

    @property
    def token(self) -> str:
        """The same text for every attempt, in whichever process; known before the thing exists."""
        return f"{self.journal.token}.{self.id}" if self.journal is not None else f"{os.getpid()}.{id(self)}"

    def confirm(self, known: "dict[str, Any]") -> None:
        """Write what is known of the thing now that it exists; NotRecorded when it cannot be written."""
        facts = portable.plain_dict(known, "a confirmed fact")
        if self.journal is not None:
            self.journal.confirm(self.id, facts)
            if self.shared:
                from lastly._durable import shared

                shared.confirm(self.journal, self.id, facts)
        self.known = {**self.known, **facts}

    def detach(self) -> bool:
        """Forget it without running it, here and in the journal.

        Returns:
            whether it was still waiting; a second call does nothing.

        Raises:
            NotRecorded: the journal cannot be written (a full disk): it is still owed, here too.
        """
        stack = self._stack
        limit = stack.get(self)
        if not super().detach():
            return False
        _making.discard(self)
        children.let_live(self.keywords.get("token"), *self.args[:1])  # no journal: it may be kept there
        if self.journal is not None and self.journal.pid == os.getpid():
            try:
                self.journal.release(self.id)
            except errors.NotRecorded:
                stack[self] = limit
                raise
            self._tell("released")
            own.remove_if_leaving()
        return True

    def run(self) -> "Any":
        """As `Cleanup.run`. Called while the thing is being made, it is the maker's own wish: it counts."""
        if self.pending:
            _making.discard(self)
        return super().run()

    def made(self) -> bool:
        """Note that the thing is there, or never will be; return whether the undo has been run too early.

        It then waits for whoever calls this, and no longer for its scope.
        """
        early = self in _making and not self.pending
        _making.discard(self)
        if early:
            self._stack = {self: None}
        return early

    def __call__(self, /, *_: "Any", **__: "Any") -> "Any":
        """Run the action here, and write down how that went. An async action is run to its end; deferred to
        an `AsyncScope`, what is returned is to be awaited.

        Called while it still waits in its scope (as a decorated function may be), it is a plain call.
        """
        if self._foreign():
            return None
        if self.pending:
            return self.func(*self.args, **self.keywords)
        if self.shared and self._elsewhere():
            return None
        early = self in _making
        try:
            result = self._begin()
            if hasattr(result, "__await__"):
                if self.awaited:
                    return self._later(result, early=early)
                from lastly._scope.awaiting import wait_for

                result = wait_for(result)
        except BaseException as error:
            self._failed(error)
            raise
        if not early:  # else it is still owed
            self._done()
        return result

    async def _later(self, awaitable: "Any", *, early: bool) -> "Any":
        try:
            result = await awaitable
        except BaseException as error:
            self._failed(error)
            raise
        if not early:
            self._done()
        return result

    def _foreign(self) -> bool:
        """In a forked child it is the parent's; with another user's rights, the first user's reaper's."""
        return self.journal is not None and not own.is_ours(self.journal)

    def _begin(self) -> "Any":
        self.attempts += 1
        if self.journal is not None:
            try:
                self.journal.run(self.id, attempt=self.attempts, by="owner")
            except errors.NotRecorded:
                pass  # a full disk is no reason to leave the thing standing
        action: Any = self.func  # an Action
        return action.call(
            self.args, self.keywords, attempt=self.attempts, token=self.token, confirmed=dict(self.known)
        )

    def _done(self) -> None:
        if self.journal is not None:
            try:
                self.journal.done(self.id, by="owner")
            except errors.NotRecorded:
                pass  # the reaper will do it once more, and find nothing there
            self._tell("done")
            own.remove_if_leaving()

    def _failed(self, error: BaseException) -> None:
        if self.journal is None:
            return
        text = message_of(error)
        try:
            if isinstance(error, errors.NotOurs):
                self.journal.abandon(self.id, text, by="owner")
                self._tell("abandoned", text)
                own.remove_if_leaving()
            else:
                self.journal.fail(self.id, text, attempt=self.attempts, by="owner")
                self._tell("failed", text)
        except (errors.NotRecorded, TypeError):
            pass  # its own error is what matters, and it propagates

    def _tell(self, state: str, error: str = "") -> None:
        """Tell the shared journal, too."""
        if self.shared and self.journal is not None:
            from lastly._durable import shared

            shared.say(self.shared, self.journal, self.id, state, error)

    def _elsewhere(self) -> bool:
        """Whether a worker has run it, because this machine was taken for dead."""
        from lastly._durable import shared

        assert self.journal is not None
        by = shared.settled_elsewhere(self.shared, self.journal, self.id)
        if by:
            self.journal.done(self.id, by=by)
            own.remove_if_leaving()
        return bool(by)


# Those whose thing is being made just now.
_making: "set[DurableCleanup]" = set()


class Making:
    """Around the making of what a cleanup undoes: ``with Making(cleanup): …``.

    Another thread, or another task, may close the scope just then. It runs the undo, finds nothing, and the
    thing is made after that. So an undo that is run while its thing is being made stays owed. It is run once
    more when the thing is there: by its maker, or by the reaper if this process has ended before.

    Left by an `Exception`, the block has made nothing, and what is owed is the caller's to detach or to run.
    """

    __slots__ = ("cleanup",)

    def __init__(self, cleanup: DurableCleanup) -> None:
        self.cleanup = cleanup

    def __enter__(self) -> None:
        """Begin. Raises ScopeClosed when the undo is over already: nothing must be made."""
        _making.add(self.cleanup)
        if not self.cleanup.pending:
            raise errors.ScopeClosed(f"the scope is closed, nothing was made: {self.cleanup.name}")

    def __exit__(
        self, kind: "type[BaseException] | None", error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        if self.cleanup.made() and not isinstance(error, Exception):
            self.cleanup.run()
            if error is None:
                raise too_late(self.cleanup)


def too_late(cleanup: DurableCleanup) -> errors.ScopeClosed:
    """Return what the maker of a thing is told that has been undone again."""
    return errors.ScopeClosed(f"the scope was closed while this was made; it is undone: {cleanup.name}")


class Plan:
    """A cleanup that is owed, around the creation of what it undoes. Made by `Scope.planned`.

    Leaving the block by an exception runs the undo at once; leaving it normally keeps it for the scope's end.
    When another thread or task has closed the scope meanwhile, what the block has made is undone at its end,
    and `ScopeClosed` is raised. With an async action and an `AsyncScope`: ``async with scope.planned(…) as
    plan``.

    .. versionadded:: 0.1
    """

    __slots__ = ("cleanup",)

    def __init__(self, cleanup: DurableCleanup) -> None:
        self.cleanup = cleanup

    @property
    def token(self) -> str:
        """A text to mark the thing with when it is created, so that it can be found without its name.

        The action is given the same one when it has a keyword-only parameter ``token``.
        """
        return self.cleanup.token

    def confirm(self, **known: "Any") -> None:
        """Write down what is known of the thing now that it exists; more facts with every call.

        The action is given them when it has a keyword-only parameter ``confirmed``.

        Raises:
            NotRecorded: the journal cannot be written. The plan stays owed as it was.
            TypeError: a fact that is not JSON.
        """
        self.cleanup.confirm(known)

    def detach(self) -> bool:
        """Forget the undo: the thing is to stay. As `Cleanup.detach`."""
        return self.cleanup.detach()

    def close(self) -> None:
        """Run the undo now. A second call does nothing. Raises what the undo raises."""
        self.cleanup.close()

    async def aclose(self) -> None:
        """Run the undo now and await it. A second call does nothing. Raises what the undo raises."""
        await self.cleanup.aclose()

    def __enter__(self) -> "Self":
        Making(self.cleanup).__enter__()
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        early = self.cleanup.made()
        try:
            if early or error is not None:
                self.close()
        except Exception as failed:
            self._note(error, failed)
        if early and error is None:
            raise too_late(self.cleanup)

    async def __aenter__(self) -> "Self":
        return self.__enter__()

    async def __aexit__(
        self, kind: "type[BaseException] | None", error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        early = self.cleanup.made()
        try:
            if early or error is not None:
                await self.aclose()
        except Exception as failed:
            self._note(error, failed)
        if early and error is None:
            raise too_late(self.cleanup)

    def _note(self, error: BaseException | None, failed: Exception) -> None:
        if error is None:
            raise failed
        note(error, f"its undo, {self.cleanup!r}, failed: {message_of(failed)}")

    def __repr__(self) -> str:
        return f"<Plan {self.cleanup!r}>"
