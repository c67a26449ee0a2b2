"""What a worker and the database count, as Prometheus reads it."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from lastly._reach import desk
from lastly._reach.database import Unusable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._reach.worker import Worker


def serve(worker: "Worker", host: str, port: int) -> ThreadingHTTPServer:
    """Answer ``GET /metrics`` until the process ends; returns the server.

    Raises:
        OSError: the address is taken, or is none of this machine's.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text(worker).encode()
            self.send_response(200 if self.path == "/metrics" else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body) if self.path == "/metrics" else 0))
            self.end_headers()
            if self.path == "/metrics":
                self.wfile.write(body)

        def log_message(self, *_: "Any") -> None:
            """Scrapes are no news."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def text(worker: "Worker") -> str:
    """What is counted now; `up` is 0 while the database cannot be asked."""
    rows: list[tuple[str, dict[str, Any], float]] = [
        ("breaker_open", {}, float(bool(worker.judge.open))),
        ("fenced_total", {}, worker.counts.get("fenced", 0)),
        ("settle_seconds_count", {}, worker.settlings),
        ("settle_seconds_sum", {}, worker.settled_in),
        *(("settled_total", {"state": state}, count) for state, count in list(worker.counts.items())),
    ]
    try:
        rows += [(row["name"], row["labels"], row["value"]) for row in desk.metrics(worker.url)]
        rows.append(("up", {}, 1.0))
    except Unusable:
        rows.append(("up", {}, 0.0))
    return "".join(f"lastly_{name}{_labels(labels)} {value:g}\n" for name, labels, value in rows)


def _labels(labels: "dict[str, Any]") -> str:
    said = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in sorted(labels.items()))
    return f"{{{said}}}" if said else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
