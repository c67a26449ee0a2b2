"""What a unit of systemd or a pod of Kubernetes gets wrong about the end of the program in it.

Three questions, of the kind that people answer wrongly without noticing:

1. Is there time enough? Both send SIGTERM, wait, and send SIGKILL. If the program's own total
   (`install(grace=…)`) is longer, the cleanups that come last, of what was acquired first, are cut off.
2. Does SIGTERM go to the program, and to it alone? A shell that is a container's first process keeps it to
   itself; systemd's default, ``KillMode=control-group``, sends it to children that cleanups may still need.
3. Is a kill followed by a reap? systemd can: ``ExecStopPost=lastly reap``.

This is not a linter: other mistakes in such files (rare signals, probes) are left to linters.
"""

import math
import os
import re
import subprocess
import sys

from lastly._cli.finding import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Settings = dict[str, list[str]]

SPARE = 2.0  # seconds between the end of the cleanups and SIGKILL: for the interpreter's own end
FOREVER = float("inf")

_UNITS = {
    "us": 1e-6, "usec": 1e-6, "µs": 1e-6, "ms": 1e-3, "msec": 1e-3, "": 1, "s": 1, "sec": 1, "second": 1,
    "seconds": 1, "m": 60, "min": 60, "minute": 60, "minutes": 60, "h": 3600, "hr": 3600, "hour": 3600,
    "hours": 3600, "d": 86400, "day": 86400, "days": 86400, "w": 604800, "week": 604800, "weeks": 604800,
}  # fmt: skip
_SHOWN = ("TimeoutStopUSec", "KillMode", "ExecStopPost")


class UnreadableError(Exception):
    """It cannot be understood; the text says why."""


def examine(paths: "list[str]", grace: "float | None") -> list[Finding]:
    """Compare each unit or manifest with the seconds that all cleanups may take; None: that is not known."""
    found: list[Finding] = []
    for path in paths:
        try:
            found += _look_at(path, grace)
        except UnreadableError as error:
            found.append(Finding("file", "wrong", f"{path}: {error}"))
        except RecursionError:
            found.append(Finding("file", "wrong", f"{path}: nested too deeply"))
        except OSError as error:
            found.append(Finding("file", "wrong", f"{path}: cannot be read: {error.strerror}"))
    return found


def here(unit: str, grace: "float | None") -> list[Finding]:
    """Look at the unit that this process is part of, if systemd can be asked."""
    try:
        return check_unit(unit, shown(unit), grace)
    except UnreadableError:
        return []


def compare(
    name: str, where: str, limit: float, grace: "float | None", knob: "Callable[[float], str]"
) -> Finding:
    """Say whether this many seconds are enough; `knob` says how to have that many."""
    if limit == FOREVER:
        return Finding(name, "ok", f"{where}: waits for as long as it takes")
    gives = f"{where}: {limit:g} s from SIGTERM to SIGKILL"
    if grace is None:
        fix = "say so: lastly doctor --grace SECONDS; and install(grace=…) in the program"
        return Finding(name, "unprotected", f"{gives}; how long the cleanups may take is not known", fix)
    takes = f"{gives}; the cleanups may take {grace:g} s"
    if grace > limit:
        return Finding(name, "wrong", takes, f"{knob(grace + 10)}, or install(grace={_fitting(limit):g})")
    if grace > limit - SPARE:
        return Finding(
            name, "unprotected", f"{takes}, and then the program has still to end", knob(grace + 10)
        )
    return Finding(name, "ok", takes)


def _fitting(limit: float) -> float:
    return max(limit - 10, limit / 2, 0.0)


def _look_at(path: str, grace: "float | None") -> list[Finding]:
    if path.endswith(".service") and "/" not in path and not os.path.lexists(path):
        return check_unit(path, shown(path), grace)
    if path == "-":
        text = sys.stdin.read()
    else:
        with open(path, encoding="utf-8") as file:
            try:
                text = file.read()
            except UnicodeDecodeError:
                raise UnreadableError("must be a text file") from None
    if path.endswith(".service") or re.search(r"^\[Service\]\s*$", text, re.MULTILINE):
        return check_unit(os.path.basename(path), unit_settings(text, path), grace)
    return _check_manifest(text, grace)


# ── systemd ─────────────────────────────────────────────────────────────────────────────


def check_unit(name: str, settings: "Settings", grace: "float | None") -> list[Finding]:
    """Look at a service's settings."""
    limit = _time_span(_last(settings, "TimeoutStopSec", _last(settings, "TimeoutSec", "90")))
    found = [compare("timeout_stop", name, limit, grace, "TimeoutStopSec={:g}".format)]
    mode = _last(settings, "KillMode", "control-group")
    if mode == "control-group":
        what = f"{name}: KillMode=control-group: SIGTERM goes to the children, too, that cleanups may need"
        found.append(Finding("kill_mode", "unprotected", what, "KillMode=mixed"))
    if not any("lastly" in command and "reap" in command for command in settings.get("ExecStopPost", [])):
        what = f"{name}: what a killed program owes waits for the next start of one with lastly"
        found.append(Finding("stop_post", "unprotected", what, "ExecStopPost=lastly reap"))
    return found


def unit_settings(text: str, path: str) -> "Settings":
    """Read the section [Service] of a unit file and of its drop-ins: all values of each setting, in order."""
    settings: Settings = {}
    folder = f"{path}.d"
    drop_ins = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    texts = [text]
    for name in drop_ins:
        if name.endswith(".conf"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                texts.append(file.read())
    section = ""
    for line in "\n[]\n".join(texts).replace("\\\n", " ").splitlines():
        line = line.strip()  # noqa: PLW2901  # the same line
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif section == "Service" and line[:1] not in ("", "#", ";"):
            name, equals, value = line.partition("=")
            if not equals:
                raise UnreadableError(f"{line!r}: a setting is NAME=VALUE")
            if value.strip():
                settings.setdefault(name.strip(), []).append(value.strip())
            else:
                settings.pop(name.strip(), None)
    if not settings:
        raise UnreadableError("there is no section [Service] in it")
    return settings


def shown(unit: str) -> "Settings":
    """Ask systemd for the settings of a unit that it knows."""
    argv = ["systemctl", "show", unit, *(f"--property={name}" for name in ("LoadState", *_SHOWN))]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    lines = done.stdout.splitlines() if done is not None and done.returncode == 0 else []
    pairs = (line.partition("=") for line in lines)
    settings = {name: [value] for name, _, value in pairs if value}
    if settings.get("LoadState") != ["loaded"]:
        raise UnreadableError("there is no such file, and systemd does not know it as a unit")
    settings["TimeoutStopSec"] = settings.pop("TimeoutStopUSec", ["90"])
    return settings


def _last(settings: "Settings", name: str, default: str) -> str:
    return settings.get(name, [default])[-1]


def _time_span(text: str) -> float:
    """Return a time span of systemd's (``1min 30s``, ``90``, ``infinity``) in seconds."""
    if text == "infinity":
        return FOREVER
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-zµ]*)\s*", text)
    if "".join(text.split()) != "".join(number + unit for number, unit in parts):
        raise UnreadableError(f"{text!r}: a time span is a number and a unit, like 1min 30s")
    try:
        total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    except KeyError:
        raise UnreadableError(f"{text!r}: a time span is a number and a unit, like 1min 30s") from None
    return total or FOREVER  # 0 switches the limit off


# ── Kubernetes ──────────────────────────────────────────────────────────────────────────────


def _check_manifest(text: str, grace: "float | None") -> list[Finding]:
    found: list[Finding] = []
    for name, spec in _pods(_documents(text)):
        found += check_pod(name, spec, grace)
    if not found:
        raise UnreadableError("no pod in it, and nothing that makes pods")
    return found


def _documents(text: str) -> "list[Any]":
    try:
        import yaml
    except ImportError:
        import json

        try:
            return [json.loads(text)]
        except ValueError:
            message = "reading YAML needs PyYAML: pip install 'lastly[kubernetes]', or give it JSON"
            raise UnreadableError(message) from None
    try:
        return list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}: {getattr(error, 'problem', '')}"
        raise UnreadableError(f"must be YAML{where}") from None


def _pods(documents: "list[Any]") -> "Iterator[tuple[str, dict[str, Any]]]":
    """Find the specifications of pods, whatever makes them."""
    for document in documents:
        if isinstance(items := _at(document, "items"), list):
            yield from _pods(items)
            continue
        spec = _at(document, "spec")
        for key in ("jobTemplate", "template"):
            spec = _at(spec, key, "spec") or spec
        if isinstance(_at(spec, "containers"), list):
            yield f"{_at(document, 'kind')} {_at(document, 'metadata', 'name')}", spec


def _at(value: "Any", *keys: str) -> "Any":
    """Return what is at this place of a document; None when it has another shape."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def check_pod(name: str, spec: "dict[str, Any]", grace: "float | None") -> list[Finding]:
    """Look at the specification of a pod."""
    limit = spec.get("terminationGracePeriodSeconds", 30)
    if not isinstance(limit, (int, float)) or isinstance(limit, bool) or not limit >= 0:
        raise UnreadableError(f"terminationGracePeriodSeconds: {limit!r}: must be a number of seconds")
    found = []
    for container in spec["containers"]:
        if not isinstance(container, dict):
            raise UnreadableError(f"{name}: a container is {container!r}")
        where = f"{name}, container {container.get('name', '?')}"
        hook = _pre_stop(container)
        within = f"{where}, after {hook:g} s in its preStop hook" if hook else where

        def knob(seconds: float, hook: float = hook) -> str:
            return f"terminationGracePeriodSeconds: {math.ceil(seconds + hook)}"

        found.append(compare("termination_grace", within, limit - hook, grace, knob))
        found += _check_container(where, container)
    return found


def _pre_stop(container: "dict[str, Any]") -> float:
    """Return the seconds that the preStop hook sleeps: they count, and SIGTERM comes after them."""
    seconds = _at(container, "lifecycle", "preStop", "sleep", "seconds")
    command = " ".join(_words(_at(container, "lifecycle", "preStop", "exec", "command")))
    if slept := re.search(r"\bsleep (\d+(?:\.\d+)?)", command):
        seconds = float(slept[1])
    return float(seconds) if isinstance(seconds, (int, float)) else 0.0


def _words(command: "Any") -> list[str]:
    return list(map(str, command)) if isinstance(command, list) else []


def _check_container(where: str, container: "dict[str, Any]") -> list[Finding]:
    found = []
    words = [*_words(container.get("command")), *_words(container.get("args"))]
    shell = len(words) > 2 and re.fullmatch(r"(.*/)?(ba|da|z)?sh", words[0]) and "-c" in words[1:]
    if shell and not words[-1].lstrip().startswith("exec "):
        what = f"{where}: its first process is a shell, which keeps SIGTERM to itself"
        fix = "command: [lastly, run, --, …], or `exec` in the shell"
        found.append(Finding("shell", "unprotected", what, fix))
    return found
