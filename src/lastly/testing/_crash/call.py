"""Run one function of a file, as a program: ``python call.py FILE MODULE QUALNAME ARGUMENTS SYS.PATH``.

The two last are JSON. The file is loaded under its module's own name, so what it defines is found by that
name in other processes too.
"""

import importlib.util
import json
import sys

file, module_name, qualname, arguments, path = sys.argv[1:]
sys.argv[1:] = []
sys.path[:] = json.loads(path)
spec = importlib.util.spec_from_file_location(module_name, file)
assert spec is not None
assert spec.loader is not None
module = importlib.util.module_from_spec(spec)
sys.modules[module_name] = module
spec.loader.exec_module(module)
found = module
for part in qualname.split("."):
    found = getattr(found, part)
sys.audit("lastly.crash.begin")
found(*json.loads(arguments))  # type: ignore[operator]  # the caller has looked: it is a function
