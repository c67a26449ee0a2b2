"""`lastly run`: read the options, and become the program.

A launcher that stays is a second process with its own signals, its own exit status and its own place in
the process group; one that execs has nothing to get wrong.
"""

import os
import sys

from lastly._run import handover, program
from lastly._run.options import UsageError, parse


def main(argv: list[str]) -> int:
    """Run the program. Returns only if it cannot be started: 2 usage, 126 not executable, 127 not found."""
    try:
        options = parse(argv)
    except UsageError as error:
        sys.stderr.write(f"lastly run: {error}; see `lastly run --help`\n")
        return 2
    command = options.command
    try:
        path = program.find(command[0])
        flags = program.blind_flags(command, path)
        if flags and not options.supervise:
            program.say(
                f"python -{flags[0]} does not see `lastly run`: temp files and children are not guarded, "
                f"exit functions do not run on SIGTERM; leave -{flags[0]} out (--supervise ends its children)"
            )
        if options.supervise:
            from lastly._run import supervise

            return supervise.run(path, command, options)
        program.execute(path, command, program.environment(options, handover.new_token()), os.getppid())
    except OSError as error:
        program.say(f"cannot run {command[0]!r}: {error.strerror}")
        return 127 if error.errno in (2, 20) else 126
