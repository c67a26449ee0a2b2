"""An app's settings, hooks and closing."""

from __future__ import annotations

import functools
import signal

import pytest

from lastly.app import (
    App,
    CaughtSignal,
    CleanupFailed,
    FrameworkError,
    TestApp,
    is_true,
)


def made(**meta: object) -> TestApp:
    app = TestApp("parts", **meta)
    app.setup()
    return app


# -- settings


def test_meta_is_merged_over_the_hierarchy() -> None:
    class Base(App):
        class Meta:
            label = "base"
            exit_on_close = True

    class Derived(Base):
        class Meta:
            label = "derived"

    app = Derived(argv=["x"], no_such_setting=1, _private=2)
    assert (app.label, app._meta.exit_on_close, app.argv) == ("derived", True, ["x"])
    assert not hasattr(app._meta, "no_such_setting")
    assert not hasattr(app._meta, "_private")


def test_meta_lists_are_not_shared_between_apps() -> None:
    class Shared(TestApp):
        class Meta:
            extensions: list[str] = []

    first = Shared("first")
    first._meta.extensions.append("x")
    assert Shared("second")._meta.extensions == Shared.Meta.extensions == []


@pytest.mark.parametrize("label", [None, "", "two words", "a.b", "x!", 5])
def test_bad_label_is_refused(label: object) -> None:
    with pytest.raises(FrameworkError):
        App(label)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", ["a-b", "a_b", "9x", "É"])
def test_good_label(label: str) -> None:
    assert App(label).label == label


def test_extend_adds_a_member_once() -> None:
    app = TestApp()
    app.extend("answer", 42)
    assert app.answer == 42  # type: ignore[attr-defined]
    for name in ("answer", "run"):
        with pytest.raises(FrameworkError, match="already exists"):
            app.extend(name, 1)


@pytest.mark.parametrize(("item", "expected"), [("On", True), ("1", True), (1, True), (True, True), ("no", False), (2, False)])
def test_is_true(item: object, expected: bool) -> None:
    assert is_true(item) is expected


# -- hooks


def test_hooks_run_by_weight_then_by_registration() -> None:
    app = TestApp(define_hooks=["mine"])
    for word, weight in (("b", 0), ("a", -5), ("d", 10), ("c", 0)):
        assert app.hook.register("mine", functools.partial(str, word), weight)
    assert list(app.hook.run("mine")) == ["a", "b", "c", "d"]


def test_hook_results_of_generators_are_flattened_and_coroutines_awaited() -> None:
    app = TestApp(define_hooks=["mine"])

    def several(x: int) -> object:
        yield x
        yield x + 1

    async def later(x: int) -> int:
        return x * 10

    async def many(x: int) -> object:
        yield x * 100

    for func in (several, later, many):
        app.hook.register("mine", func)
    assert list(app.hook.run("mine", 1)) == [1, 2, 10, 100]


def test_async_hook_is_awaited_inside_a_running_loop() -> None:
    import asyncio

    async def main() -> list[object]:
        app = TestApp(define_hooks=["mine"])

        async def later() -> str:
            await asyncio.sleep(0)
            return "awaited"

        app.hook.register("mine", later)
        return list(app.hook.run("mine"))

    assert asyncio.run(main()) == ["awaited"]


def test_unknown_hook() -> None:
    app = TestApp()
    assert app.hook.register("no_such", print) is False
    assert not app.hook.defined("no_such")
    with pytest.raises(FrameworkError):
        list(app.hook.run("no_such"))
    with pytest.raises(FrameworkError):
        app.hook.define("pre_run")


def test_first_failure_of_an_ordinary_hook_is_its_result() -> None:
    app = TestApp(define_hooks=["mine"])
    ran = []
    app.hook.register("mine", lambda: 1 / 0)
    app.hook.register("mine", lambda: ran.append(1))
    with pytest.raises(ZeroDivisionError):
        list(app.hook.run("mine"))
    assert ran == []


def test_order_of_hooks() -> None:
    seen: list[str] = []
    names = TestApp().hook.list()
    app = TestApp(hooks=[(name, functools.partial(lambda name, *_: seen.append(name), name)) for name in names])
    with app:
        app.run()
    assert seen == [
        "pre_setup", "post_setup", "pre_run", "pre_argument_parsing", "post_argument_parsing", "post_run",
        "pre_close", "post_close",
    ]  # fmt: skip


# -- closing


def test_scope_closes_between_pre_and_post_close_newest_first() -> None:
    seen: list[str] = []
    with TestApp(hooks=[("pre_close", lambda app: seen.append("pre")), ("post_close", lambda app: seen.append("post"))]) as app:
        app.scope.defer(seen.append, "first")
        app.scope.defer(seen.append, "second")
    assert seen == ["pre", "second", "first", "post"]


def test_close_is_once_and_the_app_can_be_set_up_again() -> None:
    seen: list[str] = []
    app = TestApp(hooks=[("pre_close", lambda app: seen.append("close"))])
    for _ in range(2):
        app.setup()
        app.run()
        app.scope.defer(seen.append, "scope")
        app.close(3)
        app.close(4)
        assert app.exit_code == 3
    assert seen == ["close", "scope"] * 2


def test_all_failures_of_closing_come_together() -> None:
    app = TestApp(hooks=[("pre_close", lambda app: 1 / 0), ("post_close", lambda app: {}["x"])])
    app.setup()
    app.scope.defer(int, "no number")
    with pytest.raises(CleanupFailed) as caught:
        app.close()
    assert [type(exc) for exc in caught.value.exceptions] == [ZeroDivisionError, ValueError, KeyError]


def test_failure_of_the_body_is_not_masked() -> None:
    with pytest.raises(LookupError, match="mine") as caught:
        with TestApp(hooks=[("pre_close", lambda app: 1 / 0)]):
            raise LookupError("mine")
    assert any("ZeroDivisionError" in note for note in caught.value.__notes__)


def test_exit_code_is_seen_by_hooks() -> None:
    codes: list[int] = []
    for error, code in ((SystemExit(5), 5), (SystemExit("text"), 1), (ValueError(), 1), (CaughtSignal(15), 143)):
        with pytest.raises(type(error)):
            with TestApp(hooks=[("pre_close", lambda app: codes.append(app.exit_code))]):
                raise error
        assert codes.pop() == code


@pytest.mark.parametrize("code", [None, 0, 3])
def test_exit_on_close_exits(code: int | None) -> None:
    app = TestApp(exit_on_close=True)
    app.setup()
    app.exit_code = 9
    with pytest.raises(SystemExit) as caught:
        app.close(code)
    assert caught.value.code == app.exit_code == (9 if code is None else code)


def test_close_of_a_subclass_is_called_however_it_ends() -> None:
    seen: list[str] = []

    class Own(TestApp):
        def close(self, code: int | None = None) -> None:
            seen.append("own")
            if broken:
                raise OSError("in close")
            super().close(code)

    for broken in (False, True):
        with pytest.raises(ValueError, match="mine") as caught:
            with Own(hooks=[("post_close", lambda app: seen.append("post_close"))]):
                raise ValueError("mine")
        assert any("in close" in note for note in getattr(caught.value, "__notes__", ())) is broken
    assert seen == ["own", "post_close"] * 2


def test_hooks_and_cleanups_can_ask_why() -> None:
    import lastly

    reasons: list[str] = []

    def ask(*_: object) -> None:
        reasons.append(str(lastly.exit_reason()))

    with pytest.raises(ValueError, match="mine"):
        with TestApp(hooks=[("pre_close", ask)]) as app:
            app.scope.defer(ask)
            raise ValueError("mine")
    assert reasons == ["exception ValueError: mine"] * 2
    app = TestApp(exit_on_close=True, hooks=[("post_close", ask)])
    app.setup()
    with pytest.raises(SystemExit):
        app.close(4)
    assert reasons[2:] == ["exit code 4"]
    assert lastly.exit_reason() is None


def test_two_threads_close_an_app_once() -> None:
    import threading

    for _ in range(20):
        seen: list[int] = []
        app = TestApp(hooks=[("pre_close", lambda app, seen=seen: seen.append(1))], catch_signals=None)
        app.setup()
        threads = [threading.Thread(target=app.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [1]


def test_exit_code_must_be_a_number() -> None:
    with pytest.raises(TypeError, match="integer"):
        TestApp().close("x")  # type: ignore[arg-type]


def test_nested_apps_close_separately() -> None:
    seen: list[str] = []
    outer = TestApp("outer", hooks=[("pre_close", lambda app: seen.append(app.label))])
    inner = TestApp("inner", hooks=[("pre_close", lambda app: seen.append(app.label))])
    with outer:
        with inner:
            pass
        seen.append("between")
    assert seen == ["inner", "between", "outer"]


def test_signal_handlers_are_given_back() -> None:
    import signal

    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)]
    with TestApp("outer"):
        with TestApp("inner", catch_signals=[signal.SIGUSR1]):
            assert callable(signal.getsignal(signal.SIGTERM))
            assert callable(signal.getsignal(signal.SIGUSR1))
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        assert callable(signal.getsignal(signal.SIGTERM))
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)] == before


def test_signal_in_a_test_is_done_with() -> None:
    import os
    import signal

    seen: list[int] = []
    with pytest.raises(CaughtSignal) as caught:
        with TestApp(hooks=[("signal", lambda app, signum, frame: seen.append(signum))]):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
    assert (caught.value.signum, caught.value.code, seen) == (15, 143, [15])
    from lastly._exit.state import end

    assert end.signum == 0


def test_no_signals() -> None:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with TestApp(catch_signals=None):
        assert signal.getsignal(signal.SIGTERM) == before


def test_signals_may_be_named() -> None:
    with TestApp(catch_signals=["USR1", "SIGUSR2"]):
        assert signal.getsignal(signal.SIGUSR1) == signal.getsignal(signal.SIGUSR2) != signal.SIG_DFL
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    for wrong in ("NOPE", signal.SIGKILL):
        with pytest.raises(ValueError, match="is not the name of a signal|cannot be caught"):
            TestApp(catch_signals=[wrong]).setup()


def test_a_signal_that_cannot_be_caught_changes_nothing() -> None:
    with TestApp(catch_signals=None) as app:
        for wrong in ("NOPE", 99):
            with pytest.raises(ValueError, match="is not the name of a signal|cannot be caught"):
                app.catch_signal(wrong)
        app.catch_signal("USR1")
        app.catch_signal(signal.SIGUSR1)
        assert app._meta.catch_signals == [signal.SIGUSR1]
        app.reload()
