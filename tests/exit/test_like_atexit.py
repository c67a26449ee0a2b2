"""`lastly.register` and `unregister` against atexit: the same random program under both, as real processes.

Compared: what is printed, in which order; what is on stderr, but for the line that names the library; the status,
but where atexit hides a failure. Two differences are by design and tested below: CPython 3.11 to 3.13 never runs what
an exit function registers, and CPython since 3.14 still runs what an exit function unregisters; lastly does neither.
"""

from __future__ import annotations

import re
import sys

from harness import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PRELUDE = """
import functools, sys
from {module} import register, unregister
class Equal:
    def __init__(self, name): self.name = name
    def __call__(self, *args, **kwargs): print("Equal", self.name, args, kwargs)
    def __eq__(self, other): return isinstance(other, Equal) and self.name == other.name
    __hash__ = None
def show(*args, **kwargs): print("show", args, kwargs)
def other(*args, **kwargs): print("other", args, kwargs)
def bad(*args, **kwargs): raise ValueError("bad", args)
def gives(*args, **kwargs): return "ignored"
class Bound:
    def method(self, *args, **kwargs): print("method", args, kwargs)
bound = Bound()
partial = functools.partial(show, "part", k=0)
bad_partial = functools.partial(bad, "part")
def drop(*args, **kwargs):
    print("drop")
    unregister(other)
assert register(show, "returns") is show
"""
CALLABLES = ["show", "other", "bad", "gives", "bound.method", "partial", "bad_partial", "Equal(1)", "Equal(2)"]
if sys.version_info < (3, 14):
    CALLABLES.append("drop")
ARGUMENTS = ["", ", 1", ", 1, 'two'", ", key=3", ", 1, fn=2, self=3, func=4"]

registering = st.builds("register({}{})".format, st.sampled_from(CALLABLES), st.sampled_from(ARGUMENTS))
unregistering = st.builds("unregister({})".format, st.sampled_from([*CALLABLES, "len", "functools.partial(show)"]))
decorating = st.integers(0, 99).map("@register\ndef decorated(number={0}): print('decorated', number)".format)
wrong = st.sampled_from(["register(5)", "register()", "unregister()"]).map(
    "try: {0}\nexcept TypeError: print('TypeError')".format
)
endings = st.sampled_from(["", "sys.exit(3)", "sys.exit('text')", "raise KeyError('body')"])
programs_of = st.tuples(
    st.lists(st.one_of(registering, registering, unregistering, decorating, wrong), max_size=12), endings
)


def run(programs, module, lines, ending):
    return programs.run("\n".join([PRELUDE.format(module=module), *lines, ending]))


def plain(err):
    """What both print about a failure, without the line that names the library; addresses taken out."""
    err = re.sub(r"^Exception (ignored in atexit callback|in cleanup).*$", "Exception in an exit function", err, flags=re.MULTILINE)
    return re.sub(r"^  File .*\n(?:    .*\n)*", "", err, flags=re.MULTILINE)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(program=programs_of)
def test_the_same_program_under_both(programs, program):
    lines, ending = program
    theirs = run(programs, "atexit", lines, ending)
    ours = run(programs, "lastly", lines, ending)
    assert ours.out == theirs.out
    assert plain(ours.err) == plain(theirs.err)
    if theirs.status or "exit function" not in plain(theirs.err):
        assert ours.status == theirs.status
    else:
        assert ours.status == 1


def test_what_an_exit_function_registers(programs, python):
    code = """
    from {} import register
    def nested():
        print("nested")
        register(print, "registered at exit")
    register(print, "older")
    register(nested)
    """
    assert programs.run(code.format("atexit"), python=python).lines == ["nested", "older"]
    assert programs.run(code.format("lastly"), python=python).lines == ["nested", "registered at exit", "older"]


def test_what_an_exit_function_unregisters(programs, python):
    """CPython since 3.14 runs a copy of its list; what was forgotten does not run with lastly, on any version."""
    code = """
    import sys
    from {} import register, unregister
    def other(): print("other")
    def drop():
        print("drop")
        unregister(other)
    register(print, "older")
    register(other)
    register(drop)
    print(sys.version_info >= (3, 14))
    """
    theirs = programs.run(code.format("atexit"), python=python).lines
    ours = programs.run(code.format("lastly"), python=python).lines
    assert ours == [theirs[0], "drop", "older"]
    assert theirs[1:] == (["drop", "other", "older"] if theirs[0] == "True" else ["drop", "older"])


def test_equality_is_asked_as_atexit_asks(programs, python):
    """Oldest first, after identity; who is asked first differs by version; an error of it comes out."""
    code = """
    from {} import register, unregister
    class Asked:
        def __init__(self, name): self.name = name
        def __call__(self): print("ran", self.name)
        def __eq__(self, other):
            print(self.name, "==", getattr(other, "name", "?"))
            if other is hostile: raise ZeroDivisionError
            return False
    a, b, hostile = Asked("a"), Asked("b"), Asked("hostile")
    register(a); register(b); register(a)
    unregister(b)
    unregister(len)
    try:
        unregister(hostile)
    except ZeroDivisionError:
        print("came out")
    """
    theirs = programs.run(code.format("atexit"), python=python)
    ours = programs.run(code.format("lastly"), python=python)
    assert ours.out == theirs.out
    assert (ours.status, ours.err) == (theirs.status, theirs.err) == (0, "")
