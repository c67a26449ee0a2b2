"""A service: ready, at work, and drained, for systemd and for Kubernetes alike.

`python examples/service.py --port 8081`, then `curl localhost:8081/readyz`, and end it with Ctrl-C, `kill`, or `kill -9`.
"""

import argparse
import time

import lastly
from lastly.integrations import systemd
from lastly.integrations.health import Health

# Seconds for all cleanups together: less than TimeoutStopSec and terminationGracePeriodSeconds.
GRACE = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8081, help="where probes ask; 0: any free port")
    parser.add_argument("--host", default="", help="the address to listen on; empty: all")
    parser.add_argument("--goodbye", type=float, default=2, metavar="SECONDS", help="how long its last work takes")
    options = parser.parse_args()

    lastly.install(grace=GRACE)
    health = Health(live_within=30)
    server = health.serve(options.port, options.host)
    work = lastly.temp_dir(prefix="service-")
    lastly.defer(time.sleep, options.goodbye).named("last work")
    print(f"port {server.port}, work in {work}", flush=True)
    systemd.ready("at work")
    while True:
        time.sleep(0.1)  # a piece of work
        health.beat()


if __name__ == "__main__":
    main()
