"""What Cement has and lastly.app has not gives one clear error; what both have keeps Cement's contract."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

import lastly.app
from lastly.app import App, Controller, FrameworkError, Interface, InterfaceError, TestApp, ex
from lastly.app._cement_only import EXTENSIONS, MEMBERS, NAMES, SETTINGS


def made(**meta: object) -> TestApp:
    app = TestApp("parts", **meta)
    app.setup()
    return app


# -- names that only Cement has


@pytest.mark.parametrize("name", [*EXTENSIONS, "cement.ext.ext_redis", "cement.ext.ext_of_next_year"])
def test_an_extension_of_cement_is_refused_by_its_name(name: str) -> None:
    """Never a module of another package that happens to have that name: yaml and json are importable."""
    with pytest.raises(FrameworkError, match=r"Meta\.extensions.*lastly\.integrations\.cement") as caught:
        made(extensions=[name])
    assert repr(name) in str(caught.value)


def test_every_extension_that_cement_has_is_known() -> None:
    ext = pytest.importorskip("cement.ext")
    from lastly.app._cement_only import BUILT_IN

    names = {path.stem.removeprefix("ext_") for path in Path(ext.__path__[0]).glob("ext_*.py")}
    assert names == {*EXTENSIONS, *BUILT_IN, "colorlog"}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_cement_is_refused_by_its_name(name: str) -> None:
    class Moved(TestApp):
        class Meta:
            label = "moved"

    setattr(Moved.Meta, name, "nosuch")
    for app in (Moved(), TestApp("parts", **{name: "nosuch"})):
        with pytest.raises(FrameworkError, match=rf"Meta\.{name} = 'nosuch'.*lastly\.integrations\.cement"):
            app.setup()


def test_what_cement_has_by_default_is_accepted() -> None:
    pytest.importorskip("cement")
    from cement.core.foundation import App as CementApp

    same = {name: getattr(CementApp.Meta, name) for name in SETTINGS if not name.startswith("core_")}
    made(**same).close()


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_an_attribute_of_cements_app_says_where_it_is(name: str) -> None:
    app = TestApp("parts")
    assert not hasattr(app, name)  # so that a program may ask, or extend the app by it
    with pytest.raises(FrameworkError, match=r"lastly\.integrations\.cement"):
        getattr(app, name)
    app.extend(name, 1)
    assert getattr(app, name) == 1


def test_other_attributes_that_are_missing_are_said_as_ever() -> None:
    with pytest.raises(AttributeError, match=r"^'TestApp' object has no attribute 'nonsense'$"):
        TestApp("parts").nonsense  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_package_says_what_takes_its_place(name: str) -> None:
    with pytest.raises(AttributeError, match="Cement's"):
        getattr(lastly.app, name)


# -- the contract


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_bootstrap_module_sees_what_was_set_on_the_app(modules: Path) -> None:
    text = "def load(app):\n    app.seen.append(app.colour)\n    app.hook.register('pre_setup', lambda app: app.seen.append('pre_setup'))\n"
    (modules / "boot_sees.py").write_text(text)
    app = TestApp("parts", bootstrap="boot_sees")
    app.seen = []  # type: ignore[attr-defined]
    app.colour = "green"  # type: ignore[attr-defined]
    app.setup()
    assert app.seen == ["green", "pre_setup"]  # type: ignore[attr-defined]
    app.reload()
    assert app.seen == ["green", "pre_setup"] * 2  # type: ignore[attr-defined]
    app.close()


def test_a_bootstrap_that_fails_closes_the_app(modules: Path) -> None:
    (modules / "boot_fails.py").write_text("def load(app):\n    raise RuntimeError('no')\n")
    ran = []
    app = TestApp("parts", bootstrap="boot_fails", hooks=[("post_close", lambda app: ran.append("closed"))])
    with pytest.raises(RuntimeError, match="no"):
        app.setup()
    assert ran == ["closed"]


def test_a_hook_of_meta_runs_although_a_plugin_defines_it_later(modules: Path) -> None:
    (modules / "late_hook.py").write_text("def load(app):\n    app.hook.define('late')\n    app.hook.register('late', lambda: 'plugin', 5)\n")
    app = made(extensions=["late_hook"], hooks=[("late", lambda: "light", 1), ("late", lambda: "heavy", 9)])
    assert list(app.hook.run("late")) == ["light", "plugin", "heavy"]
    assert app.hook.register("never", print) is False
    app.close()


def test_the_hooks_of_rendering_are_defined() -> None:
    app = TestApp("parts")
    assert app.hook.defined("pre_render")
    assert app.hook.defined("post_render")


def test_merging_what_is_no_mapping_is_refused() -> None:
    app = made()
    with pytest.raises(TypeError, match="mapping"):
        app.config.merge(["level"])  # type: ignore[arg-type]
    app.close()


class Base(Controller):
    class Meta:
        label = "base"


def test_a_controller_that_would_not_be_there_is_refused() -> None:
    class Bad(Controller):
        class Meta:
            label = "bad"
            stacked_type = "bogus"

        @ex(help="go")
        def go(self) -> None: ...

    with pytest.raises(FrameworkError, match=r"Bad: Meta\.stacked_type .* 'bogus'"), TestApp(handlers=[Base, Bad]) as app:
        app.run()


@pytest.mark.parametrize("on", ["base", "stacked"])
def test_a_default_function_that_is_not_there_is_refused(on: str) -> None:
    class Lost(Controller):
        class Meta:
            label = "base" if on == "base" else "lost"
            stacked_type = "nested"
            default_func = "nope"

    handlers = [Lost] if on == "base" else [Base, Lost]
    with pytest.raises(FrameworkError, match=r"Lost: Meta\.default_func .* 'nope'"), TestApp(handlers=handlers) as app:
        app.run()


def test_an_interface_without_a_name_is_refused() -> None:
    class Nameless(Interface): ...

    with pytest.raises(InterfaceError, match=r"Nameless\.Meta\.interface"):
        Nameless()


@pytest.mark.parametrize("how", ["setting", "as Cement's programs say it"])
def test_unknown_arguments_can_be_kept(how: str) -> None:
    kept = {"ignore_unknown_arguments": True}
    meta = kept if how == "setting" else {"meta_defaults": {"argument.argparse": kept}}
    app = made(argv=["--debug", "--other", "x"], **meta)
    app.run()
    assert (app.pargs.debug, app.args.unknown_args) == (True, ["--other", "x"])
    app.close()


# -- configuration files that are not INI


TEXTS = {
    ".json": json.dumps({"level": 3, "target": {"path": "/x", "sizes": [1, 2], "on": True}}),
    ".toml": 'level = 3\n[target]\npath = "/x"\nsizes = [1, 2]\non = true\n',
    ".yaml": "level: 3\ntarget:\n  path: /x\n  sizes: [1, 2]\n  on: true\n",
}
TEXTS[".yml"] = TEXTS[".yaml"]


@pytest.mark.parametrize("suffix", TEXTS)
def test_the_end_of_a_files_name_tells_its_format(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if suffix in (".yaml", ".yml"):
        pytest.importorskip("yaml")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / f".typed{suffix}").write_text(TEXTS[suffix])

    class Typed(App):
        class Meta:
            label = "typed"
            argv: list[str] = []
            config_file_suffix = suffix
            config_defaults = {"target": {"path": "/default", "kept": 1}}
            catch_signals = None

    with Typed() as app:
        assert app.config.get("typed", "level") == 3
        on = "True" if suffix.startswith(".y") else "on"  # to YAML 1.1 that word is a truth
        assert app.config.get_section_dict("target") == {"path": "/x", "kept": 1, "sizes": [1, 2], on.lower(): True}
        monkeypatch.setenv("TYPED_TARGET_PATH", "/env")
        assert app.config.get("target", "path") == "/env"


@pytest.mark.parametrize("suffix", TEXTS)
def test_a_broken_or_missing_file_changes_nothing(suffix: str, tmp_path: Path) -> None:
    if suffix in (".yaml", ".yml"):
        pytest.importorskip("yaml")
    app = made()
    before = app.config.get_dict()
    assert app.config.parse_file(str(tmp_path / f"none{suffix}")) is False
    for text in ("[1, 2", "[1, 2]" if suffix != ".toml" else "x", '"text"'):
        (tmp_path / f"broken{suffix}").write_text(text)
        with pytest.raises(FrameworkError, match=f"broken{suffix}"):
            app.config.parse_file(str(tmp_path / f"broken{suffix}"))
    assert app.config.get_dict() == before
    if suffix != ".json":
        (tmp_path / f"empty{suffix}").write_text("")
        assert app.config.parse_file(str(tmp_path / f"empty{suffix}")) is True
    app.close()


def test_yaml_without_pyyaml_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.yaml").write_text("a: 1\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    app = made()
    with pytest.raises(FrameworkError, match=r"pip install 'lastly\[yaml\]'"):
        app.config.parse_file(str(tmp_path / "x.yaml"))
    app.close()


# -- the log in colours


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "variable", "coloured"), [
    (Terminal, None, True), (io.StringIO, None, False), (Terminal, "NO_COLOR", False), (io.StringIO, "FORCE_COLOR", True),
])  # fmt: skip
def test_colorlog_colours_a_terminal(
    stream: type[io.StringIO], variable: str | None, coloured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("colorlog")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(sys, "stderr", out := stream())
    file = tmp_path / "log"
    defaults = {"log.colorlog": {"file": str(file)}}
    with TestApp("parts", extensions=["colorlog"], log_handler="colorlog", config_defaults=defaults) as app:
        app.log.warning("careful")
    assert ("\x1b[33m" in out.getvalue(), "WARNING: careful" in out.getvalue()) == (coloured, True)
    assert "\x1b" not in file.read_text()


def test_colorlog_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "colorlog", None)
    with pytest.raises(FrameworkError, match=r"pip install 'lastly\[colorlog\]'"):
        made(extensions=["colorlog"])
