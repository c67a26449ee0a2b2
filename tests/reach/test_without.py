"""I19: without a shared journal nothing is different: no module more, no system call more."""

from __future__ import annotations

from harness import Programs

ACTIONS = """
import lastly

@lastly.action(remote=True)
def destroy(name):
    pass
"""
# What stands on the audit hooks' list is every file, socket, import and process: the second defer of a kind does none.
CODE = """
import os, sys
sys.path.insert(0, os.getcwd())
import lastly, cloud
before = set(sys.modules)
lastly.defer(cloud.destroy, "vm-1")
events, listening = [], False
def hear(event, args):
    if listening and event != "object.__getattr__":  # of no call of the system
        events.append(event)
sys.addaudithook(hear)
calls = []
for name in ("write", "fdatasync", "fsync", "fstat", "stat", "open", "read", "close"):
    def counted(*args, _name=name, _call=getattr(os, name), **kwargs):
        calls.append(_name)
        return _call(*args, **kwargs)
    setattr(os, name, counted)
listening = True
lastly.defer(cloud.destroy, "vm-2")
listening = False
print(events)
print(sorted(calls))
print(sorted(m for m in set(sys.modules) - before if m.startswith("lastly")))
print(sorted(m for m in sys.modules if m in ("psycopg", "urllib.parse", "hashlib", "procrastinate")))
"""


def test_no_module_and_no_call_more(programs: Programs) -> None:
    program = programs.run(CODE, env={"LASTLY_REAPER": "0", "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(written(programs))})
    assert program.status == 0, program.err
    events, calls, ours, foreign = program.lines
    assert events == "[]"
    said = calls.strip("[]'").split("', '")
    assert [said.count(name) for name in ("write", "fdatasync")] == [1, 1]  # the plan, and the disk
    assert set(said) <= {"write", "fdatasync", "fstat"}  # the journal is still there, and ours
    assert foreign == "[]"
    shared = ("lastly._reach", "lastly._durable.shared", "lastly._durable.configure", "lastly._journal.relay_line", "lastly._journal.shared")
    assert [name for name in ours.strip("[]'").split("', '") if name.startswith(shared)] == []


def written(programs: Programs) -> object:
    (programs.folder / "cloud.py").write_text(ACTIONS)
    return programs.folder
