"""Run CPython's own tests under `lastly run` and without it, and compare them case by case.

    python scripts/transparency.py [--python PATH] [test_tempfile test_signal …]

Needs an interpreter that ships its tests (python.org's and pyenv's do, most distributions put them into a
package of their own). A case that differs is run again by itself, both ways: what differs once is noise, what
differs twice is listed. Exit status 1: something is listed that KNOWN does not explain.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

TESTS = [
    "test_tempfile", "test_subprocess", "test_signal", "test_threading", "test_atexit", "test_fork1",
    "test_os", "test_posix", "test_pty", "test_audit", "test_site", "test_cmd_line", "test_asyncio",
    "test_multiprocessing_main_handling", "test_multiprocessing_fork", "test_multiprocessing_spawn",
    "test_multiprocessing_forkserver",
]  # fmt: skip
SRC = Path(__file__).resolve().parents[1] / "src"
LIMIT = 1200

# Cases that cannot be equal, and why: they are in docs/how-to/lastly-run.md, too.
KNOWN = {
    "test_signal.PosixTests.test_getsignal": "asks that SIGHUP has its default action",
    "test_signal.PosixTests.test_no_repr_is_called_on_signal_handler": "the same, since 3.13",
}


def outcomes(python: str, words: list[str], *, ours: bool, home: str) -> dict[str, str]:
    """Run tests; return the outcome of each case: passed, failed, error or skipped."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LASTLY_"))}
    env["LASTLY_HOME"] = home
    launcher = [sys.executable, "-m", "lastly", "run", "--"] if ours else []
    with tempfile.TemporaryDirectory(prefix="lt-") as folder:
        report = os.path.join(folder, "report.xml")
        argv = [*launcher, python, "-m", "test", "--junit-xml", report, *words]
        done = subprocess.run(
            argv, cwd=folder, env={**env, "TMPDIR": folder}, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=LIMIT, text=True, errors="replace", check=False,
        )  # fmt: skip
        found = {}
        if os.path.exists(report):
            for case in ET.parse(report).iter("testcase"):
                kind = next((c.tag for c in case if c.tag in ("failure", "error", "skipped")), "passed")
                found[case.get("name") or ""] = kind
        if not found:
            print((done.stdout + done.stderr).rstrip()[-300:])
        return found


def differences(bare: dict[str, str], ours: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return the cases with different outcomes."""
    names = bare.keys() | ours.keys()
    pairs = {name: (bare.get(name, "absent"), ours.get(name, "absent")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def compare(python: str, test: str, home: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Compare one test module; what differs is run three more times by itself. Also: how many cases."""
    bare, under = (outcomes(python, [test], ours=ours, home=home) for ours in (False, True))
    found = differences(bare, under)
    for name in list(found):
        method = re.sub(r"\s.*", "", name).rpartition(".")[2]
        for _ in range(3):
            again = [outcomes(python, [test, "-m", method], ours=ours, home=home) for ours in (False, True)]
            if name not in differences(*again):
                del found[name]
                break
    return len(bare), found


def main() -> int:
    """Compare everything; print one line per module and one per case that differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", help="interpreter; may be given more than once")
    parser.add_argument("tests", nargs="*", default=TESTS)
    chosen = parser.parse_args()
    # Started in the background, this would hand ignored signals on, and tests of signals would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for signum in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_DFL)
    unexplained = 0
    for python in chosen.python or [sys.executable]:
        asked = subprocess.run([python, "-VV"], capture_output=True, text=True, check=True)
        version = asked.stdout.split(" (")[0]
        probe = [python, "-c", "import test.test_tempfile"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            print(f"{version}: ships no tests")
            continue
        for test in chosen.tests:
            with tempfile.TemporaryDirectory(prefix="lt-", ignore_cleanup_errors=True) as home:
                cases, found = compare(python, test, home)
            verdict = f"{len(found)} differ" if found else "as without" if cases else "cannot be run here"
            print(f"{version}  {test}: {cases} cases, {verdict}", flush=True)
            for name, (without, under) in sorted(found.items()):
                reason = next((why for part, why in KNOWN.items() if part in name), "")
                unexplained += not reason
                print(f"    {name}: {without} without, {under} under lastly run. {reason}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
