"""Under `lastly run` a Python program sees what it sees without: compared, not described."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from harness import PATIENCE, ROOT, Programs, asleep, clean_environment, wait_until
from suites import NO_MORE

EVERYTHING = """
import sys, os, json, signal
def f():
    frame, names = sys._getframe(), []
    while frame:
        names.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    return names
seen = {
    "argv": sys.argv, "orig": sys.orig_argv, "path": sys.path, "flags": str(sys.flags), "frames": f(),
    "main": sorted(globals()), "file": __file__, "name": __name__, "spec": str(__spec__),
    "environ": {k: v for k, v in os.environ.items() if k != "LASTLY_TOKEN"},
    "importers": sorted(p for p in sys.path_importer_cache if "/lastly" not in p), "meta": str(sys.meta_path), "hooks": str(sys.excepthook),
    "site": "sitecustomize" in sys.modules, "limit": sys.getrecursionlimit(), "warn": sys.warnoptions,
    "int": str(signal.getsignal(signal.SIGINT)), "pipe": str(signal.getsignal(signal.SIGPIPE)),
    "fds": sorted(os.listdir("/proc/self/fd")), "threads": len(os.listdir("/proc/self/task")),
    "modules": sorted(m for m in sys.modules if not m.startswith("lastly")),
}
print(json.dumps(seen, indent=1, default=str))
"""
# What our own light side imports: built in, or frozen, and of no effect.
OURS = {"atexit", "_contextvars", "_functools", "gc", "time", "_weakref", "errno", "itertools", "_operator"}


def both(programs: Programs, python: str, words: list[str], **options: object) -> tuple[object, object]:
    """The same command without and with `lastly run`, in one folder."""
    bare = programs.run_command([python, *words], **options)
    ours = programs.run_command([sys.executable, "-m", "lastly", "run", "--", python, *words], **options)
    return bare, ours


def assert_same(bare: str, ours: str) -> None:
    """Equal but for addresses, and for modules that our own side has loaded."""
    expected, seen = (json.loads(re.sub(r"0x\w+", "", text)) for text in (bare, ours))
    assert set(seen.pop("modules")) - set(expected.pop("modules")) <= OURS
    assert seen == expected


@pytest.mark.parametrize("path", [None, "", "/somewhere", "/somewhere:", ":/a:/b"])
def test_everything_a_program_can_see(
    programs: Programs, tmp_path: Path, python: str, path: str | None
) -> None:
    """argv, sys.path, __main__, frames, flags, environment, open files: equal, PYTHONPATH set or not."""
    (tmp_path / "see.py").write_text(EVERYTHING)
    env = {"PYTHONPATH": path, "TMPDIR": str(tmp_path)}
    bare, ours = both(programs, python, ["see.py", "a", "-b"], cwd=tmp_path, env=env)
    assert (ours.status, ours.err) == (0, "")
    assert_same(bare.out, ours.out)


@pytest.mark.parametrize("words", [["-c"], ["-m"]])
def test_c_and_m(programs: Programs, tmp_path: Path, python: str, words: list[str]) -> None:
    (tmp_path / "see.py").write_text(EVERYTHING.replace("__file__", "globals().get('__file__')"))
    what = (tmp_path / "see.py").read_text() if words == ["-c"] else "see"
    bare, ours = both(programs, python, [*words, what, "x"], cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert bare.status == ours.status == 0
    assert_same(bare.out, ours.out)


def test_traceback(programs: Programs, tmp_path: Path, python: str) -> None:
    """No frame of ours, not even where an audited function fails."""
    (tmp_path / "fail.py").write_text(
        "import tempfile, subprocess, os, traceback\n"
        "def a(): tempfile.mkdtemp(dir='/nonexistent')\n"
        "def b(): subprocess.Popen(['/nonexistent'])\n"
        "def c(): os.remove('/nonexistent')\n"
        "def d(): os.posix_spawn('/nonexistent', [''], {})\n"
        "for f in (a, b, c, d):\n"
        "    try: f()\n"
        "    except OSError: traceback.print_exc()\n"
        "import tempfile; tempfile.mkdtemp = None\n"
        "raise ValueError('end')\n"
    )
    bare, ours = both(programs, python, ["fail.py"], cwd=tmp_path)
    strip = re.compile(r"/nonexistent/tmp\w+")
    assert strip.sub("", ours.err) == strip.sub("", bare.err)
    assert (bare.status, ours.status) == (1, 1)


def test_pickle_of_main(programs: Programs, tmp_path: Path, python: str) -> None:
    """Classes of __main__ pickle under that name, and os._exit, which we replace, as ever."""
    (tmp_path / "p.py").write_text(
        "import pickle, os\nclass C: pass\nprint(pickle.dumps(C), pickle.dumps(os._exit), os._exit.__name__)\n"
        "assert pickle.loads(pickle.dumps(os._exit)) is os._exit\n"
    )
    bare, ours = both(programs, python, ["p.py"], cwd=tmp_path)
    assert (ours.out, ours.err, ours.status) == (bare.out, bare.err, 0)


def test_runpy(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "q.py").write_text("print(__name__, sorted(globals()))")
    bare, ours = both(
        programs, sys.executable, ["-c", "import runpy; runpy.run_path('q.py', run_name='__main__')"],
        cwd=tmp_path,
    )  # fmt: skip
    assert ours.out == bare.out


def test_own_sitecustomize_still_runs(programs: Programs, tmp_path: Path, python: str) -> None:
    """The environment's own sitecustomize is imported once, under its name, after ours."""
    (tmp_path / "sitecustomize.py").write_text("import sys; print('own', __name__, 'lastly' in sys.modules)")
    env = {"PYTHONPATH": str(tmp_path)}
    got = programs.run_command(
        ["lastly", "run", "--", python, "-c", "import sitecustomize; print(sitecustomize.__file__)"], env=env
    )
    assert got.out == f"own sitecustomize True\n{tmp_path}/sitecustomize.py\n"


def test_broken_sitecustomize_is_reported_as_ever(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("1/0")
    bare, ours = both(programs, sys.executable, ["-c", "print(1)"], env={"PYTHONPATH": str(tmp_path)})
    # Twice: the launcher is a Python of that environment, too.
    assert (ours.out, ours.err) == (bare.out, bare.err * 2)


def test_module_that_hides_ours(programs: Programs, tmp_path: Path, python: str) -> None:
    """A program with a json.py, a struct.py and a fcntl.py of its own imports those, and is guarded all the same."""
    for name in ("json", "struct", "fcntl", "zlib", "subprocess", "remove"):
        (tmp_path / f"{name}.py").write_text(f"print('the own {name}')")
    (tmp_path / "prog.py").write_text(
        "import os, time\nos.environ['X'] = 'y'\n"
        "import sys; sys.audit('tempfile.mkdtemp', os.path.abspath('made')); os.mkdir('made')\n"
        "print(os.listdir(os.environ['LASTLY_HOME']))\n"
        "import json, struct\nprint(json.__file__)\n"
    )
    got = programs.run_command(["lastly", "run", "--", python, "prog.py"], cwd=tmp_path)
    assert got.err == ""
    assert "owners" in got.lines[0]
    assert got.lines[1:] == ["the own json", "the own struct", f"{tmp_path}/json.py"]


def test_old_and_other_pythons(programs: Programs, tmp_path: Path) -> None:
    """An interpreter that lastly does not serve runs as without it, and one line says so."""
    for name in ("python3.10", "python3.8", "python3.6", "python2.7"):
        path = shutil.which(name)
        if path is None or subprocess.run([path, "-c", ""], capture_output=True).returncode:
            continue
        code = "import sys, os; print(sys.path, os.environ.get('PYTHONPATH'), os.environ.get('LASTLY_RUN'))"
        bare, ours = both(programs, path, ["-c", code], env={"PYTHONPATH": "/x"})
        assert ours.out == bare.out
        assert len(ours.err.splitlines()) == len(bare.err.splitlines()) + 1
        assert "too old to be guarded" in ours.err


OLD = """
import os, sys
sys.version_info = {version}
sys.modules["sitecustomize"] = sys
try:
    exec(compile(open({door!r}).read(), {door!r}, "exec"), {{"__file__": {door!r}}})
except ImportError:  # what `site` swallows
    pass
print([name for name in os.environ if name.startswith(("LASTLY_RUN", "PYTHONPATH"))])
"""


@pytest.mark.parametrize(
    ("version", "main", "said"),
    [((3, 10, 1), None, "Python 3.10 is too old"), ((2, 7, 18), None, "Python 2.7"), ((3, 10, 1), "7.8.9", "")],
)
def test_a_python_that_is_too_old_says_so(
    programs: Programs, version: tuple[int, ...], main: str | None, said: str
) -> None:
    """Once: neither below a Python that is guarded, nor for what it starts itself. (Here a new one plays an old one.)"""
    from lastly._run.program import SITE

    env = {"LASTLY_RUN": "1 1 1 aa 10.0 auto 0", "PYTHONPATH": SITE, "LASTLY_RUN_MAIN": main}
    got = programs.run(OLD.format(version=version, door=f"{SITE}/sitecustomize.py"), flags=["-S"], env=env)
    assert got.out == "[]\n"
    assert said in got.err
    assert len(got.err.splitlines()) == bool(said)


def test_children_are_injected(programs: Programs) -> None:
    """A Python child that inherits the environment is watched too, and sees nothing of it either."""
    code = (
        "import subprocess, sys\n"
        "see = 'import sys, os; print(sorted(os.environ), sys.path, \"lastly._run.watch\" in sys.modules)'\n"
        "subprocess.run([sys.executable, '-c', see])\n"
    )
    bare, ours = both(programs, sys.executable, ["-c", code], env={"LASTLY_TOKEN": "aa", "TMPDIR": "/tmp"})
    assert ours.out == bare.out.replace("False", "True")


def test_version_and_pip(programs: Programs) -> None:
    bare, ours = both(programs, sys.executable, ["--version"])
    assert ours.out == bare.out
    bare, ours = both(programs, sys.executable, ["-m", "pip", "--version"])
    assert (ours.out, ours.status) == (bare.out, bare.status)


@pytest.mark.slow
def test_pip_install(programs: Programs, tmp_path: Path) -> None:
    """pip installs through its temp folders, and leaves none."""
    wheel = tmp_path / "one_thing-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("one_thing.py", "x = 1\n")
        archive.writestr("one_thing-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: one-thing\nVersion: 1\n")
        archive.writestr("one_thing-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("one_thing-1.dist-info/RECORD", "")
    program = programs.start_command(
        ["lastly", "run", "-m", "pip", "install", "-q", "--no-index", "--disable-pip-version-check",
         "--root-user-action=ignore", "--target", str(tmp_path / "to"), str(wheel)],
    )  # fmt: skip
    got = program.wait(within=60)
    assert (got.status, got.out) == (0, ""), got.err
    assert (tmp_path / "to" / "one_thing.py").exists()
    assert os.listdir(program.tmp) == []


@pytest.mark.slow
def test_pytest_xdist(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "def test_one(tmp_path): (tmp_path / 'f').write_text('x')\n"
        "def test_two(): assert 1 == 2\n"
        "def test_three(): import tempfile; tempfile.mkdtemp()\n"
    )
    words = ["-m", "pytest", *NO_MORE, "-q", "-n", "2", "-p", "no:cacheprovider", "test_a.py"]
    bare, ours = both(programs, sys.executable, words, cwd=tmp_path, within=60)
    assert (ours.status, bare.status) == (1, 1)
    seconds = re.compile(r"in [\d.]+s|\[gw\d\]|0x\w+")

    def told(text: str) -> list[str]:
        lines = seconds.sub("", text).split("\n")
        # Two workers: who of them is done first is anybody's guess.
        return sorted("".join(sorted(line)) if line.endswith("[100%]") else line for line in lines)

    assert told(ours.out) == told(bare.out)


def test_http_server(programs: Programs, tmp_path: Path) -> None:
    """The server answers; Ctrl-C ends it as ever."""
    (tmp_path / "hello").write_text("world")
    program = programs.start_command(
        ["lastly", "run", "-m", "http.server", "0", "--bind", "127.0.0.1"], cwd=tmp_path,
        env={"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    port = int(re.search(r"port (\d+)", program.line("Serving")).group(1))
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/hello", timeout=PATIENCE) as answer:
        assert answer.read() == b"world"
    program.send(2)
    got = program.wait()
    assert got.status == 0
    assert "Keyboard interrupt received, exiting." in got.out


PROMPT = rb">>> |\nIn \[\d+\]: "


def session(argv: list[str], home: Path) -> tuple[list[bytes], int]:
    """What a prompt on a terminal answers to input, a failure, Ctrl-C and Ctrl-D, and the status."""
    pid, master = pty.fork()
    if pid == 0:
        env = clean_environment(home, PYTHON_BASIC_REPL="1", TERM="dumb", IPYTHONDIR=str(home.parent / "ipython"))
        os.execve(argv[0], argv, env)
    seen, said = bytearray(), []

    def until(text: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(text, seen)) is None:
            assert select.select([master], [], [], max(0, deadline - time.monotonic()))[0], seen
            seen.extend(os.read(master, 4096))
        said.append(bytes(seen[: found.end()]))
        del seen[: found.end()]

    until(PROMPT)
    for line in (b"6 * 7\n", b"1/0\n", b"import signal, time\n"):
        os.write(master, line)
        until(PROMPT)
    os.write(master, b"print('now'); time.sleep(60)\n")
    until(rb"\nnow\r\n")
    wait_until(lambda: asleep(pid))
    os.write(master, b"\x03")
    until(PROMPT)
    assert b"KeyboardInterrupt" in said[-1]
    os.write(master, b"exit()\n")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(master)
    return said, status


def test_interactive_python(home: Path, python: str) -> None:
    bare = session([python, "-q"], home)
    ours = session([sys.executable, "-m", "lastly", "run", "--", python, "-q"], home)
    assert ours == bare
    # Since 3.14 a prompt that was once interrupted dies of SIGINT when it ends; the packages of others do without.
    assert bare[1] in (0, -signal.SIGINT)


def test_ipython(home: Path) -> None:
    words = [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor"]
    bare, ours = session(words, home), session([sys.executable, "-m", "lastly", "run", "--", *words], home)
    assert ours == bare
    assert bare[1] == 0


@pytest.mark.slow
def test_cpythons_own_tests(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of `make transparency`: case by case as without."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import transparency

    python = os.path.realpath(sys.executable)
    if subprocess.run([python, "-c", "import test.test_tempfile"], capture_output=True).returncode:
        pytest.skip("this interpreter ships no tests")
    cases, differ = transparency.compare(python, "test_tempfile", str(home))
    assert cases > 50
    assert differ == {}
