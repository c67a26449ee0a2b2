"""What newer Pythons have: interpreters, their pools, forkserver as the default, lazy imports; -X dev -W error everywhere."""

from __future__ import annotations

import sys

import pytest
from harness import Programs

STRICT = ("-X", "dev", "-W", "error")
newer = pytest.mark.skipif(sys.version_info < (3, 14), reason="needs Python 3.14")


def test_strict(programs: Programs) -> None:
    """Nothing of ours warns, in whatever it does."""
    code = """
    import lastly, os, subprocess, sys, threading, asyncio
    from lastly import actions, defer, Scope
    lastly.install(grace=20)
    made = lastly.temp_dir()
    defer(actions.run, [sys.executable, "-c", ""])
    child = lastly.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    defer(child.close)
    with Scope("s", grace=5) as s, s.parallel() as p: p.defer(print, "parallel").within(5)
    async def main():
        async with lastly.AsyncScope("a") as a: a.defer(asyncio.sleep, 0)
    asyncio.run(main())
    defer(print, "end")
    """
    result = programs.run(code, flags=STRICT)
    assert (result.status, result.lines, result.err) == (0, ["parallel", "end"], "")


@newer
def test_an_interpreter_beside_the_main_one(programs: Programs) -> None:
    """Its cleanups run when it is closed, and the main one's at the end of the process; signals are refused there."""
    code = """
    import lastly
    from concurrent import interpreters
    lastly.install()
    lastly.defer(print, "main", flush=True)
    other = interpreters.create()
    other.exec('''if True:
        import lastly
        lastly.defer(print, "other", flush=True)
        with lastly.Scope("s") as s: s.defer(print, "scope", flush=True)
        try: lastly.install()
        except RuntimeError as error: print(error)
    ''')
    other.close()
    print("closed", flush=True)
    """
    result = programs.run(code)
    assert result.status == 0, result.err
    assert result.lines[0] == "scope"
    assert "main interpreter only" in result.lines[1]
    assert result.lines[2:] == ["other", "closed", "main"]


@newer
def test_a_pool_of_interpreters(programs: Programs) -> None:
    code = """
    import lastly
    from concurrent.futures import InterpreterPoolExecutor
    def job(number):
        import lastly
        with lastly.Scope("s") as s:
            s.defer(int)
        return number * 2
    if __name__ == "__main__":
        lastly.install()
        lastly.defer(print, "main", flush=True)
        with InterpreterPoolExecutor(2) as pool:
            print(sorted(pool.map(job, range(4))), flush=True)
    """
    result = programs.run(code)
    assert (result.status, result.lines) == (0, ["[0, 2, 4, 6]", "main"]), result.err


@pytest.mark.parametrize("method", ["forkserver", "default"])
def test_workers_of_the_default_way(programs: Programs, method: str) -> None:
    """Since 3.14 that is the forkserver: a worker has no cleanups of its parent's, and runs its own."""
    code = """
    import lastly, multiprocessing, sys
    def job(number):
        lastly.defer(print, f"worker {number}", flush=True)
        return number
    if __name__ == "__main__":
        lastly.install()
        lastly.defer(print, "main", flush=True)
        if sys.argv[1] != "default": multiprocessing.set_start_method(sys.argv[1])
        child = multiprocessing.Process(target=job, args=(1,))
        child.start(); child.join()
        print("joined", child.exitcode, flush=True)
    """
    result = programs.run(code, method)
    assert (result.status, result.lines) == (0, ["worker 1", "joined 0", "main"]), result.err


@pytest.mark.skipif(sys.version_info < (3, 15), reason="needs Python 3.15")
@pytest.mark.parametrize("way", ["statement", "-X lazy_imports=all"])
def test_lazy_imports(programs: Programs, way: str) -> None:
    code = """
    lazy import lastly
    lazy from lastly import defer, Scope
    lazy import tempfile
    lastly.install()
    defer(print, "a")
    made = lastly.temp_dir()
    with Scope("s") as s: s.defer(print, "b")
    print(__import__("os").path.isdir(made))
    """
    lazy = way != "statement"
    result = programs.run(code.replace("lazy ", "") if lazy else code, flags=("-X", "lazy_imports=all") if lazy else ())
    assert (result.status, result.lines) == (0, ["b", "True", "a"]), result.err
