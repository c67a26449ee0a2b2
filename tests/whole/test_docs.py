"""Every example in the README and in docs/ is run, and says what it does.

The conventions, for who writes a page:

* A ```python block is a program: it runs in a process of its own. All blocks of one page share a folder (their working
  directory) and a LASTLY_HOME; no two pages share anything.
* In a ```console block each line that begins with "$ " is run by sh; the lines after it are what it prints.
* A ```text block right after a ```python block is what that prints, stdout and stderr together. In expected output a
  "..." stands for anything.
* An HTML comment on the line before a block changes this:
  ``<!-- status: -15 -->``      it ends so (minus the number of a signal); without the comment: 0
  ``<!-- send: TERM at ready -->``   when it prints a line with "ready", it gets this signal
  ``<!-- run -->``              it has the name of a file, and is run all the same
  ``<!-- continue -->``         runs after the code of the python blocks before it, as one program
  ``<!-- needs: flask -->``     only where this module is installed
  ``<!-- within: 60 -->``       it may take so many seconds; without the comment: 40
  ``<!-- fragment -->``         not a program; Python must still compile
  ``<!-- once: why -->``        a second time it would take too long, or cannot do the same
  Several comments may stand above each other.
* A paragraph that is a name and a colon (`` `deploy.py`: ``) before a block and its comments names its file, where every
  reader sees it. The block is written to that file, for the blocks after it, and not run. Any language.
* A page is run twice in the same folder, as a reader does who tries it again: the second time it says the same.
  (Once in the first tier.)
* Programs write as to a terminal: what is printed is seen at once, in its order with errors.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import harness
import pytest
from harness import PATIENCE, ROOT, Program, Programs, clean_environment
from pages import Example, examples

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("python", "console")
BLOB = "https://github.com/lastly-py/lastly/blob/main/"


class Page:
    """Runs the examples of one page in their order, in one folder."""

    def __init__(self, path: Path, programs: Programs, folder: Path) -> None:
        self.path = path
        self.programs = programs
        self.folder = folder
        self.before = ""  # what a block marked "continue" continues
        (folder / "tmp").mkdir(parents=True)
        tools = Path(sys.executable).parent
        self.env = clean_environment(
            programs.home,
            TMPDIR=str(folder / "tmp"),
            HOME=str(folder),
            PATH=f"{tools}{os.pathsep}{os.environ['PATH']}",
            COLUMNS="120",
            NO_COLOR="1",
            PYTHONUNBUFFERED="1",
        )

    def run(self, example: Example) -> None:
        notes = example.notes
        where = f"{self.path.relative_to(ROOT)}:{example.line}"
        if name := example.name:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(example.code)
        if example.language == "python":
            compile(example.code, where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if "continue" in notes:
                example = example._replace(code=f"{self.before}\n{example.code}")
        if (name and "run" not in notes) or "fragment" in notes or example.language not in RUN:
            return
        if "needs" in notes and not all(map(importlib.util.find_spec, notes["needs"].split())):
            return
        if example.language == "console":
            self._console(example, where)
        else:
            self._python(example, where)

    def _python(self, example: Example, where: str) -> None:
        self.before = example.code
        name = example.name or f"example{example.line}.py"
        (self.folder / name).write_text(example.code)
        program = self._start([sys.executable, name])
        if sent := example.notes.get("send"):
            signum, _, mark = sent.partition(" at ")
            program.line(mark)
            program.send(signal.Signals[f"SIG{signum}"])
        result = program.wait(within=float(example.notes.get("within", PATIENCE)))
        assert result.status == int(example.notes.get("status", 0)), f"{where}: {result.status}\n{result.out}"
        if example.expected is not None:
            same(example.expected, result.out, where)

    def _console(self, example: Example, where: str) -> None:
        for chunk in re.split(r"^\$ ", example.code, flags=re.MULTILINE)[1:]:
            command, _, expected = chunk.partition("\n")
            while command.endswith("\\"):
                more, _, expected = expected.partition("\n")
                command = f"{command}\n{more}"
            result = self._start(["sh", "-c", command]).wait(within=float(example.notes.get("within", PATIENCE)))
            same(expected, result.out, f"{where}: $ {command}")

    def _start(self, argv: list[str]) -> Program:
        program = Program(["sh", "-c", 'exec "$@" 2>&1', "sh", *argv], env=self.env, cwd=self.folder)
        self.programs.started.append(program)
        return program


def same(expected: str, got: str, where: str) -> None:
    if "Traceback" in got and not re.search(r"Error|Exit|Exception|Interrupt", expected):
        raise AssertionError(f"{where}: an error that the page does not show\n{got}")
    check = doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if not check.check_output(expected.strip(), got.strip(), flags):
        raise AssertionError(f"{where}\n--- expected\n{expected}\n--- got\n{got}")


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
@pytest.mark.slow(keep=18)
def test_the_examples_of_a_page_do_what_it_says(path: Path, programs: Programs, tmp_path: Path) -> None:
    page = Page(path, programs, tmp_path / "page")
    found = examples(path.read_text(encoding="utf-8"))
    again = [each for each in found if "once" not in each.notes and not harness.first_tier]
    for example in [*found, *again]:
        page.run(example)


def test_every_public_name_is_in_the_reference() -> None:
    """As a heading of its own, so that a link can point at it. (The names of App are on its page.)"""
    import lastly

    public = [
        name
        for name in dir(lastly)
        if not name.startswith("_") and name != "TYPE_CHECKING"
        if name == "actions" or not isinstance(getattr(lastly, name), ModuleType)
    ]
    headings = "\n".join(
        line
        for path in (ROOT / "docs" / "reference").glob("*.md")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    )
    words = set(re.findall(r"\w+", headings))
    assert sorted(set(public) - words) == []


def test_the_reference_is_what_the_docstrings_say() -> None:
    argv = [sys.executable, str(ROOT / "scripts" / "reference.py"), "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nWrite them anew: make docs"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if file.startswith(BLOB):
            if not (ROOT / file.removeprefix(BLOB)).exists():
                broken.append(target)
            continue
        if re.match(r"\w+:", target):
            continue
        other = (path.parent / file).resolve() if file else path
        on_site = other.is_relative_to(ROOT / "docs") or path.name == "README.md"
        if not other.exists() or not on_site:  # the site has the pages of docs/ only
            broken.append(target)
        elif anchor and anchor not in anchors(other):
            broken.append(target)
    assert broken == []


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            title = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
            found.add(title.replace(" ", "-"))
    return found


def test_every_page_is_reached_from_the_index() -> None:
    docs = ROOT / "docs"
    seen, todo = set(), [docs / "index.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            todo.append((page.parent / target).resolve())
    assert sorted(str(p.relative_to(docs)) for p in set(docs.rglob("*.md")) - seen) == []


# Pages that a reader follows, and those of names that need something else than lastly.
FOLLOWED = [page for page in PAGES if page.parent.name == "how-to" or page.stem.startswith("tutorial")]
MORE = [ROOT / "docs" / "reference" / f"{name}.md" for name in ("app", "integrations", "pytest", "servers", "shared-journal", "testing")]


@pytest.mark.parametrize("path", [*FOLLOWED, *MORE], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_page_says_at_its_top_what_it_needs(path: Path) -> None:
    top = path.read_text(encoding="utf-8").partition("\n## ")[0]
    assert re.search(r"^Needs: .+", top, re.MULTILINE)
