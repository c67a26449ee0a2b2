"""An Amazon on this computer: moto's server, whose requests can be made to go wrong in the way of the real one.

    python amazon.py        prints its port, serves until it is killed

A trap is set for the next request that contains a text, in its first line or its body:

    PUT /-/MODE/TEXT    MODE is dropped: it arrives, and is never executed
                                late: it is executed when the trap is opened
                                lost: it is executed, its answer comes when the trap is opened
                                blind: answered with nothing found, though it is there
    GET /-/caught       how many requests were caught since the last DELETE of all
    DELETE /-/MODE      open the traps of one mode; with lates: answered when these have been executed
    DELETE /-/          open all traps, remove those that caught nothing
"""

from __future__ import annotations

import io
import os
import sys
import threading
from urllib.parse import unquote

os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"  # a second for a list that no test reads
from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: E402
from werkzeug.serving import WSGIRequestHandler, make_server  # noqa: E402

NOTHING = (
    b'<?xml version="1.0"?><DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
    b"<reservationSet/></DescribeInstancesResponse>"
)


class Traps:
    def __init__(self, app) -> None:
        self.app = app
        self.changed = threading.Condition()
        self.set: list[tuple[str, str]] = []
        self.caught: list[str] = []  # the mode of each
        self.closed: list[str] = []  # of those that are still in their trap
        self.late = 0

    def __call__(self, environ, start_response):
        path = unquote(environ["PATH_INFO"])
        if path.startswith("/-/"):
            text = self.control(environ["REQUEST_METHOD"], path[3:])
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [text.encode()]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        line = f"{environ['REQUEST_METHOD']} {path}?{environ.get('QUERY_STRING', '')} "
        mode = self.trap_for(line.encode() + body)
        if mode == "blind":
            start_response("200 OK", [("Content-Type", "text/xml")])
            return [NOTHING]
        if mode in ("dropped", "late"):
            self.stay(mode)
        if mode == "dropped":
            start_response("503 Service Unavailable", [])
            return [b""]
        answer = self.app(environ, start_response)
        if mode == "late":
            with self.changed:
                self.late -= 1
                self.changed.notify_all()
        if mode == "lost":
            self.stay(mode)
        return answer

    def control(self, method: str, rest: str) -> str:
        with self.changed:
            if method == "PUT":
                self.set.append(tuple(rest.split("/", 1)))
            elif method == "DELETE":
                self.closed = [mode for mode in self.closed if rest and mode != rest]
                if not rest:
                    self.set, self.caught = [], []
                self.changed.notify_all()
                self.changed.wait_for(lambda: rest != "late" or self.late == 0, 60)
            return str(len(self.caught))

    def trap_for(self, request: bytes) -> str:
        with self.changed:
            for mode, text in self.set:
                if text.encode() in request:
                    self.set.remove((mode, text))
                    self.late += mode == "late"
                    return mode
            return ""

    def stay(self, mode: str) -> None:
        with self.changed:
            self.caught.append(mode)
            self.closed.append(mode)
            self.changed.wait_for(lambda: mode not in self.closed, 60)


class Quiet(WSGIRequestHandler):
    def log(self, *_) -> None:
        pass


if __name__ == "__main__":
    app = Traps(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    print(server.server_port, flush=True)
    sys.stdin.close()
    server.serve_forever()
