"""The door of `lastly run` into a Python program: `site` imports this before the program's first line.

Any Python may find this file on its PYTHONPATH, an old one too, so it is written for all of them.
It takes itself out of sys.path and sys.modules, starts `lastly._run.inject` where the interpreter is
new enough, and lets the environment's own sitecustomize run as if this one had never been there.
"""
# mypy: ignore-errors
#   (no annotations: Python 2 must be able to read it; and it imports a namesake that is not there)
# ruff: noqa: ANN001, ANN202, INP001, UP031, UP036, E402, F401
#   (the same; no package; `%` because Python 2 has no f-strings; the last import is the point of the file)

import os
import sys


def _without(here):
    """Take this folder out of an interpreter that lastly does not serve, and say that it does not.

    Not below a Python that it serves (LASTLY_RUN_MAIN): that one's death ends this one, too.
    """
    if os.environ.get("LASTLY_RUN") and not os.environ.get("LASTLY_RUN_MAIN"):
        _say(
            "lastly run: Python %d.%d is too old to be guarded (3.11 is needed): temp files stay after a "
            "crash, exit functions do not run on SIGTERM; --supervise ends its children\n"
            % sys.version_info[:2]
        )
    rest = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry != here]
    if rest:
        os.environ["PYTHONPATH"] = os.pathsep.join(rest)
    else:
        os.environ.pop("PYTHONPATH", None)
    os.environ.pop("LASTLY_RUN", None)
    os.environ.pop("LASTLY_RUN_MAIN", None)


def _say(text):
    try:
        os.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def _load(package):
    """Import lastly: the environment's own if it has one, else the one that `lastly run` came from."""
    # The frozen halves of importlib: always loaded, while `importlib.machinery` costs an import.
    import _frozen_importlib as core
    import _frozen_importlib_external as external

    found = external.PathFinder.find_spec("lastly", sys.path)
    folder = os.path.dirname(found.origin) if found and found.origin else ""
    if not folder or not os.path.exists(os.path.join(folder, "_run", "inject.py")):
        # Never by sys.path: the program would see everything else that is installed beside us.
        origin = os.path.join(package, "__init__.py")
        core._load(  # noqa: SLF001  # importlib's own way in, without importing importlib
            external.spec_from_file_location("lastly", origin, submodule_search_locations=[package])
        )
    from lastly._run import inject

    return inject


def _start():
    here = os.path.dirname(os.path.abspath(__file__))
    while here in sys.path:
        sys.path.remove(here)
    sys.path_importer_cache.pop(here, None)
    if sys.version_info < (3, 11):
        _without(here)
        return
    try:
        _load(os.path.dirname(os.path.dirname(here))).start(here)
    except Exception as error:  # the program runs on, whatever is wrong with us
        _say("lastly run: this program is not guarded: %s: %s\n" % (type(error).__name__, error))


_start()
# Not found: site swallows exactly this ImportError, as it does when there is no sitecustomize at all.
# Found: site gets the real one, out of sys.modules.
del sys.modules["sitecustomize"]
import sitecustomize
