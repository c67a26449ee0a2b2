"""The house: which room may use which, where each line may live. The rooms: docs/explanation/the-house.md.

Every file is parsed once. An arrow is any use of another module of ours: an import at the top or in a function, by name
(``import_module``, ``__import__``) or by a look into ``sys.modules``. Imports for type checking only are free.
"""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "lastly"

pytestmark = pytest.mark.xdist_group("house")  # parsed once, by one worker

# What a user may import; everything else has an underscore.
PUBLIC = {"actions", "app", "errors", "integrations", "resources", "testing"}
# Anybody may use these.
WORDS = {"errors", "_words", "_action"}
# The files beside the rooms, and what each may use.
FILES = {
    "__init__": {"_durable", "_exit", "_scope", "actions", "app", "resources"},  # names only
    "__main__": {"__init__", "_cli", "_run"},
    "_action": {"_durable"},  # a direct call of an action that asks to be recorded: in a function
    "actions": {"_durable", "_system"},
    "errors": set(),
}
# The one arrow that runs up: a scope hands actions to the journal.
STAIR = ("_scope.scope", "_durable.seam")
# The program of another process, started by the owner's interpreter: it alone uses what stands above its room.
OTHER_PROCESS = "_settle.runner"

# Beside the standard library, by room or file; what is in integrations/ and testing/ is there for its framework.
THIRD_PARTY = {
    "_cli": {"rich", "yaml"},
    "_exit.event_loops": {"trio"},
    "_exit.state": {"_xxsubinterpreters"},  # the standard library's, without a public name before 3.14
    "_pyinstaller": {"PyInstaller"},
    "_run": {"sitecustomize"},  # the one that the injected sitecustomize stands in front of
    "_scope.awaiting": {"anyio", "trio"},
    "_scope.backends": {"anyio", "trio"},
    "_reach": {"procrastinate", "psycopg"},
    "app": {"colorlog", "yaml"},
    "resources._process": {"anyio", "trio"},
}

LINES, FUNCTION = 500, 50
# A file of tests is a list: it may be longer before somebody loses the thread.
OTHER_LINES = {"benchmarks": 400, "examples": 400, "scripts": 400, "tests": 700}


class Arrow(NamedTuple):
    source: str  # "_journal.file"
    target: str  # "_journal.record", or "click"
    line: int
    how: str  # "top", "function", "name"

    @property
    def rooms(self) -> tuple[str, str]:
        return self.source.split(".")[0], self.target.split(".")[0]

    def __str__(self) -> str:
        room = self.rooms[0]
        return f"{self.source}:{self.line} → {self.target} ({self.how}). {room}: {sentence(room)}"


class File(NamedTuple):
    module: str
    path: Path
    text: str
    tree: ast.Module
    nodes: tuple[ast.AST, ...]

    @property
    def room(self) -> str:
        return self.module.split(".")[0]


@cache
def files() -> dict[str, File]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        text, module = path.read_text(encoding="utf-8"), ".".join(parts)
        tree = ast.parse(text)
        found[module] = File(module, path, text, tree, tuple(ast.walk(tree)))
    return found


@cache
def rooms() -> set[str]:
    return {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}


@cache
def doc(module: str) -> str:
    return " ".join((ast.get_docstring(files()[module].tree) or "").split())


@cache
def sentence(room: str) -> str:
    """What a room is, and what it may use: its docstring as far as that."""
    return doc(room).partition(" Used by:")[0] if room in rooms() else "a file beside the rooms"


@cache
def may_use(room: str) -> set[str]:
    if room in FILES:
        return FILES[room]
    match = re.search(r"May use: ([^.]*)\.", doc(room))
    return set(re.findall(r"\w+", match[1])) - {"nothing"} if match else set()


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def is_label(node: ast.AST) -> bool:
    """A text that is compared, or that names a function's module, uses nothing."""
    if isinstance(node, ast.Compare):
        return all(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
    return isinstance(node, ast.Assign) and any(getattr(place, "attr", "") == "__module__" for place in node.targets)


@cache
def arrows() -> tuple[Arrow, ...]:
    return tuple(arrow for file in files().values() for arrow in arrows_of(file))


def arrows_of(file: File) -> list[Arrow]:
    found: list[Arrow] = []

    def visit(node: ast.AST, how: str) -> None:
        if is_type_checking(node):
            for other in node.orelse:  # type: ignore[attr-defined]
                visit(other, how)
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            how = "function"
        found.extend(Arrow(file.module, target, node.lineno, kind) for target, kind in targets(file, node, how))  # type: ignore[attr-defined]
        for child in ast.iter_child_nodes(node):
            if not (isinstance(child, ast.Constant) and is_label(node)):
                visit(child, how)

    visit(file.tree, "top")
    return found


def targets(file: File, node: ast.AST, how: str) -> list[tuple[str, str]]:
    if isinstance(node, ast.Import):
        return [(below(alias.name), how) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = ["lastly", *file.path.relative_to(PACKAGE).parts[:-1]]
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
        # lastly.__version__ is a text: the package is loaded before any of its modules
        wholes = [f"{base}.{alias.name}" for alias in node.names if (base, alias.name) != ("lastly", "__version__")]
        return [(below(whole) if below(whole) in files() else below(base), how) for whole in wholes]
    # sys.modules.get("lastly.x"), import_module("lastly.x"), "lastly.x" in sys.modules: any text that is a module's name
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("lastly."):
        return [(below(node.value), "name")] if below(node.value) in files() else []
    return []


def below(name: str) -> str:
    ours = name.removeprefix("lastly.")
    return "__init__" if name == "lastly" else ours if ours in files() else name


@cache
def inner() -> tuple[Arrow, ...]:
    return tuple(a for a in arrows() if a.target in files() and a.target != a.source)


def judge(found: dict[str, object]) -> None:
    """None may be found; they are said by their names."""
    assert not found, "not allowed:\n" + "\n".join(f"{name}: {where}" for name, where in found.items())


def named(bad: list[Arrow]) -> dict[str, object]:
    return {f"{a.source} → {a.target}": a for a in bad}


# -- 1. names


def test_what_a_user_may_import_has_no_underscore() -> None:
    here = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py"} | rooms()
    assert {name for name in here - {"__init__", "__main__"} if not name.startswith("_")} == PUBLIC


def test_the_hall_holds_few_files() -> None:
    assert {p.stem for p in PACKAGE.glob("*.py")} == FILES.keys()


# -- 2. sentences


def test_every_room_says_what_it_is() -> None:
    """And who may use whom, if it is a room of the house and not a folder inside one."""
    inside = [m for m, f in files().items() if f.path.name == "__init__.py" and "." in m and m != "_run.site"]
    assert [m for m in inside if len(doc(m).split()) < 4] == []
    assert [m for m in rooms() if not re.match(r".{20,}\. .*May use: [^.]+\. Used by: [^.]+\.", doc(m))] == []


def test_what_rooms_say_of_one_another_is_true() -> None:
    """No room may use what it does not use, and each names its users."""
    used: dict[str, set[str]] = {}
    for a in inner():
        if a.rooms[0] != a.rooms[1] and a.source != OTHER_PROCESS and (a.source, a.target) != STAIR:
            used.setdefault(a.rooms[0], set()).add(a.rooms[1])
    unused = {room: over for room in sorted(rooms()) if (over := may_use(room) - used.get(room, set()))}
    assert unused == {}
    silent = {}
    for room in sorted(rooms()):
        users = doc(room).partition("Used by: ")[2]
        missing = {other for other in rooms() if room in may_use(other)} - set(re.findall(r"\w+", users))
        if missing and not re.match(r"everybody|everything", users):
            silent[room] = missing
    assert silent == {}


# -- 3. arrows


def test_every_arrow_is_allowed_by_its_room() -> None:
    def bad(a: Arrow) -> bool:
        source, target = a.rooms
        if source == target or target in WORDS or (a.source, a.target) == STAIR or a.source == OTHER_PROCESS:
            return False
        return target not in may_use(source)

    judge(named([a for a in inner() if bad(a)]))


def test_exactly_one_arrow_runs_up() -> None:
    """The order of the rooms is what they say of one another: it has no circle but by the stair."""
    graph = {room: may_use(room) & rooms() for room in rooms()}
    assert circles(graph) == []
    assert [a for a in inner() if (a.source, a.target) == STAIR]


def test_no_circle_of_files_at_run_time() -> None:
    graph: dict[str, set[str]] = {}
    for a in inner():
        if (a.source, a.target) != STAIR and a.source != OTHER_PROCESS:
            graph.setdefault(a.source, set()).add(a.target)
    assert circles(graph) == []


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of nodes that reach one another (Tarjan), largest first."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group: list[str] = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(found, key=len, reverse=True)


def test_an_integration_imports_no_other() -> None:
    def strays(a: Arrow) -> bool:
        both = a.rooms == ("integrations", "integrations")
        return both and not a.target.startswith(("integrations._", "integrations.health"))

    judge(named([a for a in inner() if strays(a)]))


def test_frameworks_are_imported_by_their_own_file_only() -> None:
    def foreign(a: Arrow) -> bool:
        room, top = a.rooms
        if a.target in files() or top in sys.stdlib_module_names or room in ("integrations", "testing"):
            return False
        return top not in THIRD_PARTY.get(a.source, set()) | THIRD_PARTY.get(room, set())

    judge(named([a for a in arrows() if foreign(a)]))


def test_the_reaper_imports_no_user_code() -> None:
    """Only the program that it starts for a user's action may import by name."""
    loaders = {"importlib", "runpy", "pkgutil", "imp"}
    side = {"_reaper", "_settle", "_journal", "_system"}
    judge(named([a for a in arrows() if a.rooms[0] in side and a.source != OTHER_PROCESS and a.rooms[1] in loaders]))
    for file in files().values():
        if file.room in side | {"_durable"} and file.module != OTHER_PROCESS:
            for node in file.nodes:
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in ("__import__", "exec", "eval"), f"{file.path}:{node.lineno}"


# -- 4. private names, module variables, one reader


def imported_modules(file: File) -> dict[str, str]:
    """Local names that are modules of ours."""
    names = {}
    for node in file.nodes:
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("lastly"):
            for alias in node.names:
                whole = below(f"{node.module}.{alias.name}")
                if whole in files():
                    names[alias.asname or alias.name] = whole
    return names


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_file_touches_another_rooms_private_names() -> None:
    bad: dict[str, object] = {}
    for file in files().values():
        modules = imported_modules(file)
        for node in file.nodes:
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("lastly"):
                module = below(node.module or "")
                for alias in node.names:
                    whole = f"{module}.{alias.name}"
                    if private(alias.name) and module.split(".")[0] not in (file.room, "__init__") and whole not in files():
                        bad[f"{file.module} → {whole}"] = node.lineno
            if isinstance(node, ast.Attribute) and private(node.attr) and isinstance(node.value, ast.Name):
                of = modules.get(node.value.id, file.module)
                if of.split(".")[0] != file.room:
                    bad[f"{file.module} → {of}.{node.attr}"] = node.lineno
    judge(bad)


@cache
def private_names() -> dict[str, set[str]]:
    """The private names of each room: of functions, classes, variables, slots and what is set on ``self``."""
    names: dict[str, set[str]] = {}
    for file in files().values():
        mine = names.setdefault(file.room, set())
        for node in file.nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                mine.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                mine.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
                mine.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # __slots__
                mine.add(node.value)
    return {room: {name for name in mine if private(name)} for room, mine in names.items()}


def is_own(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def test_private_attributes_are_of_the_same_folder() -> None:
    """What SLF001 cannot see: it is off in some folders, whose files are friends of one another only.

    An attribute is judged by its name. Modules of others are not ours, and a line with a reason is ruff's.
    """
    bad: dict[str, object] = {}
    for file in files().values():
        others = {name for room, names in private_names().items() if room != file.room for name in names}
        strange = {
            (alias.asname or alias.name).partition(".")[0]
            for node in file.nodes
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        lines = file.text.splitlines()
        for node in file.nodes:
            if not isinstance(node, ast.Attribute) or not private(node.attr) or is_own(node.value):
                continue
            of_a_module = isinstance(node.value, ast.Name) and node.value.id in strange
            if node.attr in others - private_names()[file.room] and not of_a_module and "SLF001" not in lines[node.lineno - 1]:
                bad[f"{file.module} → {node.attr}"] = node.lineno
    judge(bad)


def test_no_module_variable_is_filled_from_another_module() -> None:
    """Who wants to hear of something subscribes."""
    changing = {"append", "add", "update", "clear", "pop", "discard", "remove", "setdefault", "extend", "insert"}
    bad: dict[str, object] = {}
    for file in files().values():
        modules = imported_modules(file)
        for node in file.nodes:
            places: list[ast.expr] = []
            if isinstance(node, ast.Assign | ast.Delete):
                places = node.targets
            elif isinstance(node, ast.AugAssign | ast.AnnAssign):
                places = [node.target]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in changing:
                places = [node.func.value]
            for place in places:
                at = place.value if isinstance(place, ast.Subscript) else place
                if isinstance(at, ast.Attribute) and isinstance(at.value, ast.Name) and at.value.id in modules:
                    whole = f"{modules[at.value.id]}.{at.attr}"
                    if whole not in files():
                        bad[f"{file.module} → {whole}"] = at.lineno
    judge(bad)


KERNEL = {
    "/proc/PID": r"[\"']/proc/(?:\{|self|%|\d)|listdir\([\"']/proc",
    "pidfd": r"\bpidfd_open\b|\bpidfd_send_signal\b",
    "prctl": r"\bprctl\(",
}


def test_the_kernel_is_asked_in_one_room_only() -> None:
    bad: dict[str, object] = {}
    for file in files().values():
        if file.room != "_system":
            for number, line in enumerate(file.text.splitlines(), 1):
                code = line.partition("  # ")[0]
                bad |= {f"{file.module}: {what}": number for what, pattern in KERNEL.items() if re.search(pattern, code)}
    judge(bad)


# -- sizes


@pytest.mark.parametrize(("folder", "limit"), [("src", LINES), *OTHER_LINES.items()])
def test_no_file_is_too_long(folder: str, limit: int) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    lengths = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in paths}
    assert {path: length for path, length in lengths.items() if length > limit} == {}


def test_no_function_is_too_long() -> None:
    """Without its docstring; nested functions count for themselves as well."""
    long = {}
    for file in files().values():
        for node in file.nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                if (n := node.end_lineno - first.lineno + 1) > FUNCTION:
                    long[f"{file.module}:{node.name}"] = n
    assert long == {}


def test_the_map_names_what_is_there() -> None:
    """Each room has a line in docs/explanation/the-house.md; each file that it and CONTRIBUTING.md name exists."""
    house = (ROOT / "docs" / "explanation" / "the-house.md").read_text(encoding="utf-8")
    assert sorted(room for room in rooms() - {"_pyinstaller"} if f"\n| `{room}` |" not in house) == []
    gone, folder = [], PACKAGE
    for name in re.findall(r"`([\w/]+\.(?:py|md))`", house + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        found = [place / name for place in (folder, PACKAGE, ROOT) if (place / name).exists()]
        gone += [] if found else [name]
        folder = found[0].parent if found else PACKAGE  # "`_exit/swallowed.py`, `clauses.py`"
    assert gone == []
