"""Fill the reference pages from the docstrings: ``python scripts/reference.py [--check]``.

What stands between ``<!-- api: lastly.Scope -->`` and ``<!-- /api -->`` in docs/reference/*.md is written by
this program; everything around it by people. ``<!-- api: all -->`` becomes the list of all that is public.
``--check`` writes nothing and ends with 1 when a page is out of date.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

PAGES = Path(__file__).resolve().parents[1] / "docs" / "reference"
BLOCK = re.compile(r"(<!-- api: ([\w.]+) -->\n).*?(<!-- /api -->)", re.DOTALL)
SECTION = re.compile(r"^(Args|Attributes|Raises|Warns|Returns|Yields):\s*$")
HIDDEN = {"expect", "confirmed"}  # arguments that only the journal gives


def find(path: str) -> Any:
    """The object that a dotted path from ``lastly`` names."""
    import lastly

    value: Any = lastly
    words = path.split(".")[1:]
    for i, word in enumerate(words):
        try:
            value = getattr(value, word)
        except AttributeError:
            __import__(".".join(["lastly", *words[: i + 1]]))
            value = getattr(value, word)
    return value


def cleandoc(value: Any) -> str:
    """The docstring without its indentation."""
    return inspect.cleandoc(value.__doc__ or "")


def signature(name: str, value: Any) -> str:
    """How it is called, without quotes around annotations and without ``self``."""
    function = getattr(value, "fn", value)
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return name
    keep = [p for p in found.parameters.values() if p.name != "self" and p.name not in HIDDEN]
    text = str(found.replace(parameters=keep))
    text = re.sub(r"(: |-> )(['\"])(.*?)\2", r"\1\3", text)
    text = text.replace("mode: int = 384", "mode: int = 0o600")
    return name + re.sub(r"\blastly\.(\w+\.)*", "", text)


def markdown(doc: str) -> str:
    """A docstring as Markdown: sections become lists, the rest stays."""
    out: list[str] = []
    inside, hidden = None, False
    for line in inspect.cleandoc(doc).splitlines():
        if heading := SECTION.match(line):
            inside = heading[1]
            out += ["", f"**{'Arguments' if inside == 'Args' else inside}**", ""]
        elif line.startswith(".. versionadded::"):
            inside = None
            out += ["", f"*Since {line.split('::')[1].strip()}.*"]
        elif inside == "Returns" and line:
            out.append(line.strip())
        elif inside and line.startswith("    ") and (item := re.match(r"    ([\w*][\w*, .]*): (.*)", line)):
            hidden = inside == "Args" and item[1] in HIDDEN
            out += [] if hidden else [f"* `{item[1]}`: {item[2]}"]
        elif inside and line.startswith("  "):
            out += [] if hidden else ["  " + line.strip()]
        else:
            if line:
                inside = None
            out.append(line)
    text = re.sub(r"``([^`]+)``", r"`\1`", "\n".join(out))
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text)
    text = re.sub(r"(?m)^(.*)::$", r"\1:", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def entry(title: str, value: Any, level: str) -> list[str]:
    """A heading, the signature, the text."""
    exception = isinstance(value, type) and issubclass(value, BaseException)
    made_by_users = callable(value) and not (isinstance(value, type) and "\nArgs:\n" not in cleandoc(value))
    lines = [f"{level} {title}", ""]
    if made_by_users and not exception:
        lines += ["```py", signature(title, value), "```", ""]
    elif exception:
        bases = ", ".join(f"`{base.__name__}`" for base in value.__bases__)
        lines += [f"An exception: {bases}.", ""]
    return [*lines, markdown(value.__doc__ or ""), ""]


def members(owner: type) -> list[tuple[str, Any]]:
    """Public methods and properties that say something, in the order of the source."""
    found: dict[str, Any] = {}
    for base in owner.__mro__:
        if not base.__module__.startswith("lastly"):
            break
        if base is not owner and getattr(sys.modules["lastly"], base.__name__, None) is base:
            break  # it has an entry of its own
        for name, raw in vars(base).items():
            value = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
            if not name.startswith("_") and isinstance(value, FunctionType | property) and value.__doc__:
                found.setdefault(name, value)
    return list(found.items())


@cache
def public() -> dict[str, list[tuple[str, Any]]]:
    """What each module without an underscore in its path offers."""
    import lastly

    paths = ["lastly", *(m.name for m in pkgutil.walk_packages(lastly.__path__, "lastly."))]
    modules = {path: importlib.import_module(path) for path in paths if "._" not in path}
    return {
        path: [(name, getattr(module, name)) for name in module.__all__ if not name.startswith("pytest_")]
        for path, module in modules.items()
    }


def base_name(base: type) -> str:
    """What a base class is called; empty for one that says nothing to users."""
    if base.__module__.startswith("lastly."):
        known = any(value is base for names in public().values() for _, value in names)
        return base.__name__ if known else ""
    foreign = f"{base.__module__}.{base.__name__}".removeprefix("builtins.")
    return "" if foreign in ("object", "abc.ABC") else foreign


def line(name: str, value: Any) -> str:
    """One name of the list."""
    if isinstance(value, type):
        kind = "exception" if issubclass(value, BaseException) else "class"
        return f"{kind} {name}({', '.join(filter(None, map(base_name, value.__bases__)))})".removesuffix("()")
    if hasattr(value, "fn"):
        return f"action {signature(name, value)}"
    return signature(name, value) if callable(value) else name


def below(value: type) -> list[str]:
    """How a class is made, if by users; its methods, properties and attributes."""
    doc = cleandoc(value)
    made = [signature(value.__name__, value).removesuffix(" -> None")] if "\nArgs:\n" in doc else []
    lines = {line(name, member) for name, member in members(value)}
    attributes = doc.partition("\nAttributes:\n")[2].split("\n\n")[0]
    for names in re.findall(r"(?m)^    ([a-z_, ]+):", attributes):
        lines.update(names.split(", "))
    if not attributes:
        lines.update(name for name in inspect.get_annotations(value) if name[0] != "_")
    return [f"    {text}" for text in [*made, *sorted(lines)]]


def all_that_is_public() -> str:
    """All public names, a line each; one that two modules offer is described at the first."""
    out: list[str] = []
    first: dict[int, str] = {}
    for path, names in public().items():
        out += [f"## {path}", "", "```py"] if names else []
        for name, value in names:
            if inspect.ismodule(value):
                out.append(f"{name}: a module")
            elif (before := first.setdefault(id(value), path)) != path:
                out.append(f"{name}: {before}.{name}")
            else:
                out.append(line(name, value))
                out += below(value) if isinstance(value, type) else []
        out += ["```", ""] if names else []
    return "\n".join(out)


def describe(path: str) -> str:
    """All that the reference says about one name."""
    if path == "all":
        return all_that_is_public()
    try:
        value = find(path)
    except (AttributeError, ImportError) as error:
        raise SystemExit(f"docs/reference names {path}, and it is not there: {error}") from error
    name = path.removeprefix("lastly.")
    lines = entry(name, value, "##")
    if isinstance(value, type) and not issubclass(value, BaseException):
        for member, method in members(value):
            lines += entry(f"{name}.{member}", method, "###")
    return "\n".join(lines)


def main() -> int:
    """Write or check all pages."""
    stale = []
    for page in sorted(PAGES.glob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = BLOCK.sub(lambda m: f"{m[1]}{describe(m[2])}{m[3]}", before)
        if before != after:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(after, encoding="utf-8")
    if stale:
        print(("out of date: " if "--check" in sys.argv else "written: ") + ", ".join(stale))
    return bool(stale) and "--check" in sys.argv


if __name__ == "__main__":
    sys.exit(main())
