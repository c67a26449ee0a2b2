"""Mistakes in what a program gives to lastly: mypy --strict and pyright find each line that is marked as wrong."""

from lastly import (
    App,
    AsyncScope,
    Popen,
    Scope,
    action,
    actions,
    defer,
    defer_early,
    install,
    register,
)


def undo(name: str, *, force: bool = False) -> None: ...


async def later(name: str) -> None: ...


@action
def give_back(name: str, *, token: str = "") -> None: ...


@action(remote=True)
def destroy(name: str, region: str) -> None: ...


scope = Scope("x")
ascope = AsyncScope("x")

defer(undo)  # wrong
defer(undo, 1)  # wrong
defer(undo, "x", froce=True)  # wrong
defer(print())  # wrong
defer(give_back)  # wrong
defer(actions.remove)  # wrong
defer(actions.run, ["true"], tmeout=5)  # wrong
defer_early(undo, "x", "y")  # wrong
register(undo)  # wrong
scope.defer(destroy, "x")  # wrong
scope.parallel().defer(give_back, 1)  # wrong
scope.planned(destroy, "x", regoin="eu")  # wrong
scope.planned(undo, "x")  # wrong
ascope.defer(later, 1)  # wrong
ascope.planned(give_back)  # wrong
give_back(1)  # wrong
destroy("x")  # wrong
install(status="number")  # wrong
install(signals=("TREM",))  # wrong
install(grace="30")  # wrong
scope.defer(undo, "x").within("5")  # wrong
Scope(grace="60")  # wrong
Popen(["true"], tetx=True)  # wrong
App("x").scope.defer(undo)  # wrong


@defer  # wrong
def with_an_argument(name: str) -> None: ...


@action(retries="5")  # wrong
def with_a_text(name: str) -> None: ...
