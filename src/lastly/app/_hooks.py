"""Named points of an app's life, and the functions that run there."""

from lastly.errors import FrameworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

    from lastly.app._core import App

    Functions = list[tuple[int, Callable[..., Any]]]
    Failures = list[BaseException]
    Names = list[str]  # ``list`` is a method of HookManager

#: The points of every app. Arguments are parsed between pre_run and post_run; signal comes any time.
CORE_HOOKS = (
    "pre_setup",
    "post_setup",
    "pre_run",
    "post_run",
    "pre_argument_parsing",
    "post_argument_parsing",
    "pre_close",
    "post_close",
    "pre_render",  # never run here: defined for the programs that register for Cement's output, too
    "post_render",
    "signal",
)

# Points at which functions clean up. There the failure of one is no reason to skip another's work.
# Elsewhere the first failure is the result: a check in pre_run is there to prevent the run.
TRIED_ALL = frozenset({"pre_close", "post_close", "signal"})


def _generator() -> "Generator[None, None, None]":
    yield


_Generator = type(_generator())  # types.GeneratorType without the import of types


class HookManager:
    """The hooks of one app: define a name, register functions under it, run them by weight.

    .. versionadded:: 0.1
    """

    def __init__(self, app: "App") -> None:
        self.app = app
        self._hooks: dict[str, Functions] = {}
        self._waiting: dict[str, list[tuple[Callable[..., Any], int]]] = {}

    def __repr__(self) -> str:
        return f"<HookManager {', '.join(f'{name}: {len(funcs)}' for name, funcs in self._hooks.items())}>"

    def list(self) -> "Names":
        """Return the names of all hooks, in the order in which they were defined."""
        return [*self._hooks]

    def define(self, name: str) -> None:
        """Define the hook *name*, to which functions may be registered from then on.

        Raises:
            FrameworkError: A hook of that name exists already (so also at a second call).

        .. versionadded:: 0.1
        """
        if name in self._hooks:
            raise FrameworkError(f"Hook name '{name}' already defined!")
        self._hooks[name] = []
        for func, weight in self._waiting.pop(name, ()):
            self.register(name, func, weight)

    def defined(self, hook_name: str) -> bool:
        """Tell whether the hook *hook_name* exists."""
        return hook_name in self._hooks

    def register(self, name: str, func: "Callable[..., Any]", weight: int = 0) -> bool:
        """Register *func* to be called when the hook *name* is run; twice registered is called twice.

        Args:
            name: A defined hook.
            func: Any callable: a function, a coroutine function, a method, a ``functools.partial``.
            weight: Lower runs earlier; equal weights run in the order of their registration.

        Returns:
            False when there is no such hook: nothing was registered. An extension can so offer a
            function to a hook which only some programs define.

        .. versionadded:: 0.1
        """
        funcs = self._hooks.get(name)
        if funcs is None:
            return False
        funcs.append((weight, func))
        if len(funcs) > 1 and funcs[-2][0] > weight:
            funcs.sort(key=lambda entry: entry[0])
        return True

    def register_when_defined(self, name: str, func: "Callable[..., Any]", weight: int = 0) -> None:
        """Register *func* as `register` does; where there is no hook *name* yet, as soon as it is defined.

        So that ``Meta.hooks`` can name a hook which an extension or a plugin defines later.

        .. versionadded:: 0.1
        """
        if not self.register(name, func, weight):
            self._waiting.setdefault(name, []).append((func, weight))

    def run(self, name: str, *args: "Any", **kwargs: "Any") -> "Generator[Any, None, None]":
        """Call the functions of the hook *name* with the given arguments, and yield their results.

        Nothing is called before the generator is iterated. The results of a function that is a generator
        are yielded one by one; the result of a coroutine function is awaited. A second run calls
        all of them again.

        Raises:
            FrameworkError: No such hook.
            CleanupFailed: In ``pre_close``, ``post_close`` and ``signal``, where every function is tried:
                those that failed. Anywhere else the first failure ends the run, unchanged.

        .. versionadded:: 0.1
        """
        if name not in self._hooks:
            raise FrameworkError(f"Hook name '{name}' is not defined!")
        if name not in TRIED_ALL:
            for func in self._functions(name):
                yield from self._results(func, args, kwargs)
            return
        failures: Failures = []
        for func in self._functions(name):
            try:
                yield from self._results(func, args, kwargs)
            except GeneratorExit:
                raise
            except BaseException as exc:
                failures.append(exc)
        if failures:
            from lastly._scope.failures import conclude, unnamed

            conclude(f"hook {name!r} of app {self.app._meta.label!r}", unnamed(failures), None)

    # A copy: a function of a hook may register another, for the next run.
    def _functions(self, name: str) -> "Iterator[Callable[..., Any]]":
        return iter([func for _weight, func in self._hooks[name]])

    def try_all(self, name: str, *args: "Any") -> "Failures":
        """Call every function of the hook *name*, drop the results, and return what was raised.

        .. versionadded:: 0.1
        """
        failures: Failures = []
        for func in self._functions(name):
            try:
                for _result in self._results(func, args, {}):
                    pass
            except BaseException as exc:
                failures.append(exc)
        return failures

    def _results(
        self, func: "Callable[..., Any]", args: "tuple[Any, ...]", kwargs: "dict[str, Any]"
    ) -> "Generator[Any, None, None]":
        result = func(*args, **kwargs)
        if result is None:  # nearly always
            yield None
            return
        if hasattr(result, "__await__"):
            from lastly._scope.awaiting import wait_for

            result = wait_for(result)
        elif hasattr(result, "__aiter__"):
            from lastly._scope.awaiting import collect

            yield from collect(result)
            return
        if isinstance(result, _Generator):
            yield from result
        else:
            yield result


def run_hook(app: "App", name: str) -> None:
    """Run the hook *name* with *app*; the first failure comes out."""
    for _result in app.hook.run(name, app):
        pass
