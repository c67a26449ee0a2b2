"""What is public: it is in `__all__`, in `dir()`, in docs/reference, and says the same everywhere."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from harness import ROOT, SRC

import lastly

PUBLIC = sorted(
    path
    for file in (SRC / "lastly").rglob("*.py")
    if "._" not in (path := ".".join(file.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"))
)
# Lengths of time that are neither grace, timeout nor wait, and what they are instead.
OTHER_TIMES = {
    "backoff": "a pause between two attempts",
    "interval": "a pause between two looks; Cement's name for it",
    "linger": "how long requests are still answered after the signal, before grace begins",
    "live_within": "how old a sign of life may be",
    "seconds": "how long a campaign of many runs may take, each of which has its timeout",
}


def reference() -> ModuleType:
    """scripts/reference.py, which lists what is public."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function and method, by its full name."""
    for path in PUBLIC:
        module = importlib.import_module(path)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                for method, found in inspect.getmembers(value):
                    found = found.fget if isinstance(found, property) else found
                    ours = str(getattr(found, "__module__", "")).startswith("lastly")
                    if ours and callable(found) and (method == "__init__" or method[0] != "_"):
                        yield f"{path}.{name}.{method}", found
            elif callable(value):
                yield f"{path}.{name}", getattr(value, "fn", value)


@pytest.mark.parametrize("path", PUBLIC)
def test_a_module_shows_what_is_public_and_nothing_else(path: str) -> None:
    module = importlib.import_module(path)
    shown = {name for name in dir(module) if not name.startswith(("__", "@"))}
    below = {name for name in shown if f"{path}.{name}" in PUBLIC}
    assert shown - below == set(module.__all__) - below
    assert [name for name in module.__all__ if name.startswith("_")] == []
    assert {name: None for name in shown if not hasattr(module, name)} == {}, "shown, and not there"


def test_a_star_brings_no_modules_but_the_actions() -> None:
    assert [name for name in lastly.__all__ if inspect.ismodule(getattr(lastly, name))] == ["actions"]


def test_the_types_that_users_hold_are_public() -> None:
    """Whoever is given an object can write an annotation for it."""
    ours = {
        node.name
        for file in (SRC / "lastly").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    offered = {name for path in PUBLIC for name in importlib.import_module(path).__all__}
    private = {}
    for name, function in functions():
        given = str(inspect.signature(function).return_annotation)
        private.update({word: name for word in re.findall(r"\w+", given) if word in ours - offered})
    private.pop("Settings")  # of gunicorn's configuration file: a dict
    assert private == {}


def test_lengths_of_time_have_three_names() -> None:
    """`grace`: all cleanups, or a process from SIGTERM to SIGKILL; `timeout`: one thing; `wait`: for somebody else."""
    others = {}
    for name, function in functions():
        for parameter in inspect.signature(function).parameters.values():
            words = set(re.findall(r"\w+", str(parameter.annotation)))
            if words & {"float", "timedelta"} and parameter.name not in {"grace", "timeout", "wait", *OTHER_TIMES}:
                others[f"{name}({parameter.name})"] = str(parameter.annotation)
    assert others == {}


def test_the_list_of_public_names_is_what_the_code_offers() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    written = page.partition("<!-- api: all -->\n")[2].partition("<!-- /api -->")[0].splitlines()
    now = reference().all_that_is_public().splitlines()
    gone = [f"- {line}" for line in written if line not in now]
    new = [f"+ {line}" for line in now if line not in written]
    assert written == now, "\n".join(
        ["the public API has changed:", *gone, *new, f"If it should: {sys.executable} scripts/reference.py, and commit the pages"]
    )


def test_docstrings_say_since_when_and_what_is_given() -> None:
    """What takes several arguments names each, or says that they are those of another function."""
    unsaid = {}
    for path, names in reference().public().items():
        for name, value in names:
            doc = inspect.getdoc(value) or ""
            if not callable(value):
                continue
            if ".. versionadded::" not in doc:
                unsaid[f"{path}.{name}"] = "versionadded"
            parameters = [*inspect.signature(getattr(value, "fn", value)).parameters] if not inspect.isclass(value) else []
            given = [p for p in parameters if p not in {"args", "kwargs", "fn", "expect", "confirmed"}]
            if len(given) > 1 and "with the same arguments" not in doc:
                missing = [p for p in given if not re.search(rf"(?m)^    \*{{0,2}}{p}: |`{p}`", doc)]
                unsaid.update({f"{path}.{name}({p})": "argument" for p in missing})
    assert unsaid == {}
