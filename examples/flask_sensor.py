"""A sensor behind Flask: read again and again by APScheduler, asked for over HTTP, and nothing left in the end.

``python examples/flask_sensor.py [port]``, ``flask --app examples.flask_sensor run --debug``, or ``gunicorn --preload
examples.flask_sensor:app``. Readings are kept in a temporary database; it goes when the server ends: by Ctrl-C, SIGTERM,
or kill -9. Whoever is being answered by then gets the whole answer.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from apscheduler.schedulers.background import BackgroundScheduler
from flask import Flask

import lastly
from lastly.integrations.apscheduler import manage
from lastly.integrations.flask import Lastly

if TYPE_CHECKING:
    from collections.abc import Iterator

app = Flask(__name__)
cleanups = Lastly(app, signals=True, health=True)

work = lastly.temp_dir(prefix="sensor-")
database = os.path.join(work, "readings.sqlite")


@contextmanager
def connect() -> Iterator[sqlite3.Connection]:
    """A connection for one transaction."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS readings (at REAL, load REAL)")
        yield connection


def sensor() -> None:
    """Read how busy this machine is."""
    with connect() as readings:
        readings.execute("INSERT INTO readings VALUES (?, ?)", (time.time(), os.getloadavg()[0]))


def goodbye() -> None:
    """Say how much was read: no job runs any more, and no request."""
    with connect() as readings:
        (count,) = readings.execute("SELECT count(*) FROM readings").fetchone()
    print(f"{count} readings, the last one is in", flush=True)


cleanups.defer(goodbye)
scheduler = manage(BackgroundScheduler())
scheduler.add_job(sensor, "interval", seconds=0.5)
scheduler.start()


@app.get("/")
def latest() -> dict[str, float | int]:
    """The mean of all readings so far."""
    with connect() as readings:
        count, mean = readings.execute("SELECT count(*), avg(load) FROM readings").fetchone()
    return {"readings": count, "mean": mean or 0.0}


if __name__ == "__main__":
    app.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
