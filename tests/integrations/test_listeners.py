"""The door of a server: who is in its queue is served, nobody new gets in."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
from harness import wait_until

from lastly.integrations._servers import gunicorn, listeners


@pytest.fixture(params=["127.0.0.1", "::1"])
def listening(request):
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family) as made:
        try:
            made.bind((request.param, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        made.listen(16)
        yield made


def connect(listening: socket.socket) -> socket.socket:
    return socket.create_connection(listening.getsockname()[:2], timeout=20)


def test_who_is_in_is_served_and_nobody_gets_in(listening: socket.socket) -> None:
    with connect(listening) as first, connect(listening) as second:
        wait_until(lambda: listeners.waiting(listening) == 2)
        assert not listeners.is_shut(listening)
        assert listeners.shut(listening) and listeners.shut(listening) and listeners.is_shut(listening)
        with socket.socket(listening.family) as late:
            late.settimeout(0.2)
            with pytest.raises(TimeoutError):
                late.connect(listening.getsockname())
        for client in (first, second):
            client.sendall(b"question")
            served, _ = listening.accept()
            with served:
                assert served.recv(100) == b"question"
                served.sendall(b"answer")
            assert client.recv(100) == b"answer"
        assert listeners.waiting(listening) == 0


def test_another_holder_of_the_socket_sees_that_it_is_shut(listening: socket.socket) -> None:
    with listening.dup() as other:
        listeners.shut(listening)
        assert listeners.is_shut(other)


def test_only_tcp_has_a_door(tmp_path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        assert not listeners.shut(listening) and not listeners.is_shut(listening)
        assert listeners.waiting(listening) == 0


def test_busy_is_a_connection_with_an_unanswered_request(listening: socket.socket) -> None:
    with connect(listening) as client:
        served, _ = listening.accept()
        with served:
            assert listeners.is_busy(served, patient=True)
            assert not listeners.is_busy(served, patient=False)
            client.sendall(b"question")
            wait_until(lambda: listeners.is_busy(served, patient=False), what="unread")
            served.recv(100)
            assert listeners.is_busy(served, patient=False), "read, and not answered"
            served.sendall(b"answer")
            assert not listeners.is_busy(served, patient=True)
            client.shutdown(socket.SHUT_WR)
            wait_until(lambda: not listeners.is_busy(served, patient=True), what="the other side has closed")


def test_the_sockets_of_a_port(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    with connect(listening), listening.accept()[0]:
        found, connected = listeners.sockets({port})
        assert [s.getsockname()[1] for s in found] == [port]
        assert len(connected) == 1
        for duplicate in (*found, *connected):
            duplicate.close()
    assert listeners.sockets(set()) == ([], [])


@pytest.mark.parametrize("other", ["systemd", "reexec_pid", "master_pid", "reuse_port", "quick", ""])
def test_gunicorns_master_shuts_only_a_door_of_its_own(other: str) -> None:
    """Not one that systemd or another master has as well, and not when it ends at once."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = SimpleNamespace(
            systemd=other == "systemd",
            reexec_pid=7 * (other == "reexec_pid"),
            master_pid=7 * (other == "master_pid"),
            cfg=SimpleNamespace(reuse_port=other == "reuse_port"),
            LISTENERS=[SimpleNamespace(sock=listening)],
            stop=lambda graceful=True: stopped.append(graceful),
        )
        stopped: list[bool] = []
        gunicorn.opened(server)
        server.stop(other != "quick")
        assert (listeners.is_shut(listening), stopped) == (other == "", [other != "quick"])


def test_a_number_that_is_another_file_s_meanwhile(tmp_path, monkeypatch) -> None:
    with open(tmp_path / "file", "w"):
        monkeypatch.setattr(listeners.os, "readlink", lambda _path: "socket:[1]")
        before = listeners.os.listdir("/proc/self/fd")
        listeners.sockets(set())
        assert listeners.os.listdir("/proc/self/fd") == before
