"""An owner for chaos.py that knows nothing of lastly: to be started with ``lastly run``. Lives until it is killed."""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import tempfile


def main(folder: str, seed: str, how_many: str) -> None:
    things = os.path.join(folder, "things")
    choice = random.Random(seed)
    for _ in range(abs(int(how_many))):
        kind = choice.randrange(4)
        if kind == 0:
            made = tempfile.mkdtemp(dir=things)
            os.symlink(os.path.join(folder, "precious"), os.path.join(made, "way-out"))
            with open(os.path.join(made, "file"), "w") as file:
                file.write("x")
        elif kind == 1:
            os.close(tempfile.mkstemp(dir=things)[0])
        elif kind == 2:
            with tempfile.TemporaryDirectory(dir=things) as made:
                os.mkdir(os.path.join(made, "below"))
        else:
            subprocess.Popen(["sleep", "1001"])
    select.select([], [], [])


if __name__ == "__main__":
    main(*sys.argv[1:])
