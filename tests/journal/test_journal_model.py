"""A journal against a model: any sequence of records, cut anywhere, written on by somebody else."""

import os
import shutil
import tempfile

from harness import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from lastly._journal.file import Journal
from lastly._journal.replay import FINAL, replay

AFTER = {
    "confirm": "active", "run": "running", "fail": "failed", "done": "done", "release": "released", "void": "void",
    "abandon": "abandoned",
}  # fmt: skip


def apply(journal, model, op, which, text):
    """One call on the journal, and what it means for the model."""
    if op == "plan":
        model[journal.plan("m:f", [text], {"k": text})] = "planned"
        return
    if op == "compact":
        journal._compact()
        for number in [n for n, state in model.items() if state in FINAL]:
            del model[number]
        return
    alive = [number for number, state in model.items() if state not in FINAL]
    if not alive:
        return
    number = alive[which % len(alive)]
    if op == "confirm":
        journal.confirm(number, {"fact": text})
        if model[number] != "planned":
            return
    elif op == "void":
        journal.note([{"kind": "void", "id": number}])
        journal.live.discard(number)
    elif op in ("fail", "abandon"):
        getattr(journal, op)(number, text)
    else:
        getattr(journal, op)(number)
    model[number] = AFTER[op]


steps = st.lists(
    st.tuples(
        st.sampled_from(["plan", "plan", "compact", *AFTER]),
        st.integers(0, 9),
        st.text(max_size=5) | st.binary(max_size=5).map(os.fsdecode),
    ),
    max_size=25,
)


@settings(max_examples=examples(60), deadline=None)
@given(steps, st.floats(0, 1))
def test_any_history(history, where):
    """Whole, it says what the model says; cut, what the model said then; and the next writer loses nothing."""
    folder = tempfile.mkdtemp(prefix="lt-")
    before = os.environ["LASTLY_HOME"]
    os.environ["LASTLY_HOME"] = folder
    journal = Journal.create()
    try:
        model: dict[int, str] = {}
        moments = [(os.path.getsize(journal.path), {})]
        for op, which, text in history:
            apply(journal, model, op, which, text)
            size = os.path.getsize(journal.path)
            if op == "compact":
                moments.clear()  # another file
            moments.append((size, dict(model)))
        found = journal.read()
        assert {item.id: item.state for item in found.items.values()} == model
        assert not found.damage
        assert not any(item.doubt for item in found.items.values())

        with open(journal.path, "rb") as file:
            data = file.read()
        first = moments[0][0]
        cut = first + int((len(data) - first) * where)
        expected = [states for size, states in moments if size <= cut][-1]
        also = [states for size, states in moments if size <= cut + 1][-1]  # whole but for its LF
        torn = replay(data[:cut])
        assert {item.id: item.state for item in torn.items.values()} in (expected, also)
        assert not any(item.doubt for item in torn.items.values())
    finally:
        journal.close(unlink=True)
        os.environ["LASTLY_HOME"] = before
        shutil.rmtree(folder)
