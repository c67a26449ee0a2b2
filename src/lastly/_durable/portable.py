"""What another process needs to run an action: its name, JSON arguments, and where to import it."""

import os
import sys

from lastly._system import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._action import AnyAction
    from lastly._journal.file import Journal

# What a child of the reaper gets of the owner's environment: enough to find programs and files, no secrets.
# LASTLY_ENV names more, separated by commas.
ENVIRONMENT = (
    "HOME", "LANG", "LANGUAGE", "LASTLY_ENV", "LASTLY_HOME", "LD_LIBRARY_PATH", "LOGNAME", "PATH",
    "PYTHONHOME", "PYTHONPATH", "PYTHONUTF8", "SHELL", "TEMP", "TMP", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV",
    "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME",
)  # fmt: skip

_MAIN = frozenset({"__main__", "__mp_main__"})


# By journal: sys.path (None: the record may be stale), directory, the record's number, the record.
_contexts: "dict[str, tuple[list[Any] | None, str | None, int, dict[str, Any]]]" = {}
_allowed = set(ENVIRONMENT)


def allow(*names: str) -> None:
    """Record these environment variables with actions deferred from now on. Do not name secrets.

    Integrations call it each time one of their actions is deferred: programs set such variables late.
    """
    _allowed.update(names)
    for path, (_, cwd, number, record) in list(_contexts.items()):
        _contexts[path] = (None, cwd, number, record)


def context(journal: "Journal") -> int:
    """The number of the record of interpreter, sys.path, directory and environment; a new one on change."""
    try:
        cwd = os.getcwd()
    except OSError:  # the directory has been removed
        cwd = None
    last = _contexts.get(journal.path)
    if last is not None and last[0] == sys.path and last[1] == cwd:
        return last[2]
    wanted = {*_allowed, *filter(None, os.environ.get("LASTLY_ENV", "").split(","))}
    record: dict[str, Any] = {
        "exe": sys.executable or "",
        "prefix": sys.prefix,
        "path": [entry or cwd or "" for entry in sys.path if entry.__class__ is str],
        "cwd": cwd,
        "env": {k: v for k, v in os.environ.items() if k in wanted or k.startswith("LC_")},
        "main": _main_path(),
    }
    if frozen.is_open:
        record["frozen"] = True
    number = last[2] if last is not None and last[3] == record else journal.context(record)
    _contexts.clear()
    _contexts[journal.path] = (list(sys.path), cwd, number, record)
    return number


def _main_path() -> str | None:
    """The file, folder or archive that the interpreter runs; None at a prompt, for -c, for stdin."""
    main = sys.modules.get("__mp_main__") or sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    if not path:
        return None
    path = os.path.abspath(path)
    if not os.path.exists(path):
        path = os.path.dirname(path)  # app.zip/__main__.py; but not <stdin>
    return path if os.path.isfile(path) else None


def name(action: "AnyAction") -> str:
    """The name by which another process finds the action; found out once."""
    if action.prepare is not None:
        action.recorded = action.name
        return action.name
    module_name, _, qualname = action.name.partition(":")
    why = _unreachable(action, module_name, qualname)
    if why and action.name != f"{action.__dict__['__module__']}:{action.__dict__['__qualname__']}":
        raise TypeError(
            f"cannot defer {action.__dict__['__qualname__']}() durably as {action.name}: {why}. Have that "
            "module import it under that name, or leave name= out"
        )
    if why and module_name == "__main__" and (script := _profiled(action, qualname)):
        action.file, action.recorded = script, f"__main__:{qualname}"
        return action.recorded
    if why:
        raise TypeError(
            f"cannot defer {qualname}() durably: {why}. Move it to the top level of a module or script; "
            "or defer the plain function (its .fn), which runs in this process only"
        )
    module = sys.modules[module_name]
    if module_name in _MAIN:
        spec = getattr(module, "__spec__", None)
        # python -m package.module: importable under that name, which needs no loading by path.
        module_name = spec.name if spec is not None and spec.name not in _MAIN else "__main__"
    else:
        file = getattr(module, "__file__", None)
        action.file = os.path.abspath(file) if file else None
    action.recorded = f"{module_name}:{qualname}"
    return action.recorded


def _profiled(action: "AnyAction", qualname: str) -> str:
    """The script of the function where a profiler or a tracer runs it in other names than ``__main__``'s."""
    names = getattr(action.fn, "__globals__", {})
    found, file = names.get(qualname), names.get("__file__")
    reachable = found is not None and (found is action or found is action.fn)
    return os.path.abspath(file) if reachable and file.__class__ is str and os.path.isfile(file) else ""


def _unreachable(action: "AnyAction", module_name: str, qualname: str) -> str:
    if hasattr(action.fn, "__func__"):
        return "it is a method, and another process does not have its object"
    if getattr(sys, "frozen", False) and not frozen.is_open:
        return "this program is frozen, and no other process can be started that runs a function of it"
    if "<lambda>" in qualname:
        return "a lambda has no name that another process could import it by"
    if "<locals>" in qualname:
        return "it is defined inside another function, where another process cannot import it from"
    module = sys.modules.get(module_name)
    if module is None:
        return f"its module {module_name!r} is not an imported one"
    if module_name in _MAIN and getattr(module, "__spec__", None) is None and _main_path() is None:
        return (
            "it was typed at a prompt or into a notebook, comes from -c or standard input, or is in the "
            "script of a frozen program: there is no file to load it from"
        )
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found is not action and found is not action.fn:
        return f"{module_name}.{qualname} is not this function but {found!r}"
    return ""


# ---- arguments

_FUNCTION = type(name)
_VARARGS, _VARKEYWORDS = 0x04, 0x08  # of co_flags


def check_call(action: "AnyAction", args: "list[Any] | tuple[Any, ...]", kwargs: "dict[str, Any]") -> None:
    """Refuse arguments that the function does not take, at the line of the mistake.

    Otherwise it would only show in another process after this one's death, where no attempt succeeds. What
    counts is the
    function that will be called: a decorator that takes everything is not looked through, for it may add
    arguments. `inspect`, an import of 7 ms, is for anything but a plain function.
    """
    fn: Any = action.fn
    if type(fn) is _FUNCTION:
        why = _misfit(fn, action.wants, args, kwargs)
    else:
        import inspect

        try:
            signature = inspect.signature(fn)
        except ValueError:  # C code that does not say what it takes
            return
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            why = str(error)
        else:
            return
    if why:
        raise TypeError(f"{action.__dict__['__qualname__']}() {why}")


def _misfit(
    fn: "Any", offered: "tuple[str, ...]", args: "list[Any] | tuple[Any, ...]", kwargs: "dict[str, Any]"
) -> str:
    """Say what is wrong with the arguments of a call, in the words of `inspect`; empty when nothing is."""
    code = fn.__code__
    count = code.co_argcount
    names = code.co_varnames[: count + code.co_kwonlyargcount]
    by_name = names[code.co_posonlyargcount :]
    optional = {*names[count - len(fn.__defaults__ or ()) : count], *(fn.__kwdefaults__ or ()), *offered}
    given = names[: min(len(args), count)]
    takes = f"it takes ({', '.join(names)})"
    if len(args) > count and not code.co_flags & _VARARGS:
        return f"got too many positional arguments, {len(args)}; {takes}"
    for key in kwargs:
        if key in given and key in by_name:
            return f"got multiple values for argument {key!r}"
        if key not in by_name and not code.co_flags & _VARKEYWORDS:
            return f"got an unexpected keyword argument {key!r}; {takes}"
    for name in names:
        if name not in given and name not in optional and not (name in kwargs and name in by_name):
            return f"missing a required argument: {name!r}; {takes}"
    return ""


_SIMPLE = (str, int, float, bool, type(None))


def arguments(
    action: "AnyAction", args: "tuple[Any, ...]", kwargs: "dict[str, Any]"
) -> "tuple[list[Any], dict[str, Any]]":
    called = f"{action.__dict__['__qualname__']}()"
    plain = [
        value if value.__class__ is str else _plain(value, f"argument {i} of {called}")
        for i, value in enumerate(args, 1)
    ]
    return plain, {key: _plain(value, f"argument {key} of {called}") for key, value in kwargs.items()}


def plain_dict(value: "dict[Any, Any]", where: str) -> "dict[str, Any]":
    for key in value:
        if not isinstance(key, str):
            raise _not_json(key, f"a key of {where}")
    return {str.__str__(key): _plain(item, where) for key, item in value.items()}


def _plain(value: "Any", where: str) -> "Any":
    """Make JSON of an argument: what the action is given here is what another process will be given.

    Paths and bytes become str by `os.fsdecode`, which keeps bytes that are not UTF-8.
    """
    kind = value.__class__
    if kind in _SIMPLE:
        if kind is float and not -1e400 < value < 1e400:
            raise _not_json(value, where)
        return value
    try:
        if kind is list or kind is tuple:
            return [_plain(item, where) for item in value]
        if kind is dict:
            return plain_dict(value, where)
    except RecursionError:
        raise TypeError(f"{where} is nested too deeply, or holds itself: pass something simpler") from None
    if isinstance(value, bytes | os.PathLike):
        return os.fsdecode(value)
    # An enumeration of strings or numbers and the like: their plain value.
    for base in (str, int, float):
        if isinstance(value, base):
            return base(value) if base is not str else str.__str__(value)
    raise _not_json(value, where)


def _not_json(value: "Any", where: str) -> TypeError:
    kind = type(value)
    return TypeError(
        f"{where} is {value!r:.80} ({kind.__module__}.{kind.__qualname__}): an action is run by another "
        "process, which can only be given JSON: strings, numbers, True, False, None, paths, lists and dicts "
        "(with str keys) of them. Pass a name or an id to find it by; or defer the plain function (its .fn), "
        "which runs in this process only"
    )
