"""The command line of an app: its parser, and the hooks around parsing."""

import argparse
import os

from lastly.app._hooks import run_hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lastly.app._core import App


class ArgumentParser(argparse.ArgumentParser):
    """``app.args``: the standard library's parser, with the options of every app.

    .. versionadded:: 0.1
    """

    #: Whether arguments that it does not know are kept in `unknown_args` instead of being an error.
    ignores_unknown = False
    #: What the last `parse` did not know.
    unknown_args: "list[str]"

    def parse(self, args: "Sequence[str]") -> argparse.Namespace:
        """Parse *args* and return them as attributes; a second call parses anew.

        Raises:
            SystemExit: With 0 after ``--help``, with 2 after printing what is wrong with *args*.

        .. versionadded:: 0.1
        """
        self.unknown_args = []
        if not self.ignores_unknown:
            return self.parse_args(args)
        parsed, self.unknown_args = self.parse_known_args(args)
        return parsed


def parser_for(app: "App") -> ArgumentParser:
    """Return the parser of *app*: named by its label, with the options for debugging and for silence."""
    meta = app._meta
    parser = ArgumentParser(prog=meta.label, formatter_class=argparse.RawDescriptionHelpFormatter)
    cements = meta.meta_defaults.get("argument.argparse", {})  # where Cement's programs say it
    parser.ignores_unknown = cements.get("ignore_unknown_arguments", meta.ignore_unknown_arguments)
    if meta.debug_argument_options is not None:
        parser.add_argument(
            *meta.debug_argument_options, dest="debug", action="store_true", help=meta.debug_argument_help
        )
    if meta.quiet_argument_options is not None:
        parser.add_argument(
            *meta.quiet_argument_options,
            dest="suppress_output",
            action="store_true",
            help=meta.quiet_argument_help,
        )
    return parser


def take_switches(app: "App", parsed: "Any") -> None:
    """Turn on what the parsed arguments ask for and a look at the bare ones did not find, like ``-dq``."""
    meta = app._meta
    said = app.config.env_name(meta.config_section, "debug") in os.environ  # which has the last word
    debug = meta.debug_argument_options is not None and getattr(parsed, "debug", False) is True
    if debug and not app.debug and not said:
        meta.debug = True
        app.log.set_level("DEBUG")
    if meta.quiet_argument_options is not None and getattr(parsed, "suppress_output", False) is True:
        meta.quiet = True
        if not app.debug:
            app._suppress_output()


def parse(app: "App") -> "Any":
    """Parse the arguments of *app*, with the hooks before and after that, and return them."""
    run_hook(app, "pre_argument_parsing")
    app._life.parsed = app.args.parse(app.argv)
    take_switches(app, app.pargs)
    run_hook(app, "post_argument_parsing")
    return app.pargs
