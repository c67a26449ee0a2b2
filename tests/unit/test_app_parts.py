"""An app's parts: settings, hooks, configuration, log, arguments, extensions, plugins, handlers."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

from lastly.app import (
    App,
    CaughtSignal,
    CleanupFailed,
    Controller,
    FrameworkError,
    Handler,
    Interface,
    InterfaceError,
    TestApp,
    ex,
    init_defaults,
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
    from lastly import _signals

    assert _signals.state.signum == 0


def test_no_signals() -> None:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with TestApp(catch_signals=None):
        assert signal.getsignal(signal.SIGTERM) == before


# -- configuration


def test_environment_over_files_over_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.conf").write_text("[parts]\nlevel = file\npath = file\n")
    (tmp_path / "more.d").mkdir()
    (tmp_path / "more.d" / "a.conf").write_text("[parts]\npath = dir\n[other-part]\nsome-key = dir\n")
    (tmp_path / "more.d" / "a.txt").write_text("[parts]\npath = wrong\n")
    defaults = init_defaults("parts")
    defaults["parts"].update(level="default", path="default", size=3)
    monkeypatch.setenv("PARTS_LEVEL", "env")
    monkeypatch.setenv("PARTS_OTHER_PART_SOME_KEY", "env")
    app = made(config_defaults=defaults, config_files=[str(tmp_path / "one.conf")], config_dirs=[str(tmp_path / "more.d")])
    assert app.config.get_section_dict("parts") == {"level": "env", "path": "dir", "size": 3}
    assert app.config.get("other-part", "some-key") == "env"
    app.close()


def test_defaults_of_any_type_survive_a_file(tmp_path: Path) -> None:
    file = tmp_path / "x.conf"
    file.write_text("[parts]\nname = from file\n")
    values = {"size": 3, "words": ["a", "b"], "rate": 1.5, "none": None, "yes": True}
    app = made(config_defaults={"parts": values}, config_files=[str(file)])
    assert app.config.get_section_dict("parts") == {**values, "name": "from file"}
    app.close()


def test_file_that_is_not_there_and_file_that_is_broken(tmp_path: Path) -> None:
    import configparser

    app = made()
    assert app.config.parse_file(str(tmp_path / "none")) is False
    (tmp_path / "bad").write_text("no section")
    with pytest.raises(configparser.Error):
        app.config.parse_file(str(tmp_path / "bad"))
    app.close()


def test_merge_can_keep_what_is_set() -> None:
    app = made(config_defaults={"parts": {"a": 1}})
    app.config.merge({"parts": {"a": 2, "b": 2}, "new": {"c": [3]}, "flat": 1}, override=False)
    assert app.config.get_section_dict("parts") == {"a": 1, "b": 2}
    assert (app.config.get("new", "c"), app.config.has_section("flat")) == ([3], False)
    app.close()


def test_settings_overridden_by_configuration(tmp_path: Path) -> None:
    file = tmp_path / "x.conf"
    file.write_text("[parts]\ndebug = true\nexit_on_close = on\nlabel = other\n")
    app = made(config_files=[str(file)], meta_override=["exit_on_close"])
    assert (app.debug, app._meta.exit_on_close, app.label) == (True, True, "parts")
    app._meta.exit_on_close = False
    app.close()


# -- log


def test_log_prints_level_and_message_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    app = made()
    app.log.debug("hidden")
    app.log.warning("removing tmp file: /tmp/x")
    app.log.fatal("Caught Exception: no")
    app.log.set_level("error")
    app.log.warning("hidden")
    assert app.log.get_level() == "ERROR"
    app.close()
    assert capsys.readouterr() == ("", "WARNING: removing tmp file: /tmp/x\nCRITICAL: Caught Exception: no\n")


def test_log_file_with_rotation(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "x.log"
    section = {"file": str(file), "to_console": "no", "rotate": "yes", "max_bytes": "200", "max_files": "2"}
    app = made(config_defaults={"log.logging": section})
    for number in range(30):
        app.log.info("line " + str(number), namespace="here")
    app.close()
    assert sorted(p.name for p in file.parent.iterdir()) == ["x.log", "x.log.1", "x.log.2"]
    assert file.read_text().endswith("(INFO) here : line 29\n")


def test_log_level_by_option(capsys: pytest.CaptureFixture[str]) -> None:
    meta = {"log.logging": {"log_level_argument": ["-l"], "console_format": "%(message)s!"}}
    with TestApp(argv=["-l", "error"], meta_defaults=meta) as app:
        app.run()
        app.run()
        app.log.warning("hidden")
        app.log.error("shown")
    assert capsys.readouterr().err == "shown!\n"


# -- arguments


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    app = made(argv=["--name", "x", "-dq"])
    app.add_arg("--name")
    assert app.pargs is None
    assert app.run() is None
    print("hidden")
    assert (app.pargs.name, app.debug, app.quiet, app.log.get_level()) == ("x", True, True, "DEBUG")
    app.close()
    print("shown")
    assert capsys.readouterr().out == "shown\n"


def test_options_after_two_dashes_are_no_options() -> None:
    app = TestApp(argv=["--", "-q"])
    assert not app.quiet


def test_main_function_and_its_result() -> None:
    async def later(app: App) -> str:
        return app.pargs.name

    for main, expected in ((lambda app: app.label, "parts"), (lambda: 7, 7), (later, None)):
        app = made(main=main)
        app.add_arg("--name")
        assert app.run() == expected
        app.close()


def test_main_that_exits_keeps_its_code() -> None:
    app = made(main=lambda: sys.exit(3))
    with pytest.raises(SystemExit):
        app.run()
    assert app.exit_code == 3
    app.close()


def test_click_command() -> None:
    click = pytest.importorskip("click")

    @click.command()
    @click.option("--code", type=int)
    def main(code: int | None) -> str:
        if code is not None:
            click.get_current_context().exit(code)
        return "result"

    app = made(main=main)
    assert app.run() == "result"
    for argv, expected in (["--code", "4"], 4), (["--nonsense"], 2), (["--help"], 0):
        app._meta.argv = argv
        with pytest.raises(SystemExit) as caught:
            app.run()
        assert caught.value.code == expected
    app.close()


# -- extensions and plugins


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    return tmp_path


def test_extension_is_loaded_for_its_app_alone(modules: Path) -> None:
    (modules / "ext_of_one.py").write_text("def load(app):\n    app.extend('loaded', True)\n")
    app = made(extensions=["ext_of_one"])
    assert (app.loaded, app.ext.list()) == (True, ["ext_of_one"])  # type: ignore[attr-defined]
    app.close()
    other = made()
    assert (hasattr(other, "loaded"), other.ext.list()) == (False, [])
    other.close()


def test_missing_extension_says_which() -> None:
    with pytest.raises(FrameworkError, match="no_such_ext"):
        made(extensions=["no_such_ext"])
    with pytest.raises(FrameworkError, match="Cement's own"):
        made(extensions=["cement.ext.ext_jinja2"])


def test_bootstrap_and_extensions_from_configuration(modules: Path) -> None:
    (modules / "boot_x.py").write_text("def load(app):\n    app.hook.define('booted')\n")
    (modules / "ext_x.py").write_text("def load(app):\n    app.extend('ext_x', app.label)\n")
    (modules / "x.conf").write_text("[parts]\nextensions = ext_x,\n")
    app = made(bootstrap="boot_x", config_files=[str(modules / "x.conf")])
    assert (app.hook.defined("booted"), app.ext_x) == (True, "parts")  # type: ignore[attr-defined]
    app.close()


def test_plugins_enabled_by_configuration(modules: Path) -> None:
    (modules / "plugins" / "pack").mkdir(parents=True)
    (modules / "plugins" / "pack" / "__init__.py").write_text("from . import part\ndef load(app):\n    app.extend('pack', part.WORD)\n")
    (modules / "plugins" / "pack" / "part.py").write_text("WORD = 'part'\n")
    (modules / "plugins" / "json.py").write_text("def load(app):\n    app.extend('single', 1)\n")
    (modules / "x.conf").write_text("[plugin.pack]\nenabled = true\n[plugin.json]\nenabled=1\n[plugin.off]\nenabled = no\n")
    app = made(plugin_dirs=[str(modules / "plugins")], config_files=[str(modules / "x.conf")])
    assert (app.pack, app.single) == ("part", 1)  # type: ignore[attr-defined]
    assert app.plugin.get_loaded_plugins() == app.plugin.get_enabled_plugins() == ["pack", "json"]
    assert app.plugin.get_disabled_plugins() == ["off"]
    assert hasattr(sys.modules["json"], "dumps"), "a plugin took the place of a standard module"
    app.close()
    with pytest.raises(FrameworkError, match="nowhere"):
        made(plugins=["nowhere"])


def test_reload_starts_from_the_app_as_it_was_made() -> None:
    closed: list[int] = []
    app = made(hooks=[("pre_close", lambda app: closed.append(1))])
    app.extend("extra", 1)
    app.config.set("parts", "x", 1)
    app.exit_code = 4
    app.scope.defer(closed.append, 2)
    app.reload()
    assert (hasattr(app, "extra"), app.config.keys("parts"), app.exit_code, closed) == (False, [], 4, [])
    app.close()
    assert closed == [1, 2]


def test_run_forever_goes_on_after_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    class Often(TestApp):
        runs = 0

        def run(self) -> object:
            self.runs += 1
            if self.runs == 3:
                raise SystemExit(3)
            if self.runs == 2:
                raise ValueError("second")
            return super().run()

    with pytest.raises(SystemExit):
        with Often("often") as app:
            app.run_forever(interval=0)
    assert app.runs == 3
    err = capsys.readouterr().err
    assert err.startswith("CRITICAL: Caught Exception: second\nTraceback")


# -- handlers and controllers


def test_handlers_of_an_interface() -> None:
    class Greeter(Interface):
        class Meta:
            interface = "greeter"

    class Polite(Greeter, Handler):
        class Meta:
            label = "polite"
            config_defaults = {"word": "hello"}

    app = made(interfaces=[Greeter], handlers=[Polite])
    handler = app.handler.get("greeter", "polite", setup=True)
    assert (handler.app, app.config.get("greeter.polite", "word")) == (app, "hello")
    assert app.handler.registered("greeter", "polite")
    with pytest.raises(InterfaceError):
        app.handler.get("greeter", "rude")
    with pytest.raises(InterfaceError):
        app.handler.list("nothing")
    app.close()


def test_controllers(capsys: pytest.CaptureFixture[str]) -> None:
    class Base(Controller):
        class Meta:
            label = "base"
            arguments = [(["--where"], {"help": "where to"})]

        @ex(help="copy things", arguments=[(["what"], {})])
        def copy_all(self) -> str:
            return f"{self.app.pargs.what} to {self.app.pargs.where}"

    class Remote(Controller):
        class Meta:
            label = "remote"
            stacked_type = "nested"

        @ex(aliases=["ls"])
        def show(self) -> str:
            return "shown"

    for argv, expected in ((["--where", "x", "copy-all", "y"], "y to x"), (["remote", "ls"], "shown"), ([], None)):
        with TestApp("ctl", argv=argv, handlers=[Base, Remote]) as app:
            assert app.run() == expected
    assert "copy-all" in capsys.readouterr().out
