"""What workers do: settle one dead owner, or write settled ones into the history."""

from lastly._settle import child, history, settle
from lastly._system import probe
from lastly._system.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from lastly._reaper.pool import Answers

    Job = dict[str, Any]

_ready = False
_TOLD = 80
_MORE = 16  # owners in one message after which others are expected


def work(todo: "Iterable[tuple[int, Job]]", announce: "Callable[[float], None]", answers: "Answers") -> None:
    """Do jobs in a worker, and say what became of each; never raises."""
    _prepare()
    _Work(announce, answers).do(todo)


def rehearse() -> None:
    """Make a worker ready for its first death."""
    _prepare()
    try:
        settle.rehearse(probe.unnamed_file("rehearsal"))
    except OSError:  # no descriptors, no memory: what it was for does without
        pass


def _prepare() -> None:
    global _ready
    if not _ready:
        child.adopt_orphans()
        _ready = True


class _Work:
    """The jobs of one message.

    Of an owner whose death was not seen there is nothing more to learn. It is written into the history here,
    together with the others of this message, and its journal is read once only.
    """

    def __init__(self, announce: "Callable[[float], None]", answers: "Answers") -> None:
        self.announce = announce
        self.answers = answers
        self.done: list[tuple[int, Job, history.Entry]] = []

    def do(self, todo: "Iterable[tuple[int, Job]]") -> None:
        for place, job in todo:
            kept: list[history.Entry] = []
            try:
                if job["do"] == "archive":
                    answer = history.archive(job["items"])
                else:
                    answer = _settle(
                        job,
                        keep=kept if job["died"] is None else None,
                        slow=self.file,
                        announce=self.announce,
                    )
            except Exception as error:
                answer = {"state": "lost", "why": f"{type(error).__name__}: {error}"}
            if kept:
                self.done.append((place, answer, kept[0]))
            else:
                self.answers.add(place, answer)
        self._file(more=len(self.done) >= _MORE)

    def file(self) -> None:
        """Write into the history what is done, and say all there is to say: what follows may take long."""
        self._file()
        self.answers.send()

    def _file(self, *, more: bool = False) -> None:
        done, self.done = self.done, []
        said: Job = {"archived": []}
        if done:
            try:
                said = history.file([entry for _, _, entry in done], more=more)
            except Exception as error:  # the reaper asks for it again
                done[0][1]["why"] = f"the history cannot be written: {type(error).__name__}: {error}"
        for place, answer, _ in done:
            if answer["path"] in said["archived"]:
                answer["state"] = "filed"
            self.answers.add(place, answer)


def _settle(job: "Job", **how: "Any") -> "Job":
    outcome = settle.settle(
        job["path"], force=job["force"], died=job["died"], unwritten=job["unwritten"],
        family=Family.from_mapping(job["family"]) if job.get("family") else None, **how,
    )  # fmt: skip
    answer = outcome.to_mapping()
    # In one message, whose size the kernel limits. For the log; the journal has them all.
    answer["ran"] = [{**ran, "error": ran["error"][:300]} for ran in answer["ran"][-_TOLD:]]
    if answer["unwritten"]:
        answer["ran"] = answer["ran"][-_TOLD // 4 :]
        answer["unwritten"] = [_short(record) for record in answer["unwritten"]]
    return answer


def _short(record: "dict[str, Any]") -> "dict[str, Any]":
    return {
        key: value[:100] if isinstance(value, str) else value
        for key, value in record.items()
        if key != "output"
    }
