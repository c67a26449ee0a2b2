"""What `import lastly` costs and needs, and what holds for all its names. The rooms and arrows: tests/test_house.py."""

from __future__ import annotations

import ast
import subprocess

import pytest
from harness import SRC, Programs

HEAVY = (
    "asyncio dataclasses logging sqlite3 socket subprocess json inspect importlib.metadata typing "
    "signal threading functools contextlib warnings enum re collections ctypes tempfile shutil"
).split()


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
    heavy = {"subprocess", "socket", "ctypes", "threading", "lastly.resources._child", "lastly.resources._process"}
    assert sorted(heavy & set(out.split())) == []


def test_the_first_temp_dir_loads_nothing_heavy(programs: Programs, python: str) -> None:
    """What a program pays that owes one folder: the journal is written, a reaper told; nothing is read."""
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import lastly
        lastly.temp_dir().close()
        heavy = {"lastly._journal.index", "array", "itertools", *sys.argv[2:]} - {"ctypes"}  # which has statx
        print(sorted(heavy & set(sys.modules)))
    """
    got = programs.run(code, str(SRC), *HEAVY, python=python, flags=("-I", "-S"))
    assert (got.status, got.out, got.err) == (0, "[]\n", "")


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


def test_one_module_reads_the_clock() -> None:
    """The others take it from there: a test tool replaces `time.monotonic` wherever a module has it."""
    readers = []
    for path in sorted((SRC / "lastly").rglob("*.py")):
        module = ".".join(path.relative_to(SRC / "lastly").with_suffix("").parts)
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
