"""What an action calls its own cleanups: checked when it is made, recorded when it is deferred."""

from __future__ import annotations

import functools

import pytest

from lastly import action
from lastly._words import naming


def destroy(name: str, region: str = "eu", *, force: bool = False, token: str = "", attempt: int = 1) -> None:
    pass


def anything(*args: object, **more: object) -> None:
    pass


@pytest.mark.parametrize(
    ("template", "error", "said"),
    [
        ("destroy {nam}", ValueError, "{nam} is not an argument that is known when it is deferred; these are: name, region, force"),
        ("destroy {token}", ValueError, "{token} is not an argument"),
        ("attempt {attempt}", ValueError, "{attempt} is not an argument"),
        ("destroy {}", ValueError, "{} is not an argument"),
        ("destroy {0}", ValueError, "{0} is not an argument"),
        ("destroy {name.x}", ValueError, "{name.x} is not an argument"),
        ("destroy {name[0]}", ValueError, "is not an argument"),
        ("destroy {name:{region}}", ValueError, "must be a constant"),
        ("destroy {name", ValueError, "describe='destroy {name': expected '}'"),
        ("destroy }", ValueError, "describe='destroy }': Single '}'"),
        (7, TypeError, "describe must be a string like 'destroy VM {name}', not 7"),
        (b"destroy {name}", TypeError, "describe must be a string"),
    ],
)
def test_bad_templates_are_refused_at_decoration(template: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        action(describe=template)(destroy)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "args", "kwargs", "text"),
    [
        ("destroy VM {name}", ("site-42",), {}, "destroy VM site-42"),
        ("destroy VM {name} in {region}", ("a",), {}, "destroy VM a in eu"),
        ("destroy VM {name} in {region}", ("a", "us"), {}, "destroy VM a in us"),
        ("{name!r} {force}", (), {"name": "a b", "force": True}, "'a b' True"),
        ("{{{name:>3}}}", ("a",), {}, "{  a}"),
        ("nothing", ("a",), {}, "nothing"),
        ("{name:>3}", (None,), {}, ""),  # not to be formatted: its usual name
        ("{name:d}", ("a",), {}, ""),
        ("{name}", ("x" * 500,), {}, "x" * 199 + "…"),
    ],
)
def test_is_made_of_the_arguments(template: str, args: tuple, kwargs: dict, text: str) -> None:
    made = action(describe=template)(destroy)
    assert naming.described(template, made.fn, args, kwargs) == text


def test_of_a_function_that_takes_everything_and_of_one_without_code() -> None:
    assert action(describe="{zone}")(anything).describe == "{zone}"
    assert naming.described("{zone}", anything, (), {"zone": "a"}) == "a"
    assert naming.described("{zone}", anything, (), {}) == ""
    part = functools.partial(destroy, region="us")
    with pytest.raises(ValueError, match="these are: name, region, force"):
        action(describe="{nam}")(part)
    action(describe="{name} {region}")(part)
    assert naming.described("{name} {region}", part, ("a",), {}) == "a us"
