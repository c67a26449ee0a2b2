"""`lastly doctor` on units and manifests, and the ones in examples/: checked by their own tools where these are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, Programs, Result

from lastly._cli import budgets
from lastly._cli import doctor as doctors
from lastly._cli.finding import Finding

yaml: Any = pytest.importorskip("yaml")

UNITS = ROOT / "examples" / "systemd"
MANIFESTS = sorted((ROOT / "examples" / "kubernetes").glob("*.yaml"))
UNIT = "[Unit]\nDescription=x\n[Service]\nExecStart=/bin/true\nKillMode=mixed\nExecStopPost=lastly reap\n"


Doctor = Callable[..., tuple[list[Finding], dict[str, str]]]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """What it finds, and the level of each; `files` are written first."""
    monkeypatch.chdir(tmp_path)

    def examine(grace: float | None, *paths: str, files: dict[str, str] | None = None) -> tuple[list[Finding], dict[str, str]]:
        for name, text in (files or {}).items():
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(text)
        found = budgets.examine(list(paths), grace)
        return found, {finding.name: finding.level for finding in found}

    return examine


def pod(**spec: Any) -> str:
    container = {"name": "c", "image": "i", **spec.pop("container", {})}
    return json.dumps({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container], **spec}})


@pytest.mark.parametrize(
    ("setting", "grace", "level"),
    [
        ("TimeoutStopSec=30", "20", "ok"),
        ("TimeoutStopSec=1min 30s", "80", "ok"),
        ("TimeoutStopSec=1500ms", "1", "unprotected"),
        ("TimeoutStopSec=30", "30", "unprotected"),
        ("TimeoutStopSec=30", "31", "wrong"),
        ("", "89", "unprotected"),  # 90 s is the default
        ("", "100", "wrong"),
        ("TimeoutSec=2h", "3600", "ok"),
        ("TimeoutStopSec=infinity", "1e6", "ok"),
        ("TimeoutStopSec=0", "1e6", "ok"),
        ("TimeoutStopSec=10\nTimeoutStopSec=60", "50", "ok"),
        ("TimeoutStopSec=10\nTimeoutStopSec=\n", "50", "ok"),
        ("TimeoutStopSec=10 \\\n 20", "20", "ok"),
    ],
)
def test_a_unit_waits_long_enough(setting: str, grace: str, level: str, doctor: Doctor) -> None:
    _, levels = doctor(float(grace), "a.service", files={"a.service": f"{UNIT}{setting}\n"})
    assert levels == {"timeout_stop": level}


def test_a_unit_that_ends_more_than_the_program(doctor: Doctor) -> None:
    unit = "[Service]\nExecStart=/bin/true\n# a comment\nTimeoutStopSec=9\n"
    _, levels = doctor(5.0, "a.service", files={"a.service": unit})
    assert levels == {"timeout_stop": "ok", "kill_mode": "unprotected", "stop_post": "unprotected"}
    drop_in = "[Service]\nKillMode=mixed\nTimeoutStopSec=3\nExecStopPost=-/usr/bin/lastly reap\n"
    _, levels = doctor(5.0, "a.service", files={"a.service.d/10.conf": drop_in})
    assert levels == {"timeout_stop": "wrong"}


@pytest.mark.parametrize(
    ("manifest", "levels"),
    [
        (pod(), {"termination_grace": "ok"}),  # 30 s is the default
        (pod(terminationGracePeriodSeconds=15), {"termination_grace": "wrong"}),
        (pod(terminationGracePeriodSeconds=21), {"termination_grace": "unprotected"}),
        (pod(container={"lifecycle": {"preStop": {"sleep": {"seconds": 15}}}}), {"termination_grace": "wrong"}),
        (
            pod(container={"lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "sleep 9.5; true"]}}}}),
            {"termination_grace": "unprotected"},
        ),
        (
            pod(container={"command": ["/bin/sh", "-c", "python x.py"]}),
            {"termination_grace": "ok", "shell": "unprotected"},
        ),
        (pod(container={"command": ["sh", "-c"], "args": ["exec python x.py"]}), {"termination_grace": "ok"}),
    ],
)
def test_a_pod_waits_long_enough(manifest: str, levels: dict[str, str], doctor: Doctor) -> None:
    assert doctor(20.0, "pod.json", files={"pod.json": manifest})[1] == levels


@pytest.mark.parametrize("kind", ["Deployment", "CronJob", "List"])
def test_whatever_makes_the_pod(kind: str, doctor: Doctor) -> None:
    inner = json.loads(pod(terminationGracePeriodSeconds=5))
    made: dict[str, Any] = {"kind": kind, "metadata": {"name": "d"}, "spec": {"template": {"spec": inner["spec"]}}}
    if kind == "CronJob":
        made["spec"] = {"jobTemplate": {"spec": made["spec"]}}
    if kind == "List":
        made = {"kind": "List", "items": [inner]}
    text = "kind: Service\nspec: {ports: []}\n---\n" + json.dumps(made)
    assert doctor(20.0, "all.yaml", files={"all.yaml": text})[1] == {"termination_grace": "wrong"}


def test_a_budget_that_nobody_told(doctor: Doctor) -> None:
    _, levels = doctor(None, "a.service", "p.json", files={"a.service": UNIT, "p.json": pod()})
    assert levels == {"timeout_stop": "unprotected", "termination_grace": "unprotected"}


def test_what_to_do_about_it(doctor: Doctor) -> None:
    late = pod(container={"lifecycle": {"preStop": {"sleep": {"seconds": 5}}}})
    unit, manifest = doctor(100.0, "a.service", "p.json", files={"a.service": UNIT, "p.json": late})[0]
    assert unit.fix == "TimeoutStopSec=110, or install(grace=80)"
    assert manifest.fix == "terminationGracePeriodSeconds: 115, or install(grace=15)"
    assert manifest.what == (
        "Pod p, container c, after 5 s in its preStop hook: 25 s from SIGTERM to SIGKILL; the cleanups may take 100 s"
    )


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.service", "", "no section"),
        ("a.service", "[Service]\nnonsense\n", "NAME=VALUE"),
        ("a.service", "[Service]\nTimeoutStopSec=soon\n", "a time span is a number and a unit"),
        ("a.service", "[Service]\nTimeoutStopSec=5 fortnights\n", "a time span is a number and a unit"),
        ("p.yaml", "", "no pod in it"),
        ("p.yaml", "- [", "must be YAML, line 1"),
        ("p.yaml", "a: &a [*a]", "no pod in it"),
        ("p.yaml", "kind: [1]\nspec: 3", "no pod in it"),
        ("p.yaml", pod(terminationGracePeriodSeconds="soon"), "must be a number of seconds"),
        ("p.yaml", pod(terminationGracePeriodSeconds=-1), "must be a number of seconds"),
        ("p.yaml", "spec: {containers: [{}], terminationGracePeriodSeconds: .nan}", "must be a number of seconds"),
        ("p.yaml", '{"kind": "Pod", "spec": {"containers": [7]}}', "a container is 7"),
        ("p.yaml", "[" * 5000, "nested too deeply"),
        ("p.yaml", "items: &a\n- items: *a", "nested too deeply"),
        ("bytes.yaml", "\udcff", "must be a text file"),
    ],
)
def test_what_cannot_be_understood(name: str, text: str, word: str, doctor: Doctor) -> None:
    """...is one finding, and one line."""
    Path(name).write_bytes(text.encode(errors="surrogateescape"))
    [finding], _ = doctor(None, name)
    assert (finding.name, finding.level) == ("file", "wrong")
    assert word in finding.what and "\n" not in finding.what


def test_without_a_reader_of_yaml(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert doctor(20.0, "p.yaml", files={"p.yaml": pod()})[1] == {"termination_grace": "ok"}
    [finding], _ = doctor(20.0, "p.yaml", files={"p.yaml": "kind: Pod\n"})
    assert "pip install 'lastly[kubernetes]', or give it JSON" in finding.what


def test_shapes_that_make_no_sense(doctor: Doctor) -> None:
    strange = pod(container={"lifecycle": 3, "command": "x", "args": {}, "livenessProbe": [], "readinessProbe": "x"})
    assert doctor(20.0, "p.yaml", files={"p.yaml": strange})[1] == {"termination_grace": "ok"}


def test_on_the_command_line(programs: Programs) -> None:
    folder = programs.folder
    (folder / "a.service").write_text(UNIT)

    def run(*args: str) -> Result:
        return programs.run_command(["lastly", "doctor", *args], cwd=folder, env={"COLUMNS": "200"})

    short = run("--grace", "200", "a.service")
    assert (short.status, short.err) == (1, "")
    assert "90 s from SIGTERM to SIGKILL; the cleanups may take 200 s" in short.out
    asked = run("--json", "no.yaml", ".", "no-such-unit-at-all.service")
    found = json.loads(asked.out)["findings"]
    assert asked.status == 1
    assert [finding["level"] for finding in found] == ["wrong"] * 3
    assert [f["what"].partition(": ")[2].partition(":")[0] for f in found[:2]] == ["cannot be read"] * 2
    assert "systemd does not know it" in found[2]["what"]
    assert run("--grace", "-1").status == 2


SYSTEMCTL = """#!/bin/sh
case "$*" in *"show known.service "*) ;; *) echo LoadState=not-found; exit 0 ;; esac
echo LoadState=loaded
echo TimeoutStopUSec=1min 30s
echo KillMode=control-group
echo "ExecStopPost={ path=/usr/bin/lastly ; argv[]=/usr/bin/lastly reap ; ignore_errors=no }"
"""


def test_a_unit_that_systemd_knows(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bin").mkdir()
    Path("bin/systemctl").write_text(SYSTEMCTL)
    Path("bin/systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path.cwd()}/bin", prepend=":")
    assert doctor(80.0, "known.service")[1] == {"timeout_stop": "ok", "kill_mode": "unprotected"}
    assert doctor(100.0, "known.service")[1]["timeout_stop"] == "wrong"
    assert doctor(80.0, "other.service")[1] == {"file": "wrong"}
    assert [finding.name for finding in budgets.here("known.service", 80.0)] == ["timeout_stop", "kill_mode"]
    assert budgets.here("other.service", 80.0) == []
    monkeypatch.setattr(doctors, "own_unit", lambda: "known.service")
    assert [finding.level for finding in doctors.systemd(100.0)] == ["wrong", "unprotected"]
    Path("bin/systemctl").write_text("#!/bin/sh\nexit 1\n")
    assert budgets.here("known.service", 80.0) == []
    assert [finding.name for finding in doctors.systemd(100.0)] == ["systemd"]


def test_in_a_pod(programs: Programs) -> None:
    result = programs.run_command(["lastly", "doctor", "--json"], env={"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    found = {finding["name"]: finding["level"] for finding in json.loads(result.out)["findings"]}
    assert (found["container"], found["pod"]) == ("unprotected", "unprotected")


def test_the_reaper_knows_what_running_programs_have_said(programs: Programs) -> None:
    program = programs.start(
        "import lastly, time; lastly.install(grace=17); lastly.temp_dir(); print('ready', flush=True); time.sleep(60)"
    )
    program.line("ready")
    code = "import lastly._cli.doctor, time\nwhile lastly._cli.doctor.announced() != 17.0: time.sleep(0.02)"
    assert programs.run(code).status == 0


# ── the examples ────────────────────────────────────────────────────────────────────────────


def test_the_examples_are_as_they_should_be(doctor: Doctor) -> None:
    """...for the grace that the example program gives itself."""
    grace = re.search(r"^GRACE = (\d+)$", (ROOT / "examples" / "service.py").read_text(), re.MULTILINE)
    assert grace
    _, levels = doctor(float(grace[1]), str(UNITS / "service.service"), *map(str, MANIFESTS))
    assert levels == {"timeout_stop": "ok", "termination_grace": "ok"}


def test_systemd_verifies_the_units(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed; the settings were read by lastly doctor alone")
    units = []
    for path in UNITS.iterdir():
        text = re.sub(r"/opt/service/bin/\w+", "/bin/true", path.read_text())  # must exist to be verified
        units.append(tmp_path / path.name)
        units[-1].write_text(text)
    done = subprocess.run([tool, "verify", "--man=no", *units], capture_output=True, text=True, timeout=60)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if str(tmp_path) in line]
    assert (done.returncode, ours) == (0, [])
    units[0].write_text("[Service]\nNonsense=1\n[Nonsense]\n")
    done = subprocess.run([tool, "verify", "--man=no", units[0]], capture_output=True, text=True, timeout=60)
    assert "Nonsense" in done.stdout + done.stderr  # it does look


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_the_manifests_keep_to_the_schema(path: Path) -> None:
    validate: Any = pytest.importorskip("kubernetes_validate", reason="needs pip install 'lastly[manifests]'")
    documents = list(yaml.safe_load_all(path.read_text()))
    for document in documents:
        validate.validate(document, "1.31", strict=True)
    documents[-1]["spec"]["nonsense"] = 1
    with pytest.raises(validate.ValidationError):
        validate.validate(documents[-1], "1.31", strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_the_manifests_ask_what_the_program_answers(path: Path) -> None:
    from lastly.integrations.health import Health

    health = Health()
    sets = [d["spec"]["template"]["spec"] for d in yaml.safe_load_all(path.read_text()) if "template" in d["spec"]]
    for container in [container for spec in sets for container in spec["containers"]]:
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert container["readinessProbe"]["httpGet"]["path"] == health.ready
        assert container["livenessProbe"]["httpGet"]["path"] == health.live
        assert ports[container["readinessProbe"]["httpGet"]["port"]] == 8081
        assert "default=8081" in (ROOT / "examples" / "service.py").read_text()
        assert "exec" not in container["livenessProbe"]
