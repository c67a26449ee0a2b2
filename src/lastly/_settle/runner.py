"""Run one action of a dead owner. The reaper's worker starts this file with the owner's interpreter.

The request comes on descriptor 3, the answer goes to descriptor 4; standard output and error are the action's
own. The module is imported under its name from the owner's ``sys.path``. A function of the owner's script is
loaded from the script's file under another name than ``__main__``, so that ``if __name__ == "__main__":``
keeps the program from running again.

**A script without that guard** would run again: plan again, create again, sleep again. So loading stops where
the script defers something, if the wanted function is defined by then: it was, when the owner deferred it.
What stands *before* that line is executed once more, as with multiprocessing's "spawn". It has not the
program's arguments (they may be secret), and may fail for that: no matter, once the function is there. The
same holds for a module that was run by ``python -m``.
"""

import json
import os
import sys
import traceback
from typing import Any  # this is the owner's interpreter: nothing here needs to be light

MAIN = "__lastly_main__"


class _Enough(BaseException):
    """The script is loaded as far as it is needed."""


def main() -> None:
    with os.fdopen(3, "rb") as file:
        request = json.load(file)
    os.set_inheritable(4, False)  # what the action starts must not answer for it
    try:
        _run(request)
        answer: dict[str, Any] = {"ok": True}
    except BaseException as error:
        traceback.print_exc()
        text = "".join(traceback.format_exception_only(error)).strip()
        answer = {"error": text[-2000:]}
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
    os.write(4, json.dumps(answer).encode("ascii"))
    os.close(4)
    if "error" in answer:
        sys.exit(1)


def _run(request: dict[str, Any]) -> None:
    if request["path"]:
        sys.path[:] = request["path"]
    sys.argv = [request["argv0"] or ""]
    module_name, _, qualname = request["action"].partition(":")
    if module_name == "__main__":
        found = _load_main(request.get("file") or request["main"], qualname)
    elif request.get("file"):
        found = _load(module_name, request["file"])
    else:
        found = _load_run_module(module_name, qualname)
    for name in qualname.split("."):
        found = getattr(found, name)
    offered = {name: request[name] for name in ("attempt", "token", "confirmed")}
    call = getattr(found, "call", None)
    if call is not None and hasattr(found, "wants"):
        result = call(request["args"], request["kwargs"], **offered)
    else:  # deferred through a wrapper made elsewhere: lastly.action(function)
        from lastly import action

        result = action(found).call(request["args"], request["kwargs"], **offered)
    await_result(result)


def await_result(result: Any) -> None:
    """Wait for what an async action returned; of any other there is nothing to wait for."""

    async def wait() -> None:
        await result

    if hasattr(result, "__await__"):
        import asyncio

        asyncio.run(wait())


def _load(name: str, file: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return _from_file(name, file, "")


def _load_run_module(name: str, wanted: str) -> Any:
    """Load what was run by ``python -m``; of any other module the plan names the file."""
    import importlib.util

    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    with _StopAtDefer(module, wanted):
        spec.loader.exec_module(module)
    package, _, last = name.rpartition(".")
    if package:
        setattr(sys.modules[package], last, module)
    return module


def _load_main(path: str, qualname: str) -> Any:
    if not path:
        raise LookupError("the owner had no script that could be loaded")
    if os.path.isdir(path):
        path = os.path.join(path, "__main__.py")
    return _from_file(MAIN, path, qualname)


def _from_file(name: str, path: str, wanted: str) -> object:
    import types

    module = types.ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    import zipimport

    try:
        code = zipimport.zipimporter(path).get_code("__main__")
    except zipimport.ZipImportError:  # no archive; one may begin with a #! line
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
    with _StopAtDefer(module, wanted):
        exec(code, module.__dict__)  # noqa: S102 - the owner's own program
    return module


class _StopAtDefer:
    """Once the wanted function is there, deferring an action ends the loading, and so does any exception."""

    def __init__(self, module: object, wanted: str) -> None:
        self.module = module
        self.wanted = wanted

    def __enter__(self) -> None:
        from lastly._durable import seam as _durable

        self.names = vars(_durable)
        self.before = self.names["defer"]
        self.names["defer"] = self._defer

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        self.names["defer"] = self.before
        if error is None or not self.wanted:
            return False
        if not self._is_there():
            raise ImportError(
                f"{type(error).__name__}: {error}, before {self.wanted}() was defined; let the script define "
                'its functions first, and put what it does below if __name__ == "__main__":'
            ) from error
        if not isinstance(error, _Enough):
            traceback.print_exception(error)
        return True

    def _is_there(self) -> bool:
        found: Any = self.module
        for name in self.wanted.split("."):
            found = getattr(found, name, None)
        return found is not None

    def _defer(self, *args: Any, **kwargs: Any) -> Any:
        if self.wanted and self._is_there():
            raise _Enough
        return self.before(*args, **kwargs)


if __name__ == "__main__":
    main()
