"""Actions: named functions with JSON arguments, which another process can run.

A plain cleanup is a function object; it dies with the process. An action is a *name* (``module:qualname``):
the journal holds that name and its arguments as JSON, and the reaper, in another process, imports the
function by name and calls it. Everything that is special about an action follows from this: it must be
importable, and its arguments must be JSON.
"""

from lastly._words.clock import BACKOFF, RETRIES, TIMEOUT, seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from types import GenericAlias
    from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, overload

    P = ParamSpec("P")
    R = TypeVar("R")
    AnyAction: TypeAlias = "Action[..., Any]"
    Args: TypeAlias = "tuple[Any, ...] | list[Any]"
    Prepare: TypeAlias = "Callable[[tuple[Any, ...], dict[str, Any]], tuple[Args, dict[str, Any]]]"

else:  # what stands in a class's brackets is for type checkers: here it is `object`
    P, R, GenericAlias = 0, 1, type(list[int])
    Generic = {(P, R): object}

# What an action may ask to be told; see Action.call().
_OFFERED = ("attempt", "confirmed", "token")


def _owner(fn: "Any") -> str:
    """Return the full name of a method; the empty text for every other function."""
    name = getattr(fn, "__qualname__", "")
    code = getattr(fn, "__code__", None)
    inside = name.rpartition(".")[0]
    if not inside or inside.endswith("<locals>") or code is None or not code.co_argcount:
        return ""
    return name if code.co_varnames[0] in ("self", "cls") else ""


def _check_function(fn: "Any") -> None:
    if not callable(fn):
        raise TypeError(f"action() takes a function, not {fn!r}")
    if owner := _owner(fn):
        raise TypeError(
            f"{owner}() is a method, and the process that runs an action has no such object: make it a "
            "function at the top level of a module or script, and give it a name or an id to go by"
        )


def _check_name(name: str | None) -> None:
    module, colon, inside = name.partition(":") if isinstance(name, str) else ("", "", "")
    words = [*module.split("."), *inside.split(".")]
    if name is not None and not (colon and all(word.isidentifier() for word in words)):
        raise TypeError(f"name={name!r}: module:qualname, like 'shop.cloud:destroy_vm'")


def _names(aliases: "tuple[str, ...] | list[str]") -> tuple[str, ...]:
    given: Any = aliases
    if isinstance(given, str) or not all(isinstance(name, str) and ":" in name for name in given):
        raise TypeError(f"aliases={aliases!r}: a list of names, like ['shop.cloud:destroy_vm']")
    return tuple(aliases)


class Action(Generic[P, R]):
    """A function that can be run by name, in this process or in another one.

    Made by `lastly.action`. Calling it calls the function, and nothing more. Deferring it is *durable*: the
    cleanup is in the journal before ``defer()`` returns, and is run even after ``kill -9``.

    To type checkers it is ``Action[[its parameters], its result]``: they find a wrong argument in a call,
    and in what defers it.

    Attributes:
        fn: the function.
        name: ``module:qualname``, as the journal knows it.
        remote: what it undoes outlives this machine (a rented server, an object in a bucket).
        retries, timeout, backoff, describe: see `lastly.action`.

    .. versionadded:: 0.1
    """

    __slots__ = (
        "__dict__", "__weakref__", "__wrapped__", "aliases", "backoff", "blocks", "describe", "file", "fn",
        "name", "prepare", "recorded", "remote", "retries", "timeout", "wants",
    )  # fmt: skip

    def __init__(
        self,
        fn: "Callable[P, R]",
        *,
        name: str | None = None,
        remote: bool = False,
        retries: int = RETRIES,
        timeout: "float | timedelta" = TIMEOUT,
        backoff: "float | timedelta" = BACKOFF,
        describe: str | None = None,
        prepare: "Prepare | None" = None,
        blocks: bool = False,
        aliases: "tuple[str, ...] | list[str]" = (),
    ) -> None:
        _check_function(fn)
        if not isinstance(retries, int):
            raise TypeError(f"retries must be a whole number, not {retries!r}")
        if retries < 0:
            raise ValueError(f"retries must be 0 or more, not {retries!r}")
        self.fn = self.__wrapped__ = fn
        for key in ("__module__", "__name__", "__qualname__", "__doc__", "__code__"):
            # Into the instance's own dict: pickle, inspect, help() and AsyncScope see what they expect.
            self.__dict__[key] = getattr(fn, key, None)
        self.name = name or f"{self.__dict__['__module__']}:{self.__dict__['__qualname__']}"
        self.remote = remote
        self.aliases = _names(aliases)
        self.retries = retries
        self.timeout = seconds(timeout, "timeout")
        self.backoff = seconds(backoff, "backoff")
        # Makes JSON of a built-in action's arguments when it is deferred (absolute path, identity of a pid).
        self.prepare = prepare
        # A built-in one that waits for processes, for seconds maybe.
        self.blocks = blocks
        # The name that another process can import; found out at the first defer, see _durable.
        self.recorded: str | None = None
        self.file: str | None = None
        # Keyword-only parameters alone: a positional `token` is the user's own, whatever its name.
        code = getattr(fn, "__code__", None)
        names = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount] if code else ()
        self.wants = tuple(name for name in _OFFERED if name in names)
        self.describe = describe
        if describe is not None:
            from lastly._words import naming

            naming.check(describe, fn, self.wants)

    def __call__(self, *args: "P.args", **kwargs: "P.kwargs") -> "R":
        return self.fn(*args, **kwargs)

    def __class_getitem__(cls, item: "Any") -> "GenericAlias":
        """For annotations that are evaluated."""
        return GenericAlias(cls, item)

    def call(self, args: "Args", kwargs: "dict[str, Any]", /, **offered: "Any") -> "Any":
        """Call the function, telling it what it asks for.

        A function asks by having a *keyword-only* parameter of that name, which the caller left out:
        ``attempt`` (int, 1 is the first), ``token`` (str, the same for every attempt and for
        `Scope.planned`), ``confirmed`` (dict, what was confirmed after the creation; empty when nothing was).
        """
        if self.wants:
            asked = {name: offered[name] for name in self.wants if name in offered and name not in kwargs}
            return self.fn(*args, **kwargs, **asked)
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<action {self.name}{' remote' if self.remote else ''}>"

    def __reduce__(self) -> str:
        # By name, like a function: the other process has its own.
        return str(self.__dict__["__qualname__"])


if TYPE_CHECKING:

    @overload
    def action(fn: "Callable[P, R]", /) -> Action[P, R]: ...

    @overload
    def action(
        *,
        remote: bool = False,
        retries: int = RETRIES,
        timeout: "float | timedelta" = TIMEOUT,
        backoff: "float | timedelta" = BACKOFF,
        describe: str | None = None,
        name: str | None = None,
        aliases: "tuple[str, ...] | list[str]" = (),
    ) -> "Callable[[Callable[P, R]], Action[P, R]]": ...


def action(
    fn: "Callable[P, R] | None" = None,
    /,
    *,
    remote: bool = False,
    retries: int = RETRIES,
    timeout: "float | timedelta" = TIMEOUT,
    backoff: "float | timedelta" = BACKOFF,
    describe: str | None = None,
    name: str | None = None,
    aliases: "tuple[str, ...] | list[str]" = (),
) -> "Action[P, R] | Callable[[Callable[P, R]], Action[P, R]]":
    """Make a function an action, whose cleanups survive the process.

    Used as ``@action`` or ``@action(remote=True)``, on a function at the top level of a module or script,
    sync or async. Making an action of an action gives a second, independent one with its own settings.

    Args:
        fn: the function. It must accept that what it undoes is not there, and may be run more than once.
        remote: what it undoes outlives this machine. Its plan is then on the disk (``fdatasync``) before
            ``defer()`` returns, and is still owed after a power cut or a reboot.
        retries: further attempts after a failed one, made by the reaper. Default 5.
        timeout: seconds (or a timedelta) that one attempt may take in the reaper. Default 60.
        backoff: seconds (or a timedelta) before the second attempt; doubled, with jitter, each time. Default
            1.
        describe: what `lastly ls` and messages call such a cleanup: a format string over its arguments, like
            ``"destroy VM {name}"``. Made when it is deferred, and recorded with it: no secrets in it.
            Default: the function's name and the arguments.
        name: what is recorded, ``module:qualname``, where it is not to change although the function moves:
            that module must still have it (``from shop.machines import destroy_vm``). Default: where it is
            defined.
        aliases: names that it had before, ``module:qualname``: a worker runs what was recorded under them.
            For shared journals; default none.

    Raises:
        TypeError: `fn` is not callable, or is a method; not a number, or not a length of time; `describe`
            is not a text; `name` is not ``module:qualname``.
        ValueError: a negative number; `describe` names what is not one of the arguments.

    .. versionadded:: 0.1
    """
    _check_name(name)

    def make(function: "Callable[P, R]") -> Action[P, R]:
        if isinstance(function, Action):
            function = function.fn
        return Action(
            function,
            remote=remote,
            retries=retries,
            timeout=timeout,
            backoff=backoff,
            describe=describe,
            name=name,
            aliases=aliases,
        )

    return make if fn is None else make(fn)
