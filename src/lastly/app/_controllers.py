"""Controllers: classes whose methods are the commands of a program.

``prog [options] CONTROLLER … COMMAND [options]``: the base controller has the program's own options and
commands. A controller stacked on another is either nested, then it is a word on the command line, or
embedded, then its options and commands are those of the one it is stacked on.
"""

import argparse

from lastly.app._commandline import parse
from lastly.app._handlers import Handler
from lastly.errors import FrameworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, TypeVar

    from lastly.app._core import App

    Function = TypeVar("Function", bound=Callable[..., Any])

_COMMAND = "_lastly_command"
# Attributes of the parsed arguments: which controller's word was given, and which command's, if any.
_NAMESPACE, _DISPATCH = "__controller_namespace__", "__dispatch__"


class Command:
    """What :class:`ex` says of a command: its word, its arguments, its parser's options."""

    def __init__(
        self, label: str, hide: bool, arguments: "list[Any]", parser_options: "dict[str, Any]"
    ) -> None:
        self.label = label
        self.hide = hide
        self.arguments = arguments
        self.parser_options = parser_options


class ex:  # noqa: N801  # its name in the programs that use it
    """Make a method of a controller a command.

    Args:
        hide: Leave it out of the list in ``--help``; it works all the same.
        arguments: ``([flags], {options})`` for each argument, as for ``add_argument``.
        label: Its word on the command line; by default the method's name, with dashes for underscores.
        parser_options: Options of its parser: ``help``, ``aliases``, ``description``, ``epilog``, ….

    .. versionadded:: 0.1
    """

    def __init__(
        self,
        hide: bool = False,
        arguments: "list[Any] | None" = None,
        label: str | None = None,
        **parser_options: "Any",
    ) -> None:
        self._hide, self._arguments, self._label = hide, arguments or [], label
        self._parser_options = parser_options

    def __call__(self, func: "Function") -> "Function":
        """Mark *func* and return it, otherwise unchanged."""
        label = self._label or _word(func.__name__)
        setattr(func, _COMMAND, Command(label, self._hide, self._arguments, self._parser_options))
        return func


def _word(name: str) -> str:
    return name.replace("_", "-")


class Controller(Handler):
    """The base of controllers. Its methods marked with :class:`ex` are commands.

    ``self.app`` is the app, ``self.app.pargs`` the parsed arguments. Without a command the method named by
    ``Meta.default_func`` runs; the one that is here prints the help.

    .. versionadded:: 0.1
    """

    class Meta:
        """The settings of a controller."""

        interface = "controller"
        label: "ClassVar[str | None]" = None
        aliases: "ClassVar[list[str]]" = []
        config_section: "ClassVar[str | None]" = None
        config_defaults: "ClassVar[dict[str, Any]]" = {}
        arguments: "ClassVar[list[Any]]" = []
        #: The controller that this one belongs to, and how: nested or embedded.
        stacked_on = "base"
        stacked_type = "embedded"
        description: "ClassVar[str | None]" = None
        title = "sub-commands"
        help: "ClassVar[str | None]" = None
        hide = False
        epilog: "ClassVar[str | None]" = None
        usage: "ClassVar[str | None]" = None
        argument_formatter = argparse.RawDescriptionHelpFormatter
        subparser_options: "ClassVar[dict[str, Any]]" = {}
        parser_options: "ClassVar[dict[str, Any]]" = {}
        default_func: "ClassVar[str | None]" = "_default"

    _parser: argparse.ArgumentParser

    def _default(self) -> "Any":
        self._parser.print_help()

    def _pre_argument_parsing(self) -> None:
        """Add arguments to ``self._parser``; called for every controller before parsing."""

    def _post_argument_parsing(self) -> None:
        """Look at ``self.app.pargs``; called for every controller after parsing."""

    @property
    def _command_meta(self) -> "Command | None":
        """What :class:`ex` was told of the command that runs; None in a default function."""
        where = getattr(self.app.pargs, _DISPATCH, None)
        if where is None:
            return None
        label, function = where.split(".")
        controller = next(c for c in self._tree.controllers if c._meta.label == label)
        found: Command = getattr(getattr(controller, function), _COMMAND)
        return found

    _tree: "Tree"

    def _dispatch(self) -> "Any":
        """Parse the arguments and run the command that they name, of whichever controller."""
        return self._tree.dispatch()

    # (function name, command), by function name as in Cement.
    def _commands(self) -> "list[tuple[str, Command]]":
        cls = type(self)
        return [(n, c) for n in dir(cls) if (c := getattr(getattr(cls, n, None), _COMMAND, None)) is not None]


class Tree:
    """All controllers of an app, and the parsers made of them."""

    def __init__(self, app: "App") -> None:
        self.app = app
        self.base: Controller = app.handler.get("controller", "base", setup=True)
        self.base._tree = self
        self.controllers = [self.base]
        self._built = False

    # Not before the first run: whatever was registered until then, by a hook for example, belongs to it.
    def _build(self) -> None:
        if self._built:
            return
        self._built = True
        _check(self.base)
        for cls in self.app.handler.list("controller"):
            if cls is not type(self.base):
                controller = self.app.handler.setup(cls)
                controller._tree = self
                _check(controller)
                self.controllers.append(controller)
        base, parser = self.base, self.app.args
        parser.description, parser.epilog = base._meta.description, base._meta.epilog
        parser.usage, parser.formatter_class = base._meta.usage, base._meta.argument_formatter
        self._fill(base, parser)

    # The controllers stacked on one of the group which are embedded belong to the group too.
    def _group(self, controller: Controller) -> "list[Controller]":
        group = [controller]
        for member in group:
            group += self._stacked(member, "embedded")
        return group

    def _stacked(self, on: Controller, how: str) -> "list[Controller]":
        return [
            c
            for c in self.controllers
            if c is not on
            and c._meta.label != "base"
            and c._meta.stacked_on == on._meta.label
            and c._meta.stacked_type == how
        ]

    def _fill(self, controller: Controller, parser: argparse.ArgumentParser) -> None:
        group = self._group(controller)
        for member in group:
            member._parser = parser
            for flags, options in member._meta.arguments:
                parser.add_argument(*flags, **options)
        parser.set_defaults(**{_NAMESPACE: controller._meta.label})
        nested = [c for member in group for c in reversed(self._stacked(member, "nested"))]
        commands = [(member, *entry) for member in group for entry in member._commands()]
        if not nested and not commands:
            return
        options = {"title": controller._meta.title, "dest": "command", **controller._meta.subparser_options}
        words = parser.add_subparsers(**options)
        for child in nested:
            self._fill(child, words.add_parser(_word(child._meta.label), **_child_options(child)))
        for member, function, command in commands:
            made = words.add_parser(command.label, **_command_options(command))
            for flags, settings in command.arguments:
                made.add_argument(*flags, **settings)
            made.set_defaults(**{_DISPATCH: f"{member._meta.label}.{function}"})

    def dispatch(self) -> "Any":
        """Parse the arguments, run what they ask for and return its result."""
        self._build()
        for controller in self.controllers:
            controller._pre_argument_parsing()
        pargs = parse(self.app)
        for controller in self.controllers:
            controller._post_argument_parsing()
        where = getattr(pargs, _DISPATCH, None)
        by_label = {c._meta.label: c for c in self.controllers}
        if where is None:
            chosen = by_label[getattr(pargs, _NAMESPACE)]
            name = chosen._meta.default_func
            return None if name is None else getattr(chosen, name)()
        label, function = where.split(".")
        return getattr(by_label[label], function)()


def _check(controller: Controller) -> None:
    """Raise FrameworkError for settings by which its commands would silently not be there."""
    meta, name = controller._meta, type(controller).__name__
    if meta.stacked_type not in ("embedded", "nested"):
        raise FrameworkError(
            f"controller {name}: Meta.stacked_type is 'embedded' or 'nested', not {meta.stacked_type!r}"
        )
    if meta.default_func is not None and not callable(getattr(controller, meta.default_func, None)):
        raise FrameworkError(f"controller {name}: Meta.default_func names no method: {meta.default_func!r}")


def _child_options(child: Controller) -> "dict[str, Any]":
    meta = child._meta
    options: dict[str, Any] = {
        "aliases": meta.aliases,
        "description": meta.description,
        "epilog": meta.epilog,
        "usage": meta.usage,
        "formatter_class": meta.argument_formatter,
    }
    if not meta.hide:
        options["help"] = meta.help or f"{_word(meta.label)} controller"
    return {**options, **meta.parser_options}


def _command_options(command: Command) -> "dict[str, Any]":
    options = dict(command.parser_options)
    if command.hide:
        options.pop("help", None)  # argparse lists what has a help text
    return options


class _Base(Controller):
    """The base controller of a program that has none of its own: it does nothing."""

    class Meta:
        label = "base"

    def _default(self) -> None:
        pass


def base_controller(app: "App") -> "Controller | None":
    """Return the base controller of *app*, a new one; None when the app has no controllers at all."""
    if not app.handler.list("controller"):
        return None
    if not app.handler.registered("controller", "base"):
        app.handler.register(_Base)
    return Tree(app).base
