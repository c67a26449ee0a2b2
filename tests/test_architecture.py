"""The shape of the package: who may import whom, what `import lastly` costs, how long a file may be.

Two programs share the package: the user's, which must stay light, and the reaper, which must survive. They meet in
_durable.py alone. The table below is the whole rule; a new module needs a place in it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import ROOT, SRC, Programs

PACKAGE = SRC / "lastly"

# From top to bottom: arrows point down, or stay in their line.
LAYERS = """
    edges      __main__ _cli _run _pyinstaller integrations testing _settle.runner
    names      __init__
    app        app
    ready      resources
    seam       _durable
    process    _exit _scope
    reaper     _reaper _settle
    actions    actions
    journal    _journal
    system     _system
    words      _action errors _words
"""
LINES = re.sub(r"\n {9,}", " ", LAYERS).strip().splitlines()
PLACE = {module: (rank, line.split()[0]) for rank, line in enumerate(LINES) for module in line.split()[1:]}
PROGRAM_SIDE = {"app", "process"}
REAPER_SIDE = {"reaper", "actions", "journal"}

# The arrow that makes _durable the seam: a scope hands actions to it, by an import inside the function that does.
LAZY_UP = {("_scope", "_durable.seam"), ("_exit", "_durable.seam")}

# Beside the standard library, by module. Whatever is in integrations/ and testing/ is there for its framework.
THIRD_PARTY = {
    "app": {"colorlog", "yaml"},  # in the functions that need them
    "_cli": {"rich", "yaml"},
    "_pyinstaller": {"PyInstaller"},
    "_run": {"sitecustomize"},  # the one that the injected sitecustomize stands in front of
    "_exit": {"trio", "_xxsubinterpreters"},
    "_scope": {"anyio", "rich", "opentelemetry"},
    "resources": {"anyio", "trio"},
}

HEAVY = (
    "asyncio dataclasses logging sqlite3 socket subprocess json inspect importlib.metadata typing "
    "signal threading functools contextlib warnings enum re collections ctypes tempfile shutil"
).split()


class Arrow(NamedTuple):
    source: str  # "journal.file"
    target: str  # "journal.record", or "click"
    line: int
    lazy: bool  # inside a function

    def __str__(self) -> str:
        return f"{self.source}:{self.line} → {self.target}"


def modules() -> dict[str, Path]:
    """Dotted names below `lastly` and their files; packages without their `.__init__`, the top one as "__init__"."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        found[".".join(parts)] = path
    return found


MODULES = modules()


def arrows() -> Iterator[Arrow]:
    for source, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skip = {id(n) for i in ast.walk(tree) if is_type_checking(i) for s in i.body for n in ast.walk(s)}
        inside = {
            id(n)
            for f in ast.walk(tree)
            if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
            for n in ast.walk(f)
        }
        for node in ast.walk(tree):
            if id(node) not in skip:
                for target in targets(node, source, path):
                    yield Arrow(source, target, node.lineno, id(node) in inside)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def targets(node: ast.AST, source: str, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield below(alias.name)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = ["lastly", *path.relative_to(PACKAGE).parts[:-1]]
            package = package[: len(package) - node.level + 1]
            base = ".".join([*package, *filter(None, [base])])
        for alias in node.names:
            if (base, alias.name) == ("lastly", "__version__"):
                continue  # a text: the package itself is loaded before any of its modules
            whole = below(f"{base}.{alias.name}")
            yield whole if whole in MODULES else below(base)


def below(name: str) -> str:
    """The name of a module of ours without `lastly.`; others (and names that are no module) as they are."""
    ours = name.removeprefix("lastly.")
    return "__init__" if name == "lastly" else ours if ours in MODULES else name


def ours(arrow: Arrow) -> bool:
    return arrow.target in MODULES


def place(module: str) -> tuple[int, str]:
    """Its rank and layer; reaper._runner is the program of another process, and its own place."""
    return PLACE.get(module) or PLACE[module.split(".", maxsplit=1)[0]]


def complain(bad: list[Arrow]) -> None:
    assert not bad, "not allowed: " + ", ".join(map(str, bad))


def test_every_module_has_its_place_in_the_table() -> None:
    homeless = sorted({m.split(".")[0] for m in MODULES} - PLACE.keys())
    assert homeless == [], f"add them to LAYERS above: {homeless}"


def test_arrows_point_down_only() -> None:
    def up(a: Arrow) -> bool:
        allowed = a.lazy and (a.source.split(".")[0], a.target) in LAZY_UP
        return place(a.target)[0] < place(a.source)[0] and not allowed

    complain([a for a in arrows() if ours(a) and up(a)])


def test_the_two_sides_meet_in_durable_alone() -> None:
    def crosses(a: Arrow) -> bool:
        # `actions` is vocabulary that users name, too; what it does stays on the other side of the seam.
        return (
            place(a.source)[1] in PROGRAM_SIDE and place(a.target)[1] in REAPER_SIDE and a.target != "actions"
        )

    complain([a for a in arrows() if ours(a) and crosses(a)])


def test_nobody_imports_the_edges() -> None:
    """But two edges, from which others are started: the command line, and the door of a frozen program."""

    def reaches(a: Arrow) -> bool:
        if place(a.target)[1] != "edges" or a.source.split(".")[0] in ("__main__", "_cli", "_pyinstaller"):
            return False
        return a.source.split(".")[0] != a.target.split(".")[0]

    complain([a for a in arrows() if ours(a) and reaches(a)])


def test_an_integration_imports_no_other() -> None:
    def strays(a: Arrow) -> bool:
        return a.source != a.target and all(m.startswith("integrations.") for m in a[:2])

    shared = ("integrations._", "integrations.health")  # without any framework
    complain([a for a in arrows() if ours(a) and strays(a) and not a.target.startswith(shared)])


def test_imports_at_the_top_of_modules_make_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for a in arrows():
        if ours(a) and not a.lazy and a.target != a.source:
            graph.setdefault(a.source, set()).add(a.target)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join([*path, module])
        if module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_frameworks_are_imported_by_their_own_file_only() -> None:
    def foreign(a: Arrow) -> bool:
        top = a.target.split(".")[0]
        if ours(a) or top in sys.stdlib_module_names or top == "lastly":
            return False
        if a.source.split(".")[0] in ("integrations", "testing"):
            return False
        return top not in THIRD_PARTY.get(a.source.split(".")[0], set())

    complain([a for a in arrows() if foreign(a)])


def test_the_reaper_imports_no_user_code() -> None:
    """Only the child that the reaper starts for a user's action may import by name."""
    loaders = {"importlib", "runpy", "pkgutil", "imp"}
    for module, path in MODULES.items():
        if place(module)[1] not in REAPER_SIDE | {"seam", "system"}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("__import__", "exec", "eval"), f"{path}:{node.lineno}"
    complain([a for a in arrows() if place(a.source)[1] == "reaper" and a.target.split(".")[0] in loaders])


@pytest.mark.parametrize("flags", [("-I", "-S"), ("-I",), ()], ids=["bare", "isolated", "usual"])
def test_importing_lastly_loads_nothing_heavy(python: str, flags: tuple[str, ...]) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SRC)!r}); before = set(sys.modules); "
        "import lastly; print(*set(sys.modules) - before)"
    )
    out = subprocess.run([python, *flags, "-c", code], capture_output=True, text=True, check=True).stdout
    assert sorted(set(HEAVY) & set(out.split())) == []


def test_a_name_loads_nothing_that_it_does_not_need(python: str) -> None:
    """`lastly.temp_dir` is one name of a package that offers child processes and sockets as well."""
    code = (
        f"import sys; sys.path.insert(0, {str(SRC)!r}); import lastly; before = set(sys.modules); "
        "lastly.temp_dir; print(*set(sys.modules) - before)"
    )
    out = subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"subprocess", "socket", "ctypes", "threading", "lastly.resources._popen", "lastly.resources._process"}
    assert sorted(heavy & set(out.split())) == []


def test_the_base_install_works_without_any_extra(programs: Programs, python: str) -> None:
    """No site-packages at all: every public name can be had, and a durable and a plain cleanup run."""
    code = """
        import os, sys
        sys.path.insert(0, sys.argv[1])
        import lastly
        for name in lastly.__all__:
            getattr(lastly, name)
        work = lastly.temp_dir()
        with lastly.Scope("s") as scope:
            scope.defer(print, "closed")
        lastly.defer(lambda: print("gone" if not os.path.exists(work) else "there"))
        lastly.defer(lastly.actions.remove, os.fspath(work))
        foreign = {m.split(".")[0] for m in sys.modules} - sys.stdlib_module_names - {"lastly", "__main__"}
        print(sorted(foreign))
    """
    result = programs.run(code, str(SRC), python=python, flags=("-I", "-S"))
    assert (result.status, result.out, result.err) == (0, "closed\n[]\ngone\n", "")


# A file of tests is a list: it may be longer before somebody loses the thread.
@pytest.mark.parametrize(
    ("folder", "limit"),
    [("src", 500), ("benchmarks", 400), ("examples", 400), ("scripts", 400), ("tests", 700)],
)
def test_no_file_is_too_long(folder: str, limit: int) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert {path: length for path, length in lengths.items() if length > limit} == {}


def test_no_function_is_longer_than_50_lines() -> None:
    """Without its docstring; nested functions count for themselves as well."""
    long = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                if (n := node.end_lineno - first.lineno + 1) > 50:
                    long[f"{module}:{node.name}"] = n
    assert long == {}


def test_one_module_reads_the_clock() -> None:
    """The others take it from there: a test tool replaces `time.monotonic` wherever a module has it."""
    readers = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            taken = isinstance(node, ast.ImportFrom) and node.module == "time"
            names = {alias.name for alias in node.names} if taken else set()
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "time":
                names = {node.attr}
            if names & {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"}:
                readers.append(f"{module}:{node.lineno}")
    assert {reader.split(":")[0] for reader in readers} == {"_words.clock", "_scope.backends"}, readers  # backends: asks whose it is


def test_every_public_name_has_a_docstring() -> None:
    """Names in `lastly.__all__`, and the public methods of classes among them."""
    import lastly

    silent = []
    for name in lastly.__all__:
        value = getattr(lastly, name)
        if name.startswith("__") or isinstance(value, int | str | tuple):
            continue
        if not value.__doc__:
            silent.append(name)
        if isinstance(value, type):
            silent += [
                f"{name}.{m}"
                for m, v in vars(value).items()
                if not m.startswith("_") and callable(v) and not getattr(v, "__doc__", None)
            ]
    assert silent == []
