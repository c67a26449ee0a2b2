"""Journals written by hand, of owners that are dead, alive, of yesterday, of elsewhere."""

import json
import os
import socket
import time

import pytest

from lastly._journal import home as homes
from lastly._journal.record import VERSION, encode
from lastly._reaper import jobs
from lastly._reaper.pool import MESSAGE, Answers
from lastly._settle import child
from lastly._system.identity import Identity


def dead_identity(**changes):
    """A process of this boot that nobody ever saw: our own pid, started before there was anything."""
    return {**Identity.current().to_mapping(), "start": 1, **changes}


@pytest.fixture(name="journal")
def journal_by_hand(home):
    """Write a journal by hand; returns its path."""

    def write(*records, header=None, top=None, tail=b""):
        who = header or dead_identity()
        folder = homes.owners_dir(who["host"], who["boot"])
        path = os.path.join(folder, f"{who['pid']}.{who['start']}.{os.urandom(8).hex()}.j")
        first = {
            "kind": "owner",
            "v": VERSION,
            "t": 1.0,
            "next": 1,
            "exe": "",
            "argv0": "me",
            "token": "feedbeef",
            **who,
            **(top or {}),
        }
        lines = [encode(first)]
        lines += [encode({"n": n, "t": time.time(), **record}) for n, record in enumerate(records, 1)]
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(b"".join(lines) + tail)
        return path

    return write


def contents(path):
    with open(path, "rb") as file:
        return file.read()


def removal(path, number=1, **more):
    return {
        "kind": "plan", "id": number, "action": "lastly.actions:remove", "args": [str(path)], "kwargs": {"expect": {}},
        **more,
    }  # fmt: skip


@pytest.fixture(name="folder")
def folder_made(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    return made


def shell(text, number=1, **more):
    return {
        "kind": "plan", "id": number, "action": "lastly.actions:run", "args": [["sh", "-c", text]],
        "kwargs": {"cwd": "/"}, **more,
    }  # fmt: skip


def work(job):
    """Have a worker's job done right here; returns its answer."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        its.setblocking(False)
        answers = Answers(its)
        with pytest.MonkeyPatch.context() as patch:  # this process is no worker: orphans are not its own
            patch.setattr(child, "adopt_orphans", lambda: None)
            jobs.work([(0, job)], lambda _limit: None, answers)
        answers.send(last=True)
        its.close()
        told = [json.loads(raw) for raw in iter(lambda: ours.recv(MESSAGE), b"")]
    [(place, answer)] = [one for message in told for one in message["answers"]]
    assert place == 0
    return answer
