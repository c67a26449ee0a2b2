"""The examples, crashed everywhere: each that is fit to run alone, at every point, in every way.

    python tests/whole/crash_examples.py [NAME...]        make crash

Not fit are those that need somebody else: build_site.py and demo.py a cloud and a repository (the demo is such a
test itself, of every stage), on_amazon.py a cloud too; cloud.py, service.py, chat.py and flask_sensor.py serve until
they are told to stop; test_shop.py is pytest's, which keeps folders of the last runs on purpose; lock.py, failpoint.py
and leftovers.py are modules of the others.
"""

from __future__ import annotations

import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FIT: dict[str, list[str]] = {  # with their arguments
    "cement_cleanup.py": [],
    "cement_exit_codes.py": [__file__],
    "cement_extension.py": [],
    "cement_kept.py": [],
    "click_build.py": [],
    "exit_functions.py": [],
    "stages.py": [],
}
WAYS = ("KILL", "TERM", "INT", "HUP", "exit", "raise")


def main(names: list[str]) -> int:
    from lastly.testing import CannotCrash, crash_everywhere

    leaking = 0
    for name in names or FIT:
        for points in ("lines", "events", "cleanups"):
            for how in WAYS:
                try:
                    report = crash_everywhere(EXAMPLES / name, *FIT[name], points=points, how=how, seconds=600)
                except CannotCrash as error:
                    print(f"{name}: {error}")
                    break
                print(report, flush=True)
                leaking += not report
    return min(leaking, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
