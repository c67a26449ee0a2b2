"""A Flask site on gunicorn is told to end while it is asked without a pause: what is lost, and how long it takes.

Lost is a request of a client that was connected and got no answer, or half of one. The peer is the same site without
lastly, whose cleanup is an atexit function.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import Report, median, private_home

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "process"))
from load import Load  # the tests' load generator

PASSES = 15
CLIENTS = 10
WORKERS = 2

APP = """
import time
from flask import Flask
app = Flask(__name__)
{cleanup}

@app.get("/")
def index():
    time.sleep(0.002)  # a database answers
    return "hello"
"""
PLAIN = "import atexit\natexit.register(print, 'closed')"
OURS = "from lastly.integrations.flask import Lastly\nLastly(app, health=True).defer(print, 'closed')"
CONFIG = "from lastly.integrations.gunicorn import manage\nmanage(globals())\n"


class Pass(NamedTuple):
    seconds: float
    lost: int
    answered: int


def ended(folder: Path, kind: str) -> Pass:
    """Start the site, load it, send SIGTERM to the master; what came of it."""
    argv = [sys.executable, "-m", "gunicorn", "--bind=127.0.0.1:0", f"--workers={WORKERS}"]
    argv += [f"--worker-class={kind}", "--threads=4" if kind == "gthread" else "--threads=1", "app:app"]
    env = {**os.environ, "HOME": str(folder)}
    server = subprocess.Popen(argv, cwd=folder, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(rb"Listening at: http://127\.0\.0\.1:(\d+)", line):
            break
    with Load(int(found[1]), clients=CLIENTS) as load:
        while load.answered < 200:
            time.sleep(0.01)
        start = time.perf_counter()
        server.send_signal(signal.SIGTERM)
        server.stderr.read()
        server.wait()
        seconds = time.perf_counter() - start
    server.stderr.close()
    return Pass(seconds, len(load.lost), load.answered)


def main() -> None:
    """Print the table."""
    report = Report(f"SIGTERM under load: Flask on gunicorn, {WORKERS} workers, {CLIENTS} clients, {PASSES} times")
    with private_home(), tempfile.TemporaryDirectory() as scratch:
        for name, cleanup in (("plain", PLAIN), ("ours", OURS)):
            (Path(scratch) / name).mkdir()
            (Path(scratch) / name / "app.py").write_text(APP.format(cleanup=cleanup))
        (Path(scratch) / "ours" / "gunicorn.conf.py").write_text(CONFIG)
        for kind in ("sync", "gthread"):
            passes: dict[str, list[Pass]] = {"ours": [], "plain": []}
            for _ in range(PASSES):
                for name, done in passes.items():
                    done.append(ended(Path(scratch) / name, kind))
            times = {name: median([p.seconds for p in done]) for name, done in passes.items()}
            lost = {name: sum(p.lost for p in done) for name, done in passes.items()}
            report.ratio(f"{kind}: until reaped", times["ours"], "without", times["plain"], target=1.05)
            report.number(f"{kind}: requests lost", lost["ours"], "lost", target=0)
            report.number(f"{kind}: requests lost without", lost["plain"], "lost")
    report.print()


if __name__ == "__main__":
    main()
