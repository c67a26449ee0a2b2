"""The reaper's socket, fed with whatever hypothesis thinks of: it answers or hangs up, and lives."""

import json
import os
import signal
import socket

import pytest
from harness import examples, gone, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lastly._reaper import desk, protocol

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
OPS = st.sampled_from(["own", "deadline", "calm", "sweep", "status", "line", "", "OWN"])
MESSAGE = st.fixed_dictionaries(
    {"op": OPS | JSON},
    optional={
        "v": JSON, "journal": JSON | st.sampled_from(["../x.j", "a/b.j", "/etc/passwd", "./.j", "a/..j"]),
        "signals": JSON | st.lists(st.integers(), max_size=3), "grace": JSON | st.floats(), "force": JSON,
    },
)  # fmt: skip


@given(st.binary(max_size=9000))
def test_decode_gives_an_object_or_a_value_error(raw):
    try:
        assert isinstance(protocol.decode(raw), dict)
    except ValueError:
        pass


@given(JSON)
def test_what_is_encoded_is_decoded(value):
    assert protocol.decode(protocol.encode("x", value=value))["value"] == json.loads(json.dumps(value))


@pytest.fixture
def served(programs, home):
    """A reaper with one owner; at the end it is still the same, and still cleans up."""
    program = programs.start("import lastly, time\nprint(lastly.temp_dir(), flush=True)\ntime.sleep(1000)\n")
    made = program.line()
    pid = wait_until(lambda: (desk.status() or {}).get("pid"))
    yield str(home / "reaper.sock")
    assert os.path.isdir(made)
    program.send(signal.SIGKILL)
    wait_until(lambda: gone(made))
    assert (desk.status() or {})["pid"] == pid


def talk(path, messages, fds=()):
    """Send packets, with descriptors on the first; read until the reaper has answered or hung up."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(10)
    try:
        sock.connect(path)
        for message in messages:
            if fds:
                socket.send_fds(sock, [message], list(fds))
                fds = ()
            else:
                sock.send(message)
        sock.shutdown(socket.SHUT_WR)
        answers = []
        while answer := sock.recv(1 << 16):
            answers.append(json.loads(answer))
    except (BrokenPipeError, ConnectionResetError):
        return []
    finally:
        sock.close()
    return answers


QUICK = settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(messages=st.lists(st.binary(min_size=1, max_size=9000), min_size=1, max_size=5))
def test_any_bytes(served, messages):
    for answer in talk(served, messages):
        assert "no" in answer


@QUICK
@given(messages=st.lists(MESSAGE, min_size=1, max_size=5), descriptors=st.integers(0, 3))
def test_any_messages_with_any_descriptors(served, messages, descriptors):
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(descriptors)]
    try:
        for answer in talk(served, [json.dumps(message).encode() for message in messages], fds):
            assert "no" in answer or "ok" in answer
    finally:
        for fd in fds:
            os.close(fd)


def test_descriptors_are_not_kept(served):
    """Hundreds of them, sent with messages that are refused."""
    pid = (desk.status() or {})["pid"]
    before = len(os.listdir(f"/proc/{pid}/fd"))
    null = os.open(os.devnull, os.O_RDONLY)
    for _ in range(50):
        talk(served, [protocol.encode("deadline", signals=[15], grace=1)], [null] * 10)
        talk(served, [protocol.encode("line")], [null])
        talk(served, [protocol.encode("line")], [])
        talk(served, [b"{"], [null] * 10)
    os.close(null)
    wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before + 1)
