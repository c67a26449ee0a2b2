"""Before the first line of a frozen program: be its reaper, or run an action, if it was started for that."""
# ruff: noqa: INP001
#   (PyInstaller runs this file as a script)

import os
import sys

from lastly._system import frozen

frozen.open_door()
word = sys.argv[1] if len(sys.argv) > 1 else ""
if word == frozen.REAPER:
    if sys.argv[2] == "leave" and os.fork():
        os._exit(0)
    from lastly._reaper.__main__ import main

    main(sys.argv[3:])
    sys.exit(0)
if word == frozen.ACTION:
    from lastly._settle import runner

    runner.main()
    sys.exit(0)
