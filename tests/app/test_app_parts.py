"""An app's parts: configuration, log, arguments, extensions, plugins, handlers, controllers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness import Programs

from lastly.app import (
    App,
    Controller,
    FrameworkError,
    Handler,
    Interface,
    InterfaceError,
    TestApp,
    ex,
    init_defaults,
)


def made(**meta: object) -> TestApp:
    app = TestApp("parts", **meta)
    app.setup()
    return app


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
        message = f"line {number}"
        app.log.info(message, namespace="here")
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
    print("shown: debugging wins")
    assert (app.pargs.name, app.debug, app.quiet, app.log.get_level()) == ("x", True, True, "DEBUG")
    app.close()
    app = made(argv=["-qx"])
    app.add_arg("-x", action="store_true")
    app.run()
    print("hidden")
    app.close()
    print("shown")
    assert capsys.readouterr().out == "shown: debugging wins\nshown\n"


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


def test_typer_app() -> None:
    import typer

    cli = typer.Typer()

    @cli.command()
    def main(code: int = 0) -> str:
        if code:
            raise typer.Exit(code)
        return "result"

    app = made(main=cli)
    assert app.run() == "result"
    app._meta.argv = ["--code", "4"]
    with pytest.raises(SystemExit) as caught:
        app.run()
    assert (caught.value.code, app.exit_code) == (4, 4)
    app.close()


def test_import_is_light(programs: Programs) -> None:
    result = programs.run("import sys, lastly.app\nprint(*{'argparse', 'logging', 'configparser', 're'} & {*sys.modules})")
    assert result.out == "\n"


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
    with pytest.raises(FrameworkError, match="is Cement's"):
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
