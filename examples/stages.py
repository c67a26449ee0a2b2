"""Three stages, each undone when the program ends: at its end, by an error, by a signal.

    python examples/stages.py              all three, then their undoing
    python examples/stages.py 2            an error in the second stage
    python examples/stages.py 3 wait       waits in the third stage: press Ctrl-C, or send it a signal

`--status=code` is for those who expect 128 + the signal's number as an exit status. Without it the program dies of the
signal, and its parent can see that.
"""

from __future__ import annotations

import argparse
import sys
import time

import lastly
from lastly import defer, exit_reason


def begin(stage: int) -> None:
    print(f"stage {stage} begins", flush=True)


def undo(stage: int) -> None:
    print(f"stage {stage} undone ({exit_reason()})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Three stages, each undone at the end.")
    parser.add_argument("last", type=int, nargs="?", default=0, help="the stage in which it ends")
    parser.add_argument("how", choices=("error", "wait"), nargs="?", default="error")
    parser.add_argument("--status", choices=("signal", "code"), default="signal")
    options = parser.parse_args()
    lastly.install(signals=("HUP", "INT", "QUIT", "PIPE", "TERM"), status=options.status)
    for stage in (1, 2, 3):
        defer(undo, stage)  # before the stage, so that half of it is undone, too
        begin(stage)
        if stage == options.last:
            if options.how == "error":
                sys.exit(f"stage {stage} failed")
            print("waiting", flush=True)
            time.sleep(600)


if __name__ == "__main__":
    main()
