"""click and Typer: a scope on the context of each command, which ends with it and keeps its exit status.

click closes a context whatever ended the command, and says by exceptions how it ended: `Exit` for
``ctx.exit(3)`` and for the plain end, `Abort`, `ClickException`. Some of these it swallows for good, with
what was noted on them; an exception of ours in their place would make 3 a 1. So the scope is closed with what
is on its way up: what failed under one that click swallows is printed, and turns a 0 into a 1. From 8.2 on
``ctx.exit()`` closes the context before it raises anything, so there we have to be told the status.

Typer is built on click; newer versions on a copy of their own, of which click knows nothing. So this file
goes by names, and imports neither.
"""

import sys

from lastly._scope import closing
from lastly._scope.failures import raise_failures
from lastly._scope.scope import Scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from typing import Any, Concatenate, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

__all__ = ["pass_scope", "scope"]
__dir__ = __all__.copy  # dir() shows what is public

_PACKAGES = ("click", "typer._click")
_ATTRIBUTE = "_lastly_scope"


def scope(context: "Any" = None, *, grace: "float | timedelta | None" = None) -> Scope:
    """Return the scope of a command's context; it closes when the context does.

    A second call for the same context returns the same scope. Each command of a group has its own: the
    command's closes first, then the group's. It closes in turn with what else the context closes
    (``ctx.call_on_close``, ``ctx.with_resource``), at the place of the first call.

    Args:
        context: a ``click.Context`` or ``typer.Context``; None: that of the command that this thread runs.
        grace: seconds, or a timedelta, that closing may take in all: see `lastly.Scope`; None: what it was.

    Raises:
        RuntimeError: no context was given, and no command runs in this thread.
        TypeError: it is not a context.

    .. versionadded:: 0.1
    """
    if context is None:
        context = _current()
    if not _is_context(context):
        raise TypeError(f"scope() takes a context of click or Typer, not {context!r}")
    found: Scope | None = getattr(context, _ATTRIBUTE, None)
    if found is None:
        found = Scope(context.command_path or context.info_name, grace=grace)
        setattr(context, _ATTRIBUTE, found)
        context.call_on_close(_Closer(found, context))
    elif grace is not None:
        found.grace = Scope(grace=grace).grace
    return found


def pass_scope(function: "Callable[Concatenate[Scope, P], R]") -> "Callable[P, R]":
    """Give a click command its scope as the first argument: what ``click.pass_context`` does, for the scope.

    With Typer, which reads the function's parameters, call `scope` in the function instead.

    .. versionadded:: 0.1
    """
    from functools import update_wrapper

    def command(*args: "P.args", **kwargs: "P.kwargs") -> "R":
        return function(scope(), *args, **kwargs)

    return update_wrapper(command, function)


def _current() -> "Any":
    """Return the context of the command that runs here."""
    for package in _PACKAGES:
        module = sys.modules.get(f"{package}.globals")
        context = None if module is None else module.get_current_context(silent=True)
        if context is not None:
            return context
    raise RuntimeError(
        "no command of click or Typer runs in this thread: give scope() the command's context "
        "(click and Typer come with pip install 'lastly[click]' and 'lastly[typer]')"
    )


def _is_context(context: "Any") -> bool:
    return any(kind.__name__ == "Context" and _ours(kind) for kind in type(context).__mro__)


def _ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("click", "typer")


def _names(error: "BaseException | None") -> "set[str]":
    """Return which of click's or Typer's exceptions this is, by name: the two have one each."""
    return {kind.__name__ for kind in type(error).__mro__ if _ours(kind)}


class _Closer:
    """Closes a scope with what ends its command."""

    __slots__ = ("context", "exiting", "outer", "scope")

    def __init__(self, scope: Scope, context: "Any") -> None:
        self.scope = scope
        self.context = context
        self.outer = sys.exc_info()[1]  # the command may be called where an error is being handled
        self.exiting: SystemExit | None = None  # ctx.exit() runs
        leave = context.exit

        def exit(code: int = 0) -> None:  # noqa: A001  # click's name
            self.exiting = ending = SystemExit(code)
            try:
                leave(code)
            except Exception as error:
                if "Exit" in _names(error):
                    error.exit_code = ending.code  # type: ignore[attr-defined]  # click's Exit has it
                raise
            finally:
                self.exiting = None

        context.exit = exit

    def __call__(self) -> None:
        body: Any = sys.exc_info()[1]
        if body is self.outer:
            body = None
        names = _names(body)
        if self.exiting is not None:
            self._close(self.exiting, self.exiting)
        elif "Exit" in names:
            ending = SystemExit(body.exit_code)
            self._close(ending, ending)
            body.exit_code = ending.code
        elif "ClickException" in names:
            self._close(body, SystemExit(body.exit_code))
        elif "Abort" in names or isinstance(body, (EOFError, KeyboardInterrupt)):
            self._close(body, SystemExit(1))
        else:  # it comes out of click as it is
            self._close(body, body)

    def _close(self, reason: "BaseException | None", ending: "BaseException | None") -> None:
        failures = closing.run_all(self.scope, reason)
        way_out = sys.exc_info()[1] if isinstance(ending, SystemExit) else None
        for _, error in failures:
            if error.__context__ is way_out:  # that is not part of it
                error.__context__ = None
        try:
            raise_failures(self.scope, failures, ending)
        except BaseException:
            _take_off(self.context)
            raise
        finally:
            failures.clear()  # they hold tracebacks, which hold this frame


def _take_off(context: "Any") -> None:
    """Take a context off the stack of its thread when click does not do so itself.

    It does not, up to 8.5, when a function fails that is called on the context's close. Whether this one does
    shows with a context that is made to fail.
    """
    kind = next(kind for kind in type(context).__mro__ if kind.__name__ == "Context" and _ours(kind))
    stack = sys.modules[kind.__module__.removesuffix(".core") + ".globals"]
    if stack.get_current_context(silent=True) is not context:
        return

    def fail() -> None:
        raise LookupError

    probe: Any = kind(context.command)
    probe.call_on_close(fail)
    try:
        with probe:
            pass
    except LookupError:
        if stack.get_current_context(silent=True) is probe:
            stack.pop_context()
            stack.pop_context()
