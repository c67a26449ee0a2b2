"""An extension for Cement 3: the application closes once, wholly, and whatever ended the program.

Cement closes an application at the end of a ``with`` block that nothing went wrong in. After an exception, a
``sys.exit()``, ``--help``, an unknown option or a setup that failed it does not; and where it does,
the first hook that fails takes the others along, and the exit code too.

An extension is loaded in the middle of the setup, when the ``with`` statement has already looked up how it
ends. So it cannot tell that a block ended by an exception: what Cement did not close is closed at the
process's end, before threads are waited for, since a hook may be what stops them. The signals stay Cement's.
"""

import os
import sys
from types import GeneratorType

from lastly._exit import last, root, state
from lastly._scope import closing as _closing
from lastly._scope.failures import conclude, note, unnamed
from lastly._scope.scope import Scope
from lastly.errors import FrameworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

    from lastly._scope.handle import Cleanup

__all__ = ["load"]
__dir__ = __all__.copy  # dir() shows what is public

_HOOKS = ("pre_close", "post_close")
_ATTRIBUTE = "_lastly_closing"
_ATTEMPTS = 10

OPEN, CLOSING, CLOSED = "open", "closing", "closed"


def load(app: "Any") -> None:
    """Make a Cement application close whatever happens; called by Cement, for each entry in ``extensions``.

    Called again for the same application (after ``app.reload()``), it goes on where it was. An application of
    `lastly.app` needs none of it, and is left alone.

    The application gets a scope, ``app.scope``, which closes between its ``pre_close`` and ``post_close``
    hooks: actions deferred to it run after ``kill -9`` as well.

    Raises:
        FrameworkError: it is not an application of Cement 3, or it has an attribute ``scope`` already.

    .. versionadded:: 0.1
    """
    ours = sys.modules.get("lastly.app")
    if ours is not None and isinstance(app, ours.App):
        return
    if not any(kind.__module__ == "cement.core.foundation" for kind in type(app).__mro__):
        raise FrameworkError(
            f"lastly.integrations.cement is for applications of Cement 3 (pip install 'lastly[cement]'), "
            f"not for {app!r}"
        )
    closing: _Closing | None = getattr(app, _ATTRIBUTE, None)
    if closing is None or closing.state == CLOSED:
        if hasattr(app, "scope"):
            raise FrameworkError(
                f"app {app.label!r} has an attribute 'scope' already: rename it, that is lastly's"
            )
        closing = _Closing(app)
    closing.take_hooks()


class _Closing:
    """How one application closes."""

    def __init__(self, app: "Any") -> None:
        self.app = app
        self.state = OPEN
        self.scope = Scope(app.label)
        self.body: BaseException | None = None
        self.failures: list[BaseException] = []
        self.left: dict[str, Iterator[tuple[int, str, Callable[..., Any]]]] = {}
        self.at_exit: Cleanup | None = None
        self.hook: Any = None
        self.close_of_its_class = app.close
        app.close = self.close
        setattr(app, _ATTRIBUTE, self)
        self.close_at_end()

    def close_at_end(self) -> None:
        """Have this process close the app at its end."""
        self.pid = os.getpid()
        self.at_exit = root.root.defer_early(self.close_at_exit).named(f"close of app {self.app.label!r}")

    def take_hooks(self) -> None:
        """Take part in the running of the hooks that close; a reload makes them, and the members, anew."""
        if self.app.hook is self.hook:
            return
        self.hook = self.app.hook
        run = self.app.hook.run

        def run_or_try(name: str, *args: "Any", **kwargs: "Any") -> "Generator[Any, None, None]":
            if self.state == CLOSING and name in _HOOKS:
                return self.try_all(name, args, kwargs)
            found: Generator[Any, None, None] = run(name, *args, **kwargs)
            return found

        self.app.hook.run = run_or_try
        self.app.extend("scope", self.scope)
        self.app.hook.register("post_setup", self.follow_daemon, 99)

    def follow_daemon(self, app: "Any") -> None:
        """Let a process that ``app.daemonize()`` forks close the app: the one that called it is gone."""
        daemonize = getattr(app, "daemonize", None)
        if daemonize is None:
            return

        def daemonize_and_own() -> None:
            daemonize()
            if os.getpid() != self.pid:
                self.close_at_end()

        app.daemonize = daemonize_and_own

    def close(self, code: "int | None" = None) -> None:
        """Close the app, as its class does; a second call does nothing."""
        if self.state != OPEN:
            return
        self.state = CLOSING
        if self.at_exit is not None:
            self.at_exit.detach()
        ending = own = None
        try:
            self.close_of_its_class(code)
        except SystemExit as error:  # exit_on_close
            ending = error
        except BaseException as error:
            own = error
        ending = self.go_on() or ending
        self.state = CLOSED
        failures, self.failures = self.failures, []
        if own is None and ending is not None and ending.code:
            own = ending
        conclude(f"app {self.app.label!r}", unnamed(failures), own)
        if own is not None:
            raise own
        if ending is not None:
            raise ending

    def go_on(self) -> "SystemExit | None":
        """Close what is left after an exception in the middle: a signal's, or that of a class's own close."""
        from cement.core.foundation import App

        for _ in range(_ATTEMPTS):
            if not self.app.hook.defined(_HOOKS[-1]):  # that goes when all has been done
                break
            try:
                App.close(self.app)
            except SystemExit as error:
                return error
            except BaseException as error:
                self.failures.append(error)
        return None

    def try_all(
        self, name: str, args: "tuple[Any, ...]", kwargs: "dict[str, Any]"
    ) -> "Generator[Any, None, None]":
        """Call each function of a hook; keep what fails. Run again, it calls those that were not called."""
        if name not in self.left:
            hooks = sorted(self.app.hook.__hooks__[name], key=lambda hook: hook[0])
            self.left[name] = iter(hooks)
        # A signal raises where the loop jumps back, not between the iterator and the try: nothing is lost.
        for _weight, _name, function in self.left[name]:
            try:
                result = function(*args, **kwargs)
                if isinstance(result, GeneratorType):
                    yield from result
                else:
                    yield result
            except GeneratorExit:
                raise
            except BaseException as error:
                self.failures.append(error)
        if name == _HOOKS[0]:
            for cleanup, failure in _closing.run_all(self.scope, self.body):
                if cleanup is not None:
                    note(failure, f"in cleanup {cleanup.name} of scope {self.scope.name!r}")
                self.failures.append(failure)

    def close_at_exit(self) -> None:
        """Close what was not closed; the exit status stays, unless it hides a failure or an exit code."""
        self.at_exit = None
        if self.pid != os.getpid():
            return
        zero = state.status_would_be_zero()
        reason = root.exit_reason()
        if reason is not None:
            self.body = reason.exception or (SystemExit(reason.code) if reason.code else None)
            self.app.exit_code = self.app.exit_code or reason.code or 0
        try:
            self.close()
        except SystemExit as error:
            if zero and isinstance(error.code, int) and error.code:
                last.exit_with_at_end(error.code)
