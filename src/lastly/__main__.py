"""`python -m lastly …` and the `lastly` command. `run` goes straight to `_run`: it is sooner there."""

import os
import sys


def main() -> int:
    """Run the command line; return its exit status."""
    _open_streams()
    # On other systems the command line says why there is no `run`.
    if sys.platform == "linux" and sys.argv[1:2] == ["run"] and sys.argv[2:3] not in (["--help"], ["-h"]):
        from lastly._run.launch import main as run

        return run(sys.argv[2:])
    from lastly._cli.commands import main as cli

    return cli(sys.argv[1:])


def _open_streams() -> None:
    """Have closed standard streams lead nowhere, or a journal gets their number, and what is written to them.

    Not inherited: a program that is run finds them as closed as they were.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # to the end


if __name__ == "__main__":
    sys.exit(main())
