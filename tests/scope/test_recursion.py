"""Scopes that close where nothing can be called any more: at the recursion limit, and without memory."""

from __future__ import annotations

import pytest
from harness import Programs

# A scope in each call, down to the limit. Bounded memory: a loop that notes its failures for ever ends by itself.
PROGRAM = """
import asyncio, resource, sys, warnings
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
warnings.simplefilter("ignore")  # of the scopes at the limit, which are garbage now
sys.unraisablehook = lambda *_: None  # and of their warnings, which could not be made there
from lastly import AsyncScope, Scope
from lastly._scope.now import now

entered = ran = 0

def tick():
    global ran
    ran += 1

async def atick():
    tick()

class Manager:
    def __enter__(self):
        return self
    def __exit__(self, *told):
        tick()

fill = {
    "plain": lambda scope: scope.defer(tick),
    "with a limit": lambda scope: scope.defer(tick).within(5),
    "with a grace": lambda scope: scope.defer(tick),
    "early": lambda scope: scope.defer_early(tick),
    "entered": lambda scope: scope.enter(Manager()),
    "nested": lambda scope: scope.enter(Scope()).defer(tick),
    "parallel": lambda scope: scope.parallel().defer(tick),
    "async": lambda scope: scope.defer(atick),
    "async, plain": lambda scope: scope.defer(tick),
    "async, parallel": lambda scope: scope.parallel().defer(atick),
}[sys.argv[1]]

def visit():
    global entered
    with Scope(grace=60 if sys.argv[1] == "with a grace" else None) as scope:
        fill(scope)
        entered += 1
        visit()

async def avisit():
    global entered
    async with AsyncScope() as scope:
        fill(scope)
        entered += 1
        await avisit()

try:
    asyncio.run(avisit()) if sys.argv[1].startswith("async") else visit()
except BaseException as error:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    print(type(error).__name__, ran * 2 > entered > 100, len(now.closing))
with Scope() as scope:
    scope.defer(print, "goes on")
"""


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "with a limit",
        "with a grace",
        "early",
        "entered",
        "nested",
        "parallel",
        "async",
        "async, plain",
        "async, parallel",
    ],
)
@pytest.mark.slow(keep=4)
def test_a_scope_per_level_of_a_recursion(programs: Programs, kind: str) -> None:
    """As with ExitStack: the error reaches the top, and where there is room again, the cleanups run."""
    result = programs.run(PROGRAM, kind)
    assert result.lines == ["RecursionError True 0", "goes on"], result.err[-500:]
    assert result.status == 0
