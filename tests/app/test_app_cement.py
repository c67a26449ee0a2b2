"""The same programs under Cement and under lastly.app: only the import differs.

Where Cement keeps its own contract, both must print and end alike. Where it does not, both outcomes are written down here:
that is what a program gains by changing the import.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import Programs, Result

pytest.importorskip("cement")

PREFIX = "from {framework} import App, CaughtSignal, Controller, FrameworkError, TestApp, ex, init_defaults\n"
TRACE = """
import os, signal, sys, time
def says(word):
    def hook(app):
        print(word, flush=True)
    return hook
NAMES = ["pre_setup", "post_setup", "pre_run", "post_run", "pre_argument_parsing", "post_argument_parsing", "pre_close",
         "post_close"]
class MyApp(App):
    class Meta:
        label = "myapp"
        hooks = [(name, says(name)) for name in NAMES]
"""

# What both do alike: (program, arguments).
ALIKE = {
    "a with block": (TRACE + "with MyApp() as app:\n    print(app.run(), app.exit_code, app.debug, app.argv)", []),
    "the same by hand": (TRACE + "app = MyApp()\napp.setup()\napp.run()\napp.close()", []),
    "an argument that nobody knows, caught": (
        TRACE + "with MyApp() as app:\n    try:\n        app.run()\n    except SystemExit as e:\n        print(e.code)",
        ["--nonsense"],
    ),
    "exit status": (
        TRACE
        + "MyApp.Meta.exit_on_close = True\n"
        + "with MyApp() as app:\n    try:\n        raise LookupError('no such thing')\n"
        + "    except LookupError as e:\n        app.log.fatal('Caught Exception: %s' % e)\n        app.exit_code = 100\n",
        [],
    ),
    "no exit in a test": (
        TRACE
        + "MyApp.Meta.exit_on_close = True\nclass MyTestApp(MyApp):\n    class Meta:\n        exit_on_close = False\n"
        + "with MyTestApp() as app:\n    app.exit_code = 3\nprint('alive', app.exit_code)",
        [],
    ),
    "a temporary file, removed by a hook": (
        """
import os
open("left.tmp", "w").close()
settings = init_defaults("tidy")
settings["tidy"]["tmp_file"] = "left.tmp"
def tidy(app):
    path = app.config.get("tidy", "tmp_file")
    if os.path.exists(path):
        app.log.warning("removing tmp file: %s" % path)
        os.remove(path)
class Tidy(App):
    class Meta:
        label = "tidy"
        config_defaults = settings
        hooks = [("pre_close", tidy)]
with Tidy() as app:
    app.run()
print(os.path.exists("left.tmp"))
""",
        [],
    ),
    "levels of the log": (
        ("with App('logs') as app:\n"
        "    for level in 'debug info warning error fatal critical'.split():\n"
        "        getattr(app.log, level)('a message')\n"
        "    print(app.log.get_level())\n"
        "    app.log.set_level('ERROR')\n    app.log.warning('hidden')\n    print(app.log.get_level())"),
        [],
    ),
    "debug": ("with App('logs') as app:\n    app.run()\n    app.log.debug('seen')\n    print(app.debug)", ["-d"]),
    "debug in the configuration": (
        """
import os
open("quiet.conf", "w").write("[logs]\\ndebug = false\\n")
for settings in ({}, {"debug": True}, {"argv": ["-d"]}, {"argv": ["-d"], "config_files": ["quiet.conf"]},
                 {"debug": True, "config_files": ["quiet.conf"]}, {"config_files": ["quiet.conf"]}):
    with App("logs", **{"config_defaults": {"logs": {"debug": False}}, "argv": [], **settings}) as app:
        app.run()
        print(app.debug, app.config.get("logs", "debug"))
for word in ("false", "true"):
    os.environ["LOGS_DEBUG"] = word
    for settings in ({}, {"debug": True}, {"argv": ["-d"]}, {"argv": ["-d"], "config_files": ["quiet.conf"]}):
        with App("logs", **{"config_defaults": {"logs": {"debug": False}}, "argv": [], **settings}) as app:
            app.run()
            print(app.debug, app.config.get("logs", "debug"), app.log.get_level())
""",
        [],
    ),
    "quiet": ("with App('logs') as app:\n    app.run()\n    print('hidden')\n    app.log.error('hidden')", ["-q"]),
    "quiet and debug": (
        "with App('logs') as app:\n    app.run()\n    print('seen', app.debug, app.quiet)\n    app.log.debug('seen')",
        ["-q", "-d"],
    ),
    "help of added arguments": (
        ("with App('helps') as app:\n    app.add_arg('-n', '--name', help='a name', metavar='WORD')\n    try:\n        app.run()\n"
        "    except SystemExit as e:\n        print(e.code)"),
        ["--help"],
    ),
    "arguments": (
        ("with App('args') as app:\n    app.add_arg('-n', '--name')\n    app.add_arg('files', nargs='*')\n"
        "    app.run()\n    print(app.pargs.name, app.pargs.files, app.pargs.debug)"),
        ["-n", "x", "one", "two"],
    ),
    "labels": (
        ("for label in ['', 'two words', 'a.b', 'a-b', 'a_b']:\n    try:\n        print(App(label).label)\n"
        "    except FrameworkError as e:\n        print(e)"),
        [],
    ),
    "hooks": (
        ("def gen(*a):\n    yield 1\n    yield 2\n"
        "app = App('hooks', define_hooks=['mine'])\napp.setup()\n"
        "for f, w in ((lambda: 'b', 0), (lambda: 'a', -5), (gen, 9), (lambda: [3], 0)):\n"
        "    print(app.hook.register('mine', f, w))\n"
        "print(list(app.hook.run('mine')), app.hook.register('none', gen), app.hook.defined('mine'))\n"
        "for f in (lambda: app.hook.define('mine'), lambda: list(app.hook.run('none'))):\n"
        "    try:\n        f()\n    except FrameworkError as e:\n        print(e)\napp.close()"),
        [],
    ),
    "configuration": (
        """
import os
open("one.conf", "w").write("[conf]\\nname = one\\nlevel = one\\n[plugin.p]\\nenabled = no\\n")
os.mkdir("conf.d")
open("conf.d/b.conf", "w").write("[conf]\\nlevel = b\\n")
open("conf.d/a.conf", "w").write("[conf]\\nlevel = a\\nmore = a\\n")
os.environ.update(CONF_MORE="env", CONF_TARGET_PATH="env path", CONF_ONLY_HERE="yes")
defaults = init_defaults("conf", "target")
defaults["conf"].update(name="default", left="default")
defaults["target"]["path"] = "default"
with App("conf", config_defaults=defaults, config_files=["one.conf"], config_dirs=["conf.d"]) as app:
    for key in ("name", "level", "left", "more", "only_here"):
        print(key, app.config.get("conf", key))
    print(app.config.get_section_dict("target"), app.config.has_section("conf"), app.config.has_section("x"))
    app.config.set("conf", "left", 5)
    app.config.merge({"conf": {"left": 6, "new": [1]}}, override=False)
    print(app.config.get("conf", "left"), app.config.get("conf", "new"), app.plugin.get_disabled_plugins())
""",
        [],
    ),
    "an extension and a plugin": (
        """
import os
open("my_ext.py", "w").write("def load(app):\\n    app.hook.register('pre_close', lambda app: print('extension'))\\n")
os.mkdir("plugins")
open("plugins/plug.py", "w").write("def load(app):\\n    app.hook.register('post_close', lambda app: print('plugin'))\\n")
open("x.conf", "w").write("[plugin.plug]\\nenabled = true\\n")
os.mkdir("pack")
open("pack/__init__.py", "w").close()
os.rename("my_ext.py", "pack/my_ext.py")
import sys
sys.path.insert(0, os.getcwd())
with App("ext", extensions=["pack.my_ext"], plugin_dirs=["plugins"], config_files=["x.conf"]) as app:
    app.run()
    print(app.plugin.get_loaded_plugins(), app.ext.list()[-1])
""",
        [],
    ),
    "reload": (
        TRACE + "app = MyApp()\napp.setup()\napp.extend('more', 1)\napp.reload()\nprint(hasattr(app, 'more'))\napp.close()",
        [],
    ),
    "exit code of close": (
        ("app = App('codes', exit_on_close=True)\napp.setup()\ntry:\n    app.close(4)\nexcept SystemExit as e:\n"
        "    print(e.code, app.exit_code)"),
        [],
    ),
}
CONTROLLERS = """
class Base(Controller):
    class Meta:
        label = "base"
        description = "copies things"
        arguments = [(["--verbose"], {"action": "store_true", "help": "say more"})]
    def _default(self):
        print("default", self.app.pargs.verbose)
    @ex(help="copy it", aliases=["cp"], arguments=[(["what"], {})])
    def copy_it(self):
        print("copy", self.app.pargs.what)
        return 7
class Remote(Controller):
    class Meta:
        label = "remote"
        stacked_type = "nested"
        help = "on the other side"
    @ex(help="show it")
    def show(self):
        print("show")
class More(Controller):
    class Meta:
        label = "more"
        arguments = [(["--more"], {})]
    @ex(hide=True)
    def hidden(self):
        print("hidden", self.app.pargs.more)
with App("ctl", handlers=[Base, Remote, More]) as app:
    print(app.run())
"""
for _argv in ([], ["cp", "x"], ["--verbose", "copy-it", "y"], ["remote"], ["remote", "show"], ["--more", "1", "hidden"]):
    ALIKE["controllers " + " ".join(_argv)] = (CONTROLLERS, _argv)


def both(programs: Programs, code: str, args: list[str], tmp_path: Path) -> tuple[Result, Result]:
    results = []
    for framework in ("cement", "lastly.app"):
        folder = tmp_path / framework
        folder.mkdir()
        program = f"import os\nos.chdir({str(folder)!r})\n" + PREFIX.format(framework=framework) + code
        results.append(programs.run(program, *args, env={"HOME": str(folder)}))
    return results[0], results[1]


def comparable(text: str) -> str:
    return re.sub(r"\d\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d+", "TIME", text)


@pytest.mark.parametrize("what", ALIKE)
@pytest.mark.slow(keep=4)
def test_alike(programs: Programs, tmp_path: Path, what: str) -> None:
    theirs, ours = both(programs, *ALIKE[what], tmp_path)
    assert (ours.out, comparable(ours.err), ours.status) == (theirs.out, comparable(theirs.err), theirs.status)


# What a program gains: (program, arguments, (lines of the hooks, status) under Cement, the same here).
SIGNALLED = TRACE + (
    "with MyApp(exit_on_close=True) as app:\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(60)\n"
    "    except CaughtSignal as e:\n        app.exit_code = 0\n"
)
BOTH_CLOSED = ["pre_close", "post_close"]
GAINS = {
    "exception": (TRACE + "with MyApp() as app:\n    raise ValueError", [], ([], 1), (BOTH_CLOSED, 1)),
    "sys.exit": (TRACE + "with MyApp() as app:\n    sys.exit(3)", [], ([], 3), (BOTH_CLOSED, 3)),
    "--help": (TRACE + "with MyApp() as app:\n    app.run()", ["--help"], ([], 0), (BOTH_CLOSED, 0)),
    "a bad option": (TRACE + "with MyApp() as app:\n    app.run()", ["--nonsense"], ([], 2), (BOTH_CLOSED, 2)),
    "a failing setup": (TRACE + "with MyApp(extensions=['a.b']) as app:\n    pass", [], ([], 1), (BOTH_CLOSED, 1)),
    "an app nobody closed": (TRACE + "app = MyApp()\napp.setup()", [], ([], 0), (BOTH_CLOSED, 0)),
    "a signal never says success": (SIGNALLED, [], (BOTH_CLOSED, 0), (BOTH_CLOSED, -15)),
    "a failing hook stops no other": (
        TRACE + "def bad(app):\n    raise OSError\napp = MyApp()\napp.hook.register('pre_close', bad, -1)\nwith app:\n    pass",
        [],
        ([], 1),
        (BOTH_CLOSED, 1),
    ),
    "a second close": (
        TRACE + "app = MyApp()\napp.setup()\napp.close()\napp.close()",
        [],
        (BOTH_CLOSED, 1),
        (BOTH_CLOSED, 0),
    ),
    "set up again": (
        TRACE + "app = MyApp()\napp.setup()\napp.close()\napp.setup()\napp.close()",
        [],
        (BOTH_CLOSED, 1),
        (BOTH_CLOSED * 2, 0),
    ),
    "a list of numbers among the defaults, and a file": (
        TRACE + "open('x.conf', 'w').write('[myapp]\\nother = 1\\n')\n"
        "with MyApp(config_files=['x.conf'], config_defaults={'myapp': {'sizes': [5]}}) as app:\n"
        "    print(app.config.get('myapp', 'sizes')[0] + 1)",
        [],
        ([], 1),
        (BOTH_CLOSED, 0),
    ),
}


@pytest.mark.parametrize("what", GAINS)
@pytest.mark.slow(keep=3)
def test_gains(programs: Programs, tmp_path: Path, what: str) -> None:
    code, args, *expected = GAINS[what]
    found = [
        ([line for line in result.lines if line.endswith("_close")], result.status)
        for result in both(programs, code, args, tmp_path)
    ]
    assert found == expected


def test_traceback_under_quiet(programs: Programs, tmp_path: Path) -> None:
    code = "with App('silent') as app:\n    app.run()\n    raise ValueError('seen')"
    theirs, ours = both(programs, code, ["-q"], tmp_path)
    assert (theirs.err, theirs.status) == ("", 1)
    assert (ours.err.splitlines()[-1], ours.out, ours.status) == ("ValueError: seen", "", 1)
