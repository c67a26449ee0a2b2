"""Tests with a server of their own, which no killed run leaves behind: ``pytest examples/test_shop.py``.

Kill it in whatever way you like, while it waits (``WAIT=60 pytest -s examples/test_shop.py``): the server, its data
and the test's folder go. The next run says in one line what was reaped. ``--lastly-leaks`` finds nothing here.
"""

import json
import os
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

import lastly

# A shop: serves the files of its folder, and writes down where.
SHOP = """
import http.server, json, os
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
with open("address.new", "w") as out:
    json.dump("http://127.0.0.1:%d" % server.server_port, out)
os.rename("address.new", "address")
server.serve_forever()
"""


@pytest.fixture(scope="session")
def shop(lastly_session_scope: lastly.Scope) -> str:
    """One server for all tests; it ends first, then its folder goes: newest first."""
    data = lastly.temp_dir(prefix="shop-", scope=lastly_session_scope)
    (data / "prices").write_text('{"tea": 3}')
    lastly.server(
        [sys.executable, "-c", SHOP],
        ready=(data / "address").exists,
        scope=lastly_session_scope,
        cwd=data,
        stderr=-3,
    )
    return json.loads((data / "address").read_text())


@pytest.fixture
def work(lastly_scope: lastly.Scope) -> Path:
    """A folder for one test."""
    return Path(lastly.temp_dir(prefix="shop-test-", scope=lastly_scope))


def test_prices(shop: str) -> None:
    with urlopen(f"{shop}/prices") as answer:
        assert json.load(answer) == {"tea": 3}


def test_export(shop: str, work: Path) -> None:
    with urlopen(f"{shop}/prices") as answer:
        (work / "prices.json").write_bytes(answer.read())
    pause = float(os.environ.get("WAIT", "0"))
    print(f"waiting {pause:g} s, with {work}", flush=True)
    time.sleep(pause)
    assert (work / "prices.json").stat().st_size == 10
