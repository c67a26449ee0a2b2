"""What people call a cleanup and its owner: the one place that words them, for tables, reports and messages.

A cleanup is named by what it does to what: ``kill sleep 1000 (pid 4711)``, ``remove /tmp/build-42``,
``destroy_vm site-42``. Tokens are never shown: they tell people nothing.
"""

import os
from _string import formatter_parser  # type: ignore[import-not-found]  # no stub; string costs an import of re

from lastly._words import built_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

LONGEST = 200  # characters of a description or a command that are kept
_VARKEYWORDS = 0x08  # of co_flags
_HIDDEN = ("expect", "token")
_LIFE = {True: "alive", False: "dead", None: "cannot be told from here"}


def cleanup(row: "Mapping[str, Any]", size: str = "") -> str:
    """Return what a cleanup does, to what, and in which scope.

    Args:
        row: action, args and kwargs, as they are recorded; what (a description of its own), known, scope and
            count, if there are any.
        size: what is known of the thing itself: "tree, 427 files".
    """
    text = row.get("what") or call(row)
    if size:
        text += f" ({size})"
    if row.get("count", 1) > 1:
        text += f" and {row['count'] - 1} more"
    return f"{text} in scope {row['scope']}" if row.get("scope") else text


def owner(row: "Mapping[str, Any]") -> str:
    """Return an owner's program and pid, and whether it lives; its machine, where that is another one."""
    program = os.path.basename(row["argv0"]) or "?"
    place = f" on {row['host']}" if row["alive"] is None and row["host"] else ""
    return f"{program} (pid {row['pid']}, {_LIFE[row['alive']]}){place}"


def call(row: "Mapping[str, Any]") -> str:
    """Return what a cleanup calls: its action and the arguments, without any description."""
    known = built_in.facts(row["action"])
    if known.kills:
        return f"kill {_process(row)}"
    name = row["action"].rpartition(":")[2].rpartition(".")[2]
    args = row["args"]
    if row["action"] == built_in.RUN and args and isinstance(args[0], list):
        args = args[0]
    words = [name, *(_word(value) for value in args if value is not None)]
    for key, value in row["kwargs"].items():
        if value not in (None, {}) and key not in _HIDDEN and key not in known.usual:
            words.append(f"{key}={_word(value)}")
    return " ".join(words)


def _word(value: object) -> str:
    plain = isinstance(value, str) and value.split() == [value]
    return str(value) if plain else repr(value)


def _process(row: "Mapping[str, Any]") -> str:
    for found in (row.get("known"), *row["args"]):
        if isinstance(found, dict) and found.get("pid"):
            name = found.get("command") or found.get("name")
            return f"{name} (pid {found['pid']})" if name else f"pid {found['pid']}"
    return "all children" if row["action"] == built_in.KILL_TOKEN else "a child"


def clip(text: str, longest: int = LONGEST) -> str:
    """Return a text, shortened when it is long."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


# ---- an action's own description


def check(template: "Any", fn: "Callable[..., Any]", offered: "tuple[str, ...]") -> None:
    """Refuse a description that names anything else than parameters of its function.

    Raises:
        TypeError: it is not a string.
        ValueError: it is not a format string over the parameters.
    """
    if not isinstance(template, str):
        raise TypeError(f"describe must be a string like 'destroy VM {{name}}', not {template!r}")
    try:
        fields = [(field, spec) for _, field, spec, _ in formatter_parser(template) if field is not None]
    except ValueError as error:
        raise ValueError(f"describe={template!r}: {error}") from None
    names, more = _parameters(fn)
    for field, spec in fields:
        if field in offered or (field not in names and not (more and field.isidentifier())):
            known = ", ".join(name for name in names if name not in offered) or "none"
            raise ValueError(
                f"describe={template!r}: {{{field}}} is not an argument that is known when it is deferred; "
                f"these are: {known}"
            )
        if "{" in spec:
            raise ValueError(f"describe={template!r}: the format of {{{field}}} must be a constant")


def described(template: str, fn: "Any", args: "Any", kwargs: "Mapping[str, Any]") -> str:
    """Return the description of one call; empty where that fails: a name must not fail a cleanup."""
    code = getattr(fn, "__code__", None)
    values: dict[str, Any] = {}
    if code is None:
        import inspect

        bound = inspect.signature(fn).bind_partial(*args, **kwargs)
        bound.apply_defaults()
        values = dict(bound.arguments)
    else:
        names = code.co_varnames[: code.co_argcount]
        values.update(zip(reversed(names), reversed(fn.__defaults__ or ()), strict=False))
        values.update(fn.__kwdefaults__ or {})
        values.update(zip(names, args, strict=False))
    values.update(kwargs)
    try:
        return clip(template.format_map(values))
    except (KeyError, ValueError, TypeError, AttributeError, IndexError):
        return ""


def _parameters(fn: "Any") -> "tuple[list[str], bool]":
    """The names of a function's parameters, and whether it takes any other ones."""
    code = getattr(fn, "__code__", None)
    if code is not None:
        return [*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]], bool(
            code.co_flags & _VARKEYWORDS
        )
    import inspect

    parameters = inspect.signature(fn).parameters.values()
    return [one.name for one in parameters], any(one.kind is one.VAR_KEYWORD for one in parameters)
