"""The project's own files: what is published, what a release needs, what a contributor installs."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from harness import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_changelog_and_the_version_agree() -> None:
    assert load("changelog").problems(ROOT) == []


@pytest.mark.parametrize(
    ("file", "before", "after", "says"),
    [
        ("src/lastly/__init__.py", '__version__ = "0.1.0"', '__version__ = "0.2.0"', "__version__ is 0.2.0"),
        ("CHANGELOG.md", "## 0.1.0 (", "## 0.3.0 (not released yet)\n\nMore.\n\n## 0.1.0 (", "begins with 0.3.0"),
        ("CHANGELOG.md", "## 0.1.0 (not released yet)", "## 0.1.0 (2999-01-01)", "day to come"),
        ("CHANGELOG.md", "## 0.1.0 (", "## First (", "no heading"),
    ],
)
def test_what_disagrees_is_said(file: str, before: str, after: str, says: str, tmp_path: Path) -> None:
    for name in ("CHANGELOG.md", "pyproject.toml", "src/lastly/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    text = (tmp_path / file).read_text(encoding="utf-8")
    assert before in text
    (tmp_path / file).write_text(text.replace(before, after, 1), encoding="utf-8")
    assert says in " ".join(load("changelog").problems(tmp_path))


def test_a_release_needs_a_date() -> None:
    version = PROJECT["project"]["version"]
    told = load("changelog").sections((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[version][0]
    wrong = load("changelog").problems(ROOT, version)
    assert bool(wrong) == (told == "not released yet")
    assert load("changelog").problems(ROOT, "9.9.9")


def test_a_group_is_its_requirements() -> None:
    """Included groups and our own extras are resolved: an old pip knows neither."""
    got = subprocess.run([sys.executable, ROOT / "scripts/requirements.py", "dev"], capture_output=True, text=True, check=True)
    found = got.stdout.split("\n")
    assert not [line for line in found if "lastly" in line]
    assert {re.split(r"[\[><=]", line)[0] for line in found} >= {"pytest", "markdown", "flask", "psycopg", "mypy"}


def test_contributors_needs_are_no_extras() -> None:
    assert not {"dev", "demo", "test", "docs"} & PROJECT["project"]["optional-dependencies"].keys()
    assert PROJECT["project"]["dependencies"] == []


def test_links_of_the_readme_work_on_a_package_index() -> None:
    """Those to files of the repository become addresses, by the rule that the build applies."""
    [rule] = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    text = re.sub(rule["pattern"], rule["replacement"], (ROOT / "README.md").read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    assert [link for link in links if not re.match(r"https?://|#", link)] == []
    for link in links:
        _, found, path = link.partition("/blob/main/")
        if found:
            assert (ROOT / path.partition("#")[0]).exists(), link


def test_the_menu_has_every_page_once() -> None:
    def pages(entry: str | list[Any] | dict[str, Any]) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    menu = pages(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"])
    docs = ROOT / "docs"
    assert sorted(menu) == sorted(str(path.relative_to(docs)) for path in docs.rglob("*.md"))


def test_a_site_of_versions(tmp_path: Path) -> None:
    """The newest release is the latest, whatever is published after it; dev is last, and first while it is alone."""
    site, pages = load("site"), tmp_path / "pages"
    for version in ("dev", "0.9", "0.10", "0.9", "dev"):
        built = tmp_path / "built"
        built.mkdir(exist_ok=True)
        (built / "index.html").write_text(version)
        site.place(built, version, pages)
        if version == "dev" and not (pages / "0.9").exists():
            assert "url=dev/" in (pages / "index.html").read_text()
    listed = json.loads((pages / "versions.json").read_text())
    assert [(entry["version"], entry["aliases"]) for entry in listed] == [("0.10", ["latest"]), ("0.9", []), ("dev", [])]
    assert (pages / "latest" / "index.html").read_text() == "0.10"
    assert "url=latest/" in (pages / "index.html").read_text()


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def jobs(path: Path) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_what_a_workflow_runs_is_there(path: Path) -> None:
    """Targets of the Makefile, scripts, and jobs that it waits for; each job has a machine and an end."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    known = jobs(path)
    for name, job in known.items():
        assert job["runs-on"], name
        assert 0 < job["timeout-minutes"] <= 60, name
        needs = job.get("needs", [])
        assert {needs} if isinstance(needs, str) else set(needs) <= known.keys(), name
        assert "continue-on-error" not in str(job), name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            assert "uses" not in step or re.fullmatch(r"[\w.-]+/[\w./-]+@[\w./]+", step["uses"]), step
            lines = str(step.get("run", ""))
            made = {word for line in re.findall(r"^make ([a-z -]+)$", lines, re.MULTILINE) for word in line.split()}
            assert made <= targets, step
            assert all((ROOT / script).exists() for script in re.findall(r"\bscripts/\w+\.py", lines)), step
            with_matrix = set(re.findall(r"\$\{\{ *matrix\.(\w+) *\}\}", str([job["runs-on"], step, job.get("container")])))
            assert with_matrix <= job.get("strategy", {}).get("matrix", {}).keys(), step


def test_the_matrix_has_every_promised_version_and_says_of_the_others_why() -> None:
    [path] = [path for path in WORKFLOWS if path.stem == "tests"]
    known, text = jobs(path), path.read_text(encoding="utf-8")
    promised = [
        word.rpartition(" ")[2] for word in PROJECT["project"]["classifiers"] if re.search(r":: Python :: 3\.\d+$", word)
    ]
    assert known["linux"]["strategy"]["matrix"]["python"] == promised
    everywhere = {str(value) for job in known.values() for values in job.get("strategy", {}).get("matrix", {}).values() for value in values}
    assert everywhere >= {"3.11", "3.12", "3.13", "3.14", "3.14t", "3.15", "ubuntu-24.04-arm"}
    assert all(any(kind in one for one in everywhere) for kind in ("alpine", "macos", "windows"))
    for name, job in known.items():
        if str(job.get("name", "")).startswith("not promised"):
            assert "workflow_dispatch" in job["if"]
            assert re.search(rf"^  {name}:\n    name: [^\n]+\n    # \w", text, re.MULTILINE), f"{name}: no reason"
        else:
            assert "if" not in job, name


def test_what_holds_where_is_what_ci_runs() -> None:
    """The table of docs/reference/platforms.md, the classifiers, the workflow and .ci/run name the same; what nobody promises is said."""
    text = (ROOT / "docs/reference/platforms.md").read_text(encoding="utf-8")
    rows = {
        cells[0]: cells[1:]
        for line in text.splitlines()
        if line.startswith("| ") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4
    }
    del rows["system and Python"]
    promised = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]
    known = jobs(ROOT / ".github/workflows/tests.yml")
    *_, tested = rows.pop(f"Linux, CPython {promised[0]} to {promised[-1]}")
    assert "every push: all tests (`.github/workflows/tests.yml`)" in tested
    assert "make test-all" in str(known["linux"]["steps"])
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert re.findall(r"with (3\.\d+) and (3\.\d+)", tested) == [tuple(re.search(r"scripts/pythons ([\d. ]+)\)", ci)[1].split())]
    rooms = re.findall(r"tests/(\w+)", re.search(r'rooms="(.*)"', ci)[1])
    assert re.search(r"the rooms ([\w, ]+)$", tested)[1].replace(" and ", ", ").split(", ") == rooms
    # What is promised elsewhere is promised in the process, and names the tests that each push runs; or it is done by hand.
    for name, (inside, after, how) in rows.items():
        assert after.startswith("no: one warning") or name.startswith("Linux") or inside == "not promised yet", name
        files = re.findall(r"`(tests/[\w/]+\.py)`", how)
        assert how.startswith(("every push", "by hand")) and bool(files) == how.startswith("every push"), name
        assert all((ROOT / file).exists() for file in files), name
    optional = {str(value) for job in known.values() if "if" in job for values in job["strategy"]["matrix"].values() for value in values}
    for one in ("3.14t", "macos", "windows"):
        assert any(one in value for value in optional), one
        assert any(one.lower() in name.lower() for name in rows), one
    # The emulations and the missing calls are those of the tests named.
    assert {"darwin", "win32"} <= set(re.findall(r'^    "(\w+)": \[sys', (ROOT / "tests/system/test_pythons.py").read_text(), re.MULTILINE))
    fallbacks = (ROOT / "tests/system/test_fallbacks.py").read_text()
    for call in ("pidfd_open", "statx", "memfd_create", "prctl", "_ctypes", "_ssl", "_sqlite3"):
        assert f'"{call}"' in fallbacks, call
        assert call.strip("_") in text, call
    assert not any("Free Threading" in c for c in PROJECT["project"]["classifiers"])
